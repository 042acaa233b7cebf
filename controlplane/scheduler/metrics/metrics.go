package metrics

import (
	"strconv"
	"sync/atomic"
	"time"

	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
)

const subsystem = "scheduler"

// Result is how an attempt to schedule a pod ended.
type Result int

// Results of attempts.
const (
	Scheduled Result = iota
	Unschedulable
	Failed
	results
)

// Point is an extension point of plugins.
type Point int

// Extension points that are timed.
const (
	Filter Point = iota
	PostFilter
	Score
	Reserve
	Permit
	PreBind
	Bind
	PostBind
	points
)

var (
	resultNames = [results]string{"scheduled", "unschedulable", "error"}
	pointNames  = [points]string{"Filter", "PostFilter", "Score", "Reserve", "Permit", "PreBind", "Bind", "PostBind"}
	// As upstream's plugins call these results.
	statusNames = [results]string{"Success", "Unschedulable", "Error"}
)

var (
	attempts = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "schedule_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Attempts to schedule pods, by result: scheduled, unschedulable, error.",
	}, []string{"result", "profile"})
	attemptTime = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "scheduling_attempt_duration_seconds", StabilityLevel: metrics.STABLE,
		Help: "Time of an attempt to schedule a pod, binding included.", Buckets: metrics.ExponentialBuckets(0.001, 2, 15),
	}, []string{"result", "profile"})
	algorithmTime = metrics.NewHistogram(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "scheduling_algorithm_duration_seconds", StabilityLevel: metrics.ALPHA,
		Help: "Time to find a pod's node.", Buckets: metrics.ExponentialBuckets(0.001, 2, 15),
	})
	pointTime = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "framework_extension_point_duration_seconds", StabilityLevel: metrics.STABLE,
		Help: "Time of all plugins of an extension point.", Buckets: metrics.ExponentialBuckets(0.0001, 2, 12),
	}, []string{"extension_point", "status", "profile"})
	podTime = metrics.NewHistogramVec(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "pod_scheduling_sli_duration_seconds", StabilityLevel: metrics.BETA,
		Help: "Time from when a pod may be scheduled to when it is bound, over all attempts.", Buckets: metrics.ExponentialBuckets(0.01, 2, 20),
	}, []string{"attempts"})
	podAttempts = metrics.NewHistogram(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "pod_scheduling_attempts", StabilityLevel: metrics.STABLE,
		Help: "Attempts that it took to schedule a pod.", Buckets: metrics.ExponentialBuckets(1, 2, 5),
	})
	preemptions = metrics.NewCounter(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "preemption_attempts_total", StabilityLevel: metrics.STABLE,
		Help: "Attempts to make room by preemption.",
	})
	victims = metrics.NewHistogram(&metrics.HistogramOpts{
		Subsystem: subsystem, Name: "preemption_victims", StabilityLevel: metrics.STABLE,
		Help: "Victims of a preemption.", Buckets: metrics.ExponentialBuckets(1, 2, 7),
	})
	incoming = metrics.NewCounterVec(&metrics.CounterOpts{
		Subsystem: subsystem, Name: "queue_incoming_pods_total", StabilityLevel: metrics.STABLE,
		Help: "Pods that came into a queue (active, backoff, unschedulable), by event.",
	}, []string{"queue", "event"})
	pending = &pendingPods{desc: metrics.NewDesc(metrics.BuildFQName("", subsystem, "pending_pods"),
		"Pods that wait, by queue: active, backoff, unschedulable, gated.", []string{"queue"}, nil, metrics.STABLE, "")}
)

func init() {
	legacyregistry.MustRegister(attempts, attemptTime, algorithmTime, pointTime, podTime, podAttempts, preemptions, victims, incoming)
	legacyregistry.CustomMustRegister(pending)
}

// Profile observes what has to do with one profile. It is safe for concurrent
// use.
type Profile struct {
	attempts    [results]metrics.CounterMetric
	attemptTime [results]metrics.ObserverMetric
	points      [points][results]metrics.ObserverMetric
}

// For returns what observes the profile of a name.
func For(profile string) *Profile {
	p := &Profile{}
	for result, name := range resultNames {
		p.attempts[result] = attempts.WithLabelValues(name, profile)
		p.attemptTime[result] = attemptTime.WithLabelValues(name, profile)
		for point, pointName := range pointNames {
			p.points[point][result] = pointTime.WithLabelValues(pointName, statusNames[result], profile)
		}
	}
	return p
}

// Attempt notes an attempt that began at start and ends now.
func (p *Profile) Attempt(result Result, start time.Time) {
	p.attempts[result].Inc()
	p.attemptTime[result].Observe(time.Since(start).Seconds())
}

// Point notes an extension point that began at start and ends now; Scheduled
// means that its plugins agreed.
func (p *Profile) Point(point Point, result Result, start time.Time) {
	p.points[point][result].Observe(time.Since(start).Seconds())
}

// Algorithm notes that a node was found in this time.
func Algorithm(d time.Duration) { algorithmTime.Observe(d.Seconds()) }

// manyAttempts are told apart no more.
const manyAttempts = 15

// Bound notes that a pod is bound that could be scheduled since then.
func Bound(count int, since time.Time) {
	label := strconv.Itoa(count)
	if count >= manyAttempts {
		label = strconv.Itoa(manyAttempts) + "+"
	}
	podTime.WithLabelValues(label).Observe(time.Since(since).Seconds())
	podAttempts.Observe(float64(count))
}

// Preemption notes an attempt to make room, with as many victims; 0: in vain.
func Preemption(count int) {
	preemptions.Inc()
	if count > 0 {
		victims.Observe(float64(count))
	}
}

// Incoming notes that an event brought a pod into a queue.
func Incoming(queue, event string) { incoming.WithLabelValues(queue, event).Inc() }

// Pending has count tell how many pods wait in each queue, from now on.
func Pending(count func() map[string]int) { pending.count.Store(&count) }

// pendingPods counts when it is asked.
type pendingPods struct {
	metrics.BaseStableCollector
	desc  *metrics.Desc
	count atomic.Pointer[func() map[string]int]
}

func (p *pendingPods) DescribeWithStability(ch chan<- *metrics.Desc) { ch <- p.desc }

func (p *pendingPods) CollectWithStability(ch chan<- metrics.Metric) {
	count := p.count.Load()
	if count == nil {
		return // nothing has been scheduled here
	}
	for queue, n := range (*count)() {
		ch <- metrics.NewLazyConstMetric(p.desc, metrics.GaugeValue, float64(n), queue)
	}
}
