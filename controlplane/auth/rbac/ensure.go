package rbac

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"golang.org/x/sync/errgroup"
	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/util/retry"
	"k8s.io/component-helpers/auth/rbac/reconciliation"
)

// EnsurePolicy makes the cluster hold DefaultPolicy: it creates what is
// missing and adds missing rules, subjects, labels and annotations, and leaves
// alone what an administrator has added, or has protected by the annotation
// rbac.authorization.kubernetes.io/autoupdate: "false". Then it fills the
// aggregated ClusterRoles. It may run on several servers at once and
// repeatedly; a write that loses a race is repeated a few times. The first
// error ends it.
func EnsurePolicy(ctx context.Context, client kubernetes.Interface) error {
	policy := DefaultPolicy()
	rbac := client.RbacV1()
	roles, bindings, err := seen(ctx, rbac)
	if err != nil {
		return err
	}

	group, groupContext := errgroup.WithContext(ctx)
	group.SetLimit(16) // most of the time is that of etcd's disk, which takes many at once
	ensure := func(kind, name string, reconcile func() error) {
		group.Go(func() error {
			if err := groupContext.Err(); err != nil {
				return err
			}
			if err := retry.RetryOnConflict(retry.DefaultBackoff, reconcile); err != nil {
				return fmt.Errorf("reconcile default %s %s: %w", kind, name, err)
			}
			return nil
		})
	}
	role := func(owner reconciliation.RuleOwner, modifier reconciliation.RuleOwnerModifier) func() error {
		return func() error {
			// A copy, since a failed attempt may have changed it.
			options := reconciliation.ReconcileRoleOptions{Role: owner.DeepCopyRuleOwner(), Confirm: true, Client: modifier}
			_, err := options.Run()
			return err
		}
	}
	binding := func(b reconciliation.RoleBinding, modifier reconciliation.RoleBindingModifier) func() error {
		return func() error {
			options := reconciliation.ReconcileRoleBindingOptions{RoleBinding: b.DeepCopyRoleBinding(), Confirm: true, Client: modifier}
			_, err := options.Run()
			return err
		}
	}
	for _, r := range policy.ClusterRoles {
		ensure("ClusterRole", r.Name, role(reconciliation.ClusterRoleRuleOwner{ClusterRole: r},
			&seenRole{ClusterRoleModifier: reconciliation.ClusterRoleModifier{Client: rbac.ClusterRoles()}, role: roles[r.Name]}))
	}
	for _, b := range policy.ClusterRoleBindings {
		ensure("ClusterRoleBinding", b.Name, binding(reconciliation.ClusterRoleBindingAdapter{ClusterRoleBinding: b},
			&seenBinding{ClusterRoleBindingClientAdapter: reconciliation.ClusterRoleBindingClientAdapter{Client: rbac.ClusterRoleBindings()}, binding: bindings[b.Name]}))
	}
	for _, r := range policy.Roles {
		ensure("Role", r.Namespace+"/"+r.Name, role(reconciliation.RoleRuleOwner{Role: r},
			reconciliation.RoleModifier{Client: rbac, NamespaceClient: client.CoreV1().Namespaces()}))
	}
	for _, b := range policy.RoleBindings {
		ensure("RoleBinding", b.Namespace+"/"+b.Name, binding(reconciliation.RoleBindingAdapter{RoleBinding: b},
			reconciliation.RoleBindingClientAdapter{Client: rbac, NamespaceClient: client.CoreV1().Namespaces()}))
	}
	if err := group.Wait(); err != nil {
		return err
	}
	if err := retry.RetryOnConflict(retry.DefaultBackoff, func() error { return aggregate(ctx, client) }); err != nil {
		return fmt.Errorf("fill aggregated ClusterRoles: %w", err)
	}
	return nil
}

// aggregate gives every ClusterRole with an aggregation rule the rules of
// those that it selects. One sum may be part of another, so it goes on until
// nothing changes.
func aggregate(ctx context.Context, client kubernetes.Interface) error {
	list, err := client.RbacV1().ClusterRoles().List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	changed := map[int]bool{}
	// A chain of sums cannot be longer than there are roles.
	for round, again := 0, true; again && round <= len(list.Items); round++ {
		again = false
		for i := range list.Items {
			role := &list.Items[i]
			if role.AggregationRule == nil {
				continue
			}
			rules, err := Sum(role, list.Items)
			if err != nil {
				return fmt.Errorf("sum up %s: %w", role.Name, err)
			}
			if !apiequality.Semantic.DeepEqual(rules, role.Rules) {
				role.Rules, changed[i], again = rules, true, true
			}
		}
	}
	for i := range changed {
		role := &list.Items[i]
		if _, err := client.RbacV1().ClusterRoles().Update(ctx, role, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update %s: %w", role.Name, err)
		}
	}
	return nil
}

// Sum returns the rules that an aggregated ClusterRole should have: those of
// the roles that its aggregation rule selects, selector by selector and in
// order of their names, each rule once. The role itself never counts.
func Sum(role *rbacv1.ClusterRole, all []rbacv1.ClusterRole) ([]rbacv1.PolicyRule, error) {
	var rules []rbacv1.PolicyRule
	if role.AggregationRule == nil {
		return role.Rules, nil
	}
	sorted := make([]*rbacv1.ClusterRole, len(all))
	for i := range all {
		sorted[i] = &all[i]
	}
	slices.SortFunc(sorted, func(a, b *rbacv1.ClusterRole) int { return strings.Compare(a.Name, b.Name) })
	for i := range role.AggregationRule.ClusterRoleSelectors {
		selector, err := metav1.LabelSelectorAsSelector(&role.AggregationRule.ClusterRoleSelectors[i])
		if err != nil {
			return nil, fmt.Errorf("read cluster role selector %d: %w", i, err)
		}
		for _, part := range sorted {
			if part.Name == role.Name || !selector.Matches(labels.Set(part.Labels)) {
				continue
			}
			for _, rule := range part.Rules {
				if !slices.ContainsFunc(rules, func(r rbacv1.PolicyRule) bool { return apiequality.Semantic.DeepEqual(r, rule) }) {
					rules = append(rules, *rule.DeepCopy())
				}
			}
		}
	}
	return rules, nil
}
