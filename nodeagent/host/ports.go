package host

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strconv"
	"sync"
	"syscall"
	"time"

	"clusterctl/hostop"
)

// listen opens ports on every address, so that other hosts can try to reach
// them, and says which were taken already.
func (h *Hand) listen(ctx context.Context, ports hostop.ListenParams) ([]string, error) {
	taken := []string{}
	refused := func(network string, port int, err error) error {
		if errors.Is(err, syscall.EADDRINUSE) {
			taken = append(taken, fmt.Sprintf("%s %d", network, port))
			return nil
		}
		return fmt.Errorf("listen on %s %d: %w", network, port, err)
	}
	var config net.ListenConfig
	for _, port := range ports.TCP {
		l, err := config.Listen(ctx, "tcp", ":"+strconv.Itoa(port))
		if err != nil {
			if err := refused("tcp", port, err); err != nil {
				return nil, err
			}
			continue
		}
		h.listeners = append(h.listeners, l)
		go acceptAll(l)
	}
	for _, port := range ports.UDP {
		c, err := config.ListenPacket(ctx, "udp", ":"+strconv.Itoa(port))
		if err != nil {
			if err := refused("udp", port, err); err != nil {
				return nil, err
			}
			continue
		}
		h.listeners = append(h.listeners, c)
		go echoAll(c)
	}
	return taken, nil
}

// acceptAll shows every caller that it got through.
func acceptAll(l net.Listener) {
	for {
		conn, err := l.Accept()
		if err != nil {
			return
		}
		conn.Close()
	}
}

// echoAll sends small datagrams back to where they came from.
func echoAll(c net.PacketConn) {
	buffer := make([]byte, 64)
	for {
		n, from, err := c.ReadFrom(buffer)
		if err != nil {
			return
		}
		_, _ = c.WriteTo(buffer[:n], from)
	}
}

func (h *Hand) closeListeners() {
	for _, l := range h.listeners {
		l.Close()
	}
	h.listeners = nil
}

// dial tries all addresses at once and says what went wrong with which.
func (h *Hand) dial(ctx context.Context, p hostop.DialParams) map[string]string {
	limit := time.Duration(p.TimeoutMillis) * time.Millisecond
	if limit <= 0 {
		limit = 3 * time.Second
	}
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	faults := map[string]string{}
	var mu sync.Mutex
	var all sync.WaitGroup
	try := func(address string, f func() error) {
		all.Go(func() {
			if err := f(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				faults[address] = dialFault(err, limit)
			}
		})
	}
	for _, address := range p.TCP {
		try(address, func() error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", address)
			if err == nil {
				conn.Close()
			}
			return err
		})
	}
	for _, address := range p.UDP {
		try(address, func() error { return ping(ctx, address) })
	}
	all.Wait()
	return faults
}

// ping sends datagrams until one comes back.
func ping(ctx context.Context, address string) error {
	conn, err := (&net.Dialer{}).DialContext(ctx, "udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	buffer := make([]byte, 64)
	for {
		if _, err := conn.Write([]byte("clusterctl")); err != nil && ctx.Err() == nil && !errors.Is(err, syscall.ECONNREFUSED) {
			return err
		}
		if err := conn.SetReadDeadline(time.Now().Add(300 * time.Millisecond)); err != nil {
			return context.DeadlineExceeded
		}
		if _, err := conn.Read(buffer); err == nil {
			return nil
		} else if ctx.Err() != nil {
			return context.DeadlineExceeded
		} else if errors.Is(err, syscall.ECONNREFUSED) {
			select { // the other side may not listen yet
			case <-time.After(50 * time.Millisecond):
			case <-ctx.Done():
				return syscall.ECONNREFUSED
			}
		}
	}
}

func dialFault(err error, limit time.Duration) string {
	var timeout net.Error
	switch {
	case errors.Is(err, context.DeadlineExceeded), errors.As(err, &timeout) && timeout.Timeout():
		return fmt.Sprintf("no answer within %s", limit)
	case errors.Is(err, syscall.ECONNREFUSED):
		return "connection refused"
	case errors.Is(err, syscall.EHOSTUNREACH):
		return "no route to host"
	case errors.Is(err, syscall.ENETUNREACH):
		return "network unreachable"
	}
	return err.Error()
}
