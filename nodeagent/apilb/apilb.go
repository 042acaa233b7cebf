package apilb

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"slices"
	"sync"
	"time"
)

// A server is taken for dead after probeFailures probes in a row had no
// answer within probeTimeout, and at once when it refuses. With one probe
// each probeInterval, clients of a host that vanished are cut off, and
// connect elsewhere, within 5 s.
const (
	probeInterval = time.Second
	probeTimeout  = time.Second
	probeFailures = 2
	dialTimeout   = 2 * time.Second
	// unanswered is how long data or keep-alives may stay without an answer
	// before the kernel ends a connection to a server.
	unanswered = 4 * time.Second
)

// Run listens on an address (host:port) and passes every connection on to one
// of the servers (host:port each). A list from updates replaces the servers;
// connections to those no longer listed are closed. Run returns nil when ctx
// ends, having closed all connections, and an error only if it cannot listen.
// It does not mind if no server answers yet. A nil updates never changes the
// servers.
func Run(ctx context.Context, listen string, servers []string, updates <-chan []string, log *slog.Logger) error {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp", listen)
	if err != nil {
		return fmt.Errorf("listen for API clients: %w", err)
	}
	return newBalancer(servers, log).serve(ctx, listener, updates)
}

// balancer passes connections on to its servers.
type balancer struct {
	log           *slog.Logger
	dial          func(ctx context.Context, address string) (net.Conn, error)
	probeInterval time.Duration
	patience      time.Duration

	mu      sync.Mutex
	servers []*server
	running sync.WaitGroup // one for each connection and probe
}

// server is one API server. Its fields are guarded by the balancer's mutex.
type server struct {
	address  string
	failures int // probes and connections in a row without success
	down     bool
	probing  bool
	conns    map[net.Conn]struct{} // the clients' ends of what is passed to it
}

func newBalancer(addresses []string, log *slog.Logger) *balancer {
	b := &balancer{log: log, dial: dial, probeInterval: probeInterval, patience: patience}
	b.set(addresses)
	return b
}

func dial(ctx context.Context, address string) (net.Conn, error) {
	dialer := net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: time.Second, Interval: time.Second, Count: 3},
		Control:         limitUnanswered,
	}
	return dialer.DialContext(ctx, "tcp", address)
}

func (b *balancer) serve(ctx context.Context, listener net.Listener, updates <-chan []string) error {
	ctx, cancel := context.WithCancel(ctx)
	b.running.Go(func() {
		<-ctx.Done()
		listener.Close()
	})
	b.running.Go(func() { b.watch(ctx, updates) })
	var err error
	for {
		var client net.Conn
		client, err = listener.Accept()
		if err == nil {
			b.running.Go(func() { b.pass(ctx, client) })
			continue
		}
		if ctx.Err() != nil || errors.Is(err, net.ErrClosed) {
			break
		}
		// Out of descriptors, as a rule: those in use will come back.
		b.log.Warn("cannot accept an API client", "err", err)
		select {
		case <-ctx.Done():
		case <-time.After(100 * time.Millisecond):
		}
	}
	stopped := ctx.Err() != nil
	cancel()
	b.set(nil)
	b.running.Wait()
	if stopped {
		return nil
	}
	return fmt.Errorf("accept API clients: %w", err)
}

// watch probes the servers and takes new lists of them until ctx ends.
func (b *balancer) watch(ctx context.Context, updates <-chan []string) {
	ticker := time.NewTicker(b.probeInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case addresses, ok := <-updates:
			if !ok {
				updates = nil
				continue
			}
			b.set(addresses)
		case <-ticker.C:
			b.probeAll(ctx)
		}
	}
}

// set replaces the list of servers. What is known of those that stay is kept.
func (b *balancer) set(addresses []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	var servers []*server
	for _, address := range addresses {
		if slices.ContainsFunc(servers, func(s *server) bool { return s.address == address }) {
			continue
		}
		i := slices.IndexFunc(b.servers, func(s *server) bool { return s.address == address })
		if i >= 0 {
			servers = append(servers, b.servers[i])
			continue
		}
		servers = append(servers, &server{address: address, conns: map[net.Conn]struct{}{}})
	}
	old := b.servers
	b.servers = servers
	for _, s := range old {
		if !slices.Contains(servers, s) {
			s.down = true
			s.drop()
		}
	}
}

// drop closes every connection passed to the server.
func (s *server) drop() {
	for client := range s.conns {
		client.Close() // which ends the passing on, in both directions
	}
}

// probeAll starts a probe of every server that is down or in use. One that is
// up and idle is found dead by the next connection soon enough.
func (b *balancer) probeAll(ctx context.Context) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, s := range b.servers {
		if s.probing || !s.down && len(s.conns) == 0 && s.failures == 0 {
			continue
		}
		s.probing = true
		b.running.Go(func() {
			ctx, cancel := context.WithTimeout(ctx, probeTimeout)
			defer cancel()
			conn, err := b.dial(ctx, s.address)
			if err == nil {
				conn.Close()
			}
			b.mu.Lock()
			s.probing = false
			b.mu.Unlock()
			b.report(s, err)
		})
	}
}

// report takes notice of how a probe of, or a connection to, a server went.
func (b *balancer) report(s *server, err error) {
	if errors.Is(err, context.Canceled) {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if !slices.Contains(b.servers, s) {
		return
	}
	if err == nil {
		if s.down {
			b.log.Info("API server answers again", "server", s.address)
		}
		s.failures, s.down = 0, false
		return
	}
	s.failures++
	var netErr net.Error
	silent := errors.As(err, &netErr) && netErr.Timeout() || errors.Is(err, context.DeadlineExceeded)
	if !s.down && (!silent || s.failures >= probeFailures) {
		s.down = true
		b.log.Warn("API server does not answer", "server", s.address, "err", err)
	}
	// Cutting clients off helps them only if there is somewhere else to go.
	if s.down && slices.ContainsFunc(b.servers, func(other *server) bool { return !other.down }) {
		s.drop()
	}
}

// order returns the servers in the order in which to try them: those that
// answer first, and among these those with the fewest connections.
func (b *balancer) order() []*server {
	b.mu.Lock()
	defer b.mu.Unlock()
	type rank struct {
		server   *server
		failures int
		conns    int
	}
	ranks := make([]rank, 0, len(b.servers))
	for _, s := range b.servers {
		ranks = append(ranks, rank{s, s.failures, len(s.conns)})
	}
	shuffle(ranks)
	slices.SortStableFunc(ranks, func(x, y rank) int {
		if (x.failures > 0) != (y.failures > 0) {
			return x.failures - y.failures
		}
		return x.conns - y.conns
	})
	servers := make([]*server, 0, len(ranks))
	for _, r := range ranks {
		servers = append(servers, r.server)
	}
	return servers
}
