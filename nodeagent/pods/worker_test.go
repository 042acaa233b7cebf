package pods

import (
	"context"
	"log/slog"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	v1 "k8s.io/api/core/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/runtime"
)

// counted is a runtime that counts how often it is asked about a pod.
type counted struct {
	internalapi.RuntimeService
	asked atomic.Int32
}

func (c *counted) ListPodSandbox(ctx context.Context, filter *criv1.PodSandboxFilter) ([]*criv1.PodSandbox, error) {
	if len(filter.GetLabelSelector()) > 0 {
		c.asked.Add(1)
	}
	return c.RuntimeService.ListPodSandbox(ctx, filter)
}

func TestARuntimeWithoutNewsIsNotAskedAgain(t *testing.T) {
	b := newBench(t)
	ctx, cancel := context.WithCancel(t.Context())
	cri := &counted{RuntimeService: b.cri}
	a := b.agent(ctx, cri)
	a.NetworkReady = func() bool { return false } // so that no sandbox is made
	t.Cleanup(func() { cancel(); a.wg.Wait() })
	pod := testPod(v1.RestartPolicyAlways)
	w := newWorker(a, pod, false)
	want := func(what string, n int32) {
		t.Helper()
		w.step(ctx, ctx)
		if got := cri.asked.Load(); got != n {
			t.Errorf("%s: asked %d times, want %d", what, got, n)
		}
	}
	want("first", 1)
	w.update(pod)
	want("the pod is another in the API", 1)
	w.finish(&operation{action: Action{Verb: Prepare}}, nil, nil)
	want("volumes are mounted", 1)
	w.stirred(runtime.News{ID: "s", Type: criv1.ContainerEventType_CONTAINER_STARTED_EVENT})
	want("an event of the runtime", 2)
	want("nothing", 2)
	w.finish(&operation{action: Action{Verb: Start}}, nil, nil)
	want("a container has started", 3)
}

func TestAnEndIsKnownFromItsEvent(t *testing.T) {
	w := newWorker(&Agent{Config: Config{Logger: slog.New(slog.DiscardHandler)}}, testPod(v1.RestartPolicyNever), false)
	<-w.wake // to begin with
	observed := &runtime.Pod{Containers: []runtime.Container{run("a", runtime.Running, 0, 0), run("b", runtime.Exited, 7, 0)}}
	first := run("a", runtime.Exited, 3, 0)
	for _, c := range []struct {
		name   string
		actual *runtime.Pod
		ended  runtime.Container
		known  bool
	}{
		{"a running container has ended", observed, first, true},
		{"nothing is known of the pod", nil, first, false},
		{"a run that is not known has ended", observed, run("a", runtime.Exited, 3, 1), false},
		{"an end that is known is told otherwise", observed, run("b", runtime.Exited, 1, 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.actual = c.actual
			w.stirred(runtime.News{ID: c.ended.ID, Type: criv1.ContainerEventType_CONTAINER_STOPPED_EVENT, Ended: &c.ended})
			if known := w.actual != nil; known != c.known {
				t.Fatalf("the pod is known without asking: %v, want %v", known, c.known)
			}
			select {
			case <-w.wake:
			default:
				t.Error("the worker does not look")
			}
			if !c.known {
				return
			}
			if got := w.actual.Latest(c.ended.Name); got.State != runtime.Exited || got.ExitCode != c.ended.ExitCode {
				t.Errorf("the container is %+v", got)
			}
			if w.actual.Latest("b").ExitCode != 7 || observed.Latest("a").State != runtime.Running {
				t.Error("something else was changed")
			}
		})
	}
}

func TestNewsOfAnOperationWaitForItsEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorker(&Agent{Config: Config{Logger: slog.New(slog.DiscardHandler)}}, testPod(v1.RestartPolicyAlways), false)
		<-w.wake // to begin with
		w.actual = &runtime.Pod{}
		running := run("a", runtime.Running, 0, 0)
		started := runtime.News{ID: running.ID, Type: criv1.ContainerEventType_CONTAINER_STARTED_EVENT}
		start := &operation{action: Action{Verb: Start, Container: "a"}}
		w.operations[start.action.Key()] = start
		w.stirred(started)
		if len(w.wake) != 0 {
			t.Error("the worker looks before the operation has ended")
		}
		w.finish(start, func(p *runtime.Pod) *runtime.Pod { return p.With(running) }, nil)
		if len(w.wake) != 1 {
			t.Error("the worker does not look when the operation has ended")
		}
		if w.actual == nil || w.actual.Latest("a") == nil || len(w.unheard) != 0 {
			t.Errorf("what the operation explains has the runtime asked: %+v", w.actual)
		}
		<-w.wake
		w.operations[start.action.Key()] = start
		other := runtime.News{ID: "other", Type: criv1.ContainerEventType_CONTAINER_STARTED_EVENT}
		began := time.Now()
		w.later = nil // as each step has it
		w.stirred(other)
		<-w.wake
		if took := time.Since(began); took != settling {
			t.Errorf("an operation that takes long has news wait for %v", took)
		}
		w.finish(start, func(p *runtime.Pod) *runtime.Pod { return p }, nil)
		if w.actual != nil {
			t.Error("what the operation does not explain is not asked about")
		}
	})
}

// TestWhatOperationsDoIsKnown: a pod comes and goes, and the runtime is asked about
// it once, however late its events come.
func TestWhatOperationsDoIsKnown(t *testing.T) {
	b := newBench(t)
	cri := &counted{RuntimeService: b.cri}
	a := b.agent(t.Context(), cri)
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	w := newWorker(a, pod, false)
	// until steps the worker until it has nothing more to do but what the API has to say.
	until := func(what string, holds func(*runtime.Pod) bool) {
		t.Helper()
		deadline := time.Now().Add(time.Minute)
		for {
			w.step(t.Context(), t.Context())
			w.mu.Lock()
			actual := w.actual
			w.mu.Unlock()
			if actual != nil && holds(actual) {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("the pod is never %s: %+v", what, actual)
			}
			time.Sleep(5 * time.Millisecond)
		}
		if seen, err := a.Config.Runtime.Pod(t.Context(), w.uid); err != nil || len(seen.Sandboxes) != len(w.actual.Sandboxes) ||
			len(seen.Sandboxes) > 0 && len(seen.Containers) != len(w.actual.Containers) { // the fake keeps those of no sandbox
			t.Errorf("%s: known %+v, there is %+v (%v)", what, w.actual, seen, err)
		}
		cri.asked.Add(-1) // this test did
	}
	until("running", func(p *runtime.Pod) bool { return len(p.Containers) == 1 && p.Containers[0].State == runtime.Running })
	if sandbox := w.actual.Sandbox(); sandbox == nil || len(sandbox.IPs) == 0 {
		t.Errorf("the sandbox is known as %+v", sandbox)
	}
	w.delete(pod)
	until("gone", (*runtime.Pod).Empty)
	if got := cri.asked.Load(); got != 1 {
		t.Errorf("the runtime was asked %d times, want 1", got)
	}
	a.wg.Wait()
}
