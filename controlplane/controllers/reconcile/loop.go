package reconcile

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/workqueue"
	"k8s.io/component-base/metrics"
	"k8s.io/component-base/metrics/legacyregistry"
	_ "k8s.io/component-base/metrics/prometheus/workqueue" // queue depth, latency, retries
)

// A key that fails is tried again after 5 ms, then twice that, up to half a
// minute; upstream's quarter of an hour is longer than anybody wants to wait
// for a cluster that has healed.
const (
	firstRetry = 5 * time.Millisecond
	lastRetry  = 30 * time.Second
	// patience is how many conflicts in a row are nothing to speak of: by then
	// two seconds and more have passed.
	patience = 9
)

var duration = metrics.NewHistogramVec(&metrics.HistogramOpts{
	Namespace:      "clusterctl",
	Subsystem:      "controller",
	Name:           "reconcile_duration_seconds",
	Help:           "Time of one reconciliation, by controller and result (ok, conflict, error).",
	Buckets:        metrics.ExponentialBuckets(0.001, 4, 8),
	StabilityLevel: metrics.ALPHA,
}, []string{"controller", "result"})

func init() { legacyregistry.MustRegister(duration) }

// Loop calls one function for every key that is added, on several workers, one
// at a time for each key. A key added while it is worked on is worked on again.
type Loop struct {
	name      string
	workers   int
	logger    *slog.Logger
	queue     workqueue.TypedRateLimitingInterface[string]
	reconcile func(ctx context.Context, key string) error
}

// NewLoop makes a controller of reconcile. Its key is "namespace/name", or
// "name" where there is no namespace; nil means done, an error that the key is
// to be tried again later. Errors are logged by the loop.
func NewLoop(env *Environment, name string, workers int, reconcile func(ctx context.Context, key string) error) *Loop {
	return &Loop{
		name:      name,
		workers:   workers,
		logger:    env.Logger.With("controller", name),
		reconcile: reconcile,
		queue: workqueue.NewTypedRateLimitingQueueWithConfig(
			workqueue.NewTypedItemExponentialFailureRateLimiter[string](firstRetry, lastRetry),
			workqueue.TypedRateLimitingQueueConfig[string]{Name: name}),
	}
}

// Add asks for key to be reconciled.
func (l *Loop) Add(key string) { l.queue.Add(key) }

// AddAfter asks for key to be reconciled once delay has passed.
func (l *Loop) AddAfter(key string, delay time.Duration) { l.queue.AddAfter(key, delay) }

// AddObject asks for obj to be reconciled.
func (l *Loop) AddObject(obj metav1.Object) { l.queue.Add(Key(obj)) }

// Logger carries the controller's name.
func (l *Loop) Logger() *slog.Logger { return l.logger }

// Run works until ctx ends and every worker has stopped.
func (l *Loop) Run(ctx context.Context) error {
	var workers sync.WaitGroup
	for range l.workers {
		workers.Go(func() {
			for l.next(ctx) {
			}
		})
	}
	<-ctx.Done()
	l.queue.ShutDown()
	workers.Wait()
	return nil
}

func (l *Loop) next(ctx context.Context) bool {
	key, shutdown := l.queue.Get()
	if shutdown {
		return false
	}
	defer l.queue.Done(key)
	if ctx.Err() != nil {
		return true // drain: what is left belongs to the next leader
	}
	start := time.Now()
	err := guard(ctx, l.logger, key, func(ctx context.Context) error { return l.reconcile(ctx, key) })
	result := "ok"
	switch {
	case err == nil:
		l.queue.Forget(key)
	case ctx.Err() != nil:
		return true
	case apierrors.IsConflict(err) || errors.Is(err, ErrStale):
		// The cache is behind; what changes it also brings the key back, but
		// may have done so already.
		result = "conflict"
		level := slog.LevelDebug
		if l.queue.NumRequeues(key) >= patience {
			level = slog.LevelWarn
		}
		l.logger.Log(ctx, level, "try again with fresh data", "key", key, "error", err, "tries", l.queue.NumRequeues(key)+1)
		l.queue.AddRateLimited(key)
	default:
		result = "error"
		l.logger.Warn("reconcile", "key", key, "error", err, "tries", l.queue.NumRequeues(key)+1)
		l.queue.AddRateLimited(key)
	}
	duration.WithLabelValues(l.name, result).Observe(time.Since(start).Seconds())
	return true
}

// guard turns a panic into an error, so that one bad object does not take the
// control plane down.
func guard(ctx context.Context, logger *slog.Logger, what string, f func(context.Context) error) (err error) {
	defer func() {
		if p := recover(); p != nil {
			logger.Error("reconcile panicked", "key", what, "panic", p, "stack", string(debug.Stack()))
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return f(ctx)
}

// ErrStale says that the cache does not show this controller's last write yet.
var ErrStale = errors.New("cache is older than the last write")

// Key is the key of obj.
func Key(obj metav1.Object) string {
	return cache.MetaObjectToName(obj).String()
}

// Split undoes Key.
func Split(key string) (namespace, name string) {
	o, err := cache.ParseObjectName(key)
	if err != nil {
		return "", key
	}
	return o.Namespace, o.Name
}
