package garbagecollector

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/lru"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 8
	// refresh is how often discovery is asked for new kinds.
	refresh = 15 * time.Second
	// syncDeadline bounds the wait for all monitors at the start.
	syncDeadline = 30 * time.Second
	// recheck is when an object is looked at again whose owner exists but is
	// not watched, or is of a kind that is not known.
	recheck = 30 * time.Second
	// remembered is how many absent owners are remembered: a deleted owner is
	// asked for by each of its dependents.
	remembered = 500
)

type controller struct {
	discovery discovery.DiscoveryInterface
	metadata  metadata.Interface
	graph     *graph
	kinds     kinds
	monitors  *monitors
	absent    *lru.Cache // of types.UID
	recorder  record.EventRecorder
	loop      *reconcile.Loop
}

// New makes the controller. It must be made after those whose informers it is
// to share.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c := &controller{
		discovery: env.Client.Discovery(),
		metadata:  env.Metadata,
		graph:     newGraph(),
		absent:    lru.New(remembered),
		recorder:  env.Recorder("garbage-collector-controller"),
	}
	c.loop = reconcile.NewLoop(env, "garbagecollector", workers, c.reconcile)
	c.monitors = &monitors{
		env:    env,
		graph:  c.graph,
		logger: c.loop.Logger(),
		wake: func(uids []types.UID) {
			for _, uid := range uids {
				c.loop.Add(string(uid))
			}
		},
		running: map[schema.GroupVersionResource]*monitor{},
	}
	return c, nil
}

// Run watches first and collects then: only who sees all dependents may say
// that there are none.
func (c *controller) Run(ctx context.Context) error {
	defer c.monitors.group.Wait()
	c.update(ctx)
	c.monitors.sync(ctx, syncDeadline)
	c.loop.Logger().Debug("graph is built", "objects", c.graph.size())
	done := make(chan error, 1)
	go func() { done <- c.loop.Run(ctx) }()
	ticks := time.NewTicker(refresh)
	defer ticks.Stop()
	for {
		select {
		case err := <-done:
			return err
		case <-ticks.C:
			c.update(ctx)
		}
	}
}

// update follows discovery. What fails is tried again at the next tick.
func (c *controller) update(ctx context.Context) {
	wanted, failed, err := c.kinds.refresh(c.discovery)
	if err == nil {
		err = c.monitors.set(ctx, wanted, failed)
	}
	if err != nil {
		c.loop.Logger().Warn("find out what is to be watched", "error", err)
	}
}
