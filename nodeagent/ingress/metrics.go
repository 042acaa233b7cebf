package ingress

import (
	"fmt"
	"io"
	"maps"
	"slices"
	"sync"
	"time"
)

// bounds of the histogram of durations, in seconds.
var bounds = []float64{0.005, 0.025, 0.1, 0.5, 1, 2.5, 10, 60}

// Metrics counts requests. Safe for concurrent use.
type Metrics struct {
	mu       sync.Mutex
	open     int
	statuses map[int]uint64
	buckets  []uint64 // one more than bounds; each counts its own only
	count    uint64
	seconds  float64
}

// NewMetrics makes counters at zero.
func NewMetrics() *Metrics {
	return &Metrics{statuses: map[int]uint64{}, buckets: make([]uint64, len(bounds)+1)}
}

func (m *Metrics) begin() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open++
}

func (m *Metrics) end(status int, took time.Duration) {
	i, _ := slices.BinarySearch(bounds, took.Seconds())
	m.mu.Lock()
	defer m.mu.Unlock()
	m.open--
	m.count++
	m.seconds += took.Seconds()
	m.buckets[i]++
	m.statuses[status]++
}

// Write prints the metrics as Prometheus reads them.
func (m *Metrics) Write(w io.Writer) error {
	m.mu.Lock()
	open, count, seconds := m.open, m.count, m.seconds
	statuses, buckets := maps.Clone(m.statuses), slices.Clone(m.buckets)
	m.mu.Unlock()

	const duration = "ingress_request_duration_seconds"
	text := fmt.Appendf(nil, "# TYPE ingress_requests_in_flight gauge\ningress_requests_in_flight %d\n# TYPE ingress_requests_total counter\n", open)
	for _, status := range slices.Sorted(maps.Keys(statuses)) {
		text = fmt.Appendf(text, "ingress_requests_total{code=\"%d\"} %d\n", status, statuses[status])
	}
	text = fmt.Appendf(text, "# TYPE %s histogram\n", duration)
	sum := uint64(0)
	for i, bound := range bounds {
		sum += buckets[i]
		text = fmt.Appendf(text, "%s_bucket{le=\"%g\"} %d\n", duration, bound, sum)
	}
	text = fmt.Appendf(text, "%s_bucket{le=\"+Inf\"} %d\n%s_sum %g\n%s_count %d\n", duration, count, duration, seconds, duration, count)
	if _, err := w.Write(text); err != nil {
		return fmt.Errorf("write metrics: %w", err)
	}
	return nil
}
