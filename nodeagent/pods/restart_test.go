package pods

import (
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/runtime"
)

// restartsAllOn gives container c the rule that all start anew when it exits
// with code.
func restartsAllOn(c *v1.Container, code int32) {
	c.RestartPolicyRules = []v1.ContainerRestartRule{{
		Action:    v1.ContainerRestartRuleActionRestartAllContainers,
		ExitCodes: &v1.ContainerRestartRuleOnExitCodes{Operator: v1.ContainerRestartRuleOnExitCodesOpIn, Values: []int32{code}},
	}}
}

// TestAllContainersStartAnew walks a pod through it: what runs is stopped, all
// runs are removed, the cause last, and the pod begins again.
func TestAllContainersStartAnew(t *testing.T) {
	running, exited := runtime.Running, runtime.Exited
	pod := testPod("Never", "init1", "side1")
	restartsAllOn(&pod.Spec.Containers[0], 42)
	init, cause := run("init1", exited, 0, 0), run("a", exited, 42, 0)
	for _, step := range []struct {
		name       string
		runs       []runtime.Container
		want       []string
		restarting v1.ConditionStatus
		waiting    int
	}{
		{"all run", []runtime.Container{init, run("side1", running, 0, 0), run("a", running, 0, 0), run("b", running, 0, 0)}, nil, v1.ConditionFalse, 0},
		{"one ends", []runtime.Container{init, run("side1", running, 0, 0), cause, run("b", running, 0, 0)}, []string{"stop side1-0 0s", "stop b-0 0s"}, v1.ConditionTrue, 0},
		{"stopped", []runtime.Container{init, run("side1", exited, 137, 0), cause, run("b", exited, 137, 0)}, []string{"remove init1-0", "remove side1-0", "remove b-0"}, v1.ConditionTrue, 0},
		{"the cause is last", []runtime.Container{cause}, []string{"remove a-0"}, v1.ConditionTrue, 3},
		{"gone", nil, []string{"start init1/0"}, v1.ConditionFalse, 4},
		{"again", []runtime.Container{run("init1", running, 0, 1)}, nil, v1.ConditionFalse, 3},
	} {
		s := situation(pod, step.runs...)
		plan := Decide(s)
		if got := verbs(plan); !slices.Equal(got, step.want) {
			t.Fatalf("%s: %q, want %q", step.name, got, step.want)
		}
		status := Describe(s, &plan)
		if status.Phase != v1.PodRunning {
			t.Errorf("%s: phase %s", step.name, status.Phase)
		}
		if c := condition(&status, v1.AllContainersRestarting); c == nil || c.Status != step.restarting {
			t.Errorf("%s: condition %+v, want %s", step.name, c, step.restarting)
		}
		if !isTrueCondition(&status, v1.PodInitialized) {
			t.Errorf("%s: not initialized any more", step.name)
		}
		waiting := 0
		for _, c := range slices.Concat(status.InitContainerStatuses, status.ContainerStatuses) {
			if c.State.Waiting != nil {
				waiting++
			}
			again := c.State.Waiting != nil || step.name == "again"
			last := c.LastTerminationState.Terminated
			if again != (c.RestartCount == 1) || again != (last != nil && last.Reason == restartingAllReason && last.ExitCode == 137) {
				t.Errorf("%s: %s is told of as %+v", step.name, c.Name, c)
			}
		}
		if waiting != step.waiting {
			t.Errorf("%s: %d containers wait, want %d", step.name, waiting, step.waiting)
		}
		pod = pod.DeepCopy()
		pod.Status = status // as the API has it next
	}
}

// TestStartingAnewIsNoFailure: containers that were killed for it must not end
// a pod that never restarts anything else.
func TestStartingAnewIsNoFailure(t *testing.T) {
	pod := testPod("Never", "side1", "init1")
	restartsAllOn(&pod.Spec.InitContainers[0], 42)
	s := situation(pod, run("side1", runtime.Exited, 42, 0), run("init1", runtime.Exited, 137, 0))
	plan := Decide(s)
	if got, want := verbs(plan), []string{"remove init1-0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
	if status := Describe(s, &plan); status.Phase != v1.PodPending {
		t.Errorf("an init container was killed: phase %s", status.Phase)
	}
	s = situation(pod, run("side1", runtime.Exited, 42, 0), run("init1", runtime.Exited, 0, 0),
		run("a", runtime.Exited, 137, 0), run("b", runtime.Exited, 137, 0))
	plan = Decide(s)
	if status := Describe(s, &plan); status.Phase != v1.PodRunning {
		t.Errorf("all were killed: phase %s", status.Phase)
	}
}

// TestStartsAreWaitedFor: a container is not taken away in the middle of its start.
func TestStartsAreWaitedFor(t *testing.T) {
	pod := testPod("Always")
	restartsAllOn(&pod.Spec.Containers[0], 42)
	s := situation(pod, run("a", runtime.Exited, 42, 0))
	s.Busy[startKey("b")] = true
	if got := verbs(Decide(s)); len(got) != 0 {
		t.Errorf("%q, want nothing yet", got)
	}
	delete(s.Busy, startKey("b"))
	if got, want := verbs(Decide(s)), []string{"remove a-0"}; !slices.Equal(got, want) {
		t.Errorf("%q, want %q", got, want)
	}
}
