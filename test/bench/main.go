package main

import (
	"context"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"clusterctl/test/bench/host"
)

func main() {
	ours := flag.String("controlplane", "bin/controlplane", "our program, which is the etcd of both too")
	stock := flag.String("kube-apiserver", "", "stock kube-apiserver")
	rounds := flag.Int("rounds", 3, "turns that each server takes")
	profile := flag.String("profile", "", "directory for CPU profiles of each step (taking them costs CPU, too)")
	only := flag.String("only", "", "measure but the steps whose names match this pattern, and those that create what they need")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	if err := run(ctx, *ours, *stock, *rounds, *profile, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// contestant is one of the servers: how it starts, and where profiles of it go.
type contestant struct {
	name    string
	kind    server
	profile string
}

func run(ctx context.Context, controlplane, stock string, rounds int, profile, only string) error {
	measured, err := regexp.Compile("^create |" + only)
	if err != nil {
		return fmt.Errorf("read pattern of steps: %w", err)
	}
	contestants := []contestant{{"ours", ourServer(controlplane), profile}}
	if stock != "" {
		contestants = append(contestants, contestant{"stock", stockServer(stock), profile})
	}
	results := map[string][]result{}
	for round := range rounds {
		fmt.Fprintf(os.Stderr, "round %d of %d\n", round+1, rounds)
		got, err := race(ctx, controlplane, contestants, measured)
		if err != nil {
			return err
		}
		for _, one := range contestants {
			results[one.name] = append(results[one.name], got[one.name])
		}
		slices.Reverse(contestants)
	}
	return report(os.Stdout, results["ours"], results["stock"])
}

// race has all contestants do each step, one after the other, so that what else
// goes on on the machine meets all alike.
func race(ctx context.Context, controlplane string, contestants []contestant, measured *regexp.Regexp) (map[string]result, error) {
	runs, results := map[string]*runner{}, map[string]result{}
	for _, one := range contestants {
		started, err := newRunner(ctx, controlplane, one, measured)
		if err != nil {
			return nil, fmt.Errorf("start %s: %w", one.name, err)
		}
		defer started.stop()
		runs[one.name] = started
	}
	order := slices.Clone(contestants)
	for i, step := range runs["ours"].steps {
		for range max(step.turns, 1) {
			for _, one := range order {
				if err := runs[one.name].do(ctx, i); err != nil {
					return nil, fmt.Errorf("measure %s: %w", one.name, err)
				}
			}
			slices.Reverse(order)
		}
	}
	for _, one := range contestants {
		memory, err := runs[one.name].process.Memory()
		if err != nil {
			return nil, fmt.Errorf("measure %s: %w", one.name, err)
		}
		runs[one.name].got.peak = memory.Peak
		results[one.name] = runs[one.name].got
	}
	return results, nil
}

// result is what one server showed in one turn.
type result struct {
	ready           time.Duration // start to /readyz
	readyCPU        time.Duration
	idle, anonymous int64          // resident bytes after some time without work
	peak            int64          // resident bytes at most
	steps           [][]stepResult // the turns of each
}

// middle is the median of what the turns of the step at i showed.
func (r result) middle(i int, of func(stepResult) float64) float64 { return median(r.steps[i], of) }

type stepResult struct {
	name string
	n    int
	cpu  time.Duration // of the server's process, for all
	// bytes of the server's heap, for all
	allocated   float64
	collections float64 // of garbage
	clock       time.Duration
	p50         time.Duration
	p99         time.Duration
}

// idleTime is how long a server without work has until its memory is read.
const idleTime = 20 * time.Second

// runner is one server at work in one turn.
type runner struct {
	contestant
	dir           string
	etcd, process *host.Process
	load          *load
	steps         []step
	got           result
}

// newRunner starts a server on a fresh etcd, and looks at it while it is idle.
func newRunner(ctx context.Context, controlplane string, one contestant, measured *regexp.Regexp) (r *runner, err error) {
	r = &runner{contestant: one}
	if r.dir, err = os.MkdirTemp("", "clusterctl-bench-"); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = r.explain(err)
			r.stop()
		}
	}()
	h, err := host.New(r.dir)
	if err != nil {
		return nil, err
	}
	if r.etcd, err = h.Start(h.Etcd(controlplane)); err != nil {
		return nil, err
	}
	// A new member waits for up to two seconds until it elects itself, which is
	// not the server's time.
	if err := h.AwaitEtcd(ctx, r.etcd); err != nil {
		return nil, err
	}
	began := time.Now()
	if r.process, err = h.Start(one.kind(h)); err != nil {
		return nil, err
	}
	if err := h.AwaitReady(ctx, r.process); err != nil {
		return nil, err
	}
	r.got.ready = time.Since(began)
	if r.got.readyCPU, err = r.process.CPU(); err != nil {
		return nil, err
	}
	if r.load, err = newLoad(ctx, h); err != nil {
		return nil, err
	}
	r.steps = slices.DeleteFunc(r.load.steps(), func(s step) bool { return !measured.MatchString(s.name) })
	r.got.steps = make([][]stepResult, len(r.steps))
	select {
	case <-ctx.Done():
		return nil, ctx.Err()
	case <-time.After(idleTime):
	}
	memory, err := r.process.Memory()
	r.got.idle, r.got.anonymous = memory.Resident, memory.Anonymous
	return r, err
}

// do does the step at i.
func (r *runner) do(ctx context.Context, i int) error {
	step, stopProfile := r.steps[i], func() error { return nil }
	if r.profile != "" {
		stopProfile = r.load.profile(ctx, filepath.Join(r.profile, r.name+" "+step.name+".pprof"))
	}
	done, err := r.load.run(ctx, r.process, step)
	if err != nil {
		return r.explain(fmt.Errorf("%s: %w", step.name, err))
	}
	if err := stopProfile(); err != nil {
		return fmt.Errorf("profile %s: %w", step.name, err)
	}
	fmt.Fprintf(os.Stderr, "  %-28s %-5s  cpu %6.2f s  clock %6.2f s  %.0f collections\n",
		done.name, r.name, done.cpu.Seconds(), done.clock.Seconds(), done.collections)
	r.got.steps[i] = append(r.got.steps[i], done)
	return nil
}

// explain adds the end of the server's log to err.
func (r *runner) explain(err error) error {
	if r.process == nil {
		return err
	}
	log, readErr := os.ReadFile(r.process.Log)
	if readErr != nil {
		return err
	}
	return fmt.Errorf("%w; the end of its log:\n%s", err, log[max(0, len(log)-4000):])
}

// stop ends what runs and removes what it kept.
func (r *runner) stop() {
	for _, p := range []*host.Process{r.process, r.etcd} {
		if p != nil {
			p.Stop()
		}
	}
	if err := os.RemoveAll(r.dir); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
	}
}
