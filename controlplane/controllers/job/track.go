package job

import (
	"slices"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/controllers/reconcile"
)

// uncountedLimit bounds the UIDs in a job's status.
const uncountedLimit = 500

// settle brings the status of v.job up to date, and returns the pods whose
// finalizer may go once that has been written. outcome is what the job has
// earned, nil if it goes on; settled says that every pod is known, without
// which the job does not end.
func (v *view) settle(outcome *batchv1.JobCondition, settled bool) (release []*corev1.Pod) {
	status := &v.job.Status
	if status.UncountedTerminatedPods == nil {
		status.UncountedTerminatedPods = &batchv1.UncountedTerminatedPods{}
	}
	uncounted := status.UncountedTerminatedPods
	tracked := map[types.UID]*corev1.Pod{}
	for _, pod := range v.all {
		if v.tracked(pod) {
			tracked[pod.UID] = pod
		}
	}
	// Those without a finalizer join the count; the others are still to lose it.
	count := func(uids []types.UID, total *int32) (left []types.UID) {
		for _, uid := range uids {
			if pod := tracked[uid]; pod != nil {
				left = append(left, uid)
				release = append(release, pod)
			} else {
				*total++
			}
		}
		return left
	}
	uncounted.Succeeded = count(uncounted.Succeeded, &status.Succeeded)
	uncounted.Failed = count(uncounted.Failed, &status.Failed)
	room := uncountedLimit - len(uncounted.Succeeded) - len(uncounted.Failed)

	fail := func(pod *corev1.Pod) {
		if slices.Contains(uncounted.Failed, pod.UID) || slices.Contains(uncounted.Succeeded, pod.UID) || room <= 0 {
			return
		}
		if v.counts(pod) && (!indexed(v.job) || v.has(indexOf(pod))) {
			uncounted.Failed = append(uncounted.Failed, pod.UID)
			room--
		}
		release = append(release, pod)
	}
	for _, pod := range v.succeeded {
		switch {
		case indexed(v.job):
			release = append(release, pod)
		case room > 0:
			uncounted.Succeeded = append(uncounted.Succeeded, pod.UID)
			release = append(release, pod)
			room--
		}
	}
	release = append(release, v.stray...)
	awaited := v.awaited()
	goesOn := outcome == nil && v.job.DeletionTimestamp == nil
	for _, pod := range v.failed {
		if !goesOn || awaited[indexOf(pod)] != pod {
			fail(pod)
		}
	}
	switch {
	case v.job.DeletionTimestamp != nil:
		// Nobody will read the counts: let all pods go.
		for _, pod := range tracked {
			if !slices.Contains(release, pod) {
				release = append(release, pod)
			}
		}
	case outcome != nil && outcome.Type == batchv1.JobFailureTarget:
		// What still runs is stopped, and has failed.
		for _, pod := range slices.Concat(v.active, v.terminating) {
			if tracked[pod.UID] != nil {
				fail(pod)
			}
		}
	case outcome != nil:
		// What still runs is stopped, and has not failed.
		for _, pod := range slices.Concat(v.active, v.terminating) {
			if tracked[pod.UID] != nil && !slices.Contains(v.failed, pod) && !slices.Contains(release, pod) {
				release = append(release, pod)
			}
		}
	}
	if indexed(v.job) {
		status.CompletedIndexes = v.done.String()
		status.Succeeded = int32(len(v.done))
		if v.job.Spec.BackoffLimitPerIndex != nil {
			lost := v.lost.String()
			status.FailedIndexes = &lost
		}
	}
	ready, terminating := int32(0), int32(len(v.terminating))
	for _, pod := range v.active {
		if reconcile.PodReady(pod) {
			ready++
		}
	}
	status.Active, status.Ready, status.Terminating = int32(len(v.active)+v.created), &ready, &terminating
	if outcome != nil {
		v.conclude(*outcome, settled)
	}
	return release
}

// conclude notes an outcome, and ends the job once it was noted before and no
// pod is left to wait for.
func (v *view) conclude(outcome batchv1.JobCondition, settled bool) {
	status := &v.job.Status
	if !holds(v.job, outcome.Type) {
		v.set(outcome)
		return
	}
	uncounted := status.UncountedTerminatedPods
	if !settled || len(v.active)+len(v.terminating)+len(uncounted.Succeeded)+len(uncounted.Failed) > 0 {
		return
	}
	last := newCondition(batchv1.JobFailed, corev1.ConditionTrue, outcome.Reason, outcome.Message, v.now)
	if outcome.Type == batchv1.JobSuccessCriteriaMet {
		last.Type = batchv1.JobComplete
		status.CompletionTime = &last.LastTransitionTime
	}
	v.set(last)
}

// set replaces the condition of a type.
func (v *view) set(c batchv1.JobCondition) {
	if old := find(v.job, c.Type); old != nil {
		*old = c
		return
	}
	v.job.Status.Conditions = append(v.job.Status.Conditions, c)
}

// start notes when the job was started.
func (v *view) start() {
	if v.job.Status.StartTime == nil && !suspended(v.job) {
		v.job.Status.StartTime = &metav1.Time{Time: v.now}
	}
}

// turn notes when the job was suspended and resumed, and returns the reason of
// the event that tells so, or "". A job starts anew when it is resumed.
func (v *view) turn() (event string) {
	status := &v.job.Status
	now := metav1.NewTime(v.now)
	was := holds(v.job, batchv1.JobSuspended)
	switch {
	case suspended(v.job) && !was:
		v.set(newCondition(batchv1.JobSuspended, corev1.ConditionTrue, "JobSuspended", "Job suspended", v.now))
		status.StartTime = nil
		return "Suspended"
	case !suspended(v.job) && was:
		v.set(newCondition(batchv1.JobSuspended, corev1.ConditionFalse, "JobResumed", "Job resumed", v.now))
		status.StartTime = &now
		return "Resumed"
	}
	return ""
}
