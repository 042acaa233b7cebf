package serviceproxy

import (
	"context"
	"encoding/json"
	"fmt"
	"iter"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"time"
)

// healthServers answer, one for each service whose external traffic stays on
// the node it reaches, whether there is an endpoint on this node. Load
// balancers outside ask them at the service's health-check node port.
type healthServers struct {
	log     *slog.Logger
	servers map[uint16]*healthServer
}

type healthServer struct {
	service string
	local   atomic.Int64 // ready endpoints on this node
	http    *http.Server
}

func newHealthServers(log *slog.Logger) *healthServers {
	return &healthServers{log: log, servers: map[uint16]*healthServer{}}
}

// update starts and stops servers to fit the ports. A port that is taken is
// logged; the next update tries it again.
func (h *healthServers) update(ctx context.Context, all iter.Seq[servicePort]) {
	wanted := map[uint16]string{}
	count := map[uint16]int{}
	for p := range all {
		if p.healthPort != 0 {
			wanted[p.healthPort] = p.service
			// Each endpoint of a service is in each of its ports.
			count[p.healthPort] = max(count[p.healthPort], p.readyHere)
		}
	}
	for port, server := range h.servers {
		if wanted[port] != server.service {
			server.http.Close()
			delete(h.servers, port)
		}
	}
	for port, service := range wanted {
		if h.servers[port] == nil {
			server, err := startHealthServer(ctx, port, service)
			if err != nil {
				h.log.Warn("load balancers cannot ask for the health of a service", "service", service, "err", err)
				continue
			}
			h.servers[port] = server
		}
		h.servers[port].local.Store(int64(count[port]))
	}
}

func (h *healthServers) close() {
	for port, server := range h.servers {
		server.http.Close()
		delete(h.servers, port)
	}
}

func startHealthServer(ctx context.Context, port uint16, service string) (*healthServer, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", ":"+strconv.Itoa(int(port)))
	if err != nil {
		return nil, fmt.Errorf("listen for health checks: %w", err)
	}
	server := &healthServer{service: service}
	server.http = &http.Server{Handler: server, ReadHeaderTimeout: 5 * time.Second, IdleTimeout: time.Minute}
	go func() { _ = server.http.Serve(listener) }() // until it is closed
	return server, nil
}

// ServeHTTP answers 200 if this node has an endpoint, and 503 if not.
func (s *healthServer) ServeHTTP(w http.ResponseWriter, _ *http.Request) {
	local := s.local.Load()
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("X-Content-Type-Options", "nosniff")
	if local == 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
	}
	_ = json.NewEncoder(w).Encode(map[string]any{"service": s.service, "localEndpoints": local})
}
