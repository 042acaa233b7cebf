package leader

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
)

// A dead leader's lease is out two seconds after its last renewal, and those
// who wait for it watch it, so they know to the moment when that is: work goes
// on within two seconds and the time that it takes to start. A leader may miss
// three renewals in a row, and has to stop 0.4 s before another may start. Where
// renewals are slow the lease is longer: see pace. Every candidate times the
// lease by its own clock, so skew between hosts does not matter.
const (
	shortestLease  = 2 * time.Second
	longestLease   = 8 * time.Second
	stopBefore     = 400 * time.Millisecond
	retryPeriod    = 400 * time.Millisecond
	releaseTimeout = time.Second
)

// Options names an election.
type Options struct {
	Name      string // of the Lease: "controllers", "scheduler"
	Namespace string // of the Lease: "kube-system"
	Identity  string // of this candidate, unique in the cluster
	Logger    *slog.Logger
}

// Run calls run whenever this process leads, with a context that ends when ctx
// does or the lease is lost; run must return soon after. Having lost the lease,
// Run waits to get it again and calls run again. When ctx ends, the lease is
// kept until run has returned and then given up, so that a successor starts at
// once and never beside this one.
//
// Run returns nil when ctx has ended, and an error when run returned one, or
// returned at all, while it still led.
func Run(ctx context.Context, client kubernetes.Interface, options Options, run func(ctx context.Context) error) error {
	logger := options.Logger.With("election", options.Name)
	wait := &waiting{client: client.CoordinationV1().Leases(options.Namespace), name: options.Name, logger: logger}
	renewals := &pace{}
	for wait.vacant(ctx) {
		lock := &bid{LeaseLock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: options.Name, Namespace: options.Namespace},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: options.Identity},
		}, out: wait.last, renewals: renewals}
		t := &term{lock: lock, run: run, logger: logger}
		if err := t.serve(ctx); err != nil {
			return fmt.Errorf("lead %s: %w", options.Name, err)
		}
		if !lock.won {
			pause(ctx) // whatever was in the way
		}
	}
	return nil
}

// term is one candidacy and the leadership it ends in.
type term struct {
	lock   *bid
	run    func(context.Context) error
	logger *slog.Logger

	mu       sync.Mutex
	over     bool          // no run may start any more
	finished chan struct{} // closed when run has returned; nil before it starts
	err      error         // of run; read after finished
}

func (t *term) serve(ctx context.Context) error {
	// The lease outlives ctx, so that it is held while run winds down.
	hold, drop := context.WithCancel(context.WithoutCancel(ctx))
	defer drop()
	t.lock.lost = drop
	defer t.lock.end()
	stopWatching := context.AfterFunc(ctx, func() {
		if t.closeForStart() == nil {
			drop()
		}
	})
	defer stopWatching()
	elector, err := leaderelection.NewLeaderElector(leaderelection.LeaderElectionConfig{
		Lock:          t.lock,
		Name:          t.lock.Describe(),
		LeaseDuration: longestLease,
		RenewDeadline: longestLease - stopBefore, // the lock ends the term sooner
		RetryPeriod:   retryPeriod,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(held context.Context) {
				defer drop()
				t.work(ctx, held)
			},
			OnStoppedLeading: func() {},
		},
	})
	if err != nil {
		return fmt.Errorf("make elector: %w", err)
	}
	elector.Run(hold)
	if finished := t.closeForStart(); finished != nil {
		<-finished
	}
	if elector.IsLeader() {
		t.release(context.WithoutCancel(ctx))
	}
	return t.err
}

// closeForStart forbids a run that has not started, and returns the channel
// that one which has started closes at its end.
func (t *term) closeForStart() chan struct{} {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.over = true
	return t.finished
}

// work runs run while the lease is held and ctx lives.
func (t *term) work(ctx, held context.Context) {
	t.mu.Lock()
	if t.over {
		t.mu.Unlock()
		return
	}
	t.finished = make(chan struct{})
	t.mu.Unlock()
	defer close(t.finished)

	runCtx, stop := context.WithCancel(held)
	defer stop()
	defer context.AfterFunc(ctx, stop)()
	t.logger.Info("started leading")
	err := t.run(runCtx)
	if runCtx.Err() != nil || ctx.Err() != nil {
		t.logger.Info("stopped leading", "result", err)
		return
	}
	if err == nil {
		err = errors.New("work ended by itself")
	}
	t.err = err
}

// release hands the lease to whoever asks next. Failing to only costs the
// successor the rest of the lease's life.
func (t *term) release(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, releaseTimeout)
	defer cancel()
	record, _, err := t.lock.Get(ctx)
	if err == nil && record.HolderIdentity == t.lock.Identity() {
		now := metav1.Now()
		err = t.lock.Update(ctx, resourcelock.LeaderElectionRecord{
			LeaderTransitions:    record.LeaderTransitions,
			LeaseDurationSeconds: 1,
			RenewTime:            now,
			AcquireTime:          now,
		})
	}
	if err != nil {
		t.logger.Warn("release the lease", "error", err)
	}
}
