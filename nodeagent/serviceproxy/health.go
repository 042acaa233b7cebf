package serviceproxy

import (
	"context"
	"encoding/json"
	"errors"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/client-go/tools/record"
)

// healthServers answer, one for each service whose external traffic stays on
// the node it reaches, whether there is an endpoint on this node. Load
// balancers outside ask them at the service's health-check node port.
type healthServers struct {
	log     *slog.Logger
	events  record.EventRecorder // nil: nobody is told of what fails
	proxy   *proxyHealth
	nets    []netip.Prefix // of this node's addresses that node ports are reached at; empty: all
	servers map[uint16]*healthServer
}

type healthServer struct {
	namespace, name string
	proxy           *proxyHealth
	local           atomic.Int64 // ready endpoints on this node
	http            *http.Server
}

func newHealthServers(log *slog.Logger, events record.EventRecorder, proxy *proxyHealth, nets []netip.Prefix) *healthServers {
	return &healthServers{log: log, events: events, proxy: proxy, nets: nets, servers: map[uint16]*healthServer{}}
}

// update starts and stops servers to fit the ports, on the named node. A port that
// is taken is logged, and told of by an event; the next update tries it again.
func (h *healthServers) update(ctx context.Context, node string, all iter.Seq[servicePort]) {
	wanted := map[uint16]string{}
	here := map[uint16]map[netip.Addr]bool{}
	for p := range all {
		if p.healthPort == 0 {
			continue
		}
		wanted[p.healthPort] = p.service
		if here[p.healthPort] == nil {
			here[p.healthPort] = map[netip.Addr]bool{}
		}
		// An endpoint may be in several ports of its service, or in some only.
		for _, ip := range p.readyHere {
			here[p.healthPort][ip] = true
		}
	}
	for port, server := range h.servers {
		if wanted[port] != server.namespace+"/"+server.name {
			server.http.Close()
			delete(h.servers, port)
		}
	}
	for port, service := range wanted {
		if h.servers[port] == nil {
			server, err := h.start(ctx, port, service)
			if err != nil {
				h.log.Warn("load balancers cannot ask for the health of a service", "service", service, "err", err)
				if h.events != nil {
					namespace, name, _ := strings.Cut(service, "/")
					h.events.Eventf(&corev1.ObjectReference{APIVersion: "v1", Kind: "Service", Namespace: namespace, Name: name},
						corev1.EventTypeWarning, "FailedToStartServiceHealthcheck",
						"node %s failed to start healthcheck %q on port %d: %v", node, service, port, err)
				}
				continue
			}
			h.servers[port] = server
		}
		h.servers[port].local.Store(int64(len(here[port])))
	}
}

func (h *healthServers) close() {
	for port, server := range h.servers {
		server.http.Close()
		delete(h.servers, port)
	}
}

// start listens at all of the node's addresses that node ports are reached at.
func (h *healthServers) start(ctx context.Context, port uint16, service string) (*healthServer, error) {
	addresses := []string{""}
	if own := h.addresses(); len(own) > 0 {
		addresses = own
	}
	server := &healthServer{proxy: h.proxy}
	server.namespace, server.name, _ = strings.Cut(service, "/")
	server.http = newServer(server)
	var listeners []net.Listener
	for _, address := range addresses {
		var config net.ListenConfig
		listener, err := config.Listen(ctx, "tcp", net.JoinHostPort(address, strconv.Itoa(int(port))))
		if err != nil {
			for _, l := range listeners {
				err = errors.Join(err, l.Close())
			}
			return nil, err
		}
		listeners = append(listeners, listener)
	}
	for _, listener := range listeners {
		go func() { _ = server.http.Serve(listener) }() // until it is closed
	}
	return server, nil
}

// addresses are the node's within the networks that the inventory names; none if it
// names none, or the node has none there.
func (h *healthServers) addresses() []string {
	var list []string
	for _, f := range []family{ipv4, ipv6} {
		for _, own := range ownAddresses(f) {
			if slices.ContainsFunc(h.nets, func(network netip.Prefix) bool { return network.Contains(own) }) {
				list = append(list, own.String())
			}
		}
	}
	return list
}

func newServer(handler http.Handler) *http.Server {
	return &http.Server{Handler: handler, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
}

// ServeHTTP answers 200 if this node has an endpoint, and rules for it that are up
// to date; else 503.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	type reference struct {
		Namespace string `json:"namespace"`
		Name      string `json:"name"`
	}
	local, healthy := s.local.Load(), s.proxy.status().Healthy
	w.Header().Set("X-Load-Balancing-Endpoint-Weight", strconv.FormatInt(local, 10))
	answer(w, local > 0 && healthy, struct {
		Service             reference `json:"service"`
		LocalEndpoints      int64     `json:"localEndpoints"`
		ServiceProxyHealthy bool      `json:"serviceProxyHealthy"`
	}{reference{s.namespace, s.name}, local, healthy})
}

// answer answers a load balancer, and returns the status.
func answer(w http.ResponseWriter, well bool, what any) (status int) {
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	status = http.StatusOK
	if !well {
		status = http.StatusServiceUnavailable
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(what)
	return status
}
