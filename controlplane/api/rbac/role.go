package rbac

import (
	"context"

	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

var role = api.Definition[*rbacv1.Role]{
	GroupVersion: rbacv1.SchemeGroupVersion,
	Kind:         "Role",
	Resource:     "roles",
	Singular:     "role",
	New:          func() *rbacv1.Role { return &rbacv1.Role{} },
	NewList:      func() runtime.Object { return &rbacv1.RoleList{} },

	AllowCreateOnUpdate: true,
	NameValidation:      nameIsPathSegment,
	Validate: func(_ context.Context, r *rbacv1.Role) field.ErrorList {
		return checkRules(r.Rules, true)
	},
	ValidateUpdate: func(_ context.Context, r, _ *rbacv1.Role) field.ErrorList {
		return checkRules(r.Rules, true)
	},
	Extend: guard("roles", func(_ context.Context, obj runtime.Object, _ string, _ *guardian) ([]rbacv1.PolicyRule, error) {
		return obj.(*rbacv1.Role).Rules, nil
	}),
}

// nameIsPathSegment allows every name that can stand in a URL.
func nameIsPathSegment(name string, _ bool) []string { return content.IsPathSegmentName(name) }

func checkRules(rules []rbacv1.PolicyRule, namespaced bool) (errs field.ErrorList) {
	for i := range rules {
		errs = append(errs, checkRule(&rules[i], namespaced, field.NewPath("rules").Index(i))...)
	}
	return errs
}

func checkRule(rule *rbacv1.PolicyRule, namespaced bool, path *field.Path) (errs field.ErrorList) {
	if len(rule.Verbs) == 0 {
		errs = append(errs, field.Required(path.Child("verbs"), "verbs must contain at least one value"))
	}
	if len(rule.NonResourceURLs) > 0 {
		urls := path.Child("nonResourceURLs")
		if namespaced {
			errs = append(errs, field.Invalid(urls, rule.NonResourceURLs, "namespaced rules cannot apply to non-resource URLs"))
		}
		if len(rule.APIGroups) > 0 || len(rule.Resources) > 0 || len(rule.ResourceNames) > 0 {
			errs = append(errs, field.Invalid(urls, rule.NonResourceURLs, "rules cannot apply to both regular resources and non-resource URLs"))
		}
		return errs
	}
	if len(rule.APIGroups) == 0 {
		errs = append(errs, field.Required(path.Child("apiGroups"), "resource rules must supply at least one api group"))
	}
	if len(rule.Resources) == 0 {
		errs = append(errs, field.Required(path.Child("resources"), "resource rules must supply at least one resource"))
	}
	return errs
}
