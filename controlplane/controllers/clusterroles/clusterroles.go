package clusterroles

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	rbaclisters "k8s.io/client-go/listers/rbac/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 1

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	roles := env.Informers.Rbac().V1().ClusterRoles()
	loop := reconcile.NewLoop(env, "clusterroles", workers, func(ctx context.Context, name string) error {
		role, err := roles.Lister().Get(name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil || role.AggregationRule == nil {
			return err
		}
		rules, err := aggregate(role, roles.Lister())
		if err != nil {
			return err
		}
		if equality.Semantic.DeepEqual(rules, role.Rules) {
			return nil
		}
		changed := role.DeepCopy()
		changed.Rules = rules
		if _, err := env.Client.RbacV1().ClusterRoles().Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write rules: %w", err)
		}
		return nil
	})
	// Any role may feed any aggregated one.
	err := reconcile.Each(env, roles.Informer(), func(*rbacv1.ClusterRole) {
		all, err := roles.Lister().List(labels.Everything())
		if err != nil {
			loop.Logger().Warn("list cluster roles", "error", err)
			return
		}
		for _, role := range all {
			if role.AggregationRule != nil {
				loop.Add(role.Name)
			}
		}
	})
	if err != nil {
		return nil, err
	}
	return loop, nil
}

// aggregate joins the rules of all roles that role selects, in the order of
// their names, each rule once.
func aggregate(role *rbacv1.ClusterRole, lister rbaclisters.ClusterRoleLister) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("read selector: %w", err)
		}
		parts, err := lister.List(selector)
		if err != nil {
			return nil, err
		}
		slices.SortFunc(parts, func(a, b *rbacv1.ClusterRole) int { return cmp.Compare(a.Name, b.Name) })
		for _, part := range parts {
			if part.Name == role.Name {
				continue
			}
			for _, rule := range part.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return equality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, *rule.DeepCopy())
				}
			}
		}
	}
	return rules, nil
}
