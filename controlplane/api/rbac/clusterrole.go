package rbac

import (
	"context"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

var clusterRole = api.Definition[*rbacv1.ClusterRole]{
	GroupVersion: rbacv1.SchemeGroupVersion,
	Kind:         "ClusterRole",
	Resource:     "clusterroles",
	Singular:     "clusterrole",
	ClusterScope: true,
	New:          func() *rbacv1.ClusterRole { return &rbacv1.ClusterRole{} },
	NewList:      func() runtime.Object { return &rbacv1.ClusterRoleList{} },

	AllowCreateOnUpdate: true,
	NameValidation:      nameIsPathSegment,
	Validate: func(_ context.Context, r *rbacv1.ClusterRole) field.ErrorList {
		return append(checkRules(r.Rules, false), checkAggregation(r.AggregationRule, false)...)
	},
	ValidateUpdate: func(_ context.Context, r, old *rbacv1.ClusterRole) field.ErrorList {
		// Selectors that were stored before values were checked stay usable.
		lenient := old.AggregationRule != nil && slices.ContainsFunc(old.AggregationRule.ClusterRoleSelectors,
			func(s metav1.LabelSelector) bool { return metav1validation.LabelSelectorHasInvalidLabelValue(&s) })
		return append(checkRules(r.Rules, false), checkAggregation(r.AggregationRule, lenient)...)
	},
	Extend: guard("clusterroles", func(_ context.Context, obj runtime.Object, _ string, _ *guardian) ([]rbacv1.PolicyRule, error) {
		r := obj.(*rbacv1.ClusterRole)
		if r.AggregationRule != nil && !apiequality.Semantic.DeepEqual(*r.AggregationRule, rbacv1.AggregationRule{}) {
			// What an aggregated role will hold is open: anything.
			return append([]rbacv1.PolicyRule{everything[0], everything[1]}, r.Rules...), nil
		}
		return r.Rules, nil
	}),
}

// everything is what only those may aggregate who have all rights.
var everything = []rbacv1.PolicyRule{
	{Verbs: []string{"*"}, APIGroups: []string{"*"}, Resources: []string{"*"}},
	{Verbs: []string{"*"}, NonResourceURLs: []string{"*"}},
}

func checkAggregation(rule *rbacv1.AggregationRule, lenient bool) (errs field.ErrorList) {
	if rule == nil {
		return nil
	}
	path := field.NewPath("aggregationRule", "clusterRoleSelectors")
	if len(rule.ClusterRoleSelectors) == 0 {
		errs = append(errs, field.Required(path, "at least one clusterRoleSelector required if aggregationRule is non-nil"))
	}
	options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lenient}
	for i := range rule.ClusterRoleSelectors {
		selector := &rule.ClusterRoleSelectors[i]
		errs = append(errs, metav1validation.ValidateLabelSelector(selector, options, path.Index(i))...)
		if parsed, err := metav1.LabelSelectorAsSelector(selector); err != nil {
			errs = append(errs, field.Invalid(path.Index(i), parsed, "invalid label selector."))
		}
	}
	return errs
}
