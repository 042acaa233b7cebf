package eviction

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"
	"k8s.io/kubectl/pkg/util/qos"
)

// period is how often the host is measured.
const period = 10 * time.Second

// departure is how long an evicted pod is waited for before the next goes.
const departure = 30 * time.Second

// Reason is that of a pod which was evicted, or not let in.
const Reason = "Evicted"

// immediate is the grace of a pod whose host cannot wait.
const immediate = time.Second

// Host is what evictions are about. Observe and Pods are called every few
// seconds, the others only when something runs short.
type Host interface {
	Observe(ctx context.Context) Observations
	Pods() []*v1.Pod // that run
	Layout(ctx context.Context) Layout
	Usage(ctx context.Context, pod *v1.Pod) (Usage, error)
	FreeImages(ctx context.Context) error                     // all that nobody uses
	Evict(pod *v1.Pod, grace time.Duration, cause Cause) bool // false: it ends already
	Warn(reason, message string)                              // an event of the node
}

// Manager watches over the host. Safe for concurrent use.
type Manager struct {
	Settings
	Host    Host
	Logger  *slog.Logger
	Evicted func(signal string) // is told of every pod that had to go; may be nil

	mu       sync.Mutex
	pressure []v1.NodeConditionType // sorted

	// of the one goroutine that steps
	first map[int]time.Time                  // since when a threshold is undershot, by its index
	last  map[v1.NodeConditionType]time.Time // when a pressure was last there
	gone  time.Time                          // until when the pod evicted last may take to go
	going types.UID                          // that pod
	met   map[int]bool                       // thresholds acted upon
}

// New makes a manager; nothing is measured before Run.
func New(settings Settings, host Host, logger *slog.Logger) *Manager {
	return &Manager{Settings: settings, Host: host, Logger: logger,
		first: map[int]time.Time{}, last: map[v1.NodeConditionType]time.Time{}, met: map[int]bool{}}
}

// Run keeps watch until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		m.step(ctx, time.Now())
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// Pressures are the pressures that the host is under, or was until lately.
func (m *Manager) Pressures() []v1.NodeConditionType {
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.pressure)
}

// Admit says why a pod cannot come to a host under pressure; an empty reason
// admits it. Where memory runs short, pods that ask for some still may.
func (m *Manager) Admit(pod *v1.Pod) (reason, message string) {
	pressures := m.Pressures()
	if len(pressures) == 0 || Critical(pod) {
		return "", ""
	}
	if len(pressures) == 1 && pressures[0] == v1.NodeMemoryPressure {
		taint := v1.Taint{Key: v1.TaintNodeMemoryPressure, Effect: v1.TaintEffectNoSchedule}
		if qos.GetPodQOS(pod) != v1.PodQOSBestEffort ||
			corev1helpers.TolerationsTolerateTaint(klog.Background(), pod.Spec.Tolerations, &taint, true) {
			return "", ""
		}
	}
	return Reason, fmt.Sprintf("The node had condition: %v. ", pressures)
}

// step measures once, and evicts one pod at most.
func (m *Manager) step(ctx context.Context, now time.Time) {
	seen := m.Host.Observe(ctx)
	act := m.judge(seen, now)
	if m.evictOutgrown(ctx) || len(act) == 0 {
		return
	}
	if now.Before(m.gone) && slices.ContainsFunc(m.Host.Pods(), func(p *v1.Pod) bool { return p.UID == m.going }) {
		return // what it leaves may be enough
	}
	slices.SortStableFunc(act, func(a, b Threshold) int { return slices.Index(order, a.Signal) - slices.Index(order, b.Signal) })
	t := act[0]
	name := t.Signal.resource()
	m.Host.Warn("EvictionThresholdMet", fmt.Sprintf("Attempting to reclaim %s", name))
	layout := m.Host.Layout(ctx)
	if layout.freesImages(t.Signal) {
		if err := m.Host.FreeImages(ctx); err != nil {
			m.Logger.Warn("cannot free images", "error", err)
		}
		seen = m.Host.Observe(ctx)
		if !slices.ContainsFunc(m.Thresholds, func(t Threshold) bool { return seen.undershot(t, true) }) {
			return
		}
	}
	var pods []Pod
	for _, pod := range m.Host.Pods() {
		if Critical(pod) {
			continue
		}
		usage, err := m.Host.Usage(ctx, pod)
		if err != nil {
			m.Logger.Debug("cannot measure a pod", "pod", pod.Namespace+"/"+pod.Name, "error", err)
		}
		pods = append(pods, Pod{pod, usage})
	}
	if len(pods) == 0 {
		m.Logger.Warn("the host runs short, and no pod can be evicted", "resource", name)
		return
	}
	Rank(pods, t.Signal, layout)
	for _, victim := range pods {
		grace := immediate
		if t.Soft {
			grace = m.PodGrace
			if own := victim.Spec.TerminationGracePeriodSeconds; own != nil {
				grace = min(grace, time.Duration(*own)*time.Second)
			}
		}
		if m.Host.Evict(victim.Pod, grace, explain(victim, t, seen)) {
			m.Logger.Warn("evicted a pod", "pod", victim.Namespace+"/"+victim.Name, "resource", name)
			m.going, m.gone = victim.UID, now.Add(departure)
			if m.Evicted != nil {
				m.Evicted(string(t.Signal))
			}
			return
		}
	}
}

// judge finds out which thresholds have to be acted upon, and which pressures
// there are.
func (m *Manager) judge(seen Observations, now time.Time) (act []Threshold) {
	for i, t := range m.Thresholds {
		if !seen.undershot(t, m.met[i]) {
			delete(m.first, i)
			delete(m.met, i)
			continue
		}
		if _, ok := m.first[i]; !ok {
			m.first[i] = now
		}
		m.last[t.Signal.condition()] = now
		m.met[i] = now.Sub(m.first[i]) >= t.Grace
		if m.met[i] {
			act = append(act, t)
		}
	}
	for kind, at := range m.last {
		if now.Sub(at) >= m.Transition {
			delete(m.last, kind)
		}
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.pressure = slices.Sorted(maps.Keys(m.last))
	return act
}

// evictOutgrown ends pods that exceed their limits of local storage.
func (m *Manager) evictOutgrown(ctx context.Context) (any bool) {
	for _, pod := range m.Host.Pods() {
		if !HasStorageLimits(pod) || Critical(pod) {
			continue
		}
		usage, err := m.Host.Usage(ctx, pod)
		if err != nil {
			m.Logger.Debug("cannot measure a pod", "pod", pod.Namespace+"/"+pod.Name, "error", err)
			continue
		}
		if limit, message := Outgrown(Pod{pod, usage}); message != "" && m.Host.Evict(pod, immediate, Cause{Message: message}) {
			any = true
			if m.Evicted != nil {
				m.Evicted(limit)
			}
		}
	}
	return any
}
