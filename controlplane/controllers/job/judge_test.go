package job

import (
	"context"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

var noon = time.Unix(1e9, 0)

func indexPod(name, index string, phase corev1.PodPhase) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name), Finalizers: []string{batchv1.JobTrackingFinalizer},
			Annotations: map[string]string{batchv1.JobCompletionIndexAnnotation: index}},
		Status: corev1.PodStatus{Phase: phase},
	}
}

func viewOf(job *batchv1.Job, pods ...*corev1.Pod) *view {
	return newView(job, pods, func(types.UID) bool { return false }, noon)
}

func names(pods []*corev1.Pod) (list string) {
	for _, p := range pods {
		list += p.Name + " "
	}
	return list
}

func TestWhatASuccessPolicyStopsHasNotFailed(t *testing.T) {
	job := testJob(3, 3, batchv1.IndexedCompletion)
	job.Spec.SuccessPolicy = &batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{{SucceededIndexes: ptr.To("0")}}}
	v := viewOf(job, indexPod("leader", "0", corev1.PodSucceeded), indexPod("runs", "1", corev1.PodRunning), indexPod("failed", "2", corev1.PodFailed))
	outcome := v.outcome()
	if outcome == nil || outcome.Type != batchv1.JobSuccessCriteriaMet {
		t.Fatalf("outcome %+v", outcome)
	}
	v.leaves(v.active[0])
	release := v.settle(outcome, true)
	if got := names(release); got != "leader failed runs " {
		t.Errorf("released %s", got)
	}
	s := job.Status
	if len(s.UncountedTerminatedPods.Failed) != 1 || s.UncountedTerminatedPods.Failed[0] != "failed" || s.Active != 0 || *s.Terminating != 1 {
		t.Errorf("status %+v, uncounted %+v", s, s.UncountedTerminatedPods)
	}
}

func TestIndexesThatAJobHasNotDoNotCount(t *testing.T) {
	job := testJob(2, 2, batchv1.IndexedCompletion)
	job.Spec.BackoffLimit = ptr.To[int32](0)
	v := viewOf(job, indexPod("beyond", "2", corev1.PodFailed), indexPod("done-beyond", "5", corev1.PodSucceeded), indexPod("garbled", "x", corev1.PodFailed))
	if outcome := v.outcome(); outcome != nil {
		t.Errorf("outcome %+v", outcome)
	}
	if got := names(v.settle(nil, true)); got != "beyond done-beyond garbled " {
		t.Errorf("released %s", got)
	}
	if u := job.Status.UncountedTerminatedPods; len(u.Failed)+len(u.Succeeded) != 0 || job.Status.CompletedIndexes != "" {
		t.Errorf("counted: %+v, indexes %q", u, job.Status.CompletedIndexes)
	}
}

func TestAJobStartsAnewWhenItIsResumed(t *testing.T) {
	job := testJob(2, 2, batchv1.NonIndexedCompletion)
	viewOf(job).start()
	if job.Status.StartTime == nil || !job.Status.StartTime.Time.Equal(noon) {
		t.Fatalf("start time %v", job.Status.StartTime)
	}
	job.Spec.Suspend = ptr.To(true)
	v := viewOf(job)
	v.start()
	if event := v.turn(); event != "Suspended" || job.Status.StartTime != nil || !holds(job, batchv1.JobSuspended) {
		t.Errorf("event %q, status %+v", event, job.Status)
	}
	if event := v.turn(); event != "" {
		t.Errorf("suspended twice: %s", event)
	}
	job.Spec.Suspend = ptr.To(false)
	v.now = noon.Add(time.Hour)
	v.start()
	c := find(job, batchv1.JobSuspended)
	if event := v.turn(); event != "Resumed" || !job.Status.StartTime.Time.Equal(v.now) || c.Status != corev1.ConditionFalse || c.Reason != "JobResumed" {
		t.Errorf("event %q, status %+v", event, job.Status)
	}
}

func TestPodsOfAWorkQueueEndByThemselves(t *testing.T) {
	job := testJob(0, 1, batchv1.NonIndexedCompletion)
	job.Spec.Completions = nil // of three workers, one found the queue empty; then parallelism was lowered
	v := viewOf(job, indexPod("a", "", corev1.PodRunning), indexPod("b", "", corev1.PodRunning), indexPod("c", "", corev1.PodSucceeded))
	if p := v.manage(failures{}); len(p.remove)+len(p.create) != 0 {
		t.Errorf("plan %+v", p)
	}
}

func TestWhenAPodEnded(t *testing.T) {
	at := func(minutes int) metav1.Time { return metav1.NewTime(noon.Add(time.Duration(minutes) * time.Minute)) }
	ended := func(name string, minutes int) corev1.ContainerStatus {
		return corev1.ContainerStatus{Name: name, State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{FinishedAt: at(minutes)}}}
	}
	always := corev1.ContainerRestartPolicyAlways
	for name, test := range map[string]struct {
		pod  corev1.Pod
		want int
	}{
		"its last container": {corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{ended("a", 1), ended("b", 3)}}}, 3},
		"its sidecar": {corev1.Pod{Spec: corev1.PodSpec{InitContainers: []corev1.Container{{Name: "init"}, {Name: "side", RestartPolicy: &always}}},
			Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{ended("a", 1)}, InitContainerStatuses: []corev1.ContainerStatus{ended("init", 9), ended("side", 4)}}}, 4},
		"one still runs": {corev1.Pod{Status: corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{ended("a", 1), {Name: "b"}},
			Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionFalse, LastTransitionTime: at(2)}}}}, 2},
		"deleted with grace": {corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: ptr.To(at(6)), DeletionGracePeriodSeconds: ptr.To[int64](60)},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(2)}}}}, 5},
		"nothing known": {corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: at(7)}}, 7},
	} {
		t.Run(name, func(t *testing.T) {
			if got := endOf(&test.pod); !got.Equal(at(test.want).Time) {
				t.Errorf("ended %v, want %v", got, at(test.want))
			}
		})
	}
	// A success ends the row of failures, also of those of the same moment.
	success, failure, later := indexPod("s", "", corev1.PodSucceeded), indexPod("f", "", corev1.PodFailed), indexPod("l", "", corev1.PodFailed)
	success.CreationTimestamp, failure.CreationTimestamp, later.CreationTimestamp = at(1), at(1), at(2)
	if got := (failures{count: 3}).add([]*corev1.Pod{success}, []*corev1.Pod{later, failure}); got.count != 1 || !got.last.Equal(at(2).Time) {
		t.Errorf("record %+v", got)
	}
}

func TestAdoptedPodsAreCounted(t *testing.T) {
	job := testJob(1, 1, batchv1.NonIndexedCompletion)
	orphan := indexPod("orphan", "", corev1.PodSucceeded)
	orphan.Finalizers, orphan.Labels = nil, job.Spec.Selector.MatchLabels
	f := controllertest.New(t, job, orphan)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the job to complete by what it adopted", func() bool {
		j, err := f.Client.BatchV1().Jobs("ns").Get(context.Background(), "sum", metav1.GetOptions{})
		return err == nil && holds(j, batchv1.JobComplete) && j.Status.Succeeded == 1 && j.Status.StartTime != nil
	})
}
