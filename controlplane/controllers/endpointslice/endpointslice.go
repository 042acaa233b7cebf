package endpointslice

import (
	"context"
	"fmt"
	"slices"

	"github.com/go-logr/logr"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/record"
	library "k8s.io/endpointslice"
	"k8s.io/endpointslice/metrics"
	"k8s.io/endpointslice/topologycache"
	endpointsliceutil "k8s.io/endpointslice/util"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 5
	// managedBy is the label's value that other Kubernetes control planes use:
	// taking over their state must not make a second set of slices.
	managedBy = "endpointslice-controller.k8s.io"
	perSlice  = 100
)

type controller struct {
	services   corelisters.ServiceLister
	pods       corelisters.PodLister
	slices     discoverylisters.EndpointSliceLister
	tracker    *endpointsliceutil.EndpointSliceTracker
	times      *endpointsliceutil.TriggerTimeTracker
	reconciler *library.Reconciler
	nodes      corelisters.NodeLister
	topology   *topologycache.TopologyCache
	recorder   record.EventRecorder
	logger     logr.Logger
	loop       *reconcile.Loop
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core := env.Informers.Core().V1()
	found := env.Informers.Discovery().V1().EndpointSlices()
	c := &controller{
		services: core.Services().Lister(),
		pods:     core.Pods().Lister(),
		slices:   found.Lister(),
		nodes:    core.Nodes().Lister(),
		tracker:  endpointsliceutil.NewEndpointSliceTracker(),
		times:    endpointsliceutil.NewTriggerTimeTracker(),
		topology: topologycache.NewTopologyCache(),
		recorder: env.Recorder("endpoint-slice-controller"),
		logger:   logr.FromSlogHandler(env.Logger.With("controller", "endpointslice").Handler()),
	}
	metrics.RegisterMetrics()
	c.reconciler = library.NewReconciler(env.Client, c.nodes, perSlice, c.tracker, c.topology, c.recorder, managedBy, library.WithPreferSameTrafficDistributionEnabled(true))
	c.loop = reconcile.NewLoop(env, "endpointslice", workers, c.reconcile)
	if err := reconcile.Each(env, core.Services().Informer(), func(s *corev1.Service) { c.loop.AddObject(s) }); err != nil {
		return nil, err
	}
	err := reconcile.Watch(env, core.Pods().Informer(), reconcile.Handlers[*corev1.Pod]{
		Add:    func(pod *corev1.Pod) { c.podChanged(nil, pod) },
		Update: c.podChanged,
		Delete: func(pod *corev1.Pod) { c.podChanged(nil, pod) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, found.Informer(), reconcile.Handlers[*discoveryv1.EndpointSlice]{
		Add: func(slice *discoveryv1.EndpointSlice) {
			if c.reconciler.ManagedByController(slice) && c.tracker.ShouldSync(slice) {
				c.wake(slice)
			}
		},
		Update: func(old, slice *discoveryv1.EndpointSlice) {
			if before, after := old.Labels[discoveryv1.LabelServiceName], slice.Labels[discoveryv1.LabelServiceName]; before != after {
				c.wake(old)
				c.wake(slice)
				return
			}
			if c.reconciler.ManagedByChanged(old, slice) || c.reconciler.ManagedByController(slice) && c.tracker.ShouldSync(slice) {
				c.wake(slice)
			}
		},
		Delete: func(slice *discoveryv1.EndpointSlice) {
			// Has is false for what this controller never wrote; a deletion
			// that it did not ask for has to be undone.
			if c.reconciler.ManagedByController(slice) && c.tracker.Has(slice) && !c.tracker.HandleDeletion(slice) {
				c.wake(slice)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	zones := reconcile.NewLoop(env, "endpointslicezones", 1, c.spread)
	wake := func(*corev1.Node) { zones.Add("zones") }
	err = reconcile.Watch(env, core.Nodes().Informer(), reconcile.Handlers[*corev1.Node]{
		Add: wake,
		Update: func(old, node *corev1.Node) {
			if reconcile.NodeReady(old) != reconcile.NodeReady(node) || old.Labels[corev1.LabelTopologyZone] != node.Labels[corev1.LabelTopologyZone] {
				wake(node)
			}
		},
		Delete: wake,
	})
	if err != nil {
		return nil, err
	}
	return reconcile.All{c.loop, zones}, nil
}

// spread tells the library how much of the cluster is in which zone, and wakes
// the services whose hints that makes unfair.
func (c *controller) spread(context.Context, string) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	c.topology.SetNodes(c.logger, nodes)
	for _, key := range c.topology.GetOverloadedServices() {
		c.loop.Add(key)
	}
	return nil
}

func (c *controller) wake(slice *discoveryv1.EndpointSlice) {
	if key, err := library.ServiceControllerKey(slice); err == nil {
		c.loop.Add(key)
	}
}

// podChanged wakes the services whose endpoints a pod changes.
func (c *controller) podChanged(old, pod *corev1.Pod) {
	var projection *endpointsliceutil.PodProjectionKey
	if old == nil {
		projection = endpointsliceutil.GetPodUpdateProjectionKey(nil, pod)
	} else {
		projection = endpointsliceutil.GetPodUpdateProjectionKey(old, pod)
	}
	if projection == nil {
		return
	}
	keys, err := endpointsliceutil.GetServicesToUpdate(c.services, projection)
	if err != nil {
		c.loop.Logger().Warn("find the services of a pod", "pod", reconcile.Key(pod), "error", err)
		return
	}
	for key := range keys {
		c.loop.Add(key)
	}
}

func (c *controller) reconcile(_ context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		// The slices go with the service, by their owner references.
		c.times.DeleteService(namespace, name)
		c.reconciler.DeleteService(namespace, name)
		c.tracker.DeleteService(namespace, name)
		return nil
	}
	if err != nil {
		return err
	}
	if service.Spec.Type == corev1.ServiceTypeExternalName || len(service.Spec.Selector) == 0 {
		return nil // its endpoints are somebody else's
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	mine := labels.SelectorFromSet(labels.Set{discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: managedBy})
	have, err := c.slices.EndpointSlices(namespace).List(mine)
	if err != nil {
		return err
	}
	alive := slices.DeleteFunc(have, func(s *discoveryv1.EndpointSlice) bool { return s.DeletionTimestamp != nil })
	if c.tracker.StaleSlices(service, alive) {
		return reconcile.ErrStale
	}
	changed := c.times.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	if err := c.reconciler.Reconcile(c.logger, service, pods, alive, changed); err != nil {
		c.recorder.Eventf(service, corev1.EventTypeWarning, "FailedToUpdateEndpointSlices", "Error updating Endpoint Slices for Service %s: %v", key, err)
		return fmt.Errorf("reconcile slices: %w", err)
	}
	return nil
}
