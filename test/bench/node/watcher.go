package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/client-go/tools/cache"
)

// namespace is where the bench's pods are.
const namespace = metav1.NamespaceDefault

// watcher notes when it hears of what happens to pods. Safe for concurrent use.
type watcher struct {
	mu      sync.Mutex
	changed chan struct{} // closed and made anew with every event
	pods    map[string]*v1.Pod
	running map[string]time.Time
	ended   map[string]time.Time
}

func (l *lab) watch(ctx context.Context) (*watcher, error) {
	w := &watcher{changed: make(chan struct{}), pods: map[string]*v1.Pod{}, running: map[string]time.Time{}, ended: map[string]time.Time{}}
	source := cache.NewListWatchFromClient(l.client.CoreV1().RESTClient(), "pods", namespace, fields.Everything())
	_, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(source, l.client), ObjectType: &v1.Pod{},
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(o any) { w.saw(o.(*v1.Pod), false) },
			UpdateFunc: func(_, o any) { w.saw(o.(*v1.Pod), false) },
			DeleteFunc: func(o any) {
				if last, ok := o.(cache.DeletedFinalStateUnknown); ok {
					o = last.Obj
				}
				w.saw(o.(*v1.Pod), true)
			},
		}})
	go controller.RunWithContext(ctx)
	if !cache.WaitForCacheSync(ctx.Done(), controller.HasSynced) {
		return nil, fmt.Errorf("watch pods: %w", ctx.Err())
	}
	return w, nil
}

func (w *watcher) saw(pod *v1.Pod, gone bool) {
	now := time.Now()
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[pod.Name] = pod
	if gone {
		delete(w.pods, pod.Name)
	}
	first := func(times map[string]time.Time) {
		if times[pod.Name].IsZero() {
			times[pod.Name] = now
		}
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.State.Running != nil && pod.Status.Phase == v1.PodRunning {
			first(w.running)
		}
		if c.State.Terminated != nil {
			first(w.ended)
		}
	}
	close(w.changed)
	w.changed = make(chan struct{})
}

// await waits until ok, which is called with w.mu held.
func (w *watcher) await(ctx context.Context, within time.Duration, what string, ok func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		w.mu.Lock()
		done, changed := ok(), w.changed
		w.mu.Unlock()
		if done {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", what, ctx.Err())
		case <-changed:
		}
	}
}

// pod is one that does nothing, bound to the worker.
func pod(name string) *v1.Pod {
	grace := int64(1)
	return &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: v1.PodSpec{
			NodeName: worker, RestartPolicy: v1.RestartPolicyNever, TerminationGracePeriodSeconds: &grace,
			Containers: []v1.Container{{Name: "main", Image: "clusterctl.dev/pause:1", ImagePullPolicy: v1.PullIfNotPresent}},
		},
	}
}
