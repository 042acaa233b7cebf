package core

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func resourceQuotaKind() api.Kind {
	return api.Define(api.Definition[*corev1.ResourceQuota]{
		GroupVersion: groupVersion, Kind: "ResourceQuota", Resource: "resourcequotas", Singular: "resourcequota",
		ShortNames: []string{"quota"},
		New:        func() *corev1.ResourceQuota { return &corev1.ResourceQuota{} },
		NewList:    func() runtime.Object { return &corev1.ResourceQuotaList{} },

		Default: func(q *corev1.ResourceQuota) {
			roundResources(q.Spec.Hard)
			roundResources(q.Status.Hard)
			roundResources(q.Status.Used)
		},
		Validate: func(_ context.Context, q *corev1.ResourceQuota) field.ErrorList { return validateQuota(&q.Spec) },
		ValidateUpdate: func(_ context.Context, q, old *corev1.ResourceQuota) field.ErrorList {
			errs := validateQuota(&q.Spec)
			if !sets.New(q.Spec.Scopes...).Equal(sets.New(old.Spec.Scopes...)) {
				errs = append(errs, field.Invalid(field.NewPath("spec", "scopes"), q.Spec.Scopes, apivalidation.FieldImmutableErrorMsg))
			}
			return errs
		},
		Warnings: quotaWarnings,
		Status: &api.Status[*corev1.ResourceQuota]{
			Copy: func(to, from *corev1.ResourceQuota) { to.Status = from.Status },
			Validate: func(_ context.Context, q, _ *corev1.ResourceQuota) field.ErrorList {
				return append(validateQuotaAmounts(q.Status.Hard, field.NewPath("status", "hard")),
					validateQuotaAmounts(q.Status.Used, field.NewPath("status", "used"))...)
			},
			KeepMetadata: true,
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(),
			columns.Text("Request", "Request represents a minimum amount of cpu/memory that a container may consume."),
			columns.Text("Limit", "Limits control the maximum amount of cpu/memory that a container may use independent of contention on the node."),
			columns.Age(),
		},
		Row:           quotaRow,
		ReturnDeleted: true,
	})
}

// isQuotaResource says whether a name without a domain can be counted.
func isQuotaResource(name corev1.ResourceName) bool {
	return isStandardResource(name) && name != corev1.ResourceStorage
}

func validateQuotaAmounts(list corev1.ResourceList, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for _, n := range sortedResources(list) {
		at := path.Key(string(n))
		errs = append(errs, validateResourceName(n, at)...)
		if !strings.Contains(string(n), "/") && !isQuotaResource(n) {
			errs = append(errs, field.Invalid(at, n, "must be a standard resource for quota"))
		}
		errs = append(errs, validateQuantity(n, list[n], at)...)
	}
	return errs
}

// scopeCounts says whether pods or claims of a scope can be counted by the
// resource of a quota.
func scopeCounts(scope corev1.ResourceQuotaScope, name corev1.ResourceName) bool {
	switch scope {
	case corev1.ResourceQuotaScopeBestEffort:
		return name == corev1.ResourcePods
	case corev1.ResourceQuotaScopeVolumeAttributesClass:
		return name == corev1.ResourcePersistentVolumeClaims || name == corev1.ResourceRequestsStorage
	case corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeNotBestEffort,
		corev1.ResourceQuotaScopePriorityClass, corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return slices.Contains([]corev1.ResourceName{
			corev1.ResourcePods, corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
		}, name)
	}
	return true
}

func isQuotaScope(scope corev1.ResourceQuotaScope) bool {
	return scope == corev1.ResourceQuotaScopePriorityClass || scope == corev1.ResourceQuotaScopeVolumeAttributesClass || isFlatScope(scope)
}

// isFlatScope says whether a scope has no values: an object is in it or not.
func isFlatScope(scope corev1.ResourceQuotaScope) bool {
	return slices.Contains([]corev1.ResourceQuotaScope{
		corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort, corev1.ResourceQuotaScopeTerminating,
		corev1.ResourceQuotaScopeNotTerminating, corev1.ResourceQuotaScopeCrossNamespacePodAffinity,
	}, scope)
}

func validateQuota(spec *corev1.ResourceQuotaSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := validateQuotaAmounts(spec.Hard, path.Child("hard"))
	at := path.Child("scopes")
	uncounted := func(scope corev1.ResourceQuotaScope, at *field.Path, value any) {
		for _, n := range sortedResources(spec.Hard) {
			if isQuotaResource(n) && !scopeCounts(scope, n) {
				errs = append(errs, field.Invalid(at, value, "unsupported scope applied to resource"))
			}
		}
	}
	conflicting := func(scopes sets.Set[corev1.ResourceQuotaScope], at *field.Path) {
		if scopes.HasAll(corev1.ResourceQuotaScopeBestEffort, corev1.ResourceQuotaScopeNotBestEffort) {
			errs = append(errs, field.Invalid(at, spec.Scopes, "conflicting scopes"))
		}
		if scopes.HasAll(corev1.ResourceQuotaScopeTerminating, corev1.ResourceQuotaScopeNotTerminating) {
			errs = append(errs, field.Invalid(at, spec.Scopes, "conflicting scopes"))
		}
	}
	for _, scope := range spec.Scopes {
		if !isQuotaScope(scope) {
			errs = append(errs, field.Invalid(at, spec.Scopes, "unsupported scope"))
		}
		uncounted(scope, at, spec.Scopes)
	}
	conflicting(sets.New(spec.Scopes...), at)
	if spec.ScopeSelector == nil {
		return errs
	}
	at = path.Child("scopeSelector", "matchExpressions")
	selected := sets.New[corev1.ResourceQuotaScope]()
	for _, r := range spec.ScopeSelector.MatchExpressions {
		selected.Insert(r.ScopeName)
		if !isQuotaScope(r.ScopeName) {
			errs = append(errs, field.Invalid(at.Child("scopeName"), r.ScopeName, "unsupported scope"))
		}
		uncounted(r.ScopeName, at, spec.ScopeSelector)
		errs = append(errs, validateScopeRequirement(r, at)...)
	}
	conflicting(selected, at)
	return errs
}

func validateScopeRequirement(r corev1.ScopedResourceSelectorRequirement, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if isFlatScope(r.ScopeName) && r.Operator != corev1.ScopeSelectorOpExists {
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator,
			"must be 'Exists' when scope is any of ResourceQuotaScopeTerminating, ResourceQuotaScopeNotTerminating, ResourceQuotaScopeBestEffort, ResourceQuotaScopeNotBestEffort or ResourceQuotaScopeCrossNamespacePodAffinity"))
	}
	switch r.Operator {
	case corev1.ScopeSelectorOpIn, corev1.ScopeSelectorOpNotIn:
		if len(r.Values) == 0 {
			errs = append(errs, field.Required(path.Child("values"), "must be at least one value when `operator` is 'In' or 'NotIn' for scope selector"))
		}
	case corev1.ScopeSelectorOpExists, corev1.ScopeSelectorOpDoesNotExist:
		if len(r.Values) != 0 {
			errs = append(errs, field.Invalid(path.Child("values"), r.Values, "must be no value when `operator` is 'Exist' or 'DoesNotExist' for scope selector"))
		}
	default:
		errs = append(errs, field.Invalid(path.Child("operator"), r.Operator, "not a valid selector operator"))
	}
	return errs
}

func quotaRow(q *corev1.ResourceQuota) []any {
	var requests, limits []string
	for _, n := range sortedResources(q.Status.Hard) {
		hard, used := q.Status.Hard[n], q.Status.Used[n]
		cell := fmt.Sprintf("%s: %s/%s", n, used.String(), hard.String())
		if strings.HasPrefix(string(n), "limits.") {
			limits = append(limits, cell)
		} else {
			requests = append(requests, cell)
		}
	}
	return []any{q.Name, strings.Join(requests, ", "), strings.Join(limits, ", "), columns.Since(q.CreationTimestamp.Time)}
}

// quotaWarnings tells of new quotas that request more than they limit.
func quotaWarnings(_ context.Context, q, old *corev1.ResourceQuota) (warnings []string) {
	if old != nil {
		return nil
	}
	for _, name := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceStorage, corev1.ResourceEphemeralStorage} {
		asked := "requests." + name
		request, set := q.Spec.Hard[asked]
		if !set && (name == corev1.ResourceCPU || name == corev1.ResourceMemory) {
			asked = name
			request, set = q.Spec.Hard[asked]
		}
		if limit, limited := q.Spec.Hard["limits."+name]; set && limited && request.Cmp(limit) > 0 {
			warnings = append(warnings, fmt.Sprintf("ResourceQuota %s (%s) should be less than limits.%s (%s)", asked, request.String(), name, limit.String()))
		}
	}
	return warnings
}
