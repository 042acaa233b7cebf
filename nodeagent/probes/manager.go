package probes

import (
	"context"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Kind is what a probe is for.
type Kind string

// The kinds of probes, as events spell them.
const (
	Liveness  Kind = "Liveness"
	Readiness Kind = "Readiness"
	Startup   Kind = "Startup"
)

// Result is what the probes of one container say.
type Result struct {
	Started bool   // the startup probe has succeeded, or there is none
	Ready   bool   // the readiness probe succeeds, or there is none; false until Started
	Failed  Kind   // Liveness or Startup once that probe has failed for good
	Message string // of the last failure
}

// Reasons of the events that probes give rise to.
const (
	Unhealthy = "Unhealthy"
	Warned    = "ProbeWarning"
)

// Report receives what events shall tell of attempts, with their reason.
type Report func(pod *v1.Pod, c *v1.Container, reason, message string)

// Manager runs the probes of running containers. Safe for concurrent use.
type Manager struct {
	ctx     context.Context
	exec    Exec
	changed func(types.UID)
	report  Report

	attempts  *prometheus.CounterVec
	durations *prometheus.HistogramVec

	mu      sync.Mutex
	workers map[string]*worker // by container ID
}

type worker struct {
	stop   context.CancelFunc
	settle context.CancelFunc // of the probes that have the container start anew
	result Result
	pod    types.UID
	series prometheus.Labels // of its metrics
}

// New makes a manager whose probes end with ctx. changed is called with the
// pod of every result that changed.
func New(ctx context.Context, exec Exec, changed func(types.UID), report Report) *Manager {
	m := &Manager{ctx: ctx, exec: exec, changed: changed, report: report, workers: map[string]*worker{}}
	m.attempts, m.durations = newMetrics()
	return m
}

// Watch begins to probe a container, unless it is probed already; once its pod
// ends, only its readiness is. standing is
// what was last known of a container that ran before the agent did, and holds
// until a probe says otherwise; nil for a container that has just started.
func (m *Manager) Watch(t Target, startedAt time.Time, standing *Result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[t.ContainerID]; w != nil {
		if t.Ending {
			w.settle()
		}
		return
	}
	ctx, stop := context.WithCancel(m.ctx)
	fateful, settle := context.WithCancel(ctx)
	w := &worker{stop: stop, settle: settle, pod: t.Pod.UID, series: prometheus.Labels{
		"container": t.Container.Name, "pod": t.Pod.Name, "namespace": t.Pod.Namespace}}
	w.result = initial(t.Container, standing)
	m.workers[t.ContainerID] = w
	for kind, probe := range map[Kind]*v1.Probe{
		Liveness: t.Container.LivenessProbe, Readiness: t.Container.ReadinessProbe, Startup: t.Container.StartupProbe,
	} {
		switch {
		case probe == nil:
		case kind == Readiness:
			go m.run(ctx, w, t, kind, probe, startedAt, standing != nil)
		case !t.Ending:
			go m.run(fateful, w, t, kind, probe, startedAt, standing != nil)
		}
	}
}

// initial is what holds before any probe has answered.
func initial(c *v1.Container, standing *Result) Result {
	if standing != nil {
		return Result{
			Started: c.StartupProbe == nil || standing.Started,
			Ready:   c.ReadinessProbe == nil && c.StartupProbe == nil || standing.Ready,
		}
	}
	started := c.StartupProbe == nil
	return Result{Started: started, Ready: started && c.ReadinessProbe == nil}
}

// Stop ends the probes of a container and forgets their results.
func (m *Manager) Stop(containerID string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[containerID]; w != nil {
		m.end(containerID, w)
	}
}

// StopAllBut ends the probes of the pod's containers except those in keep.
func (m *Manager) StopAllBut(pod types.UID, keep map[string]bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	for id, w := range m.workers {
		if w.pod == pod && !keep[id] {
			m.end(id, w)
		}
	}
}

// end stops a worker and forgets what it counted. m.mu is held.
func (m *Manager) end(containerID string, w *worker) {
	w.stop()
	delete(m.workers, containerID)
	m.attempts.DeletePartialMatch(w.series)
	m.durations.DeletePartialMatch(w.series)
}

// Result is the latest; the zero Result for a container that is not probed.
func (m *Manager) Result(containerID string) Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	if w := m.workers[containerID]; w != nil {
		return w.result
	}
	return Result{}
}

// run probes until ctx ends or nothing is left to find out.
func (m *Manager) run(ctx context.Context, w *worker, t Target, kind Kind, p *v1.Probe, startedAt time.Time, adopted bool) {
	period := seconds(p.PeriodSeconds, 10)
	wait := time.Until(startedAt.Add(time.Duration(p.InitialDelaySeconds) * time.Second))
	if adopted {
		wait = max(wait, time.Duration(rand.Int64N(int64(period)))) // not all at once after a restart
	}
	var successes, failures int32
	for first := true; ; first = false {
		if !first {
			wait = period
			if kind != Startup && !m.Result(t.ContainerID).Started {
				wait = min(period, time.Second) // waiting for the startup probe
			}
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(max(wait, 0)):
		}
		if ctx.Err() != nil {
			return
		}
		if kind != Startup && !m.Result(t.ContainerID).Started {
			continue
		}
		began := time.Now()
		is, message, err := check(ctx, m.exec, t, p)
		if ctx.Err() != nil {
			return
		}
		if err != nil { // nothing was learnt
			m.report(t.Pod, t.Container, Unhealthy, fmt.Sprintf("%s probe errored and resulted in unknown state: %v", kind, err))
			continue
		}
		ok := is != failure
		m.count(w, t, kind, ok, time.Since(began))
		switch is {
		case warning:
			m.report(t.Pod, t.Container, Warned, fmt.Sprintf("%s probe warning: %s", kind, message))
		case failure:
			m.report(t.Pod, t.Container, Unhealthy, fmt.Sprintf("%s probe failed: %s", kind, message))
		}
		if ok {
			successes, failures = successes+1, 0
		} else {
			successes, failures = 0, failures+1
		}
		switch {
		case ok && successes >= max(p.SuccessThreshold, 1):
			m.set(w, t, kind, true, "")
			if kind == Startup {
				return
			}
		case !ok && failures >= threshold(p.FailureThreshold):
			m.set(w, t, kind, false, message)
			if kind != Readiness {
				return // the container will be stopped
			}
		}
	}
}

// set records the verdict of a probe and tells whom it concerns.
func (m *Manager) set(w *worker, t Target, kind Kind, ok bool, message string) {
	m.mu.Lock()
	before := w.result
	r := &w.result
	switch kind {
	case Startup:
		if ok {
			r.Started = true
			r.Ready = t.Container.ReadinessProbe == nil
		} else {
			r.Failed, r.Message = Startup, message
		}
	case Readiness:
		r.Ready = ok
	case Liveness:
		if !ok {
			r.Failed, r.Message = Liveness, message
		}
	}
	changed := *r != before
	m.mu.Unlock()
	if changed {
		m.changed(w.pod)
	}
}

func threshold(n int32) int32 {
	if n < 1 {
		return 3
	}
	return n
}
