package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/go-logr/logr"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/klog/v2"

	"clusterctl/test/bench/host"
	"clusterctl/test/bench/usage"
	"clusterctl/test/fixture"
)

func main() {
	controlplane := flag.String("controlplane", "bin/controlplane", "our program")
	stock := flag.String("kube-scheduler", "", "stock kube-scheduler")
	rounds := flag.Int("rounds", 1, "turns that each scheduler takes")
	sizes := flag.String("nodes", "100,1000,5000", "sizes of cluster")
	pods := flag.Int("pods", 1000, "pods to schedule in each")
	only := flag.String("workloads", "", "names of workloads; all if empty")
	flag.Parse()
	klog.SetLogger(logr.Discard()) // watches that end are no news here
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt)
	defer stop()
	r := &race{controlplane: *controlplane, contestants: contestants(*controlplane, *stock), rounds: *rounds, pods: *pods}
	if err := r.run(ctx, *sizes, *only); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// contestant is one of those that compete.
type contestant struct {
	name string
	// command runs the scheduler; nil: it is in the API server's process.
	command func(b *bench, kubeconfig string) (*exec.Cmd, error)
}

func contestants(controlplane, stock string) []contestant {
	all := []contestant{
		{"ours", func(b *bench, kubeconfig string) (*exec.Cmd, error) {
			command, err := b.host.Configured(controlplane, "scheduler", b.host.Config)
			if err == nil {
				command.Args = append(command.Args, "--kubeconfig", kubeconfig)
			}
			return command, err
		}},
		{"in process", nil},
	}
	if stock == "" {
		return all
	}
	return slices.Insert(all, 0, contestant{"stock", func(b *bench, kubeconfig string) (*exec.Cmd, error) {
		file := filepath.Join(b.host.Dir, "kube-scheduler.yaml")
		// Nothing but the limits of its client is changed, and no time is lost on a lease.
		content := "apiVersion: kubescheduler.config.k8s.io/v1\nkind: KubeSchedulerConfiguration\nleaderElection: {leaderElect: false}\n" +
			"clientConnection: {kubeconfig: " + strconv.Quote(kubeconfig) + ", qps: 100000, burst: 100000}\n"
		return exec.Command(stock, "--config="+file, "--secure-port=0"), os.WriteFile(file, []byte(content), 0o600)
	}})
}

// race is who competes, and what each showed.
type race struct {
	controlplane string
	contestants  []contestant
	rounds, pods int
	results      []result
}

// result is what one contestant showed in one turn on one workload.
type result struct {
	contestant, workload string
	nodes, pods          int
	drain                float64 // pods per second; none of the one in the API server's process, which cannot be kept from beginning
	stream               float64
	p50, p99             time.Duration // from the request that makes a pod to its decision, in the stream
	// CPU time of all of the stream. Servers are the API server and the controllers.
	scheduler, servers, etcd time.Duration
	memory                   usage.Memory // of the scheduler's process
}

func (r *race) run(ctx context.Context, sizes, only string) error {
	for size := range strings.SplitSeq(sizes, ",") {
		nodes, err := strconv.Atoi(size)
		if err != nil {
			return fmt.Errorf("parse -nodes: %w", err)
		}
		if err := r.size(ctx, nodes, only); err != nil {
			return fmt.Errorf("%d nodes: %w", nodes, err)
		}
	}
	return report(os.Stdout, r.results)
}

// size has all compete on one size of cluster.
func (r *race) size(ctx context.Context, nodes int, only string) error {
	dir, err := os.MkdirTemp("", "clusterctl-bench-")
	if err != nil {
		return err
	}
	defer func() {
		if err := os.RemoveAll(dir); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}()
	b, err := newBench(ctx, dir, r.controlplane, nodes, r.pods)
	if err != nil {
		return err
	}
	defer b.stop()
	for range r.rounds {
		for _, one := range r.contestants {
			if err := r.turn(ctx, b, one, only); err != nil {
				return fmt.Errorf("%s: %w", one.name, err)
			}
		}
		slices.Reverse(r.contestants)
	}
	return nil
}

// turn has one contestant do all workloads.
func (r *race) turn(ctx context.Context, b *bench, one contestant, only string) error {
	if err := b.serve(ctx, one); err != nil {
		return err
	}
	for _, w := range workloads {
		if only != "" && !slices.Contains(strings.Split(only, ","), w.name) {
			continue
		}
		got, err := b.measure(ctx, w, one)
		if err != nil {
			return fmt.Errorf("%s: %w", w.name, err)
		}
		fmt.Fprintf(os.Stderr, "%5d nodes  %-10s %-10s  drain %5.0f/s  stream %5.0f/s  p50 %5.0f ms  p99 %5.0f ms  CPU of scheduler %5.2f s, servers %5.2f s, etcd %5.2f s\n",
			b.nodes, w.name, one.name, got.drain, got.stream, got.p50.Seconds()*1e3, got.p99.Seconds()*1e3,
			got.scheduler.Seconds(), got.servers.Seconds(), got.etcd.Seconds())
		r.results = append(r.results, got)
	}
	return nil
}

// settle is how long what follows a decision may take: events, above all.
const settle = time.Second

// measure has one contestant do one workload, and once more if it can be kept
// from beginning: then it also finds pods that wait.
func (b *bench) measure(ctx context.Context, w workload, one contestant) (got result, err error) {
	got = result{contestant: one.name, workload: w.name, nodes: b.nodes, pods: b.pods}
	if w.filled {
		if err := b.fill(ctx); err != nil {
			return got, err
		}
		defer func() { err = errors.Join(err, b.empty(ctx)) }()
	}
	d, err := b.watch(ctx)
	if err != nil {
		return got, err
	}
	defer d.end()
	var scheduler *host.Process
	if one.command != nil {
		if _, err := b.create(ctx, w); err != nil {
			return got, err
		}
		kubeconfig, err := b.kubeconfig("scheduler", user.KubeScheduler)
		if err != nil {
			return got, err
		}
		if scheduler, err = b.host.Start(one.command(b, kubeconfig)); err != nil {
			return got, err
		}
		defer scheduler.Stop()
		at, err := d.await(ctx, b.pods)
		if err != nil {
			return got, explain(err, scheduler)
		}
		// Who chooses all victims first and binds then has worked all the time.
		got.drain = float64(b.pods-1) / latest(at).Sub(d.sign).Seconds()
		if err := b.clear(ctx, w); err != nil {
			return got, err
		}
	}
	if err := b.stream(ctx, w, d, scheduler, &got); err != nil {
		if scheduler != nil {
			err = explain(err, scheduler)
		}
		return got, err
	}
	return got, b.clear(ctx, w)
}

// stream makes the pods while the scheduler runs.
func (b *bench) stream(ctx context.Context, w workload, d *decisions, scheduler *host.Process, got *result) error {
	time.Sleep(settle)
	costs := []struct {
		processes []*host.Process
		cpu       *time.Duration
	}{{[]*host.Process{scheduler}, &got.scheduler}, {b.servers, &got.servers}, {[]*host.Process{b.etcd}, &got.etcd}}
	count := func() error {
		for _, c := range costs {
			var all time.Duration
			for _, process := range c.processes {
				if process == nil {
					continue
				}
				used, err := process.CPU()
				if err != nil {
					return err
				}
				all += used
			}
			*c.cpu = all - *c.cpu // the second time, this leaves the difference
		}
		return nil
	}
	if err := count(); err != nil {
		return err
	}
	begun, err := b.create(ctx, w)
	if err != nil {
		return err
	}
	at, err := d.await(ctx, b.pods)
	if err != nil {
		return err
	}
	got.stream = float64(b.pods) / latest(at).Sub(begun[0]).Seconds()
	waits := make([]time.Duration, b.pods)
	for i := range waits {
		waits[i] = at[podName(i)].Sub(begun[i])
	}
	slices.Sort(waits)
	got.p50, got.p99 = waits[len(waits)/2], waits[len(waits)*99/100]
	time.Sleep(settle)
	if err := count(); err != nil {
		return err
	}
	if scheduler != nil {
		got.memory, err = scheduler.Memory()
	}
	return err
}

// latest is when the last of them was decided.
func latest(at map[string]time.Time) (last time.Time) {
	for _, when := range at {
		if when.After(last) {
			last = when
		}
	}
	return last
}

// kubeconfig writes how a process that is called name reaches the API server.
func (b *bench) kubeconfig(name, user string) (string, error) {
	config, err := fixture.Certificate(b.host.Keys, b.host.Ports[0], user)
	if err != nil {
		return "", err
	}
	file := filepath.Join(b.host.Dir, name+".kubeconfig")
	if err := clientcmd.WriteToFile(fixture.Kubeconfig(config, ""), file); err != nil {
		return "", fmt.Errorf("write kubeconfig: %w", err)
	}
	return file, nil
}
