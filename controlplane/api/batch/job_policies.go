package batch

import (
	"fmt"
	"slices"
	"strconv"
	"strings"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a job says about the failures and the success of its pods.

const (
	maxPolicyRules        = 20
	maxExitCodes          = 255
	maxConditionPatterns  = 20
	maxSucceededIndexSize = 64 * 1024
)

var (
	failureActions = []batchv1.PodFailurePolicyAction{batchv1.PodFailurePolicyActionCount,
		batchv1.PodFailurePolicyActionFailIndex, batchv1.PodFailurePolicyActionFailJob, batchv1.PodFailurePolicyActionIgnore}
	exitCodeOperators = []batchv1.PodFailurePolicyOnExitCodesOperator{batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn}
	conditionStatuses = []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
)

// oneOf wants value to be set and among allowed.
func oneOf[T ~string](value T, path *field.Path, allowed []T) field.ErrorList {
	switch {
	case value == "":
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q", allowed))}
	case !slices.Contains(allowed, value):
		return field.ErrorList{field.NotSupported(path, value, allowed)}
	}
	return nil
}

func checkReplacementPolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if spec.PodReplacementPolicy == nil {
		return nil
	}
	allowed := []batchv1.PodReplacementPolicy{batchv1.Failed, batchv1.TerminatingOrFailed}
	if spec.PodFailurePolicy != nil {
		allowed = allowed[:1]
	}
	if !slices.Contains(allowed, *spec.PodReplacementPolicy) {
		return field.ErrorList{field.NotSupported(path, *spec.PodReplacementPolicy, allowed)}
	}
	return nil
}

func checkFailurePolicy(spec *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	rules := path.Child("rules")
	if n := len(spec.PodFailurePolicy.Rules); n > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, n, maxPolicyRules))
	}
	names := sets.New[string]()
	for _, list := range [][]corev1.Container{spec.Template.Spec.Containers, spec.Template.Spec.InitContainers} {
		for i := range list {
			names.Insert(list[i].Name)
		}
	}
	for i := range spec.PodFailurePolicy.Rules {
		errs = append(errs, checkFailureRule(spec, &spec.PodFailurePolicy.Rules[i], names, rules.Index(i))...)
	}
	return errs
}

func checkFailureRule(spec *batchv1.JobSpec, rule *batchv1.PodFailurePolicyRule, containers sets.Set[string], path *field.Path) field.ErrorList {
	errs := oneOf(rule.Action, path.Child("action"), failureActions)
	if rule.Action == batchv1.PodFailurePolicyActionFailIndex && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Invalid(path.Child("action"), rule.Action, "requires the backoffLimitPerIndex to be set"))
	}
	if rule.OnExitCodes != nil {
		errs = append(errs, checkExitCodes(rule.OnExitCodes, containers, path.Child("onExitCodes"))...)
	}
	if n := len(rule.OnPodConditions); n > maxConditionPatterns {
		errs = append(errs, field.TooMany(path.Child("onPodConditions"), n, maxConditionPatterns))
	}
	for i, pattern := range rule.OnPodConditions {
		at := path.Child("onPodConditions").Index(i)
		for _, message := range validation.IsQualifiedName(string(pattern.Type)) {
			errs = append(errs, field.Invalid(at.Child("type"), string(pattern.Type), message))
		}
		errs = append(errs, oneOf(pattern.Status, at.Child("status"), conditionStatuses)...)
	}
	switch conditions := len(rule.OnPodConditions) > 0; {
	case rule.OnExitCodes != nil && conditions:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying both OnExitCodes and OnPodConditions is not supported"))
	case rule.OnExitCodes == nil && !conditions:
		errs = append(errs, field.Invalid(path, field.OmitValueType{}, "specifying one of OnExitCodes and OnPodConditions is required"))
	}
	return errs
}

func checkExitCodes(codes *batchv1.PodFailurePolicyOnExitCodesRequirement, containers sets.Set[string], path *field.Path) field.ErrorList {
	errs := oneOf(codes.Operator, path.Child("operator"), exitCodeOperators)
	if name := codes.ContainerName; name != nil && !containers.Has(*name) {
		errs = append(errs, field.Invalid(path.Child("containerName"), *name, "must be one of the container or initContainer names in the pod template"))
	}
	values := path.Child("values")
	if n := len(codes.Values); n == 0 {
		errs = append(errs, field.Invalid(values, codes.Values, "at least one value is required"))
	} else if n > maxExitCodes {
		errs = append(errs, field.TooMany(values, n, maxExitCodes))
	}
	seen := sets.New[int32]()
	for i, code := range codes.Values {
		if code == 0 && codes.Operator == batchv1.PodFailurePolicyOnExitCodesOpIn {
			errs = append(errs, field.Invalid(values.Index(i), code, "must not be 0 for the In operator"))
		}
		if seen.Has(code) {
			errs = append(errs, field.Duplicate(values.Index(i), code))
		}
		seen.Insert(code)
	}
	if !slices.IsSorted(codes.Values) {
		errs = append(errs, field.Invalid(values, codes.Values, "must be ordered"))
	}
	return errs
}

// checkSuccessPolicy checks the policy of an indexed job. That completions are
// needed is another check's fault to report.
func checkSuccessPolicy(spec *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	if spec.Completions == nil {
		return nil
	}
	rules := path.Child("rules")
	if n := len(spec.SuccessPolicy.Rules); n == 0 {
		errs = append(errs, field.Required(rules, "at least one rules must be specified when the successPolicy is specified"))
	} else if n > maxPolicyRules {
		errs = append(errs, field.TooMany(rules, n, maxPolicyRules))
	}
	for i := range spec.SuccessPolicy.Rules {
		errs = append(errs, checkSuccessRule(&spec.SuccessPolicy.Rules[i], *spec.Completions, rules.Index(i))...)
	}
	return errs
}

func checkSuccessRule(rule *batchv1.SuccessPolicyRule, completions int32, path *field.Path) (errs field.ErrorList) {
	if rule.SucceededCount == nil && rule.SucceededIndexes == nil {
		return field.ErrorList{field.Required(path, "at least one of succeededCount or succeededIndexes must be specified")}
	}
	var total int32
	if rule.SucceededIndexes != nil {
		at := path.Child("succeededIndexes")
		if len(*rule.SucceededIndexes) > maxSucceededIndexSize {
			errs = append(errs, field.TooLong(at, "", maxSucceededIndexSize))
		}
		indexes, err := parseIndexes(*rule.SucceededIndexes, completions)
		if err != nil {
			errs = append(errs, field.Invalid(at, *rule.SucceededIndexes, "error parsing succeededIndexes: "+err.Error()))
		} else {
			for _, i := range indexes {
				total += i.last - i.first + 1
			}
		}
	}
	if rule.SucceededCount != nil {
		at, count := path.Child("succeededCount"), *rule.SucceededCount
		errs = append(errs, apivalidation.ValidateNonnegativeField(int64(count), at)...)
		if count > completions {
			errs = append(errs, field.Invalid(at, count, fmt.Sprintf("must be less than or equal to %d (the number of specified completions)", completions)))
		}
		if rule.SucceededIndexes != nil && count > total {
			errs = append(errs, field.Invalid(at, count, fmt.Sprintf("must be less than or equal to %d (the number of indexes in the specified succeededIndexes field)", total)))
		}
	}
	return errs
}

// interval is a run of indexes, both ends included.
type interval struct{ first, last int32 }

// parseIndexes reads what completedIndexes and its like hold: "1,3-5,7", in
// growing order and below completions.
func parseIndexes(text string, completions int32) ([]interval, error) {
	if text == "" {
		return nil, nil
	}
	var list []interval
	for part := range strings.SplitSeq(text, ",") {
		next, err := parseInterval(part, completions)
		if err != nil {
			return nil, err
		}
		if n := len(list); n > 0 && list[n-1].last >= next.first {
			return nil, fmt.Errorf("non-increasing order, previous: %d, current: %d", list[n-1].last, next.first)
		}
		list = append(list, next)
	}
	return list, nil
}

func parseInterval(text string, completions int32) (interval, error) {
	parts := strings.Split(text, "-")
	if len(parts) > 2 {
		return interval{}, fmt.Errorf("the fragment %q violates the requirement that an index interval can have at most two parts separated by '-'", text)
	}
	ends := [2]int32{}
	for i, part := range parts {
		n, err := strconv.Atoi(part)
		if err != nil {
			return interval{}, fmt.Errorf("cannot convert string to integer for index: %q", part)
		}
		if n >= int(completions) {
			return interval{}, fmt.Errorf("too large index: %q", part)
		}
		ends[i] = int32(n)
	}
	if len(parts) == 1 {
		return interval{ends[0], ends[0]}, nil
	}
	if ends[0] >= ends[1] {
		return interval{}, fmt.Errorf("non-increasing order, previous: %d, current: %d", ends[0], ends[1])
	}
	return interval{ends[0], ends[1]}, nil
}

// overlap finds the first index that two growing lists share.
func overlap(a, b []interval) (int32, bool) {
	for len(a) > 0 && len(b) > 0 {
		if a[0].first <= b[0].last && b[0].first <= a[0].last {
			return max(a[0].first, b[0].first), true
		}
		if a[0].first <= b[0].first {
			a = a[1:]
		} else {
			b = b[1:]
		}
	}
	return 0, false
}
