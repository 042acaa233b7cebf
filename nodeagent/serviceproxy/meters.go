package serviceproxy

import (
	"log/slog"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"clusterctl/hostconfig"
)

// meters measure what the proxy does, under the names that dashboards and alerts
// know kube-proxy's by. Safe for concurrent use.
type meters struct {
	registry *prometheus.Registry // of these alone

	took, tookWhole, tookPart *prometheus.HistogramVec
	asked, followed           *prometheus.GaugeVec
	programming               *prometheus.HistogramVec
	unreached                 *prometheus.GaugeVec
	failures                  *prometheus.CounterVec
	flowsTook                 *prometheus.HistogramVec
	flows                     *prometheus.CounterVec
	services, endpoints       changes
	healthz, livez            *prometheus.CounterVec

	began time.Time

	mu       sync.Mutex
	triggers map[family][]time.Time // of changes that the kernel does not have yet
}

// changes are those of one kind of object.
type changes struct {
	total   prometheus.Counter
	pending prometheus.Gauge
}

func (c changes) add() { c.total.Inc(); c.pending.Inc() }

func newMeters() *meters {
	m := &meters{registry: prometheus.NewRegistry(), began: time.Now(), triggers: map[family][]time.Time{}}
	const prefix, byFamily = "kubeproxy_", "ip_family"
	short := prometheus.ExponentialBuckets(0.001, 2, 15)
	spread := func(name, help string, buckets []float64) *prometheus.HistogramVec {
		h := prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: prefix + name, Help: help, Buckets: buckets}, []string{byFamily})
		m.registry.MustRegister(h)
		return h
	}
	gauge := func(name, help string, labels ...string) *prometheus.GaugeVec {
		g := prometheus.NewGaugeVec(prometheus.GaugeOpts{Name: prefix + name, Help: help}, labels)
		m.registry.MustRegister(g)
		return g
	}
	count := func(name, help string, labels ...string) *prometheus.CounterVec {
		c := prometheus.NewCounterVec(prometheus.CounterOpts{Name: prefix + name, Help: help}, labels)
		m.registry.MustRegister(c)
		return c
	}
	m.took = spread("sync_proxy_rules_duration_seconds", "How long it took to bring the rules up to date.", short)
	m.tookWhole = spread("sync_full_proxy_rules_duration_seconds", "How long it took when every service was looked at.", short)
	m.tookPart = spread("sync_partial_proxy_rules_duration_seconds", "How long it took when only services that had changed were looked at.", short)
	m.asked = gauge("sync_proxy_rules_last_queued_timestamp_seconds", "When rules had last to be brought up to date.", byFamily)
	m.followed = gauge("sync_proxy_rules_last_timestamp_seconds", "When rules were last up to date.", byFamily)
	var seconds []float64
	for _, scale := range []struct{ first, step, count float64 }{{0.25, 0.25, 2}, {1, 1, 59}, {60, 5, 12}, {120, 30, 7}} {
		seconds = append(seconds, prometheus.LinearBuckets(scale.first, scale.step, int(scale.count))...)
	}
	m.programming = spread("network_programming_duration_seconds", "From a change of a pod or service to rules that know of it.", seconds)
	m.unreached = gauge("sync_proxy_rules_no_local_endpoints_total", "Service ports whose traffic must stay on the node, and that have endpoints on others only.", "traffic_policy", byFamily)
	m.flowsTook = spread("conntrack_reconciler_sync_duration_seconds", "How long it took to forget UDP flows.", short)
	m.flows = count("conntrack_reconciler_deleted_entries_total", "UDP flows forgotten, since they led to endpoints that had gone.", byFamily)
	m.healthz = count("proxy_healthz_total", "Answers at /healthz, by status.", "code")
	m.livez = count("proxy_livez_total", "Answers at /livez, by status.", "code")
	kind := func(name string) changes {
		return changes{
			count("sync_proxy_rules_"+name+"_changes_total", "Changes seen.").WithLabelValues(),
			gauge("sync_proxy_rules_"+name+"_changes_pending", "Changes that rules do not know of yet.").WithLabelValues(),
		}
	}
	m.services, m.endpoints = kind("service"), kind("endpoint")
	return m
}

// mode adds what is measured of one of the back ends alone.
func (m *meters) mode(mode string) {
	name := "kubeproxy_sync_proxy_rules_nftables_sync_failures_total"
	if mode == hostconfig.ProxyIptables {
		name = "kubeproxy_sync_proxy_rules_iptables_restore_failures_total"
	}
	m.failures = prometheus.NewCounterVec(prometheus.CounterOpts{Name: name, Help: "How often rules could not be brought up to date."}, []string{"ip_family"})
	m.registry.MustRegister(m.failures)
}

// sliceChanged notes a change of an endpoint slice; new is nil when it has gone.
func (m *meters) sliceChanged(old, new *discoveryv1.EndpointSlice) {
	m.endpoints.add()
	if new == nil {
		return
	}
	text := new.Annotations[corev1.EndpointsLastChangeTriggerTime]
	if old != nil && old.Annotations[corev1.EndpointsLastChangeTriggerTime] == text {
		return
	}
	// What happened before the proxy began says nothing of it.
	at, err := time.Parse(time.RFC3339Nano, text)
	if err != nil || at.Before(m.began) {
		return
	}
	f := family(new.AddressType == discoveryv1.AddressTypeIPv6)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.triggers[f] = append(m.triggers[f], at)
}

// taken notes that all changes so far are about to be followed.
func (m *meters) taken() {
	m.services.pending.Set(0)
	m.endpoints.pending.Set(0)
}

// begun notes that a family's rules are about to be brought up to date, and
// returns what to call once they are, with what has changed and whether every
// service was looked at.
func (m *meters) begun(f family) (done func(updated map[string]change, whole bool)) {
	start := time.Now()
	m.asked.WithLabelValues(f.String()).Set(seconds(start))
	m.mu.Lock()
	triggered := len(m.triggers[f])
	m.mu.Unlock()
	return func(updated map[string]change, whole bool) {
		now := time.Now()
		m.mu.Lock()
		triggers := m.triggers[f]
		m.triggers[f] = slices.Clone(triggers[triggered:]) // those that came meanwhile
		m.mu.Unlock()
		for _, at := range triggers[:triggered] {
			m.programming.WithLabelValues(f.String()).Observe(now.Sub(at).Seconds())
		}
		took := m.tookPart
		if whole {
			took = m.tookWhole
		}
		took.WithLabelValues(f.String()).Observe(now.Sub(start).Seconds())
		m.took.WithLabelValues(f.String()).Observe(now.Sub(start).Seconds())
		m.followed.WithLabelValues(f.String()).Set(seconds(now))
		internal, external := m.unreached.WithLabelValues("internal", f.String()), m.unreached.WithLabelValues("external", f.String())
		for _, c := range updated {
			oldIn, oldOut := unreached(c.old)
			newIn, newOut := unreached(c.new)
			internal.Add(newIn - oldIn)
			external.Add(newOut - oldOut)
		}
	}
}

// unreached counts ports that have endpoints, but none where traffic from inside,
// or from outside, may go.
func unreached(ports []servicePort) (internal, external float64) {
	for i := range ports {
		p := &ports[i]
		if len(p.endpoints) == 0 || len(p.local) > 0 {
			continue
		}
		if p.internalLocal {
			internal++
		}
		if p.externalLocal {
			external++
		}
	}
	return internal, external
}

func seconds(at time.Time) float64 { return float64(at.UnixNano()) / 1e9 }

// handler answers Prometheus.
func (m *meters) handler(log *slog.Logger) http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, DisableCompression: true})
}
