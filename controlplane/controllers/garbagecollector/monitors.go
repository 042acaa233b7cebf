package garbagecollector

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata/metadatainformer"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/controllers/reconcile"
)

// monitors feed the graph, from one informer for each resource: the shared one
// where other controllers use it, or else one that keeps metadata only. All
// methods are called from one goroutine.
type monitors struct {
	env     *reconcile.Environment
	graph   *graph
	wake    func([]types.UID)
	logger  *slog.Logger
	running map[schema.GroupVersionResource]*monitor
	group   sync.WaitGroup // of the informers of our own
}

type monitor struct {
	stop   func()
	synced cache.InformerSynced
}

// set starts what is missing of wanted and stops what is no longer wanted, but
// for the resources of groups in keep.
func (m *monitors) set(ctx context.Context, wanted []served, keep map[string]bool) error {
	want := map[schema.GroupVersionResource]bool{}
	for _, s := range wanted {
		want[s.resource] = true
		if m.running[s.resource] != nil {
			continue
		}
		started, err := m.start(ctx, s)
		if err != nil {
			return fmt.Errorf("monitor %s: %w", s.resource.GroupResource(), err)
		}
		m.running[s.resource] = started
	}
	for resource, running := range m.running {
		if want[resource] || keep[resource.Group] {
			continue
		}
		running.stop()
		delete(m.running, resource)
		m.wake(m.graph.removeResource(resource))
	}
	return nil
}

func (m *monitors) start(ctx context.Context, s served) (*monitor, error) {
	informer, shared := m.env.Shared(s.resource, s.kind)
	if !shared {
		informer = metadatainformer.NewFilteredMetadataInformer(m.env.Metadata, s.resource, metav1.NamespaceAll, 0, cache.Indexers{}, nil).Informer()
		if err := informer.SetTransform(bare); err != nil {
			return nil, err
		}
	}
	seen := func(obj any) {
		if o, ok := obj.(metav1.Object); ok {
			m.wake(m.graph.observe(newNode(s.resource, s.kind, o)))
		}
	}
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: seen,
		UpdateFunc: func(_, obj any) {
			seen(obj)
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(metav1.Object); ok {
				m.wake(m.graph.remove(o.GetUID()))
			}
		},
	})
	if err != nil {
		return nil, err
	}
	if shared {
		return &monitor{synced: registration.HasSynced, stop: func() {
			if err := informer.RemoveEventHandler(registration); err != nil {
				m.logger.Warn("stop watching", "resource", s.resource, "error", err)
			}
		}}, nil
	}
	own, stop := context.WithCancel(ctx)
	m.group.Go(func() { informer.RunWithContext(own) })
	return &monitor{synced: registration.HasSynced, stop: stop}, nil
}

// sync waits for the monitors that run, but for no longer than the deadline: a
// resource that cannot be listed (an aggregated API that is down) must not
// keep the rest from being collected.
func (m *monitors) sync(ctx context.Context, deadline time.Duration) {
	ctx, cancel := context.WithTimeout(ctx, deadline)
	defer cancel()
	for resource, running := range m.running {
		if !cache.WaitForCacheSync(ctx.Done(), running.synced) {
			m.logger.Warn("resource is not watched yet", "resource", resource)
		}
	}
}

// bare drops what the graph does not need.
func bare(obj any) (any, error) {
	if o, ok := obj.(*metav1.PartialObjectMetadata); ok {
		o.ManagedFields, o.Labels, o.Annotations = nil, nil, nil
	}
	return obj, nil
}
