package job

import (
	"slices"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/controllers/reconcile"
)

// view is a job with its pods at one instant, and what they amount to.
type view struct {
	job *batchv1.Job // our own copy
	now time.Time
	// stripped reports whether a pod has lost its finalizer already, though
	// the cache may still show it.
	stripped func(types.UID) bool

	active, terminating []*corev1.Pod
	created             int           // since, and not among the others
	succeeded, failed   []*corev1.Pod // ended, still with the finalizer, and not in the status
	stray               []*corev1.Pod // the same, of an index that the job does not have: none is counted
	all                 []*corev1.Pod
	done, lost          indexes // completed and failed for good; empty unless indexed

	succeededCount, failedCount int
}

func indexed(job *batchv1.Job) bool {
	return job.Spec.CompletionMode != nil && *job.Spec.CompletionMode == batchv1.IndexedCompletion
}

func suspended(job *batchv1.Job) bool { return job.Spec.Suspend != nil && *job.Spec.Suspend }

// replacesFailedOnly reports whether a terminating pod counts, and is
// replaced, only once it has ended.
func replacesFailedOnly(job *batchv1.Job) bool {
	return job.Spec.PodReplacementPolicy != nil && *job.Spec.PodReplacementPolicy == batchv1.Failed
}

func hasFinalizer(pod *corev1.Pod) bool {
	return slices.Contains(pod.Finalizers, batchv1.JobTrackingFinalizer)
}

func (v *view) tracked(pod *corev1.Pod) bool { return hasFinalizer(pod) && !v.stripped(pod.UID) }

func isFailed(job *batchv1.Job, pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodFailed ||
		pod.DeletionTimestamp != nil && pod.Status.Phase != corev1.PodSucceeded && !replacesFailedOnly(job)
}

func newView(job *batchv1.Job, pods []*corev1.Pod, stripped func(types.UID) bool, now time.Time) *view {
	v := &view{job: job, now: now, stripped: stripped, all: pods, done: indexes{}, lost: indexes{}}
	uncounted := batchv1.UncountedTerminatedPods{}
	if job.Status.UncountedTerminatedPods != nil {
		uncounted = *job.Status.UncountedTerminatedPods
	}
	completions := 0
	if indexed(job) {
		completions = int(*job.Spec.Completions)
		v.done = parseIndexes(job.Status.CompletedIndexes, completions)
		if job.Status.FailedIndexes != nil {
			v.lost = parseIndexes(*job.Status.FailedIndexes, completions)
		}
	}
	for _, pod := range pods {
		switch {
		case reconcile.PodActive(pod):
			v.active = append(v.active, pod)
		case !reconcile.PodTerminal(pod):
			v.terminating = append(v.terminating, pod)
		}
		if !v.tracked(pod) || slices.Contains(uncounted.Succeeded, pod.UID) || slices.Contains(uncounted.Failed, pod.UID) {
			continue
		}
		i := indexOf(pod)
		ended := pod.Status.Phase == corev1.PodSucceeded || isFailed(job, pod)
		switch {
		case ended && indexed(job) && !v.has(i):
			v.stray = append(v.stray, pod)
		case pod.Status.Phase == corev1.PodSucceeded:
			v.succeeded = append(v.succeeded, pod)
			if indexed(job) {
				v.done[i] = true
				delete(v.lost, i)
			}
		case isFailed(job, pod):
			v.failed = append(v.failed, pod)
			if v.counts(pod) {
				v.failedCount++
			}
		}
	}
	if job.Spec.BackoffLimitPerIndex != nil {
		for _, pod := range v.failed {
			action, _ := verdict(job.Spec.PodFailurePolicy, pod)
			final := action == batchv1.PodFailurePolicyActionFailIndex ||
				action != batchv1.PodFailurePolicyActionIgnore && failureCount(pod) >= int(*job.Spec.BackoffLimitPerIndex)
			if i := indexOf(pod); final && i >= 0 && i < completions && !v.done[i] {
				v.lost[i] = true
			}
		}
	}
	v.failedCount += int(job.Status.Failed) + len(uncounted.Failed)
	v.succeededCount = int(job.Status.Succeeded) + len(uncounted.Succeeded) + len(v.succeeded)
	if indexed(job) {
		v.succeededCount = len(v.done)
	}
	return v
}

// has reports whether an indexed job has an index.
func (v *view) has(i int) bool { return i >= 0 && i < int(*v.job.Spec.Completions) }

// leaves notes that an active pod has been deleted since.
func (v *view) leaves(pod *corev1.Pod) {
	if i := slices.Index(v.active, pod); i >= 0 {
		v.active = slices.Delete(slices.Clone(v.active), i, i+1)
		v.terminating = append(v.terminating, pod)
	}
}

func (v *view) counts(pod *corev1.Pod) bool {
	action, _ := verdict(v.job.Spec.PodFailurePolicy, pod)
	return action != batchv1.PodFailurePolicyActionIgnore
}

// awaited returns, for each index that is to be tried again, the pod that
// failed last. It keeps its finalizer until its successor exists, which
// inherits its count of failures.
func (v *view) awaited() map[int]*corev1.Pod {
	last := map[int]*corev1.Pod{}
	if v.job.Spec.BackoffLimitPerIndex == nil {
		return last
	}
	for _, pod := range v.failed {
		i := indexOf(pod)
		if i < 0 || v.done[i] || v.lost[i] {
			continue
		}
		if other := last[i]; other == nil || failureCount(pod)+ignoredCount(pod) > failureCount(other)+ignoredCount(other) {
			last[i] = pod
		}
	}
	for _, pod := range v.active {
		delete(last, indexOf(pod))
	}
	return last
}

func newCondition(kind batchv1.JobConditionType, status corev1.ConditionStatus, reason, message string, now time.Time) batchv1.JobCondition {
	t := metav1.NewTime(now)
	return batchv1.JobCondition{Type: kind, Status: status, Reason: reason, Message: message, LastProbeTime: t, LastTransitionTime: t}
}

func find(job *batchv1.Job, kind batchv1.JobConditionType) *batchv1.JobCondition {
	for i := range job.Status.Conditions {
		if job.Status.Conditions[i].Type == kind {
			return &job.Status.Conditions[i]
		}
	}
	return nil
}

func holds(job *batchv1.Job, kind batchv1.JobConditionType) bool {
	c := find(job, kind)
	return c != nil && c.Status == corev1.ConditionTrue
}

func finished(job *batchv1.Job) bool {
	return holds(job, batchv1.JobComplete) || holds(job, batchv1.JobFailed)
}

// outcome returns the condition SuccessCriteriaMet or FailureTarget that the
// job has or has earned, or nil while it goes on.
func (v *view) outcome() *batchv1.JobCondition {
	for _, kind := range []batchv1.JobConditionType{batchv1.JobSuccessCriteriaMet, batchv1.JobFailureTarget} {
		if holds(v.job, kind) {
			return find(v.job, kind)
		}
	}
	fail := func(reason, message string) *batchv1.JobCondition {
		c := newCondition(batchv1.JobFailureTarget, corev1.ConditionTrue, reason, message, v.now)
		return &c
	}
	spec := &v.job.Spec
	for _, pod := range v.all {
		if action, message := verdict(spec.PodFailurePolicy, pod); action == batchv1.PodFailurePolicyActionFailJob {
			return fail(batchv1.JobReasonPodFailurePolicy, message)
		}
	}
	if v.failedCount > int(*spec.BackoffLimit) || v.restartedTooOften() {
		return fail(batchv1.JobReasonBackoffLimitExceeded, "Job has reached the specified backoff limit")
	}
	if left, ok := v.deadline(); ok && left <= 0 {
		return fail(batchv1.JobReasonDeadlineExceeded, "Job was active longer than specified deadline")
	}
	if !indexed(v.job) {
		return nil
	}
	if spec.BackoffLimitPerIndex != nil {
		switch {
		case spec.MaxFailedIndexes != nil && len(v.lost) > int(*spec.MaxFailedIndexes):
			return fail(batchv1.JobReasonMaxFailedIndexesExceeded, "Job has exceeded the specified maximal number of failed indexes")
		case len(v.lost) > 0 && len(v.lost)+len(v.done) >= int(*spec.Completions):
			return fail(batchv1.JobReasonFailedIndexes, "Job has failed indexes")
		}
	}
	if message, ok := succeeds(spec.SuccessPolicy, int(*spec.Completions), v.done); ok {
		c := newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, batchv1.JobReasonSuccessPolicy, message, v.now)
		return &c
	}
	return nil
}

// complete reports whether enough pods have succeeded and no others run.
func (v *view) complete() bool {
	if len(v.active)+v.created > 0 {
		return false
	}
	if v.job.Spec.Completions == nil {
		return v.succeededCount > 0
	}
	return v.succeededCount >= int(*v.job.Spec.Completions)
}

// deadline is how long the job may still be active; ok is false without one.
func (v *view) deadline() (left time.Duration, ok bool) {
	limit := v.job.Spec.ActiveDeadlineSeconds
	if limit == nil || v.job.Status.StartTime == nil || suspended(v.job) {
		return 0, false
	}
	return v.job.Status.StartTime.Add(time.Duration(*limit) * time.Second).Sub(v.now), true
}

// restartedTooOften judges pods whose containers are restarted in place.
func (v *view) restartedTooOften() bool {
	if v.job.Spec.Template.Spec.RestartPolicy != corev1.RestartPolicyOnFailure {
		return false
	}
	restarts := int32(0)
	for _, pod := range v.all {
		if reconcile.PodTerminal(pod) {
			continue
		}
		for _, s := range slices.Concat(pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses) {
			restarts += s.RestartCount
		}
	}
	limit := *v.job.Spec.BackoffLimit
	return restarts > 0 && restarts >= limit
}
