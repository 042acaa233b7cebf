package job

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
)

func testJob(completions, parallelism int32, mode batchv1.CompletionMode) *batchv1.Job {
	labels := map[string]string{"job": "sum"}
	return &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: "sum", Namespace: "ns", UID: "job"},
		Spec: batchv1.JobSpec{
			Completions:    &completions,
			Parallelism:    &parallelism,
			BackoffLimit:   ptr.To[int32](6),
			CompletionMode: &mode,
			Selector:       &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "sum", Image: "sum:1"}}},
			},
		},
	}
}

func TestIndexes(t *testing.T) {
	for in, want := range map[string]string{"": "", "1": "1", "0,1,2": "0-2", "0-1": "0,1", "1,3-5,7": "1,3-5,7", "8-12": "8,9", "x,3": "3"} {
		if got := parseIndexes(in, 10).String(); got != want {
			t.Errorf("%q became %q, want %q", in, got, want)
		}
	}
}

func TestVerdict(t *testing.T) {
	failed := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Status: corev1.PodStatus{
		Phase:      corev1.PodFailed,
		Conditions: []corev1.PodCondition{{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}},
		ContainerStatuses: []corev1.ContainerStatus{
			{Name: "fine", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 0}}},
			{Name: "main", State: corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 42}}},
		},
	}}
	codes := func(action batchv1.PodFailurePolicyAction, container *string, op batchv1.PodFailurePolicyOnExitCodesOperator, values ...int32) batchv1.PodFailurePolicyRule {
		return batchv1.PodFailurePolicyRule{Action: action, OnExitCodes: &batchv1.PodFailurePolicyOnExitCodesRequirement{ContainerName: container, Operator: op, Values: values}}
	}
	in, notIn := batchv1.PodFailurePolicyOnExitCodesOpIn, batchv1.PodFailurePolicyOnExitCodesOpNotIn
	disrupted := batchv1.PodFailurePolicyRule{Action: batchv1.PodFailurePolicyActionIgnore, OnPodConditions: []batchv1.PodFailurePolicyOnPodConditionsPattern{
		{Type: corev1.DisruptionTarget, Status: corev1.ConditionTrue}}}
	for name, test := range map[string]struct {
		rules []batchv1.PodFailurePolicyRule
		want  batchv1.PodFailurePolicyAction
	}{
		"no rule":         {nil, batchv1.PodFailurePolicyActionCount},
		"code":            {[]batchv1.PodFailurePolicyRule{codes("FailJob", nil, in, 1, 42)}, batchv1.PodFailurePolicyActionFailJob},
		"other code":      {[]batchv1.PodFailurePolicyRule{codes("FailJob", nil, in, 1)}, batchv1.PodFailurePolicyActionCount},
		"not the code":    {[]batchv1.PodFailurePolicyRule{codes("FailIndex", nil, notIn, 1)}, batchv1.PodFailurePolicyActionFailIndex},
		"other container": {[]batchv1.PodFailurePolicyRule{codes("FailJob", ptr.To("fine"), in, 42)}, batchv1.PodFailurePolicyActionCount},
		"success is none": {[]batchv1.PodFailurePolicyRule{codes("FailJob", ptr.To("fine"), notIn, 42)}, batchv1.PodFailurePolicyActionCount},
		"first rule wins": {[]batchv1.PodFailurePolicyRule{disrupted, codes("FailJob", nil, in, 42)}, batchv1.PodFailurePolicyActionIgnore},
	} {
		t.Run(name, func(t *testing.T) {
			if got, message := verdict(&batchv1.PodFailurePolicy{Rules: test.rules}, failed); got != test.want || (message == "") != (got == batchv1.PodFailurePolicyActionCount) {
				t.Errorf("%s, %q", got, message)
			}
		})
	}
}

func TestSuccessPolicy(t *testing.T) {
	for name, test := range map[string]struct {
		rule batchv1.SuccessPolicyRule
		done string
		want bool
	}{
		"leader":           {batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0")}, "0,3", true},
		"not the leader":   {batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0")}, "1-3", false},
		"enough":           {batchv1.SuccessPolicyRule{SucceededCount: ptr.To[int32](2)}, "1,3", true},
		"too few":          {batchv1.SuccessPolicyRule{SucceededCount: ptr.To[int32](3)}, "1,3", false},
		"enough of some":   {batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0-3"), SucceededCount: ptr.To[int32](1)}, "3", true},
		"all others":       {batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("7-9")}, "0-4", false},
		"enough of others": {batchv1.SuccessPolicyRule{SucceededIndexes: ptr.To("0-1"), SucceededCount: ptr.To[int32](1)}, "3", false},
	} {
		t.Run(name, func(t *testing.T) {
			if _, got := succeeds(&batchv1.SuccessPolicy{Rules: []batchv1.SuccessPolicyRule{test.rule}}, 5, parseIndexes(test.done, 5)); got != test.want {
				t.Errorf("holds: %v", got)
			}
		})
	}
}

func TestBackoff(t *testing.T) {
	now := time.Unix(1e9, 0)
	for count, want := range map[int]time.Duration{0: 0, 1: 10 * time.Second, 2: 20 * time.Second, 7: 10 * time.Minute, 70: 10 * time.Minute} {
		if got := (failures{count, now}).left(now); got != want {
			t.Errorf("after %d failures: %v", count, got)
		}
	}
}

// However pods end, and wherever the controller is cut off between its writes:
// an index has one active pod at most and none after it was completed, every
// pod is counted once, and the job ends.
func TestRandomJobsEnd(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		mode := rapid.SampledFrom([]batchv1.CompletionMode{batchv1.IndexedCompletion, batchv1.NonIndexedCompletion}).Draw(t, "mode")
		job := testJob(rapid.Int32Range(0, 5).Draw(t, "completions"), rapid.Int32Range(1, 4).Draw(t, "parallelism"), mode)
		perIndex := mode == batchv1.IndexedCompletion && rapid.Bool().Draw(t, "per index")
		job.Spec.BackoffLimit = ptr.To(rapid.Int32Range(0, 3).Draw(t, "limit"))
		if perIndex {
			job.Spec.BackoffLimitPerIndex = ptr.To[int32](1)
			job.Spec.BackoffLimit = ptr.To[int32](1000)
		}
		now := time.Unix(1e9, 0)
		var pods []*corev1.Pod
		made, succeeded, failed := 0, 0, 0
		none := func(types.UID) bool { return false }
		for round := range 400 {
			if finished(job) {
				break
			}
			now = now.Add(20 * time.Minute) // beyond every back-off
			v := newView(job.DeepCopy(), slices.Clone(pods), none, now)
			v.start()
			outcome := v.outcome()
			var remove []*corev1.Pod
			if outcome != nil {
				remove = v.active
			} else {
				p := v.manage(failures{})
				remove = p.remove
				awaited := v.awaited()
				for _, i := range p.create {
					pod := v.newPod(i, awaited[i])
					made++
					pod.Name = fmt.Sprint("pod-", made)
					pod.UID = types.UID(pod.Name)
					pod.CreationTimestamp = metav1.NewTime(now)
					if i != noIndex && v.done[i] {
						t.Fatalf("index %d was completed", i)
					}
					pods = append(pods, pod)
				}
				v.created = len(p.create)
				if v.complete() {
					c := newCondition(batchv1.JobSuccessCriteriaMet, corev1.ConditionTrue, "done", "", now)
					outcome = &c
				}
			}
			seen := map[int]bool{}
			for _, pod := range pods {
				if i := indexOf(pod); i >= 0 && pod.Status.Phase == "" && pod.DeletionTimestamp == nil && !slices.Contains(remove, pod) {
					if seen[i] {
						t.Fatalf("index %d has two pods", i)
					}
					seen[i] = true
				}
			}
			for i, pod := range pods {
				if slices.Contains(remove, pod) {
					pods[i] = pod.DeepCopy()
					pods[i].DeletionTimestamp = &metav1.Time{Time: now}
				}
			}
			release := v.settle(outcome, true)
			if !rapid.Bool().Draw(t, "cut off before the status is written") || round > 200 {
				job = v.job
				for _, pod := range release {
					if rapid.Bool().Draw(t, "cut off before the finalizer goes") && round <= 200 {
						break
					}
					for i := range pods {
						if pods[i].UID == pod.UID {
							pods[i] = pods[i].DeepCopy()
							pods[i].Finalizers = nil
						}
					}
				}
			}
			var left []*corev1.Pod
			for _, pod := range pods {
				pod = pod.DeepCopy()
				switch {
				case pod.Status.Phase != "":
				case pod.DeletionTimestamp != nil:
					if round > 200 || rapid.Bool().Draw(t, "stops") {
						pod.Status.Phase = corev1.PodFailed
						failed++
					}
				case rapid.IntRange(0, 3).Draw(t, "fate") == 0:
					pod.Status.Phase = corev1.PodFailed
					failed++
				case round > 200 || rapid.Bool().Draw(t, "succeeds"):
					pod.Status.Phase = corev1.PodSucceeded
					succeeded++
				}
				if len(pod.Finalizers) > 0 || pod.DeletionTimestamp == nil || pod.Status.Phase == "" {
					left = append(left, pod)
				}
			}
			pods = left
		}
		if !finished(job) {
			t.Fatalf("the job goes on: %+v", job.Status)
		}
		s := job.Status
		if int(s.Failed) > failed || int(s.Succeeded) > succeeded || mode == batchv1.NonIndexedCompletion && int(s.Succeeded) != succeeded {
			t.Fatalf("status has %d succeeded, %d failed; there were %d, %d", s.Succeeded, s.Failed, succeeded, failed)
		}
		if holds(job, batchv1.JobComplete) && s.Succeeded < *job.Spec.Completions {
			t.Fatalf("complete with %d", s.Succeeded)
		}
	})
}

func TestRunsToCompletion(t *testing.T) {
	f := controllertest.New(t, testJob(3, 2, batchv1.IndexedCompletion))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	controllertest.Eventually(t, "the job to complete", func() bool {
		pods, err := f.Client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, p := range pods.Items {
			if p.Status.Phase == "" {
				p.Status.Phase = corev1.PodSucceeded
				if _, err := f.Client.CoreV1().Pods("ns").UpdateStatus(ctx, &p, metav1.UpdateOptions{}); err != nil {
					t.Fatal(err)
				}
			}
		}
		job, err := f.Client.BatchV1().Jobs("ns").Get(ctx, "sum", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return holds(job, batchv1.JobComplete) && job.Status.CompletedIndexes == "0-2" && job.Status.Succeeded == 3 && job.Status.CompletionTime != nil
	})
	pods, err := f.Client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 3 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	for i := range pods.Items {
		if hasFinalizer(&pods.Items[i]) {
			t.Errorf("%s kept its finalizer", pods.Items[i].Name)
		}
	}
}

// Of pods too many, those go first that have come least far.
func TestWhichPodsAreSurplus(t *testing.T) {
	at := func(s int64) metav1.Time { return metav1.NewTime(time.Unix(1e9+s, 0)) }
	pod := func(name, node string, phase corev1.PodPhase, ready, restarts, created int64) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: at(created)}, Spec: corev1.PodSpec{NodeName: node},
			Status: corev1.PodStatus{Phase: phase, ContainerStatuses: []corev1.ContainerStatus{{RestartCount: int32(restarts)}}}}
		if ready > 0 {
			p.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: at(ready)}}
		}
		return p
	}
	best := []*corev1.Pod{
		pod("ready long", "n", corev1.PodRunning, 1, 9, 9),
		pod("ready since", "n", corev1.PodRunning, 2, 0, 1),
		pod("runs", "n", corev1.PodRunning, 0, 0, 1),
		pod("runs, younger", "n", corev1.PodRunning, 0, 0, 2),
		pod("restarts", "n", corev1.PodRunning, 0, 1, 1),
		pod("unknown", "n", corev1.PodUnknown, 0, 0, 1),
		pod("starts", "n", corev1.PodPending, 0, 0, 1),
		pod("waits", "", corev1.PodPending, 0, 0, 1),
	}
	v := &view{job: &batchv1.Job{Spec: batchv1.JobSpec{CompletionMode: ptr.To(batchv1.NonIndexedCompletion)}}, active: slices.Clone(best)}
	slices.Reverse(v.active)
	for wanted := range len(best) + 1 {
		if got := v.surplus(wanted); !slices.Equal(got, best[wanted:]) {
			t.Errorf("of %d wanted, %d go", wanted, len(got))
		}
	}
}
