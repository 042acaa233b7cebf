package endpointslicemirroring

//lint:file-ignore SA1019 Endpoints are deprecated, and still part of the API.

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	discoverylisters "k8s.io/client-go/listers/discovery/v1"
	"k8s.io/client-go/tools/record"
	endpointsliceutil "k8s.io/endpointslice/util"

	"clusterctl/controlplane/controllers/reconcile"
)

const workers = 5

type controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	endpoints corelisters.EndpointsLister
	slices    discoverylisters.EndpointSliceLister
	tracker   *endpointsliceutil.EndpointSliceTracker
	recorder  record.EventRecorder
	loop      *reconcile.Loop
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core := env.Informers.Core().V1()
	slices := env.Informers.Discovery().V1().EndpointSlices()
	c := &controller{
		client: env.Client, services: core.Services().Lister(), endpoints: core.Endpoints().Lister(), slices: slices.Lister(),
		tracker: endpointsliceutil.NewEndpointSliceTracker(), recorder: env.Recorder("endpoint-slice-mirroring-controller"),
	}
	c.loop = reconcile.NewLoop(env, "endpointslicemirroring", workers, c.reconcile)
	if err := reconcile.Each(env, core.Services().Informer(), func(s *corev1.Service) { c.loop.AddObject(s) }); err != nil {
		return nil, err
	}
	if err := reconcile.Each(env, core.Endpoints().Informer(), func(e *corev1.Endpoints) { c.loop.AddObject(e) }); err != nil {
		return nil, err
	}
	err := reconcile.Watch(env, slices.Informer(), reconcile.Handlers[*discoveryv1.EndpointSlice]{
		Add: func(slice *discoveryv1.EndpointSlice) {
			if managed(slice) && c.tracker.ShouldSync(slice) {
				c.wake(slice)
			}
		},
		Update: func(old, slice *discoveryv1.EndpointSlice) {
			switch {
			case managed(old) != managed(slice), old.Labels[discoveryv1.LabelServiceName] != slice.Labels[discoveryv1.LabelServiceName]:
				c.wake(old)
				c.wake(slice)
			case managed(slice) && c.tracker.ShouldSync(slice):
				c.wake(slice)
			}
		},
		Delete: func(slice *discoveryv1.EndpointSlice) {
			// What this controller did not ask for has to be undone.
			if managed(slice) && c.tracker.Has(slice) && !c.tracker.HandleDeletion(slice) {
				c.wake(slice)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

func managed(slice *discoveryv1.EndpointSlice) bool {
	return slice.Labels[discoveryv1.LabelManagedBy] == managedBy
}

func (c *controller) wake(slice *discoveryv1.EndpointSlice) {
	if name := slice.Labels[discoveryv1.LabelServiceName]; name != "" {
		c.loop.Add(slice.Namespace + "/" + name)
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	have, err := c.slices.EndpointSlices(namespace).List(labels.SelectorFromSet(labels.Set{
		discoveryv1.LabelServiceName: name, discoveryv1.LabelManagedBy: managedBy}))
	if err != nil {
		return err
	}
	have = slices.DeleteFunc(have, func(s *discoveryv1.EndpointSlice) bool { return s.DeletionTimestamp != nil })
	endpoints, service, err := c.source(namespace, name)
	if err != nil {
		return err
	}
	if endpoints == nil {
		c.tracker.DeleteService(namespace, name)
		for _, slice := range have {
			if err := c.remove(ctx, slice); err != nil {
				return err
			}
		}
		return nil
	}
	if c.tracker.StaleSlices(service, have) {
		return reconcile.ErrStale
	}
	wanted, invalid, surplus := mirror(endpoints)
	if invalid > 0 {
		c.recorder.Eventf(endpoints, corev1.EventTypeWarning, "InvalidIPAddress", "Skipped %d invalid IP addresses when mirroring to EndpointSlices", invalid)
	}
	if surplus > 0 {
		c.recorder.Eventf(endpoints, corev1.EventTypeWarning, "TooManyAddressesToMirror",
			"A max of %d addresses can be mirrored to EndpointSlices per Endpoints subset. %d addresses were skipped", perSlice, surplus)
	}
	return c.carryOut(ctx, endpoints, compare(have, wanted))
}

// source finds the Endpoints to mirror and their service; nil where there is
// nothing to mirror.
func (c *controller) source(namespace, name string) (*corev1.Endpoints, *corev1.Service, error) {
	endpoints, err := c.endpoints.Endpoints(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil, nil, nil
	}
	if err != nil {
		return nil, nil, err
	}
	if service.Spec.Selector != nil || !mirrored(endpoints) {
		return nil, nil, nil
	}
	return endpoints, service, nil
}

func (c *controller) carryOut(ctx context.Context, endpoints *corev1.Endpoints, p plan) error {
	client := c.client.DiscoveryV1().EndpointSlices(endpoints.Namespace)
	for _, slice := range p.create {
		if endpoints.DeletionTimestamp != nil {
			break
		}
		created, err := client.Create(ctx, slice, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("create slice: %w", err)
		}
		c.tracker.Update(created)
	}
	for _, slice := range p.update {
		updated, err := client.Update(ctx, slice, metav1.UpdateOptions{})
		if err != nil {
			return fmt.Errorf("update slice %s: %w", slice.Name, err)
		}
		c.tracker.Update(updated)
	}
	for _, slice := range p.remove {
		if err := c.remove(ctx, slice); err != nil {
			return err
		}
		c.tracker.ExpectDeletion(slice)
	}
	return nil
}

func (c *controller) remove(ctx context.Context, slice *discoveryv1.EndpointSlice) error {
	err := c.client.DiscoveryV1().EndpointSlices(slice.Namespace).Delete(ctx, slice.Name, metav1.DeleteOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete slice %s: %w", slice.Name, err)
	}
	return nil
}
