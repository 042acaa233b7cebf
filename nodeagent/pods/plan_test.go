package pods

import (
	"fmt"
	"slices"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/nodeagent/probes"
	"clusterctl/nodeagent/runtime"
)

var (
	always  = v1.ContainerRestartPolicyAlways
	t0      = time.Unix(1_000_000, 0)
	healthy = probes.Result{Started: true, Ready: true}
)

// testPod has app containers a and b, and the init containers given; a name
// that begins with "side" is a sidecar.
func testPod(policy v1.RestartPolicy, inits ...string) *v1.Pod {
	grace := int64(20)
	pod := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "n", UID: "u", Generation: 3},
		Spec: v1.PodSpec{RestartPolicy: policy, TerminationGracePeriodSeconds: &grace,
			Containers: []v1.Container{{Name: "a", Image: "i"}, {Name: "b", Image: "i"}}},
	}
	for _, name := range inits {
		c := v1.Container{Name: name, Image: "i"}
		if name[:4] == "side" {
			c.RestartPolicy = &always
		}
		pod.Spec.InitContainers = append(pod.Spec.InitContainers, c)
	}
	return pod
}

// run is a run of a container in the newest sandbox: "name running", "name
// exited 1", "name created", with an attempt where it is not the first.
func run(name string, state runtime.State, code int32, attempt uint32) runtime.Container {
	c := v1.Container{Name: name, Image: "i"}
	r := runtime.Container{
		ID: fmt.Sprintf("%s-%d", name, attempt), URI: fmt.Sprintf("containerd://%s-%d", name, attempt), SandboxID: "s", Name: name, Attempt: attempt, Hash: Hash(&c),
		State: state, ExitCode: code, CreatedAt: t0.Add(time.Duration(attempt) * time.Second), StartedAt: t0,
	}
	if state == runtime.Exited {
		r.FinishedAt = t0
	}
	return r
}

func situation(pod *v1.Pod, runs ...runtime.Container) *Situation {
	s := &Situation{
		Pod: pod, Now: t0, Prepared: true, NetworkReady: true, HostIPs: []string{"192.0.2.1"},
		Actual: &runtime.Pod{UID: pod.UID, Containers: runs,
			Sandboxes: []runtime.Sandbox{{ID: "s", Ready: true, IPs: []string{"10.0.0.1"}}}},
		Probes: map[string]probes.Result{}, History: map[string]*History{}, Faults: map[string]Fault{},
		Busy: map[string]bool{}, Stopping: map[string]time.Time{},
	}
	for _, r := range runs {
		s.Probes[r.ID] = healthy
	}
	return s
}

func verbs(p Plan) []string {
	list := []string{}
	for _, a := range p.Actions {
		text := string(a.Verb)
		switch a.Verb {
		case Start:
			text += fmt.Sprintf(" %s/%d", a.Container, a.Attempt)
		case Stop:
			text += fmt.Sprintf(" %s %ds", a.ID, int(a.Grace.Seconds()))
		case RunSandbox:
			text += fmt.Sprintf(" %d", a.Attempt)
		case Remove, StopSandbox, RemoveSandbox:
			text += " " + a.ID
		}
		list = append(list, text)
	}
	return list
}

func TestDecide(t *testing.T) {
	running, exited, created := runtime.Running, runtime.Exited, runtime.Created
	deleted := &End{Grace: 20, Since: t0}
	cases := []struct {
		name string
		s    *Situation
		do   func(*Situation)
		want []string
	}{
		{"fresh: prepare", situation(testPod("Always")), func(s *Situation) { s.Prepared = false; s.Actual.Sandboxes = nil }, []string{"prepare"}},
		{"preparing", situation(testPod("Always")), func(s *Situation) { s.Prepared = false; s.Busy["prepare"] = true }, nil},
		{"preparing failed lately", situation(testPod("Always")), func(s *Situation) {
			s.Prepared = false
			s.Faults["prepare"] = Fault{Until: t0.Add(time.Second)}
		}, nil},
		{"sandbox", situation(testPod("Always")), func(s *Situation) { s.Actual.Sandboxes = nil }, []string{"run-sandbox 0"}},
		{"no network yet", situation(testPod("Always")), func(s *Situation) { s.Actual.Sandboxes = nil; s.NetworkReady = false }, nil},
		{"host network needs none", situation(testPod("Always")), func(s *Situation) {
			s.Actual.Sandboxes, s.NetworkReady, s.Pod.Spec.HostNetwork = nil, false, true
		}, []string{"run-sandbox 0"}},
		{"dead sandbox", situation(testPod("Always"), run("a", exited, 137, 0)), func(s *Situation) { s.Actual.Sandboxes[0].Ready = false }, []string{"run-sandbox 1"}},
		{"dead sandbox, container survived", situation(testPod("Always"), run("a", running, 0, 0)), func(s *Situation) { s.Actual.Sandboxes[0].Ready = false }, []string{"stop a-0 20s"}},
		{"sandbox without address", situation(testPod("Always")), func(s *Situation) { s.Actual.Sandboxes[0].IPs = nil }, []string{"stop-sandbox s"}},
		{"first container", situation(testPod("Always")), nil, []string{"start a/0"}},
		{"one after the other", situation(testPod("Always")), func(s *Situation) { s.Busy["start/a"] = true }, nil},
		{"second container", situation(testPod("Always"), run("a", running, 0, 0)), nil, []string{"start b/0"}},
		{"a failed start holds only itself back", situation(testPod("Always")), func(s *Situation) {
			s.History["a"] = &History{Fault: &Fault{Reason: "ErrImagePull", Until: t0.Add(time.Second)}}
		}, []string{"start b/0"}},
		{"all running", situation(testPod("Always"), run("a", running, 0, 0), run("b", running, 0, 0)), nil, nil},
		{"left over between create and start", situation(testPod("Always"), run("a", created, 0, 0), run("b", running, 0, 0)), nil, []string{"remove a-0"}},

		{"done in the old sandbox", situation(testPod("OnFailure"), run("a", exited, 0, 0), run("b", exited, 1, 0)), func(s *Situation) {
			s.Actual.Sandboxes = append([]runtime.Sandbox{{ID: "new", Ready: true, IPs: []string{"10.0.0.2"}}}, s.Actual.Sandboxes...)
		}, []string{"start b/1"}},
		{"dead sandbox, never again", situation(testPod("Never"), run("a", exited, 0, 0)), func(s *Situation) { s.Actual.Sandboxes[0].Ready = false }, nil},
		{"lost to the runtime", situation(testPod("Always"), run("a", runtime.Unknown, 0, 0), run("b", running, 0, 0)), nil, []string{"stop a-0 20s"}},
		{"stopping failed lately", situation(testPod("Always"), run("a", runtime.Unknown, 0, 0), run("b", running, 0, 0)), func(s *Situation) {
			s.Faults["container/a-0"] = Fault{Until: t0.Add(time.Second)}
		}, nil},

		{"init first", situation(testPod("Always", "init1", "init2")), nil, []string{"start init1/0"}},
		{"init running", situation(testPod("Always", "init1", "init2"), run("init1", running, 0, 0)), nil, nil},
		{"next init", situation(testPod("Always", "init1", "init2"), run("init1", exited, 0, 0)), nil, []string{"start init2/0"}},
		{"init failed, again", situation(testPod("Always", "init1"), run("init1", exited, 1, 0)), nil, []string{"start init1/1"}},
		{"init failed for good", situation(testPod("Never", "init1"), run("init1", exited, 1, 0)), nil, nil},
		{"init done", situation(testPod("Always", "init1"), run("init1", exited, 0, 0)), nil, []string{"start a/0"}},
		{"init is not repeated", situation(testPod("Always", "init1"), run("a", exited, 1, 0), run("b", running, 0, 0)), nil, []string{"start a/1"}},
		{"sidecar not started yet", situation(testPod("Always", "side1", "init1"), run("side1", running, 0, 0)), func(s *Situation) { s.Probes["side1-0"] = probes.Result{} }, nil},
		{"sidecar started", situation(testPod("Always", "side1", "init1"), run("side1", running, 0, 0)), nil, []string{"start init1/0"}},
		{"sidecar comes back", situation(testPod("Never", "side1"), run("side1", exited, 0, 0), run("a", running, 0, 0), run("b", running, 0, 0)), nil, []string{"start side1/1"}},
		{"new sandbox repeats init", situation(testPod("Always", "init1"), run("init1", exited, 0, 0), run("a", exited, 1, 0)), func(s *Situation) { s.Actual.Sandboxes[0].ID = "new" }, []string{"start init1/1"}},

		{"restart", situation(testPod("Always"), run("a", exited, 0, 0), run("b", running, 0, 0)), nil, []string{"start a/1"}},
		{"on failure: success stays", situation(testPod("OnFailure"), run("a", exited, 0, 0), run("b", running, 0, 0)), nil, nil},
		{"on failure: failure returns", situation(testPod("OnFailure"), run("a", exited, 1, 0), run("b", running, 0, 0)), nil, []string{"start a/1"}},
		{"never", situation(testPod("Never"), run("a", exited, 1, 0), run("b", running, 0, 0)), nil, nil},
		{"crash loop waits", situation(testPod("Always"), run("a", exited, 1, 1), run("b", running, 0, 0)), func(s *Situation) {
			s.History["a"] = &History{Crash: Crash{Delay: 10 * time.Second, Last: t0.Add(-time.Second)}}
		}, nil},
		{"crash loop waited", situation(testPod("Always"), run("a", exited, 1, 1), run("b", running, 0, 0)), func(s *Situation) {
			s.History["a"] = &History{Crash: Crash{Delay: 10 * time.Second, Last: t0.Add(-time.Second)}}
			s.Now = t0.Add(10 * time.Second)
		}, []string{"start a/2"}},
		{"crash loop goes on after a restart of the agent", situation(testPod("Always"), run("a", exited, 1, 3), run("b", running, 0, 0)), func(s *Situation) {
			s.Now = t0.Add(39 * time.Second)
		}, nil},
		{"crash loop goes on after a restart of the agent, waited", situation(testPod("Always"), run("a", exited, 1, 3), run("b", running, 0, 0)), func(s *Situation) {
			s.Now = t0.Add(40 * time.Second)
		}, []string{"start a/4"}},
		{"liveness failed", situation(testPod("Always"), run("a", running, 0, 0), run("b", running, 0, 0)), func(s *Situation) {
			s.Probes["a-0"] = probes.Result{Started: true, Failed: probes.Liveness}
		}, []string{"stop a-0 20s"}},
		{"liveness failed, stopping already", situation(testPod("Always"), run("a", running, 0, 0), run("b", running, 0, 0)), func(s *Situation) {
			s.Probes["a-0"] = probes.Result{Started: true, Failed: probes.Liveness}
			s.Stopping["a-0"] = t0.Add(20 * time.Second)
		}, nil},
		{"stopped by a probe, exited cleanly", situation(testPod("OnFailure"), run("a", exited, 0, 0), run("b", running, 0, 0)), func(s *Situation) {
			s.History["a"] = &History{Restart: "a-0"}
		}, []string{"start a/1"}},
		{"image changed", situation(testPod("Always"), run("a", running, 0, 0), run("b", running, 0, 0)), func(s *Situation) {
			s.Pod.Spec.Containers[0].Image = "other"
		}, []string{"stop a-0 20s"}},
		{"old runs go", situation(testPod("Always"), run("a", running, 0, 2), run("a", exited, 1, 1), run("a", exited, 1, 0), run("b", running, 0, 0)), nil, []string{"remove a-0"}},

		{"deleted", situation(testPod("Always", "side1", "side2"), run("a", running, 0, 0), run("b", running, 0, 0), run("side1", running, 0, 0)), func(s *Situation) { s.End = deleted }, []string{"stop a-0 20s", "stop b-0 20s"}},
		{"deleted, sidecars last to first", situation(testPod("Always", "side1", "side2"), run("a", exited, 0, 0), run("side1", running, 0, 0), run("side2", running, 0, 0)), func(s *Situation) {
			s.End, s.Now = deleted, t0.Add(5*time.Second)
		}, []string{"stop side2-0 15s"}},
		{"deleted, sidecar stopping", situation(testPod("Always", "side1"), run("side1", running, 0, 0)), func(s *Situation) {
			s.End, s.Now = deleted, t0.Add(5*time.Second)
			s.Stopping["side1-0"] = t0.Add(20*time.Second + time.Millisecond)
		}, nil},
		{"deleted, grace cut short", situation(testPod("Always"), run("a", running, 0, 0)), func(s *Situation) {
			s.End = &End{Grace: 0, Since: t0}
			s.Stopping["a-0"] = t0.Add(20 * time.Second)
		}, []string{"stop a-0 1s"}},
		{"deleted while starting", situation(testPod("Always"), run("a", running, 0, 0)), func(s *Situation) { s.End = deleted; s.Busy["start/b"] = true }, nil},
		{"deleted, sandbox next", situation(testPod("Always"), run("a", exited, 0, 0)), func(s *Situation) { s.End = deleted }, []string{"stop-sandbox s"}},
		{"deleted, volumes next", situation(testPod("Always")), func(s *Situation) { s.End = deleted; s.Actual.Sandboxes[0].Ready = false }, []string{"teardown"}},
		{"deleted, all stopped", situation(testPod("Always")), func(s *Situation) {
			s.End, s.TornDown = deleted, true
			s.Actual.Sandboxes[0].Ready = false
		}, nil},
		{"gone: nothing stays", situation(testPod("Always"), run("a", exited, 0, 0)), func(s *Situation) {
			s.Gone, s.TornDown = true, true
			s.Actual.Sandboxes[0].Ready = false
		}, []string{"remove-sandbox s"}},
		{"gone, removal under way", situation(testPod("Always")), func(s *Situation) {
			s.Gone, s.TornDown = true, true
			s.Actual.Sandboxes = nil
			s.Busy["sandbox/s"] = true
		}, nil},
		{"gone for good", situation(testPod("Always")), func(s *Situation) {
			s.Gone, s.TornDown = true, true
			s.Actual.Sandboxes = nil
		}, []string{"purge"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.do != nil {
				c.do(c.s)
			}
			if got := verbs(Decide(c.s)); !slices.Equal(got, c.want) {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

func TestCrash(t *testing.T) {
	var c Crash
	now := t0
	var waits []time.Duration
	for range 8 {
		until := c.Until(now)
		waits = append(waits, until.Sub(now))
		c = c.Restarted(now, until)
		now = until.Add(time.Second) // exits again a second later
	}
	s := time.Second
	if want := []time.Duration{0, 10 * s, 20 * s, 40 * s, 80 * s, 160 * s, 300 * s, 300 * s}; !slices.Equal(waits, want) {
		t.Errorf("got %v, want %v", waits, want)
	}
	if got := c.Until(now.Add(crashForget)).Sub(now.Add(crashForget)); got != 0 {
		t.Errorf("after running for long: waits %v", got)
	}
}

func TestDescribe(t *testing.T) {
	running, exited := runtime.Running, runtime.Exited
	cases := []struct {
		name  string
		s     *Situation
		do    func(*Situation)
		phase v1.PodPhase
		ready v1.ConditionStatus
		init  v1.ConditionStatus
		a     string // reason or state of container a
	}{
		{"nothing yet", situation(testPod("Always")), func(s *Situation) { s.Actual.Sandboxes = nil }, v1.PodPending, "False", "True", "ContainerCreating"},
		{"initializing", situation(testPod("Always", "init1"), run("init1", running, 0, 0)), nil, v1.PodPending, "False", "False", "PodInitializing"},
		{"running", situation(testPod("Always"), run("a", running, 0, 0), run("b", running, 0, 0)), nil, v1.PodRunning, "True", "True", "running"},
		{"not ready", situation(testPod("Always"), run("a", running, 0, 0), run("b", running, 0, 0)), func(s *Situation) { s.Probes["a-0"] = probes.Result{Started: true} }, v1.PodRunning, "False", "True", "running"},
		{"hook under way", situation(testPod("Always"), run("a", running, 0, 0)), func(s *Situation) { s.Busy["start/a"] = true }, v1.PodPending, "False", "True", "ContainerCreating"},
		{"image missing", situation(testPod("Always"), run("b", running, 0, 0)), func(s *Situation) {
			s.History["a"] = &History{Fault: &Fault{Reason: "ImagePullBackOff", Until: t0.Add(time.Hour)}}
		}, v1.PodPending, "False", "True", "ImagePullBackOff"},
		{"crash loop", situation(testPod("Always"), run("a", exited, 1, 1), run("b", running, 0, 0)), func(s *Situation) {
			s.History["a"] = &History{Crash: Crash{Delay: time.Minute, Last: t0}}
		}, v1.PodRunning, "False", "True", "CrashLoopBackOff"},
		{"one done", situation(testPod("OnFailure"), run("a", exited, 0, 0), run("b", running, 0, 0)), nil, v1.PodRunning, "False", "True", "exited 0"},
		{"succeeded", situation(testPod("OnFailure"), run("a", exited, 0, 0), run("b", exited, 0, 0)), nil, v1.PodSucceeded, "False", "True", "exited 0"},
		{"failed", situation(testPod("Never"), run("a", exited, 0, 0), run("b", exited, 3, 0)), nil, v1.PodFailed, "False", "True", "exited 0"},
		{"init failed", situation(testPod("Never", "init1"), run("init1", exited, 3, 0)), nil, v1.PodFailed, "False", "False", "PodInitializing"},
		{"succeeded, sidecar runs", situation(testPod("Never", "side1"), run("side1", running, 0, 0), run("a", exited, 0, 0), run("b", exited, 0, 0)), func(s *Situation) {
			s.End = &End{Phase: v1.PodSucceeded}
			s.Pod.Status.Phase = v1.PodRunning
		}, v1.PodRunning, "False", "True", "exited 0"},
		{"rejected", situation(testPod("Always")), func(s *Situation) {
			s.Actual = &runtime.Pod{}
			s.End = &End{Phase: v1.PodFailed, Reason: "OutOfcpu", Rejected: true}
		}, v1.PodFailed, "False", "True", ""},
		{"deleted and stopped", situation(testPod("Always"), run("a", exited, 0, 0), run("b", exited, 143, 0)), func(s *Situation) {
			s.End, s.TornDown = &End{Grace: 1}, true
			s.Actual.Sandboxes[0].Ready = false
		}, v1.PodFailed, "False", "True", "exited 0"},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			if c.do != nil {
				c.do(c.s)
			}
			plan := Decide(c.s)
			status := Describe(c.s, &plan)
			if status.Phase != c.phase {
				t.Errorf("phase: got %s, want %s", status.Phase, c.phase)
			}
			if got := condition(&status, v1.PodReady).Status; got != c.ready {
				t.Errorf("ready: got %s, want %s", got, c.ready)
			}
			if got := condition(&status, v1.PodInitialized); got.Status != c.init && c.name != "rejected" {
				t.Errorf("initialized: got %+v, want %s", got, c.init)
			}
			got := ""
			for _, cs := range status.ContainerStatuses {
				if cs.Name != "a" {
					continue
				}
				switch {
				case cs.State.Running != nil:
					got = "running"
				case cs.State.Waiting != nil:
					got = cs.State.Waiting.Reason
				case cs.State.Terminated != nil:
					got = fmt.Sprintf("exited %d", cs.State.Terminated.ExitCode)
				}
			}
			if got != c.a {
				t.Errorf("container a: got %q, want %q", got, c.a)
			}
		})
	}
}

func TestAPodIsThereUntilItsAddressIsGivenBack(t *testing.T) {
	s := situation(testPod(v1.RestartPolicyAlways))
	s.End = &End{}
	if got := verbs(Decide(s)); !slices.Equal(got, []string{"stop-sandbox s"}) {
		t.Errorf("got %v", got)
	}
	s.Actual.Sandboxes[0].Ready = false // its process has ended
	s.Busy[Action{Verb: StopSandbox, ID: "s"}.Key()] = true
	if plan := Decide(s); plan.Stopped || len(plan.Actions) > 0 {
		t.Errorf("while its network is taken down: stopped %v, %v", plan.Stopped, verbs(plan))
	}
	clear(s.Busy)
	if got := verbs(Decide(s)); !slices.Equal(got, []string{"teardown"}) {
		t.Errorf("got %v", got)
	}
	s.TornDown, s.Gone = true, true
	s.Busy[Action{Verb: RemoveSandbox, ID: "s"}.Key()] = true
	if plan := Decide(s); !plan.Stopped {
		t.Error("a pod whose sandbox is being removed has not ended")
	}
}

// TestPreStopHooksRunAtOnce: the hook of a sidecar does not wait for its turn to
// stop, and is not run twice.
func TestPreStopHooksRunAtOnce(t *testing.T) {
	s := situation(testPod("Always", "side1", "side2"), run("side1", runtime.Running, 0, 0), run("side2", runtime.Running, 0, 0), run("a", runtime.Running, 0, 0))
	s.Pod.Spec.InitContainers[0].Lifecycle = &v1.Lifecycle{PreStop: &v1.LifecycleHandler{Sleep: &v1.SleepAction{Seconds: 5}}}
	s.End, s.Hooked = &End{Grace: 20, Since: t0}, map[string]bool{}
	if got, want := verbs(Decide(s)), []string{"pre-stop", "stop a-0 20s"}; !slices.Equal(got, want) {
		t.Fatalf("got %v, want %v", got, want)
	}
	s.Hooked["side1-0"], s.Busy[hookKey("side1-0")] = true, true
	s.Actual.Containers = s.Actual.Containers[:2]
	s.Now = t0.Add(2 * time.Second)
	if got, want := verbs(Decide(s)), []string{"stop side2-0 18s"}; !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	s.Actual.Containers = s.Actual.Containers[:1]
	if plan := Decide(s); len(plan.Actions) > 0 || plan.Next.IsZero() {
		t.Errorf("while its hook runs: %v, again at %v", verbs(plan), plan.Next)
	}
	delete(s.Busy, hookKey("side1-0"))
	if plan := Decide(s); len(plan.Actions) != 1 || !plan.Actions[0].Hooked || plan.Actions[0].Grace != 18*time.Second {
		t.Errorf("after its hook: %+v", plan.Actions)
	}
	s.Busy[hookKey("side1-0")] = true
	s.Now = t0.Add(20 * time.Second)
	if got, want := verbs(Decide(s)), []string{"stop side1-0 0s"}; !slices.Equal(got, want) {
		t.Errorf("with a hook that does not end: %v, want %v", got, want)
	}
}

func TestRecursiveReadOnly(t *testing.T) {
	mode := func(m v1.RecursiveReadOnlyMode) *v1.RecursiveReadOnlyMode { return &m }
	bidirectional := v1.MountPropagationBidirectional
	for _, c := range []struct {
		mount         v1.VolumeMount
		with, without string
	}{
		{v1.VolumeMount{Name: "v"}, "false", "false"},
		{v1.VolumeMount{Name: "v", ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyDisabled)}, "false", "false"},
		{v1.VolumeMount{Name: "v", ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyIfPossible)}, "true", "false"},
		{v1.VolumeMount{Name: "v", ReadOnly: true, RecursiveReadOnly: mode(v1.RecursiveReadOnlyEnabled)}, "true",
			`volume "v" requested recursive read-only mode, but it is not supported by the runtime`},
		{v1.VolumeMount{Name: "v", RecursiveReadOnly: mode(v1.RecursiveReadOnlyEnabled)},
			`volume "v" requested recursive read-only mode, but it is not read-only`, `volume "v" requested recursive read-only mode, but it is not read-only`},
		{v1.VolumeMount{Name: "v", ReadOnly: true, MountPropagation: &bidirectional, RecursiveReadOnly: mode(v1.RecursiveReadOnlyEnabled)},
			`volume "v" requested recursive read-only mode, but it is not compatible with propagation "Bidirectional"`,
			`volume "v" requested recursive read-only mode, but it is not compatible with propagation "Bidirectional"`},
	} {
		for supported, want := range map[bool]string{true: c.with, false: c.without} {
			yes, err := recursive(&c.mount, supported)
			got := fmt.Sprint(yes)
			if err != nil {
				got = err.Error()
			}
			if got != want {
				t.Errorf("%+v, supported %v: got %q, want %q", c.mount, supported, got, want)
			}
		}
	}
}

// TestSandboxesOfDeletedPodsGoAtOnce, but not before the API knows how their
// containers ended, if it can be told.
func TestSandboxesOfDeletedPodsGoAtOnce(t *testing.T) {
	now := metav1.Now()
	living, deleted, static := testPod(v1.RestartPolicyAlways), testPod(v1.RestartPolicyAlways), testPod(v1.RestartPolicyAlways)
	deleted.DeletionTimestamp, static.DeletionTimestamp = &now, &now
	static.Annotations = map[string]string{annotationSource: "file"}
	trouble := map[string]Fault{statusKey: {}}
	stop, remove, other := Action{Verb: StopSandbox, ID: "s"}, Action{Verb: RemoveSandbox, ID: "s"}, Action{Verb: Remove, ID: "c"}
	for _, c := range []struct {
		name string
		s    Situation
		told bool
		want []Action
	}{
		{"it has come to its end", Situation{Pod: living}, true, []Action{other, stop}},
		{"it is deleted", Situation{Pod: deleted}, true, []Action{other, remove}},
		{"the API does not know yet", Situation{Pod: deleted}, false, []Action{other}},
		{"the API cannot be told", Situation{Pod: deleted, Faults: trouble}, false, []Action{other, stop}},
		{"the API was told in the end", Situation{Pod: deleted, Faults: trouble}, true, []Action{other, remove}},
		{"the API has it no more", Situation{Pod: living, Gone: true}, false, []Action{other, remove}},
		{"its status is kept here", Situation{Pod: static}, true, []Action{other, stop}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if got := shorten([]Action{other, stop}, &c.s, c.told); !slices.Equal(got, c.want) {
				t.Errorf("got %+v, want %+v", got, c.want)
			}
		})
	}
}
