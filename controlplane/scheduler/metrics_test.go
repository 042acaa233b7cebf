package scheduler

import (
	"context"
	"log/slog"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/events"
	"k8s.io/component-base/metrics/legacyregistry"

	"clusterctl/controlplane/scheduler/metrics"
	"clusterctl/controlplane/scheduler/plugins"
)

// value is the sum of a metric over all that have these labels; of a histogram,
// how often it was observed.
func value(t *testing.T, name string, want map[string]string) (sum float64) {
	t.Helper()
	families, err := legacyregistry.DefaultGatherer.Gather()
	if err != nil {
		t.Fatal(err)
	}
	for _, family := range families {
		if family.GetName() != name {
			continue
		}
	next:
		for _, m := range family.GetMetric() {
			labels := map[string]string{}
			for _, label := range m.GetLabel() {
				labels[label.GetName()] = label.GetValue()
			}
			for key, value := range want {
				if labels[key] != value {
					continue next
				}
			}
			sum += m.GetCounter().GetValue() + m.GetGauge().GetValue() + float64(m.GetHistogram().GetSampleCount())
		}
	}
	return sum
}

func TestMetricsTellOfAttempts(t *testing.T) {
	profile := plugins.Default(nil)
	profile.Name, profile.Bind = "observed", instantBinder{}
	s := newScheduler(profile)
	s.logger, s.recorder, s.client = slog.New(slog.DiscardHandler), &events.FakeRecorder{}, fake.NewClientset()
	metrics.Pending(s.queue.Counts)
	s.picture.SetNode(node("n"))
	own := func(labels map[string]string) map[string]string {
		labels["profile"] = profile.Name
		return labels
	}
	cases := []struct {
		name   string
		labels map[string]string
		want   float64
	}{
		{"scheduler_schedule_attempts_total", own(map[string]string{"result": "scheduled"}), 1},
		{"scheduler_schedule_attempts_total", own(map[string]string{"result": "unschedulable"}), 1},
		{"scheduler_schedule_attempts_total", own(map[string]string{"result": "error"}), 0},
		{"scheduler_scheduling_attempt_duration_seconds", own(map[string]string{"result": "scheduled"}), 1},
		{"scheduler_framework_extension_point_duration_seconds", own(map[string]string{"extension_point": "Filter", "status": "Success"}), 1},
		{"scheduler_framework_extension_point_duration_seconds", own(map[string]string{"extension_point": "Filter", "status": "Unschedulable"}), 1},
		{"scheduler_framework_extension_point_duration_seconds", own(map[string]string{"extension_point": "Bind", "status": "Success"}), 1},
		{"scheduler_pod_scheduling_sli_duration_seconds", map[string]string{"attempts": "1"}, 1},
		{"scheduler_preemption_attempts_total", nil, 1},
		{"scheduler_pending_pods", map[string]string{"queue": "unschedulable"}, 1},
		{"scheduler_pending_pods", map[string]string{"queue": "gated"}, 1},
		{"scheduler_pending_pods", map[string]string{"queue": "active"}, 0},
		{"scheduler_pending_pods", map[string]string{"queue": "backoff"}, 0},
		{"scheduler_queue_incoming_pods_total", nil, 4}, // three came, one of them was parked
	}
	before := make([]float64, len(cases)) // other tests count too
	for i, c := range cases {
		if c.name != "scheduler_pending_pods" { // that of this queue alone
			before[i] = value(t, c.name, c.labels)
		}
	}

	gated := newPod("gated", requests("1m", "1Mi"))
	gated.Spec.SchedulingGates = []v1.PodSchedulingGate{{Name: "wait"}}
	for _, pod := range []*v1.Pod{newPod("fits", requests("1m", "1Mi")), newPod("large", requests("1000", "1Mi")), gated} {
		pod.Spec.SchedulerName = profile.Name
		s.queue.Add(pod)
	}
	for range 2 {
		item, err := s.queue.Pop(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		s.schedule(context.Background(), item)
	}
	s.done.Wait()

	for i, c := range cases {
		if got := value(t, c.name, c.labels) - before[i]; got != c.want {
			t.Errorf("%s%v is %v, want %v", c.name, c.labels, got, c.want)
		}
	}
}
