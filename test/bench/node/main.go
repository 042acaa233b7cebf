package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"slices"
	"syscall"
	"time"
)

// options are the command line.
type options struct {
	clusterctl, kubelet string
	rounds, pods, full  int
	exits               int
	settle, idle        time.Duration
	only                bool // exits are timed and nothing else
}

func main() {
	var o options
	flag.StringVar(&o.clusterctl, "clusterctl", "bin/clusterctl", "our program")
	flag.StringVar(&o.kubelet, "kubelet", "", "stock kubelet; empty: ours is measured alone")
	flag.IntVar(&o.rounds, "rounds", 1, "turns that each agent takes")
	flag.IntVar(&o.pods, "pods", 100, "pods that are made at once")
	flag.IntVar(&o.full, "full", 110, "pods that idle use is measured with")
	flag.IntVar(&o.exits, "exits", 20, "containers whose exit is timed")
	flag.DurationVar(&o.settle, "settle", 20*time.Second, "how long an agent is left alone before its idle use is measured")
	flag.DurationVar(&o.idle, "idle", 30*time.Second, "how long idle use is measured")
	flag.BoolVar(&o.only, "only-exits", false, "time exits and nothing else")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, o options) (err error) {
	l, err := bootLab(ctx, o)
	defer func() {
		if gone := l.delete(); err == nil {
			err = gone
		}
	}()
	if err != nil {
		return err
	}
	if err := l.clear(ctx); err != nil {
		return err
	}
	contestants := []*agent{ourAgent(l)}
	if o.kubelet != "" {
		contestants = append(contestants, stockAgent(l, o.kubelet))
	}
	results := map[string][]result{}
	for round := range o.rounds {
		for _, a := range contestants {
			say("round %d of %d: %s", round+1, o.rounds, a.name)
			r, err := measure(ctx, l, a, o)
			if err != nil {
				return fmt.Errorf("measure %s: %w", a.name, err)
			}
			results[a.name] = append(results[a.name], *r)
		}
		slices.Reverse(contestants)
	}
	return report(os.Stdout, o.only, results[ours], results[stock])
}

// say tells how far it is, beside the table.
func say(format string, args ...any) {
	fmt.Fprintf(os.Stderr, time.Now().Format(time.TimeOnly)+" "+format+"\n", args...)
}
