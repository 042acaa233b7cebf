package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api/core"
)

// Limits that keep a job's status, where indexes are listed, within an
// object's size.
const (
	maxIndexed              = 100_000
	manyCompletions         = 100_000
	limitForManyCompletions = 10_000
	maxManagedByLength      = 63
)

func checkNewJob(j *batchv1.Job) field.ErrorList {
	return checkJob(j, true, metav1validation.LabelSelectorValidationOptions{})
}

func checkJobUpdate(j, old *batchv1.Job) field.ErrorList {
	_, named := old.Spec.Template.Labels[batchv1.JobNameLabel]
	_, owned := old.Spec.Template.Labels[batchv1.ControllerUidLabel]
	errs := checkJob(j, named && owned, metav1validation.LabelSelectorValidationOptions{
		AllowInvalidLabelValueInSelector: metav1validation.LabelSelectorHasInvalidLabelValue(old.Spec.Selector),
	})
	path := field.NewPath("spec")
	errs = append(errs, checkCompletionsUpdate(&j.Spec, &old.Spec, path)...)
	fixed := func(name string, now, before any) {
		errs = append(errs, apivalidation.ValidateImmutableField(now, before, path.Child(name))...)
	}
	fixed("selector", j.Spec.Selector, old.Spec.Selector)
	errs = append(errs, checkTemplateUpdate(j, old, path)...)
	fixed("completionMode", j.Spec.CompletionMode, old.Spec.CompletionMode)
	fixed("podFailurePolicy", j.Spec.PodFailurePolicy, old.Spec.PodFailurePolicy)
	fixed("backoffLimitPerIndex", j.Spec.BackoffLimitPerIndex, old.Spec.BackoffLimitPerIndex)
	fixed("managedBy", j.Spec.ManagedBy, old.Spec.ManagedBy)
	fixed("successPolicy", j.Spec.SuccessPolicy, old.Spec.SuccessPolicy)
	return errs
}

// checkJob checks a job as a whole. prefixed wants the labels with a prefix
// too, which jobs from before them lack.
func checkJob(j *batchv1.Job, prefixed bool, options metav1validation.LabelSelectorValidationOptions) field.ErrorList {
	errs := checkGeneratedSelector(j, prefixed)
	path := field.NewPath("spec")
	errs = append(errs, checkJobSpec(&j.Spec, path)...)
	if j.Spec.Selector == nil {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	} else {
		errs = append(errs, metav1validation.ValidateLabelSelector(j.Spec.Selector, options, path.Child("selector"))...)
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(labels.Set(j.Spec.Template.Labels)) {
		errs = append(errs, field.Invalid(path.Child("template", "metadata", "labels"), j.Spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	if isIndexed(&j.Spec) && ptr.Deref(j.Spec.Completions, 0) > 0 {
		// Pods of indexes have host names made of the job's.
		last := fmt.Sprintf("%s-%d", j.Name, *j.Spec.Completions-1)
		if len(validation.IsDNS1123Label(last)) > 0 {
			errs = append(errs, field.Invalid(field.NewPath("metadata", "name"), j.Name, "will not able to create pod with invalid DNS label: "+last))
		}
	}
	return errs
}

// checkGeneratedSelector checks that what generateSelector had to leave alone
// is what it would have written.
func checkGeneratedSelector(j *batchv1.Job, prefixed bool) (errs field.ErrorList) {
	if ptr.Deref(j.Spec.ManualSelector, false) || j.Spec.Selector == nil {
		return nil
	}
	if j.UID == "" {
		errs = append(errs, field.Required(field.NewPath("metadata", "uid"), ""))
	}
	names := []string{legacyControllerUIDLabel, legacyJobNameLabel}
	if prefixed {
		names = append(names, batchv1.ControllerUidLabel, batchv1.JobNameLabel)
	}
	generated, expected := generatedLabels(j), labels.Set{}
	path := field.NewPath("spec", "template", "metadata", "labels")
	for _, name := range names {
		expected[name] = generated[name]
		value, set := j.Spec.Template.Labels[name]
		switch {
		case !set:
			errs = append(errs, field.Required(path.Key(name), fmt.Sprintf("must be '%s'", generated[name])))
		case value != generated[name]:
			errs = append(errs, field.Invalid(path.Key(name), j.Spec.Template.Labels, fmt.Sprintf("must be '%s'", generated[name])))
		}
	}
	if selector, err := metav1.LabelSelectorAsSelector(j.Spec.Selector); err == nil && !selector.Matches(expected) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "selector"), j.Spec.Selector, "`selector` not auto-generated"))
	}
	return errs
}

// checkJobSpec checks all of a job's spec but its selector, which templates of
// jobs do not have.
func checkJobSpec(spec *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	errs = append(errs, nonnegative(spec.Parallelism, path.Child("parallelism"))...)
	errs = append(errs, nonnegative(spec.Completions, path.Child("completions"))...)
	errs = append(errs, nonnegative(spec.ActiveDeadlineSeconds, path.Child("activeDeadlineSeconds"))...)
	errs = append(errs, nonnegative(spec.BackoffLimit, path.Child("backoffLimit"))...)
	errs = append(errs, nonnegative(spec.TTLSecondsAfterFinished, path.Child("ttlSecondsAfterFinished"))...)
	errs = append(errs, nonnegative(spec.BackoffLimitPerIndex, path.Child("backoffLimitPerIndex"))...)
	errs = append(errs, nonnegative(spec.MaxFailedIndexes, path.Child("maxFailedIndexes"))...)
	if spec.MaxFailedIndexes != nil && spec.BackoffLimitPerIndex == nil {
		errs = append(errs, field.Required(path.Child("backoffLimitPerIndex"), "when maxFailedIndexes is specified"))
	}
	if spec.ManagedBy != nil {
		errs = append(errs, validation.IsDomainPrefixedPath(path.Child("managedBy"), *spec.ManagedBy)...)
		if len(*spec.ManagedBy) > maxManagedByLength {
			errs = append(errs, field.TooLong(path.Child("managedBy"), "", maxManagedByLength))
		}
	}
	errs = append(errs, checkCompletionMode(spec, path)...)
	if spec.PodFailurePolicy != nil {
		errs = append(errs, checkFailurePolicy(spec, path.Child("podFailurePolicy"))...)
	}
	if spec.SuccessPolicy != nil {
		if isIndexed(spec) {
			errs = append(errs, checkSuccessPolicy(spec, path.Child("successPolicy"))...)
		} else {
			errs = append(errs, field.Invalid(path.Child("successPolicy"), *spec.SuccessPolicy, "requires indexed completion mode"))
		}
	}
	errs = append(errs, checkReplacementPolicy(spec, path.Child("podReplacementPolicy"))...)
	errs = append(errs, core.ValidatePodTemplate(&spec.Template, path.Child("template"))...)
	return append(errs, checkRestartPolicy(spec, path.Child("template", "spec", "restartPolicy"))...)
}

func nonnegative[N int32 | int64](value *N, path *field.Path) field.ErrorList {
	if value == nil {
		return nil
	}
	return apivalidation.ValidateNonnegativeField(int64(*value), path)
}

func checkCompletionMode(spec *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	mode := ptr.Deref(spec.CompletionMode, batchv1.NonIndexedCompletion)
	switch mode {
	case batchv1.IndexedCompletion:
		return checkIndexed(spec, path)
	case batchv1.NonIndexedCompletion:
		if spec.BackoffLimitPerIndex != nil {
			errs = append(errs, field.Invalid(path.Child("backoffLimitPerIndex"), *spec.BackoffLimitPerIndex, "requires indexed completion mode"))
		}
		if spec.MaxFailedIndexes != nil {
			errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *spec.MaxFailedIndexes, "requires indexed completion mode"))
		}
		return errs
	}
	return field.ErrorList{field.NotSupported(path.Child("completionMode"), mode,
		[]batchv1.CompletionMode{batchv1.NonIndexedCompletion, batchv1.IndexedCompletion})}
}

func checkIndexed(spec *batchv1.JobSpec, path *field.Path) (errs field.ErrorList) {
	atMost := func(name string, value *int32, limit int32, suffix string) {
		if value != nil && *value > limit {
			errs = append(errs, field.Invalid(path.Child(name), *value, fmt.Sprintf("must be less than or equal to %d%s", limit, suffix)))
		}
	}
	if spec.Completions == nil {
		errs = append(errs, field.Required(path.Child("completions"), "when completion mode is Indexed"))
	}
	atMost("parallelism", spec.Parallelism, maxIndexed, " when completion mode is Indexed")
	if spec.Completions != nil && spec.MaxFailedIndexes != nil && *spec.MaxFailedIndexes > *spec.Completions {
		errs = append(errs, field.Invalid(path.Child("maxFailedIndexes"), *spec.MaxFailedIndexes, "must be less than or equal to completions"))
	}
	atMost("maxFailedIndexes", spec.MaxFailedIndexes, maxIndexed, "")
	if ptr.Deref(spec.Completions, 0) <= manyCompletions || spec.BackoffLimitPerIndex == nil {
		return errs
	}
	if spec.MaxFailedIndexes == nil {
		errs = append(errs, field.Required(path.Child("maxFailedIndexes"), fmt.Sprintf("must be specified when completions is above %d", manyCompletions)))
	}
	suffix := fmt.Sprintf(" when completions are above %d and used with backoff limit per index", manyCompletions)
	atMost("parallelism", spec.Parallelism, limitForManyCompletions, suffix)
	atMost("maxFailedIndexes", spec.MaxFailedIndexes, limitForManyCompletions, suffix)
	return errs
}

func checkRestartPolicy(spec *batchv1.JobSpec, path *field.Path) field.ErrorList {
	const onFailure, never = corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever
	switch policy := spec.Template.Spec.RestartPolicy; {
	case policy == corev1.RestartPolicyAlways || policy == "":
		// Always is what a client gets that has left the policy out.
		return field.ErrorList{field.Required(path, fmt.Sprintf("valid values: %q, %q", onFailure, never))}
	case policy != onFailure && policy != never:
		return field.ErrorList{field.NotSupported(path, policy, []corev1.RestartPolicy{onFailure, never})}
	case spec.PodFailurePolicy != nil && policy != never:
		return field.ErrorList{field.Invalid(path, policy, fmt.Sprintf("only %q is supported when podFailurePolicy is specified", never))}
	}
	return nil
}

// checkCompletionsUpdate lets indexed jobs grow and shrink together with their
// parallelism.
func checkCompletionsUpdate(spec, old *batchv1.JobSpec, path *field.Path) field.ErrorList {
	if !isIndexed(spec) {
		return apivalidation.ValidateImmutableField(spec.Completions, old.Completions, path.Child("completions"))
	}
	if spec.Completions == nil || apiequality.Semantic.DeepEqual(spec.Completions, old.Completions) {
		return nil
	}
	if *spec.Completions != ptr.Deref(spec.Parallelism, 0) {
		// The path's root is what users have always been shown.
		return field.ErrorList{field.Invalid(path.Child("completions"), spec.Completions,
			fmt.Sprintf("can only be modified in tandem with %s", path.Root().Child("parallelism")))}
	}
	return nil
}

// checkTemplateUpdate keeps the template as it is, but for what schedules and
// sizes the pods of a job that is suspended and has none.
func checkTemplateUpdate(j, old *batchv1.Job, spec *field.Path) field.ErrorList {
	now, before := &j.Spec.Template, &old.Spec.Template
	suspended := ptr.Deref(old.Spec.Suspend, false)
	idle := old.Status.StartTime == nil || hasCondition(old, batchv1.JobSuspended, corev1.ConditionTrue)
	if !suspended || !idle || old.Status.Active > 0 {
		return apivalidation.ValidateImmutableField(now, before, spec.Child("template"))
	}
	allowed := before.DeepCopy()
	allowed.Spec.Affinity = withNodeAffinity(allowed.Spec.Affinity, now.Spec.Affinity)
	allowed.Spec.NodeSelector = now.Spec.NodeSelector
	allowed.Spec.Tolerations = now.Spec.Tolerations
	allowed.Spec.SchedulingGates = now.Spec.SchedulingGates
	takeResources(allowed.Spec.Containers, now.Spec.Containers)
	takeResources(allowed.Spec.InitContainers, now.Spec.InitContainers)
	return apivalidation.ValidateImmutableField(now.Spec, allowed.Spec, spec.Child("template.spec"))
}

// withNodeAffinity is affinity with its node affinity replaced by now's.
func withNodeAffinity(affinity, now *corev1.Affinity) *corev1.Affinity {
	if affinity == nil {
		affinity = &corev1.Affinity{}
	}
	affinity.NodeAffinity = nil
	if now != nil {
		affinity.NodeAffinity = now.NodeAffinity
	} else if *affinity == (corev1.Affinity{}) {
		return nil
	}
	return affinity
}

func takeResources(to, from []corev1.Container) {
	if len(to) != len(from) {
		return
	}
	for i := range to {
		if to[i].Name == from[i].Name {
			to[i].Resources = from[i].Resources
		}
	}
}
