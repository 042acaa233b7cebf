package metricsapi

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	"pgregory.net/rapid"
)

var noon = time.Date(2026, 1, 1, 12, 0, 0, 0, time.UTC)

func TestBetween(t *testing.T) {
	for name, test := range map[string]struct {
		before, after counter
		cpu           string
		ok            bool
	}{
		"half a processor":   {counter{noon, 1e9, 5}, counter{noon.Add(2 * time.Second), 2e9, 1 << 20}, "500m", true},
		"idle":               {counter{noon, 1e9, 5}, counter{noon.Add(time.Second), 1e9, 1 << 20}, "0", true},
		"a restart":          {counter{noon, 1e9, 5}, counter{noon.Add(time.Second), 1e8, 1 << 20}, "", false},
		"the same reading":   {counter{noon, 1e9, 5}, counter{noon, 1e9, 1 << 20}, "", false},
		"nothing to compare": {counter{}, counter{noon, 1e9, 1 << 20}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			u, ok := between(test.before, test.after)
			if ok != test.ok {
				t.Fatalf("ok is %v", ok)
			}
			if ok && (u.usage.Cpu().String() != test.cpu || u.usage.Memory().String() != "1Mi" || !u.at.Equal(test.after.at)) {
				t.Errorf("use is %+v", u)
			}
		})
	}
}

// A rate times its window is what has been counted, whatever was counted.
func TestRatesAddUp(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		begin := rapid.Uint64Range(0, 1e15).Draw(t, "begin")
		used := rapid.Uint64Range(0, 1e12).Draw(t, "used")
		window := time.Duration(rapid.Int64Range(int64(time.Second), int64(time.Minute)).Draw(t, "window"))
		u, ok := between(counter{noon, begin, 0}, counter{noon.Add(window), begin + used, 0})
		if !ok {
			t.Fatal("no rate")
		}
		if total := u.usage.Cpu().AsApproximateFloat64() * window.Seconds() * 1e9; total < float64(used)-100 || total > float64(used)+100 {
			t.Errorf("%d used in %v becomes %v", used, window, total)
		}
	})
}

// agents count one second of a processor each second, from when they are asked.
type agents struct {
	mu    sync.Mutex
	asked int
	now   time.Time
	fail  bool
}

func (a *agents) ask(_ context.Context, node types.NodeName) (*stats.Summary, error) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked++
	if a.fail {
		return nil, errors.New("gone")
	}
	a.now = a.now.Add(time.Second)
	cpu, memory := uint64(a.now.Sub(noon)), uint64(1<<20)
	return &stats.Summary{Node: stats.NodeStats{
		CPU:    &stats.CPUStats{Time: metav1.NewTime(a.now), UsageCoreNanoSeconds: &cpu},
		Memory: &stats.MemoryStats{WorkingSetBytes: &memory},
	}}, nil
}

func TestCollectorReadsOnDemand(t *testing.T) {
	a := &agents{now: noon}
	clock := noon
	c := &collector{ask: a.ask, now: func() time.Time { return clock }, turn: make(chan struct{}, 1)}
	one := func(context.Context) ([]types.NodeName, error) { return []types.NodeName{"n"}, nil }
	for _, step := range []struct {
		after time.Duration
		fail  bool
		asked int // in all, by then
		cpu   string
	}{
		{0, false, 2, "1"},         // nothing to compare with: twice
		{fresh - 1, false, 2, "1"}, // answered from what is known
		{1, false, 3, "1"},         // compared with the last
		{stale, false, 5, "1"},     // too long ago to compare with
		{fresh, true, 6, ""},       // the node is gone, and its use
		{fresh, false, 7, ""},      // nothing to compare with
		{fresh, false, 8, "1"},     // and it is back
		{stale - time.Second, true, 9, ""},
	} {
		clock, a.fail = clock.Add(step.after), step.fail
		used, err := c.uses(t.Context(), one)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if u, ok := used[subject{name: "n"}]; ok {
			got = u.usage.Cpu().String()
		}
		if got != step.cpu || a.asked != step.asked {
			t.Errorf("%v later: %q after %d questions, want %q after %d", step.after, got, a.asked, step.cpu, step.asked)
		}
	}
	clock = clock.Add(time.Hour)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := c.uses(ctx, one); err == nil {
		t.Error("a request that has ended got an answer")
	}
}

func TestPodMetricsAreWhole(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", UID: "u"}, Status: corev1.PodStatus{Phase: corev1.PodRunning}}
	used := map[subject]use{}
	for i := range 3 {
		running := corev1.ContainerStatus{Name: fmt.Sprint(i), State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}
		pod.Status.ContainerStatuses = append(pod.Status.ContainerStatuses, running)
		if _, ok := podMetrics(pod, used); ok {
			t.Errorf("metrics without those of container %d", i)
		}
		used[subject{"u", running.Name}] = use{at: noon.Add(time.Duration(i) * time.Second), window: time.Second}
		if found, ok := podMetrics(pod, used); !ok || len(found.Containers) != i+1 || !found.Timestamp.Time.Equal(noon.Add(time.Duration(i)*time.Second)) {
			t.Errorf("with %d containers: %v %+v", i+1, ok, found)
		}
	}
	pod.Status.Phase = corev1.PodSucceeded
	if _, ok := podMetrics(pod, used); ok {
		t.Error("metrics of a pod that has ended")
	}
}
