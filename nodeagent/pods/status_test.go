package pods

import (
	"encoding/json"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/runtime"
)

// TestDescribeSurvivesTheAPI checks that a status which comes back from the API
// equals the one that was sent, whatever fractions the runtime's times have:
// otherwise it would be sent for ever.
func TestDescribeSurvivesTheAPI(t *testing.T) {
	fraction := 123456789 * time.Nanosecond
	one, two := run("a", runtime.Running, 0, 1), run("b", runtime.Exited, 3, 0)
	one.StartedAt = t0.Add(fraction)
	two.StartedAt, two.FinishedAt = t0.Add(fraction), t0.Add(fraction)
	s := situation(testPod("Always"), one, two)
	s.Now = t0.Add(fraction)
	plan := Decide(s)
	want := Describe(s, &plan)
	raw, err := json.Marshal(want)
	if err != nil {
		t.Fatal(err)
	}
	var got v1.PodStatus
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if !equality.Semantic.DeepEqual(want, got) {
		t.Errorf("came back as\n%+v\nwant\n%+v", got, want)
	}
}

// TestDescribeTakesBackAnEndThatDidNotCome: a host that went down in the middle
// of ending a pod runs it again.
func TestDescribeTakesBackAnEndThatDidNotCome(t *testing.T) {
	s := situation(testPod("Always"), run("a", runtime.Running, 0, 1), run("b", runtime.Running, 0, 1))
	s.Pod.Status = v1.PodStatus{Phase: v1.PodRunning, Reason: shutdownReason, Message: shutdownMessage, Conditions: []v1.PodCondition{
		{Type: v1.DisruptionTarget, Status: v1.ConditionTrue, Reason: v1.PodReasonTerminationByKubelet}}}
	plan := Decide(s)
	status := Describe(s, &plan)
	if status.Reason != "" || status.Message != "" || condition(&status, v1.DisruptionTarget) != nil || status.Phase != v1.PodRunning {
		t.Errorf("got %+v", status)
	}
}

func TestEndsAreNewOnes(t *testing.T) {
	status := func(name string, ended bool) v1.ContainerStatus {
		c := v1.ContainerStatus{Name: name}
		if ended {
			c.State.Terminated = &v1.ContainerStateTerminated{}
		}
		return c
	}
	before := &v1.PodStatus{ContainerStatuses: []v1.ContainerStatus{status("runs", false), status("ends", false), status("ended", true)}}
	after := &v1.PodStatus{
		InitContainerStatuses:      []v1.ContainerStatus{status("init", true)},
		ContainerStatuses:          []v1.ContainerStatus{status("runs", false), status("ends", true), status("ended", true)},
		EphemeralContainerStatuses: []v1.ContainerStatus{status("debugger", false)},
	}
	var got []string
	for _, c := range ends(before, after) {
		got = append(got, c.Name)
	}
	if want := []string{"init", "ends"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// TestDescribeKeepsMountsAndUsers: they are told of before a container runs and
// after it has.
func TestDescribeKeepsMountsAndUsers(t *testing.T) {
	enabled, possible, supported := v1.RecursiveReadOnlyEnabled, v1.RecursiveReadOnlyIfPossible, true
	pod := testPod("Never")
	for i := range pod.Spec.Containers {
		pod.Spec.Containers[i].VolumeMounts = []v1.VolumeMount{
			{Name: "v", MountPath: "/w"}, {Name: "v", MountPath: "/r", ReadOnly: true}, {Name: "v", MountPath: "/rr", ReadOnly: true, RecursiveReadOnly: &enabled},
			{Name: "v", MountPath: "/rp", ReadOnly: true, RecursiveReadOnly: &possible}}
	}
	ended := run("a", runtime.Exited, 0, 0)
	ended.User = &criv1.ContainerUser{Linux: &criv1.LinuxContainerUser{Uid: 7, Gid: 8, SupplementalGroups: []int64{9}}}
	s := situation(pod, ended)
	s.Recursive = &supported
	plan := Decide(s)
	status := Describe(s, &plan)
	if user := status.ContainerStatuses[0].User; user == nil || user.Linux.UID != 7 || user.Linux.GID != 8 || !slices.Equal(user.Linux.SupplementalGroups, []int64{9}) {
		t.Errorf("the user of a run that has ended: %+v", user)
	}
	for _, c := range status.ContainerStatuses {
		var got []string
		for _, m := range c.VolumeMounts {
			mode := ""
			if m.RecursiveReadOnly != nil {
				mode = " " + string(*m.RecursiveReadOnly)
			}
			got = append(got, m.MountPath+mode)
		}
		if want := []string{"/w", "/r Disabled", "/rr Enabled", "/rp Enabled"}; !slices.Equal(got, want) {
			t.Errorf("container %s (%+v): mounts %v, want %v", c.Name, c.State, got, want)
		}
	}
}

// TestDescribeWhatTheRuntimeLost: containers whose runs are gone from the runtime.
func TestDescribeWhatTheRuntimeLost(t *testing.T) {
	told := func(name string) v1.ContainerStatus {
		return v1.ContainerStatus{Name: name, RestartCount: 2, State: v1.ContainerState{Running: &v1.ContainerStateRunning{}}}
	}
	s := situation(testPod("Always", "init1", "side1"), run("a", runtime.Running, 0, 0))
	s.Pod.Status.ContainerStatuses = []v1.ContainerStatus{told("a"), told("b")}
	s.Pod.Status.Phase = v1.PodRunning
	plan := Decide(s)
	status := Describe(s, &plan)
	if init := status.InitContainerStatuses[0]; init.State.Terminated == nil || init.State.Terminated.Reason != "Completed" || !init.Ready {
		t.Errorf("an init container that is gone: %+v", init)
	}
	if side := status.InitContainerStatuses[1]; side.State.Waiting == nil {
		t.Errorf("a sidecar that is gone: %+v", side)
	}
	if b := status.ContainerStatuses[1]; b.State.Waiting == nil || b.LastTerminationState.Terminated == nil || b.LastTerminationState.Terminated.ExitCode != 137 || b.RestartCount != 3 {
		t.Errorf("a container that is gone: %+v", b)
	}
	if status.Phase != v1.PodRunning || !isTrueCondition(&status, v1.PodInitialized) {
		t.Errorf("phase %s, conditions %+v", status.Phase, status.Conditions)
	}
}

// TestDescribeAPodThatEndedBeforeItRan: nothing is left waiting, and what was
// initialized once stays so.
func TestDescribeAPodThatEndedBeforeItRan(t *testing.T) {
	end := func(pod *v1.Pod) v1.PodStatus {
		s := situation(pod)
		s.Actual, s.End, s.TornDown = &runtime.Pod{}, &End{Grace: 1}, true
		plan := Decide(s)
		return Describe(s, &plan)
	}
	status := end(testPod("Always"))
	if c := status.ContainerStatuses[0]; status.Phase != v1.PodFailed || c.State.Terminated == nil || c.State.Terminated.Reason != lostReason {
		t.Errorf("got %s, %+v", status.Phase, c)
	}
	status = end(testPod("Always", "init1", "init2"))
	if one, two, a := status.InitContainerStatuses[0], status.InitContainerStatuses[1], status.ContainerStatuses[0]; one.State.Terminated == nil || two.State.Waiting == nil || a.State.Waiting == nil {
		t.Errorf("before initialization: %+v, %+v, %+v", one, two, a)
	}
	s := situation(testPod("Always", "side1"), run("side1", runtime.Exited, 1, 0))
	s.Pod.Status.Conditions = []v1.PodCondition{{Type: v1.PodInitialized, Status: v1.ConditionTrue}}
	plan := Decide(s)
	if status := Describe(s, &plan); !isTrueCondition(&status, v1.PodInitialized) {
		t.Errorf("a sidecar starts again: %+v", status.Conditions)
	}
}

func TestCommandsOfProbesAreExpanded(t *testing.T) {
	c := &v1.Container{Env: []v1.EnvVar{{Name: "A", Value: "one"}, {Name: "B", ValueFrom: &v1.EnvVarSource{}}},
		LivenessProbe: &v1.Probe{ProbeHandler: v1.ProbeHandler{Exec: &v1.ExecAction{Command: []string{"$(A)", "$(B)", "$(C)", "$$(A)"}}}}}
	plain := withPlainProbes(c)
	if got, want := plain.LivenessProbe.Exec.Command, []string{"one", "", "$(C)", "$(A)"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
	if c.LivenessProbe.Exec.Command[0] != "$(A)" || withPlainProbes(&v1.Container{}).LivenessProbe != nil {
		t.Error("the container itself was changed")
	}
}
