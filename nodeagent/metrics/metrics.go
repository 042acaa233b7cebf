package metrics

import (
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
)

// startBuckets are upper bounds of how long pods take to start, in seconds.
var startBuckets = []float64{0.5, 1, 2, 3, 4, 5, 6, 8, 10, 20, 30, 45, 60, 120, 180, 240, 300, 360, 480, 600, 900, 1200, 1800, 2700, 3600}

// Agent holds the agent's counters. Safe for concurrent use.
type Agent struct {
	Registry *prometheus.Registry // everything, and what else the agent is to show

	operations, failures *prometheus.CounterVec
	durations            *prometheus.HistogramVec
	relist, interval     prometheus.Histogram
	lastSeen             prometheus.Gauge
	podStart             prometheus.Histogram
	podTotal, podSLI     prometheus.Histogram
	steps                *prometheus.HistogramVec
	statusSync           prometheus.Histogram
	pods, podErrors      prometheus.Counter
	ownUsers, ownErrors  prometheus.Counter
	containers           *prometheus.CounterVec
	containerErrors      *prometheus.CounterVec
	containerEnds        *prometheus.CounterVec
	evictions            *prometheus.CounterVec
	preemptions          *prometheus.CounterVec
	images               *prometheus.CounterVec
	requests             *prometheus.CounterVec
	requestDurations     *prometheus.HistogramVec

	mu       sync.Mutex
	relisted time.Time
}

// New makes counters at zero, of the agent of the named node.
func New(node string) *Agent {
	a := &Agent{Registry: prometheus.NewRegistry()}
	add := func(c prometheus.Collector) { a.Registry.MustRegister(c) }
	add(collectors.NewGoCollector())
	add(collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	name := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: "kubelet_node_name", Help: "The node's name. The count is always 1."}, []string{"node"})
	name.WithLabelValues(node).Set(1)
	add(name)

	count := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: help}, labels)
		add(c)
		return c
	}
	spread := func(name, help string, buckets []float64, labels ...string) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: name, Help: help, Buckets: buckets}, labels)
		add(h)
		return h
	}
	alone := func(h *prometheus.HistogramVec) prometheus.Histogram {
		return h.WithLabelValues().(prometheus.Histogram)
	}

	const operation = "operation_type"
	a.operations = count("kubelet_runtime_operations_total", "Cumulative number of runtime operations by operation type.", operation)
	a.failures = count("kubelet_runtime_operations_errors_total", "Cumulative number of runtime operation errors by operation type.", operation)
	a.durations = spread("kubelet_runtime_operations_duration_seconds", "Duration in seconds of runtime operations. Broken down by operation type.",
		prometheus.ExponentialBuckets(.005, 2.5, 14), operation)
	a.relist = alone(spread("kubelet_pleg_relist_duration_seconds", "Duration in seconds for relisting pods in PLEG.", prometheus.DefBuckets))
	a.interval = alone(spread("kubelet_pleg_relist_interval_seconds", "Interval in seconds between relisting in PLEG.", prometheus.DefBuckets))
	a.lastSeen = prometheus.NewGauge(prometheus.GaugeOpts{Name: "kubelet_pleg_last_seen_seconds", Help: "Timestamp in seconds when PLEG was last seen active."})
	add(a.lastSeen)
	a.podStart = alone(spread("kubelet_pod_start_duration_seconds",
		"Duration in seconds from the agent seeing a pod for the first time to the pod starting to run", startBuckets))
	a.podTotal = alone(spread("kubelet_pod_start_total_duration_seconds",
		"Duration in seconds to start a pod since creation, including time to pull images and run init containers", startBuckets))
	a.podSLI = alone(spread("kubelet_pod_start_sli_duration_seconds",
		"Duration in seconds to start a pod since creation, of pods that pulled no image and have no init containers", startBuckets))
	a.steps = spread("kubelet_pod_worker_duration_seconds", "Duration in seconds to sync a single pod. Broken down by operation type: create, sync or kill",
		prometheus.DefBuckets, operation)
	a.statusSync = alone(spread("kubelet_pod_status_sync_duration_seconds",
		"Duration in seconds to sync a pod status update.", []float64{0.010, 0.050, 0.100, 0.500, 1, 5, 10, 20, 30, 45, 60}))
	a.pods = count("kubelet_started_pods_total", "Cumulative number of pods started").WithLabelValues()
	a.podErrors = count("kubelet_started_pods_errors_total", "Cumulative number of errors when starting pods").WithLabelValues()
	a.ownUsers = count("kubelet_started_user_namespaced_pods_total", "Cumulative number of pods with user namespaces started.").WithLabelValues()
	a.ownErrors = count("kubelet_started_user_namespaced_pods_errors_total", "Cumulative number of errors when starting pods with user namespaces.").WithLabelValues()
	a.containers = count("kubelet_started_containers_total", "Cumulative number of containers started", "container_type")
	a.containerErrors = count("kubelet_started_containers_errors_total", "Cumulative number of errors when starting containers", "container_type", "code")
	a.containerEnds = count("kubelet_terminated_containers_total", "Cumulative number of container terminations.", "container_type", "exit_code", "reason")
	a.preemptions = count("kubelet_preemptions", "Cumulative number of pod preemptions by preemption resource", "preemption_signal")
	a.evictions = count("kubelet_evictions", "Cumulative number of pod evictions by eviction signal", "eviction_signal")
	a.images = count("kubelet_image_garbage_collected_total",
		"Total number of images garbage collected by the kubelet, whether through disk usage or image age.", "reason")
	a.requests = count("rest_client_requests_total", "Number of HTTP requests, partitioned by status code, method, and host.", "code", "method", "host")
	a.requestDurations = spread("rest_client_request_duration_seconds", "Request latency in seconds. Broken down by verb, and host.",
		[]float64{0.005, 0.025, 0.1, 0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 15.0, 30.0, 60.0}, "verb", "host")
	return a
}

// Operation counts a call to the container runtime.
func (a *Agent) Operation(name string, took time.Duration, err error) {
	a.operations.WithLabelValues(name).Inc()
	a.durations.WithLabelValues(name).Observe(took.Seconds())
	if err != nil {
		a.failures.WithLabelValues(name).Inc()
	}
}

// Relisted counts a comparison of everything that the runtime has with what was
// known before.
func (a *Agent) Relisted(at time.Time, took time.Duration) {
	a.relist.Observe(took.Seconds())
	a.lastSeen.Set(float64(at.Unix()))
	a.mu.Lock()
	defer a.mu.Unlock()
	if !a.relisted.IsZero() {
		a.interval.Observe(at.Sub(a.relisted).Seconds())
	}
	a.relisted = at
}

// Stages of a pod, for PodStep.
const (
	Create = "create" // until it has run
	Sync   = "sync"
	Kill   = "kill"
)

// PodStep counts a look at a pod, which is at that stage.
func (a *Agent) PodStep(stage string, took time.Duration) {
	a.steps.WithLabelValues(stage).Observe(took.Seconds())
}

// PodSandbox counts a sandbox that is made, or cannot be, and whether it has users
// of its own.
func (a *Agent) PodSandbox(ownUsers bool, err error) {
	a.pods.Inc()
	if ownUsers {
		a.ownUsers.Inc()
	}
	if err != nil {
		a.podErrors.Inc()
		if ownUsers {
			a.ownErrors.Inc()
		}
	}
}

// PodRuns counts a pod that begins to run: since it was made, since it was seen
// here, and whether nothing but the node itself took its time.
func (a *Agent) PodRuns(made, seen time.Duration, plain bool) {
	a.podTotal.Observe(made.Seconds())
	a.podStart.Observe(seen.Seconds())
	if plain {
		a.podSLI.Observe(made.Seconds())
	}
}

// StatusTold counts a status that the API has taken.
func (a *Agent) StatusTold(took time.Duration) { a.statusSync.Observe(took.Seconds()) }

// Kinds of containers, for ContainerStarted.
const (
	Container          = "container"
	InitContainer      = "init_container"
	EphemeralContainer = "ephemeral_container"
)

// ContainerStarted counts a start of a container; code is the reason of its
// failure, empty for none.
func (a *Agent) ContainerStarted(kind, code string) {
	a.containers.WithLabelValues(kind).Inc()
	if code != "" {
		a.containerErrors.WithLabelValues(kind, code).Inc()
	}
}

// ContainerEnded counts a run of a container that the API knows the end of.
func (a *Agent) ContainerEnded(kind string, exitCode int32, reason string) {
	a.containerEnds.WithLabelValues(kind, strconv.Itoa(int(exitCode)), reason).Inc()
}

// Preempted counts a pod that had to go because a critical one lacked the resource.
func (a *Agent) Preempted(resource string) { a.preemptions.WithLabelValues(resource).Inc() }

// ImageRemoved counts an image that nobody used; the reason is space or age.
func (a *Agent) ImageRemoved(reason string) { a.images.WithLabelValues(reason).Inc() }

// Evicted counts a pod that had to go because of what the signal measures.
func (a *Agent) Evicted(signal string) { a.evictions.WithLabelValues(signal).Inc() }
