package apps

import (
	"fmt"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api/core"
)

// Checks that more than one kind of the group needs.

// count is a number with the name of its field.
type count struct {
	name  string
	value int64
}

func nonnegative(path *field.Path, counts ...count) (errs field.ErrorList) {
	for _, c := range counts {
		errs = append(errs, apivalidation.ValidateNonnegativeField(c.value, path.Child(c.name))...)
	}
	return errs
}

func nonnegative32(path *field.Path, name string, value *int32) field.ErrorList {
	if value == nil {
		return nil
	}
	return nonnegative(path, count{name, int64(*value)})
}

// notAbove checks that counts do not exceed a limit, which message names.
func notAbove(path *field.Path, limit int32, message string, counts ...count) (errs field.ErrorList) {
	for _, c := range counts {
		if c.value > int64(limit) {
			errs = append(errs, field.Invalid(path.Child(c.name), int32(c.value), message))
		}
	}
	return errs
}

// notDecremented is for the collision counts of statuses.
func notDecremented(path *field.Path, now, before *int32) field.ErrorList {
	if before == nil || now != nil && *now >= *before {
		return nil
	}
	return field.ErrorList{field.Invalid(path, ptr.Deref(now, 0), "cannot be decremented")}
}

// checkSelector checks a required label selector, which must select something.
func checkSelector(selector *metav1.LabelSelector, path *field.Path, owner string) (errs field.ErrorList) {
	if selector == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	errs = metav1validation.ValidateLabelSelector(selector, metav1validation.LabelSelectorValidationOptions{}, path)
	if len(selector.MatchLabels)+len(selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path, selector, fmt.Sprintf("empty selector is invalid for %s", owner)))
	}
	return errs
}

// checkTemplate checks the template of pods that run until they are deleted,
// and that the selector finds them. invalid is the message for a selector
// that cannot be read, under the path of the spec.
func checkTemplate(template *corev1.PodTemplateSpec, selector *metav1.LabelSelector, spec *field.Path, invalid, owner string) field.ErrorList {
	parsed, err := metav1.LabelSelectorAsSelector(selector)
	if err != nil {
		return field.ErrorList{field.Invalid(spec.Child("selector"), selector, invalid)}
	}
	errs := checkMatch(template, parsed, spec.Child("template"))
	errs = append(errs, core.ValidatePodTemplate(template, spec.Child("template"))...)
	return append(errs, checkRunsAlways(template, spec.Child("template"), owner)...)
}

func checkMatch(template *corev1.PodTemplateSpec, selector labels.Selector, path *field.Path) field.ErrorList {
	if selector.Empty() || selector.Matches(labels.Set(template.Labels)) {
		return nil
	}
	return field.ErrorList{field.Invalid(path.Child("metadata", "labels"), template.Labels, "`selector` does not match template `labels`")}
}

func checkRunsAlways(template *corev1.PodTemplateSpec, path *field.Path, owner string) (errs field.ErrorList) {
	if policy := template.Spec.RestartPolicy; policy != corev1.RestartPolicyAlways {
		errs = append(errs, field.NotSupported(path.Child("spec", "restartPolicy"), policy, []corev1.RestartPolicy{corev1.RestartPolicyAlways}))
	}
	if template.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(path.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in "+owner+" is not Supported"))
	}
	return errs
}

// sameSelector checks that an update leaves the selector alone.
func sameSelector(now, before *metav1.LabelSelector, spec *field.Path) field.ErrorList {
	return apivalidation.ValidateImmutableField(now, before, spec.Child("selector"))
}

// checkIntOrPercent checks a number that is not negative, or a percentage.
func checkIntOrPercent(value *intstr.IntOrString, path *field.Path) (errs field.ErrorList) {
	if value == nil {
		return nil
	}
	switch value.Type {
	case intstr.String:
		for _, message := range validation.IsValidPercent(value.StrVal) {
			errs = append(errs, field.Invalid(path, *value, message))
		}
	case intstr.Int:
		errs = apivalidation.ValidateNonnegativeField(int64(value.IntVal), path)
	default:
		errs = append(errs, field.Invalid(path, *value, "must be an integer or percentage (e.g '5%%')"))
	}
	return errs
}

func checkAtMostAll(value *intstr.IntOrString, path *field.Path) field.ErrorList {
	if percent, ok := percentage(value); ok && percent > 100 {
		return field.ErrorList{field.Invalid(path, *value, "must not be greater than 100%")}
	}
	return nil
}

func percentage(value *intstr.IntOrString) (int, bool) {
	if value == nil || value.Type != intstr.String || len(validation.IsValidPercent(value.StrVal)) > 0 {
		return 0, false
	}
	percent, err := strconv.Atoi(strings.TrimSuffix(value.StrVal, "%"))
	return percent, err == nil
}

// isZero reports whether a number or a percentage is nothing.
func isZero(value *intstr.IntOrString) bool {
	if percent, ok := percentage(value); ok {
		return percent == 0
	}
	return value == nil || value.IntValue() == 0
}
