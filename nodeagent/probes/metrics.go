package probes

import (
	"maps"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func newMetrics() (*prometheus.CounterVec, *prometheus.HistogramVec) {
	labels := []string{"probe_type", "container", "pod", "namespace"}
	attempts := prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "prober_probe_total", Help: "Cumulative number of a liveness, readiness or startup probe for a container by result.",
	}, append([]string{"result", "pod_uid"}, labels...))
	durations := prometheus.NewHistogramVec(prometheus.HistogramOpts{
		Name: "prober_probe_duration_seconds", Help: "Duration in seconds for a probe response.", Buckets: prometheus.DefBuckets,
	}, labels)
	return attempts, durations
}

// Describe says what Collect gives.
func (m *Manager) Describe(out chan<- *prometheus.Desc) {
	m.attempts.Describe(out)
	m.durations.Describe(out)
}

// Collect gives the attempts of the containers that are probed now.
func (m *Manager) Collect(out chan<- prometheus.Metric) {
	m.attempts.Collect(out)
	m.durations.Collect(out)
}

// count counts an attempt, unless the container is not probed any more.
func (m *Manager) count(w *worker, t Target, kind Kind, ok bool, took time.Duration) {
	series := maps.Clone(w.series)
	series["probe_type"] = string(kind)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.workers[t.ContainerID] != w {
		return
	}
	m.durations.With(series).Observe(took.Seconds())
	series["pod_uid"], series["result"] = string(w.pod), "failed"
	if ok {
		series["result"] = "successful"
	}
	m.attempts.With(series).Inc()
}
