package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

// decisions notes when a watcher saw what became of each pod: that it was bound,
// or for a hopeless one that its condition says so.
type decisions struct {
	mu   sync.Mutex
	seen map[types.UID]bool
	at   map[string]time.Time // by name
	sign time.Time            // when the first pod showed that somebody works on it
	more chan struct{}        // one slot: something was decided
	stop context.CancelFunc
	done chan struct{}
}

// watch begins to note, from what there is now.
func (b *bench) watch(ctx context.Context) (*decisions, error) {
	d := &decisions{seen: map[types.UID]bool{}, at: map[string]time.Time{}, more: make(chan struct{}, 1), done: make(chan struct{})}
	ctx, d.stop = context.WithCancel(ctx)
	list := cache.NewListWatchFromClient(b.clients[0].CoreV1().RESTClient(), "pods", namespace, fields.Everything())
	_, informer := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: list, ObjectType: &corev1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(object any) { d.note(object.(*corev1.Pod)) },
			UpdateFunc: func(_, object any) { d.note(object.(*corev1.Pod)) },
		},
	})
	go func() {
		defer close(d.done)
		informer.Run(ctx.Done())
	}()
	if !cache.WaitForCacheSync(ctx.Done(), informer.HasSynced) {
		return nil, fmt.Errorf("watch pods: %w", context.Cause(ctx))
	}
	return d, nil
}

func (d *decisions) end() {
	d.stop()
	<-d.done
}

func (d *decisions) note(pod *corev1.Pod) {
	now := time.Now()
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.sign.IsZero() && (pod.Spec.NodeName != "" || pod.Status.NominatedNodeName != "" || len(pod.Status.Conditions) > 0) {
		d.sign = now
	}
	if !decided(pod) {
		return
	}
	if d.seen[pod.UID] {
		return
	}
	d.seen[pod.UID], d.at[pod.Name] = true, now
	select {
	case d.more <- struct{}{}:
	default:
	}
}

func decided(pod *corev1.Pod) bool {
	if pod.Spec.NodeName != "" {
		return true
	}
	if _, refused := pod.Labels[hopeless]; !refused {
		return false
	}
	for _, condition := range pod.Status.Conditions {
		if condition.Type == corev1.PodScheduled && condition.Status == corev1.ConditionFalse {
			return true
		}
	}
	return false
}

// patience is how long a decision may be waited for.
const patience = 90 * time.Second

// await waits until n pods are decided, tells when each was, by name, and begins
// anew: other pods may have their names then.
func (d *decisions) await(ctx context.Context, n int) (map[string]time.Time, error) {
	for {
		d.mu.Lock()
		count := len(d.at)
		if count >= n {
			at := d.at
			d.at = map[string]time.Time{}
			d.mu.Unlock()
			return at, nil
		}
		d.mu.Unlock()
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-d.more:
		case <-time.After(patience):
			return nil, fmt.Errorf("%w: %d of %d", errSlow, count, n)
		}
	}
}
