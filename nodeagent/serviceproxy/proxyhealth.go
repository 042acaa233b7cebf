package serviceproxy

import (
	"context"
	"fmt"
	"log/slog"
	"maps"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// late is how long a change may wait for the kernel until the proxy counts as
// unhealthy.
const late = time.Minute

// leavingTaint is on nodes that the cluster autoscaler is about to remove.
const leavingTaint = "ToBeDeletedByClusterAutoscaler"

// proxyHealth tells load balancers outside whether this node leads packets to
// services as it should, at the ports, paths and in the words of kube-proxy: clouds'
// load balancers ask there for services whose traffic may enter at any node. Its
// methods may be called by many goroutines at a time.
type proxyHealth struct {
	node   func() *corev1.Node // this one; nil: not known
	now    func() time.Time
	meters *meters

	mu      sync.Mutex
	updated map[family]time.Time // last
	waiting map[family]time.Time // since when a change does
}

func newProxyHealth(node func() *corev1.Node, meters *meters) *proxyHealth {
	return &proxyHealth{node: node, now: time.Now, meters: meters, updated: map[family]time.Time{}, waiting: map[family]time.Time{}}
}

// queued notes that there are changes to follow.
func (h *proxyHealth) queued(f family) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if _, waits := h.waiting[f]; !waits {
		h.waiting[f] = h.now()
	}
}

// followed notes that the kernel has all of them.
func (h *proxyHealth) followed(f family) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.waiting, f)
	h.updated[f] = h.now()
}

// proxyStatus is what is answered.
type proxyStatus struct {
	LastUpdated  time.Time                        `json:"lastUpdated"`
	CurrentTime  time.Time                        `json:"currentTime"`
	NodeEligible *bool                            `json:"nodeEligible,omitempty"`
	Healthy      bool                             `json:"healthy"`
	Status       map[corev1.IPFamily]familyStatus `json:"status,omitempty"`
}

type familyStatus struct {
	LastUpdated time.Time `json:"lastUpdated"`
	Healthy     bool      `json:"healthy"`
}

// status is healthy from the start until a change is late.
func (h *proxyHealth) status() proxyStatus {
	h.mu.Lock()
	defer h.mu.Unlock()
	s := proxyStatus{CurrentTime: h.now(), Healthy: true, Status: map[corev1.IPFamily]familyStatus{}}
	for f, updated := range maps.All(h.updated) {
		since, waits := h.waiting[f]
		well := !waits || s.CurrentTime.Sub(since) < late
		s.Status[corev1.IPFamily(f.String())] = familyStatus{updated, well}
		s.Healthy = s.Healthy && well
		if updated.After(s.LastUpdated) {
			s.LastUpdated = updated
		}
	}
	return s
}

// eligible tells whether the node is there to stay.
func (h *proxyHealth) eligible() bool {
	node := h.node()
	if node == nil || node.DeletionTimestamp != nil {
		return false
	}
	for _, taint := range node.Spec.Taints {
		if taint.Key == leavingTaint {
			return false
		}
	}
	return true
}

// serveHealth answers /healthz, which a node that is about to go denies, and
// /livez.
func (h *proxyHealth) serveHealth(w http.ResponseWriter, r *http.Request) {
	s := h.status()
	well, answers := s.Healthy, h.meters.livez
	if r.URL.Path == "/healthz" {
		answers = h.meters.healthz
		s.NodeEligible = new(h.eligible())
		well = well && *s.NodeEligible
	}
	if well {
		s.LastUpdated = s.CurrentTime // nothing has changed since
	}
	answers.WithLabelValues(strconv.Itoa(answer(w, well, s))).Inc()
}

// listen serves health at one address, and at the other, which nobody outside of
// the host reaches, the mode and metrics; until ctx ends. An address that is taken is tried
// again.
func (h *proxyHealth) listen(ctx context.Context, health, status, mode string, log *slog.Logger) {
	mux := http.NewServeMux()
	mux.HandleFunc("/healthz", h.serveHealth)
	mux.HandleFunc("/livez", h.serveHealth)
	local := http.NewServeMux()
	local.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "ok") })
	local.Handle("/metrics", h.meters.handler(log))
	local.HandleFunc("/proxyMode", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, mode) })
	var group sync.WaitGroup
	for address, handler := range map[string]http.Handler{health: mux, status: local} {
		group.Go(func() {
			for ctx.Err() == nil {
				var config net.ListenConfig
				listener, err := config.Listen(ctx, "tcp", address)
				if err == nil {
					server := newServer(handler)
					stop := context.AfterFunc(ctx, func() { server.Close() })
					err = server.Serve(listener)
					stop()
				}
				if ctx.Err() != nil {
					return
				}
				log.Warn("nobody can ask for the service proxy's health", "address", address, "err", err, "retry", retryMax)
				select {
				case <-ctx.Done():
				case <-time.After(retryMax):
				}
			}
		})
	}
	group.Wait()
}
