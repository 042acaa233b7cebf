package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"slices"
	"syscall"
	"time"

	"clusterctl/nodeagent/netnstest"
	"clusterctl/test/bench/usage"
)

// result is what was measured of one proxy with one number of services.
type result struct {
	cold     time.Duration   // from its start until the services answered
	coldCPU  time.Duration   // of it and what it ran, until then
	changes  []time.Duration // from an endpoint's change until packets went there
	changeIn time.Duration   // CPU time of one change
	first    []time.Duration // what a connection waited for
	memory   usage.Memory    // after all of that
}

const (
	patience = 10 * time.Minute // for services to answer
	// attempt is how long one connection may take before another is tried.
	attempt = time.Second
	// between is the time from one change to the next: stock's proxies wait a
	// second after each.
	between     = 1500 * time.Millisecond
	connections = 1000
)

// measure starts a proxy in a world of its own and measures it.
func measure(ctx context.Context, c contestant, services, changes int) (r result, err error) {
	w, err := newWorld()
	if err != nil {
		return r, err
	}
	defer w.close()
	a, err := newAPI(services)
	if err != nil {
		return r, err
	}
	var listener net.Listener
	if err := netnstest.Within(w.node, func() (err error) {
		listener, err = net.Listen("tcp4", "127.0.0.1:0")
		return err
	}); err != nil {
		return r, fmt.Errorf("listen: %w", err)
	}
	defer a.serve(listener).Close()
	dir, err := os.MkdirTemp("", "bench-proxy-")
	if err != nil {
		return r, fmt.Errorf("make a directory: %w", err)
	}
	defer os.RemoveAll(dir)
	command, err := c.command(dir, "http://"+listener.Addr().String())
	if err != nil {
		return r, err
	}
	log, err := os.Create(filepath.Join(dir, "log"))
	if err != nil {
		return r, fmt.Errorf("make a log: %w", err)
	}
	defer log.Close()
	command.Stdout, command.Stderr = log, log
	start := time.Now()
	if err := w.start(command); err != nil {
		return r, fmt.Errorf("start %s: %w", c.name, err)
	}
	defer func() {
		_ = command.Process.Signal(syscall.SIGTERM)
		_ = command.Wait()
		if err != nil {
			text, _ := os.ReadFile(log.Name())
			err = fmt.Errorf("%w; the end of its log: %s", err, text[max(0, len(text)-2000):])
		}
	}()
	err = netnstest.Within(w.client, func() error {
		for _, i := range append([]int{services - 1, 0}, rand.Perm(services)[:50]...) {
			if err := w.await(ctx, start, i, ""); err != nil {
				return err
			}
		}
		r.cold = time.Since(start)
		return nil
	})
	if err != nil {
		return r, err
	}
	process := usage.Of(command.Process.Pid)
	if r.coldCPU, err = process.CPUWithChildren(); err != nil {
		return r, err
	}
	err = netnstest.Within(w.client, func() error { return r.change(ctx, w, a, services, changes) })
	if err != nil {
		return r, err
	}
	after, err := process.CPUWithChildren()
	if err != nil {
		return r, err
	}
	r.changeIn = (after - r.coldCPU) / time.Duration(changes)
	err = netnstest.Within(w.client, func() error {
		dialer := &net.Dialer{Timeout: attempt}
		for range connections {
			_, took, err := w.connect(dialer, clusterAddress(rand.IntN(services)).String()+":80")
			if err != nil {
				return fmt.Errorf("connect to a service: %w", err)
			}
			r.first = append(r.first, took)
		}
		return nil
	})
	if err != nil {
		return r, err
	}
	r.memory, err = process.Memory()
	return r, err
}

// change gives services another endpoint instead of one of their two, and waits
// until packets go there.
func (r *result) change(ctx context.Context, w *world, a *api, services, changes int) error {
	for _, i := range rand.Perm(services)[:changes] {
		time.Sleep(between)
		want := endpointAddress(i, 2)
		start := time.Now()
		if err := a.put("endpointslices", serviceName(i), sliceObject(i, endpointAddress(i, 0), want)); err != nil {
			return err
		}
		if err := w.await(ctx, start, i, want.String()); err != nil {
			return err
		}
		r.changes = append(r.changes, time.Since(start))
	}
	return nil
}

// await waits until a service answers; with want, until that pod does. Whoever
// waits for one of two pods tries twice on average.
func (w *world) await(ctx context.Context, since time.Time, i int, want string) error {
	to := clusterAddress(i).String() + ":80"
	answered := make(chan struct{}, 1)
	try := func() error {
		if _, _, err := w.connect(&net.Dialer{Timeout: attempt}, to); err == nil {
			select {
			case answered <- struct{}{}:
			default:
			}
		}
		return nil
	}
	for time.Since(since) < patience {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		if want != "" { // it answers in any case, and at once
			pod, _, err := w.connect(&net.Dialer{Timeout: attempt}, to)
			if err == nil && pod == want {
				return nil
			}
			continue
		}
		// Packets that nobody leads anywhere are lost: try again every moment.
		go func() { _ = netnstest.Within(w.client, try) }()
		select {
		case <-answered:
			return nil
		case <-time.After(10 * time.Millisecond):
		}
	}
	return errors.New("a service does not answer")
}

// percentile of durations.
func percentile(all []time.Duration, p int) time.Duration {
	if len(all) == 0 {
		return 0
	}
	sorted := slices.Sorted(slices.Values(all))
	return sorted[min(len(sorted)*p/100, len(sorted)-1)]
}
