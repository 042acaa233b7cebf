package batch

import (
	"fmt"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// Jobs may be run by controllers of others (managedBy), so that the API itself
// has to hold what clients rely on: a finished job stays finished, counters do
// not run backwards. A rule is applied only where a field it is about changes,
// so that a status which has broken it before can still be written.

func hasCondition(j *batchv1.Job, kind batchv1.JobConditionType, status corev1.ConditionStatus) bool {
	for _, c := range j.Status.Conditions {
		if c.Type == kind && c.Status == status {
			return true
		}
	}
	return false
}

func isTrue(j *batchv1.Job, kind batchv1.JobConditionType) bool {
	return hasCondition(j, kind, corev1.ConditionTrue)
}

func isFinished(j *batchv1.Job) bool {
	return isTrue(j, batchv1.JobComplete) || isTrue(j, batchv1.JobFailed)
}

// statusChange is a status update, and what of it differs.
type statusChange struct {
	now, old *batchv1.Job
	status   *batchv1.JobStatus
	path     *field.Path
	errs     field.ErrorList

	finished, complete, failed, active, startTime, completionTime, completedIndexes, failedIndexes bool
}

func checkJobStatus(j, old *batchv1.Job) field.ErrorList {
	turned := func(kind batchv1.JobConditionType) bool { return isTrue(j, kind) != isTrue(old, kind) }
	c := &statusChange{
		now: j, old: old, status: &j.Status, path: field.NewPath("status"),
		finished:         isFinished(j) != isFinished(old),
		complete:         turned(batchv1.JobComplete),
		failed:           turned(batchv1.JobFailed),
		active:           j.Status.Active != old.Status.Active,
		startTime:        !ptr.Equal(j.Status.StartTime, old.Status.StartTime),
		completionTime:   !ptr.Equal(j.Status.CompletionTime, old.Status.CompletionTime),
		completedIndexes: j.Status.CompletedIndexes != old.Status.CompletedIndexes,
		failedIndexes:    !ptr.Equal(j.Status.FailedIndexes, old.Status.FailedIndexes),
	}
	c.counts()
	c.terminalConditions(turned(batchv1.JobFailureTarget), turned(batchv1.JobSuccessCriteriaMet))
	c.finishedJob()
	c.indexes()
	c.times()
	c.progress()
	return c.errs
}

func (c *statusChange) invalid(name string, value any, message string) {
	c.errs = append(c.errs, field.Invalid(c.path.Child(name), value, message))
}

func (c *statusChange) conditions(message string) {
	c.invalid("conditions", field.OmitValueType{}, message)
}

func (c *statusChange) counts() {
	s := c.status
	for _, count := range []struct {
		name  string
		value *int32
	}{{"active", &s.Active}, {"succeeded", &s.Succeeded}, {"failed", &s.Failed}, {"ready", s.Ready}, {"terminating", s.Terminating}} {
		c.errs = append(c.errs, nonnegative(count.value, c.path.Child(count.name))...)
	}
	if uncounted := s.UncountedTerminatedPods; uncounted != nil {
		seen := sets.New[types.UID]()
		check := func(list []types.UID, name string) {
			for i, uid := range list {
				at := c.path.Child("uncountedTerminatedPods", name).Index(i)
				switch {
				case uid == "":
					c.errs = append(c.errs, field.Invalid(at, uid, "must not be empty"))
				case seen.Has(uid):
					c.errs = append(c.errs, field.Duplicate(at, uid))
				}
				seen.Insert(uid)
			}
		}
		check(uncounted.Succeeded, "succeeded")
		check(uncounted.Failed, "failed")
	}
	if (c.active || !ptr.Equal(s.Ready, c.old.Status.Ready)) && s.Ready != nil && *s.Ready > s.Active {
		c.invalid("ready", *s.Ready, "cannot set more ready pods than active")
	}
}

// terminalConditions checks which conditions go together.
func (c *statusChange) terminalConditions(failureTarget, criteriaMet bool) {
	complete, failed := isTrue(c.now, batchv1.JobComplete), isTrue(c.now, batchv1.JobFailed)
	target, met := isTrue(c.now, batchv1.JobFailureTarget), isTrue(c.now, batchv1.JobSuccessCriteriaMet)
	if (c.complete || c.failed) && complete && failed {
		c.conditions("cannot set Complete=True and Failed=true conditions")
	}
	if (c.complete || failureTarget) && complete && target {
		c.conditions("cannot set Complete=True and FailureTarget=true conditions")
	}
	if (c.failed || c.failedIndexes) && failed && !target {
		c.conditions("cannot set Failed=True condition without the FailureTarget=true condition")
	}
	if (c.complete || criteriaMet) && complete && !met {
		c.conditions("cannot set Complete=True condition without the SuccessCriteriaMet=true condition")
	}
	if met && failed {
		c.conditions("cannot set SuccessCriteriaMet=True and Failed=true conditions")
	}
	if met && target {
		c.conditions("cannot set SuccessCriteriaMet=True and FailureTarget=true conditions")
	}
	if c.now.Spec.SuccessPolicy != nil && complete && !met {
		c.conditions("cannot set Complete=True for Job with SuccessPolicy unless SuccessCriteriaMet=True")
	}
}

func (c *statusChange) finishedJob() {
	s := c.status
	if !isFinished(c.now) {
		return
	}
	if (c.finished || c.active) && s.Active > 0 {
		c.invalid("active", s.Active, "active>0 is invalid for finished job")
	}
	// A job that wants no pods may finish before it has ever run.
	nothingToDo := ptr.Deref(c.now.Spec.Suspend, false) && ptr.Equal(c.now.Spec.Completions, ptr.To[int32](0))
	if (c.finished || c.startTime) && !nothingToDo && s.StartTime == nil {
		c.errs = append(c.errs, field.Required(c.path.Child("startTime"), "startTime is required for finished job"))
	}
	if u := s.UncountedTerminatedPods; u != nil && len(u.Failed)+len(u.Succeeded) > 0 &&
		(c.finished || !apiequality.Semantic.DeepEqual(u, c.old.Status.UncountedTerminatedPods)) {
		c.invalid("uncountedTerminatedPods", u, "must be empty for finished job")
	}
	if (c.finished || !ptr.Equal(s.Terminating, c.old.Status.Terminating)) && ptr.Deref(s.Terminating, 0) > 0 {
		c.invalid("terminating", s.Terminating, "terminating>0 is invalid for finished job")
	}
}

func (c *statusChange) indexes() {
	s, spec := c.status, &c.now.Spec
	completions := ptr.Deref(spec.Completions, 0)
	completed, completedErr := parseIndexes(s.CompletedIndexes, completions)
	failed, failedErr := parseIndexes(ptr.Deref(s.FailedIndexes, ""), completions)
	if c.completedIndexes {
		if spec.Completions != nil && completedErr != nil {
			c.invalid("completedIndexes", s.CompletedIndexes, "error parsing completedIndexes: "+completedErr.Error())
		}
		if s.CompletedIndexes != "" && !isIndexed(spec) {
			c.invalid("completedIndexes", s.CompletedIndexes, "cannot set non-empty completedIndexes when non-indexed completion mode")
		}
	}
	if c.failedIndexes && s.FailedIndexes != nil {
		switch {
		case spec.BackoffLimitPerIndex == nil:
			c.invalid("failedIndexes", *s.FailedIndexes, "cannot set non-null failedIndexes when backoffLimitPerIndex is null")
		case spec.Completions != nil && failedErr != nil:
			c.invalid("failedIndexes", s.FailedIndexes, "error parsing failedIndexes: "+failedErr.Error())
		}
	}
	if (c.completedIndexes || c.failedIndexes) && completedErr == nil && failedErr == nil {
		if index, both := overlap(completed, failed); both {
			c.invalid("failedIndexes", *s.FailedIndexes, fmt.Sprintf("failedIndexes and completedIndexes overlap at index: %d", index))
		}
	}
}

func (c *statusChange) times() {
	s, complete := c.status, isTrue(c.now, batchv1.JobComplete)
	if c.complete || c.completionTime {
		if s.CompletionTime != nil && !complete {
			c.invalid("completionTime", s.CompletionTime, "cannot set completionTime when there is no Complete=True condition")
		}
		if s.CompletionTime == nil && complete {
			c.errs = append(c.errs, field.Required(c.path.Child("completionTime"), "completionTime is required for Complete jobs"))
		}
	}
	if (c.startTime || c.completionTime) && s.StartTime != nil && s.CompletionTime != nil && s.CompletionTime.Before(s.StartTime) {
		c.invalid("completionTime", s.CompletionTime, "must be equal to or after `startTime`")
	}
	if c.completionTime && s.CompletionTime != nil && c.old.Status.CompletionTime != nil {
		c.errs = append(c.errs, apivalidation.ValidateImmutableField(s.CompletionTime, c.old.Status.CompletionTime, c.path.Child("completionTime"))...)
	}
	resuming := isTrue(c.old, batchv1.JobSuspended) && hasCondition(c.now, batchv1.JobSuspended, corev1.ConditionFalse)
	if c.startTime && c.old.Status.StartTime != nil && !resuming && !ptr.Deref(c.now.Spec.Suspend, false) {
		c.invalid("startTime", s.StartTime, "field is immutable for unsuspended job once set")
	}
}

// progress checks that nothing is taken back.
func (c *statusChange) progress() {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobFailed, batchv1.JobComplete, batchv1.JobFailureTarget} {
		if isTrue(c.old, kind) && !isTrue(c.now, kind) {
			c.conditions(fmt.Sprintf("cannot disable the terminal %s=True condition", kind))
		}
	}
	if c.status.Failed < c.old.Status.Failed {
		c.invalid("failed", c.status.Failed, "cannot decrease the failed counter")
	}
	// An indexed job can shrink, and lose successes with its indexes.
	shrinks := isIndexed(&c.now.Spec) && ptr.Equal(c.now.Spec.Completions, c.now.Spec.Parallelism)
	if !shrinks && c.status.Succeeded < c.old.Status.Succeeded {
		c.invalid("succeeded", c.status.Succeeded, "cannot decrease the succeeded counter")
	}
	met, wasMet := isTrue(c.now, batchv1.JobSuccessCriteriaMet), isTrue(c.old, batchv1.JobSuccessCriteriaMet)
	if wasMet && !met {
		c.conditions("cannot disable the SuccessCriteriaMet=True condition")
	}
	if isTrue(c.old, batchv1.JobComplete) && !wasMet && met {
		c.conditions("cannot set SuccessCriteriaMet=True for Job already has Complete=true conditions")
	}
}
