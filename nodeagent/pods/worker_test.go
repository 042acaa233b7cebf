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
	w.finish(&operation{action: Action{Verb: Prepare}}, nil)
	want("volumes are mounted", 1)
	w.stirred(nil)
	want("an event of the runtime", 2)
	want("nothing", 2)
	w.finish(&operation{action: Action{Verb: Start}}, nil)
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
		{"an end that is known is told again", observed, run("b", runtime.Exited, 1, 0), false},
	} {
		t.Run(c.name, func(t *testing.T) {
			w.actual = c.actual
			w.stirred(&c.ended)
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
		start := &operation{action: Action{Verb: Start, Container: "a"}}
		w.operations[start.action.Key()] = start
		w.stirred(nil)
		if len(w.wake) != 0 {
			t.Error("the worker looks before the operation has ended")
		}
		w.finish(start, nil)
		if len(w.wake) != 1 {
			t.Error("the worker does not look when the operation has ended")
		}
		<-w.wake
		w.operations[start.action.Key()] = start
		began := time.Now()
		w.later = nil // as each step has it
		w.stirred(nil)
		<-w.wake
		if took := time.Since(began); took != settling {
			t.Errorf("an operation that takes long has news wait for %v", took)
		}
	})
}
