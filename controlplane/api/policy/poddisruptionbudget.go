package policy

import (
	"context"
	"strconv"
	"strings"

	policyv1 "k8s.io/api/policy/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var podDisruptionBudget = api.Definition[*policyv1.PodDisruptionBudget]{
	GroupVersion: policyv1.SchemeGroupVersion,
	Kind:         "PodDisruptionBudget",
	Resource:     "poddisruptionbudgets",
	Singular:     "poddisruptionbudget",
	ShortNames:   []string{"pdb"},
	New:          func() *policyv1.PodDisruptionBudget { return &policyv1.PodDisruptionBudget{} },
	NewList:      func() runtime.Object { return &policyv1.PodDisruptionBudgetList{} },

	// Nobody ever checked more of a budget's metadata than paths need.
	NameValidation:  core.PathSegmentName,
	PlainFinalizers: true,

	// Evictions count the budget down in its status; nothing may undo them.
	ForbidUnconditionalUpdate: true,

	Validate: func(_ context.Context, b *policyv1.PodDisruptionBudget) field.ErrorList {
		return checkBudget(&b.Spec, false, field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, b, old *policyv1.PodDisruptionBudget) field.ErrorList {
		lenient := metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector)
		return checkBudget(&b.Spec, lenient, field.NewPath("spec"))
	},
	Spec: func(b *policyv1.PodDisruptionBudget) any { return b.Spec },
	Status: &api.Status[*policyv1.PodDisruptionBudget]{
		Copy:         func(to, from *policyv1.PodDisruptionBudget) { to.Status = from.Status },
		KeepMetadata: true,
		Validate: func(_ context.Context, b, _ *policyv1.PodDisruptionBudget) field.ErrorList {
			path := field.NewPath("status")
			errs := metav1validation.ValidateConditions(b.Status.Conditions, path.Child("conditions"))
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(b.Status.DisruptionsAllowed), path.Child("disruptionsAllowed"))...)
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(b.Status.CurrentHealthy), path.Child("currentHealthy"))...)
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(b.Status.DesiredHealthy), path.Child("desiredHealthy"))...)
			return append(errs, apivalidation.ValidateNonnegativeField(int64(b.Status.ExpectedPods), path.Child("expectedPods"))...)
		},
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Min Available", "The minimum number of pods that must be available."),
		columns.Text("Max Unavailable", "The maximum number of pods that may be unavailable."),
		columns.Number("Allowed Disruptions", "Calculated number of pods that may be disrupted at this time."),
		columns.Age(),
	},
	Row: func(b *policyv1.PodDisruptionBudget) []any {
		return []any{b.Name, orNone(b.Spec.MinAvailable), orNone(b.Spec.MaxUnavailable),
			int64(b.Status.DisruptionsAllowed), columns.Since(b.CreationTimestamp.Time)}
	},
}

func orNone(value *intstr.IntOrString) string {
	if value == nil {
		return "N/A"
	}
	return value.String()
}

func checkBudget(spec *policyv1.PodDisruptionBudgetSpec, lenient bool, path *field.Path) (errs field.ErrorList) {
	if spec.MinAvailable != nil && spec.MaxUnavailable != nil {
		errs = append(errs, field.Invalid(path, *spec, "minAvailable and maxUnavailable cannot be both set"))
	}
	errs = append(errs, checkAmount(spec.MinAvailable, path.Child("minAvailable"))...)
	errs = append(errs, checkAmount(spec.MaxUnavailable, path.Child("maxUnavailable"))...)
	options := metav1validation.LabelSelectorValidationOptions{AllowInvalidLabelValueInSelector: lenient}
	errs = append(errs, metav1validation.ValidateLabelSelector(spec.Selector, options, path.Child("selector"))...)
	if p := spec.UnhealthyPodEvictionPolicy; p != nil && *p != policyv1.AlwaysAllow && *p != policyv1.IfHealthyBudget {
		errs = append(errs, field.NotSupported(path.Child("unhealthyPodEvictionPolicy"), *p,
			[]policyv1.UnhealthyPodEvictionPolicyType{policyv1.AlwaysAllow, policyv1.IfHealthyBudget}))
	}
	return errs
}

// checkAmount checks a number of pods that is not negative, or a percentage up
// to 100%.
func checkAmount(value *intstr.IntOrString, path *field.Path) (errs field.ErrorList) {
	switch {
	case value == nil:
		return nil
	case value.Type == intstr.Int:
		return apivalidation.ValidateNonnegativeField(int64(value.IntVal), path)
	case value.Type != intstr.String:
		return field.ErrorList{field.Invalid(path, *value, "must be an integer or percentage (e.g '5%%')")}
	}
	for _, message := range validation.IsValidPercent(value.StrVal) {
		errs = append(errs, field.Invalid(path, *value, message))
	}
	if percent, err := strconv.Atoi(strings.TrimSuffix(value.StrVal, "%")); len(errs) == 0 && err == nil && percent > 100 {
		errs = append(errs, field.Invalid(path, *value, "must not be greater than 100%"))
	}
	return errs
}
