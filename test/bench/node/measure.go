package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sync/errgroup"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/test/bench/usage"
)

// clients make pods at the same time.
const clients = 10

// result is what one turn of an agent came to.
type result struct {
	whole    time.Duration   // from the first creation to the last pod running
	running  []time.Duration // each pod's, sorted
	burstCPU time.Duration   // of the agent, for all of them
	hostCPU  time.Duration   // of the worker as a whole, for all of them
	exits    []time.Duration // from exit to the status that says so, sorted
	told     []time.Duration // from the runtime's event of it to the status, sorted
	exitCPU  time.Duration   // of the agent, for all of them
	gone     time.Duration   // all pods deleted to the last gone
	goneCPU  time.Duration   // of the agent, for that
	goneHost time.Duration   // of the worker as a whole, for that, and for what is left of them
	empty    idle
	full     idle
	pods     int
	fullPods int
}

// idle is use while nothing happens.
type idle struct {
	usage.Memory
	cpu float64 // share of one core
}

func measure(ctx context.Context, l *lab, a *agent, o options) (*result, error) {
	if err := a.start(ctx); err != nil {
		return nil, fmt.Errorf("start: %w", err)
	}
	watching, stop := context.WithCancel(ctx)
	defer stop()
	w, err := l.watch(watching)
	if err != nil {
		return nil, err
	}
	// A first pod shows that the agent has taken the node over.
	if _, _, err := l.burst(ctx, w, "first", 1); err != nil {
		return nil, err
	}
	if _, err := l.clean(ctx, w); err != nil {
		return nil, err
	}
	process, err := a.process(ctx, l)
	if err != nil {
		return nil, err
	}
	r := &result{pods: o.pods, fullPods: o.full}
	if o.only {
		r.pods = o.exits
		if _, _, err := l.burst(ctx, w, "pod", r.pods); err != nil {
			return nil, err
		}
	} else if err := measureBurst(ctx, l, a, w, process, o, r); err != nil {
		return nil, err
	}
	if err := measureExits(ctx, l, a, w, process, o, r); err != nil {
		return nil, err
	}
	if o.only {
		if _, err := l.clean(ctx, w); err != nil {
			return nil, err
		}
		return r, a.stop(ctx)
	}
	for i := range o.exits {
		if err := l.client.CoreV1().Pods(namespace).Delete(ctx, fmt.Sprint("pod-", i), metav1.DeleteOptions{}); err != nil {
			return nil, fmt.Errorf("delete pod: %w", err)
		}
	}
	if err := w.await(ctx, 2*time.Minute, "ended pods to be gone", func() bool { return len(w.pods) == o.pods-o.exits }); err != nil {
		return nil, err
	}

	say("%s: %d pods in all", a.name, o.full)
	if _, _, err := l.burst(ctx, w, "more", o.full-o.pods+o.exits); err != nil {
		return nil, err
	}
	if r.full, err = measureIdle(ctx, process, o); err != nil {
		return nil, err
	}
	if err := measureEnd(ctx, l, w, process, r); err != nil {
		return nil, err
	}
	if err := a.stop(ctx); err != nil {
		return nil, fmt.Errorf("stop: %w", err)
	}
	return r, nil
}

// measureBurst measures the agent without a pod, and how it takes many at once.
func measureBurst(ctx context.Context, l *lab, a *agent, w *watcher, process usage.Process, o options, r *result) (err error) {
	if r.empty, err = measureIdle(ctx, process, o); err != nil {
		return err
	}
	say("%s: %d pods at once", a.name, o.pods)
	before, err := process.CPU()
	if err != nil {
		return err
	}
	hostBefore, err := l.cpu()
	if err != nil {
		return err
	}
	if r.running, r.whole, err = l.burst(ctx, w, "pod", o.pods); err != nil {
		return err
	}
	after, err := process.CPU()
	if err != nil {
		return err
	}
	r.burstCPU = after - before
	hostAfter, err := l.cpu()
	if err != nil {
		return err
	}
	r.hostCPU = hostAfter - hostBefore
	slices.Sort(r.running)
	return nil
}

// remains is how long the agent may take for what is left of pods that are gone.
const remains = 5 * time.Second

// measureEnd deletes all pods at once.
func measureEnd(ctx context.Context, l *lab, w *watcher, process usage.Process, r *result) error {
	before, err := process.CPU()
	if err != nil {
		return err
	}
	hostBefore, err := l.cpu()
	if err != nil {
		return err
	}
	if r.gone, err = l.clean(ctx, w); err != nil {
		return err
	}
	if err := pause(ctx, remains); err != nil {
		return err
	}
	after, err := process.CPU()
	if err != nil {
		return err
	}
	hostAfter, err := l.cpu()
	r.goneCPU, r.goneHost = after-before, hostAfter-hostBefore
	return err
}

// measureExits ends containers one after the other.
func measureExits(ctx context.Context, l *lab, a *agent, w *watcher, process usage.Process, o options, r *result) error {
	say("%s: %d containers exit, one after the other", a.name, o.exits)
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	heard, err := l.listen(ctx)
	if err != nil {
		return err
	}
	before, err := process.CPU()
	if err != nil {
		return err
	}
	for i := range o.exits {
		whole, told, err := l.exit(ctx, w, heard, fmt.Sprint("pod-", i))
		if err != nil {
			return err
		}
		r.exits, r.told = append(r.exits, whole), append(r.told, told)
	}
	after, err := process.CPU()
	if err != nil {
		return err
	}
	r.exitCPU = after - before
	slices.Sort(r.exits)
	slices.Sort(r.told)
	return nil
}

// burst makes n pods at once. It returns how long each took from its own creation
// on, and all of them from the first one's.
func (l *lab) burst(ctx context.Context, w *watcher, prefix string, n int) (each []time.Duration, whole time.Duration, err error) {
	began := time.Now()
	created := make([]time.Time, n)
	group, creating := errgroup.WithContext(ctx)
	group.SetLimit(clients)
	for i := range n {
		group.Go(func() error {
			created[i] = time.Now()
			_, err := l.client.CoreV1().Pods(namespace).Create(creating, pod(fmt.Sprintf("%s-%d", prefix, i)), metav1.CreateOptions{})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return nil, 0, fmt.Errorf("create pods: %w", err)
	}
	each = make([]time.Duration, n)
	err = w.await(ctx, 5*time.Minute, fmt.Sprintf("%d pods to run", n), func() bool {
		for i := range n {
			at := w.running[fmt.Sprintf("%s-%d", prefix, i)]
			if at.IsZero() {
				return false
			}
			each[i] = at.Sub(created[i])
			whole = max(whole, at.Sub(began))
		}
		return true
	})
	return each, whole, err
}

// exit ends the pod's process and returns how long the API does not know, from
// then on and from the runtime's own news of it on.
func (l *lab) exit(ctx context.Context, w *watcher, heard *ears, name string) (whole, told time.Duration, err error) {
	w.mu.Lock()
	_, id, _ := strings.Cut(w.pods[name].Status.ContainerStatuses[0].ContainerID, "://")
	w.mu.Unlock()
	pid, err := processOf(id)
	if err != nil {
		return 0, 0, err
	}
	began := time.Now()
	if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
		return 0, 0, fmt.Errorf("end the container's process: %w", err)
	}
	if err := w.await(ctx, time.Minute, "the exit to be told", func() bool { return !w.ended[name].IsZero() }); err != nil {
		return 0, 0, err
	}
	w.mu.Lock()
	at := w.ended[name]
	w.mu.Unlock()
	event, err := heard.ended(ctx, id)
	if err != nil {
		return 0, 0, err
	}
	// Not in step with anything that looks once a second.
	return at.Sub(began), at.Sub(event), pause(ctx, 330*time.Millisecond+time.Duration(began.UnixNano()%int64(700*time.Millisecond)))
}

// processOf finds the process of a container, as this machine numbers it.
func processOf(container string) (int, error) {
	files, err := filepath.Glob("/proc/[0-9]*/cgroup")
	if err != nil {
		return 0, err
	}
	for _, file := range files {
		groups, err := os.ReadFile(file)
		if err != nil || !bytes.Contains(groups, []byte(container)) {
			continue // ended since, or another's
		}
		return strconv.Atoi(filepath.Base(filepath.Dir(file)))
	}
	return 0, fmt.Errorf("no process is in the cgroup of container %s", container)
}

// clean deletes every pod and returns how long that took.
func (l *lab) clean(ctx context.Context, w *watcher) (time.Duration, error) {
	began := time.Now()
	err := l.client.CoreV1().Pods(namespace).DeleteCollection(ctx, metav1.DeleteOptions{}, metav1.ListOptions{})
	if err != nil {
		return 0, fmt.Errorf("delete pods: %w", err)
	}
	err = w.await(ctx, 5*time.Minute, "all pods to be gone", func() bool { return len(w.pods) == 0 })
	took := time.Since(began)
	w.mu.Lock()
	clear(w.running)
	clear(w.ended)
	w.mu.Unlock()
	return took, err
}

// measureIdle leaves the agent alone and then measures what it uses.
func measureIdle(ctx context.Context, p usage.Process, o options) (idle, error) {
	err := pause(ctx, o.settle)
	before, cpuErr := p.CPU()
	began := time.Now()
	err = errors.Join(err, cpuErr, pause(ctx, o.idle))
	after, cpuErr := p.CPU()
	m, memoryErr := p.Memory()
	return idle{m, (after - before).Seconds() / time.Since(began).Seconds()}, errors.Join(err, cpuErr, memoryErr)
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(d):
		return nil
	}
}
