package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"time"
)

func main() {
	ours := flag.String("controlplane", "bin/controlplane", "our program, which is the etcd of both too")
	stock := flag.String("kube-apiserver", "", "stock kube-apiserver")
	rounds := flag.Int("rounds", 3, "turns that each server takes")
	profile := flag.String("profile", "", "directory for a CPU profile of each step of ours")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *ours, *stock, *rounds, *profile); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, controlplane, stock string, rounds int, profile string) error {
	results := map[string][]result{}
	for round := range rounds {
		order := []string{"ours", "stock"}
		if stock == "" {
			order = order[:1]
		}
		if round%2 == 1 {
			slices.Reverse(order)
		}
		for _, name := range order {
			server := ourServer(controlplane)
			profiles := profile
			if name == "stock" {
				server, profiles = stockServer(stock), ""
			}
			fmt.Fprintf(os.Stderr, "round %d of %d: %s\n", round+1, rounds, name)
			got, err := measure(ctx, controlplane, server, profiles)
			if err != nil {
				return fmt.Errorf("measure %s: %w", name, err)
			}
			results[name] = append(results[name], got)
		}
	}
	return report(os.Stdout, results["ours"], results["stock"])
}

// result is what one server showed in one turn.
type result struct {
	ready           time.Duration // start to /readyz
	readyCPU        time.Duration
	idle, anonymous int64 // resident bytes after some time without work
	peak            int64 // resident bytes at most
	steps           []stepResult
}

type stepResult struct {
	name  string
	n     int
	cpu   time.Duration // of the server's process, for all
	clock time.Duration
	p50   time.Duration
	p99   time.Duration
}

// idleTime is how long a server without work has until its memory is read.
const idleTime = 15 * time.Second

func measure(ctx context.Context, controlplane string, kind server, profile string) (got result, err error) {
	dir, err := os.MkdirTemp("", "clusterctl-bench-")
	if err != nil {
		return got, err
	}
	defer os.RemoveAll(dir)
	host, err := newHost(dir)
	if err != nil {
		return got, err
	}
	etcd, err := host.startEtcd(ctx, controlplane)
	if err != nil {
		return got, err
	}
	defer etcd.stop()
	began := time.Now()
	process, err := host.start(ctx, kind)
	if err != nil {
		return got, err
	}
	defer func() {
		process.stop()
		if log, readErr := os.ReadFile(process.log); err != nil && readErr == nil {
			err = fmt.Errorf("%w; the end of its log:\n%s", err, log[max(0, len(log)-4000):])
		}
	}()
	if err := host.awaitReady(ctx, process); err != nil {
		return got, err
	}
	got.ready = time.Since(began)
	if got.readyCPU, err = process.cpu(); err != nil {
		return got, err
	}
	load, err := newLoad(ctx, host)
	if err != nil {
		return got, err
	}
	select {
	case <-ctx.Done():
		return got, ctx.Err()
	case <-time.After(idleTime):
	}
	memory, err := process.memory()
	if err != nil {
		return got, err
	}
	got.idle, got.anonymous = memory.resident, memory.anonymous
	for _, step := range load.steps() {
		stopProfile := func() error { return nil }
		if profile != "" {
			stopProfile = load.profile(ctx, filepath.Join(profile, step.name+".pprof"))
		}
		one, err := load.run(ctx, process, step)
		if err != nil {
			return got, fmt.Errorf("%s: %w", step.name, err)
		}
		if err := stopProfile(); err != nil {
			return got, fmt.Errorf("profile %s: %w", step.name, err)
		}
		fmt.Fprintf(os.Stderr, "  %-28s cpu %6.2f s  clock %6.2f s\n", one.name, one.cpu.Seconds(), one.clock.Seconds())
		got.steps = append(got.steps, one)
	}
	memory, err = process.memory()
	got.peak = memory.peak
	return got, err
}
