package endpoints

//lint:file-ignore SA1019 Endpoints are deprecated, and still part of the API.

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	library "k8s.io/endpointslice"
	endpointsliceutil "k8s.io/endpointslice/util"
	"k8s.io/utils/net"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 2
	// capacity is the most addresses of an object; the rest is left out, and
	// the annotation says so.
	capacity       = 1000
	overCapacity   = corev1.EndpointsOverCapacity
	managedByLabel = "endpoints.kubernetes.io/managed-by"
	managedByThis  = "endpoint-controller"
)

type controller struct {
	client    kubernetes.Interface
	services  corelisters.ServiceLister
	pods      corelisters.PodLister
	endpoints corelisters.EndpointsLister
	times     *endpointsliceutil.TriggerTimeTracker
	recorder  record.EventRecorder
	loop      *reconcile.Loop

	deleted sync.Map // services whose endpoints are to go, by key
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core := env.Informers.Core().V1()
	c := &controller{
		client:    env.Client,
		services:  core.Services().Lister(),
		pods:      core.Pods().Lister(),
		endpoints: core.Endpoints().Lister(),
		times:     endpointsliceutil.NewTriggerTimeTracker(),
		recorder:  env.Recorder("endpoint-controller"),
	}
	c.loop = reconcile.NewLoop(env, "endpoints", workers, c.reconcile)
	err := reconcile.Watch(env, core.Services().Informer(), reconcile.Handlers[*corev1.Service]{
		Add:    func(s *corev1.Service) { c.loop.AddObject(s) },
		Update: func(_, s *corev1.Service) { c.loop.AddObject(s) },
		Delete: func(s *corev1.Service) {
			// Whoever wrote its endpoints: they mean nothing without it.
			c.deleted.Store(reconcile.Key(s), nil)
			c.loop.AddObject(s)
		},
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, core.Pods().Informer(), reconcile.Handlers[*corev1.Pod]{
		Add:    func(pod *corev1.Pod) { c.podChanged(endpointsliceutil.GetPodUpdateProjectionKey(nil, pod)) },
		Update: func(old, pod *corev1.Pod) { c.podChanged(endpointsliceutil.GetPodUpdateProjectionKey(old, pod)) },
		Delete: func(pod *corev1.Pod) { c.podChanged(endpointsliceutil.GetPodUpdateProjectionKey(nil, pod)) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, core.Endpoints().Informer(), reconcile.Handlers[*corev1.Endpoints]{
		Add:    func(e *corev1.Endpoints) { c.loop.AddObject(e) }, // of a service that went unseen
		Delete: func(e *corev1.Endpoints) { c.loop.AddObject(e) },
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

func (c *controller) podChanged(projection *endpointsliceutil.PodProjectionKey) {
	if projection == nil {
		return
	}
	keys, err := endpointsliceutil.GetServicesToUpdate(c.services, projection)
	if err != nil {
		c.loop.Logger().Warn("find the services of a pod", "error", err)
		return
	}
	for key := range keys {
		c.loop.Add(key)
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	current, err := c.endpoints.Endpoints(namespace).Get(name)
	if err != nil && !apierrors.IsNotFound(err) {
		return err
	}
	exists := err == nil
	service, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		_, deleted := c.deleted.Load(key)
		if !deleted && (!exists || current.Labels[managedByLabel] != managedByThis) {
			return nil // of a service that is still to come
		}
		c.times.DeleteService(namespace, name)
		if !exists {
			c.deleted.Delete(key)
			return nil
		}
		err := c.client.CoreV1().Endpoints(namespace).Delete(ctx, name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(current.UID))})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("delete endpoints: %w", err)
		}
		c.deleted.Delete(key)
		return nil
	}
	if err != nil {
		return err
	}
	c.deleted.Delete(key)
	if service.Spec.Type == corev1.ServiceTypeExternalName || len(service.Spec.Selector) == 0 {
		return nil
	}
	pods, err := c.pods.Pods(namespace).List(labels.SelectorFromSet(service.Spec.Selector))
	if err != nil {
		return err
	}
	changed := c.times.ComputeEndpointLastChangeTriggerTime(namespace, service, pods)
	var wanted *corev1.Endpoints
	if exists {
		wanted = current.DeepCopy()
	} else {
		wanted = &corev1.Endpoints{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
	}
	fill(wanted, service, pods)
	if exists && equality.Semantic.DeepEqual(wanted, current) {
		return nil
	}
	delete(wanted.Annotations, corev1.EndpointsLastChangeTriggerTime)
	if !changed.IsZero() {
		metav1.SetMetaDataAnnotation(&wanted.ObjectMeta, corev1.EndpointsLastChangeTriggerTime, changed.UTC().Format(time.RFC3339Nano))
	}
	return c.write(ctx, wanted, exists)
}

func (c *controller) write(ctx context.Context, e *corev1.Endpoints, exists bool) error {
	if exists {
		if _, err := c.client.CoreV1().Endpoints(e.Namespace).Update(ctx, e, metav1.UpdateOptions{}); err != nil {
			c.recorder.Eventf(e, corev1.EventTypeWarning, "FailedToUpdateEndpoint", "Failed to update endpoint %s: %v", reconcile.Key(e), err)
			return fmt.Errorf("update endpoints: %w", err)
		}
		return nil
	}
	_, err := c.client.CoreV1().Endpoints(e.Namespace).Create(ctx, e, metav1.CreateOptions{})
	if err == nil || apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
		return nil
	}
	c.recorder.Eventf(e, corev1.EventTypeWarning, "FailedToCreateEndpoint", "Failed to create endpoint for service %s: %v", reconcile.Key(e), err)
	return fmt.Errorf("create endpoints: %w", err)
}

// fill sets what service and pods say about e.
func fill(e *corev1.Endpoints, service *corev1.Service, pods []*corev1.Pod) {
	e.Labels = maps.Clone(service.Labels)
	if e.Labels == nil {
		e.Labels = map[string]string{}
	}
	e.Labels[managedByLabel] = managedByThis
	delete(e.Labels, corev1.IsHeadlessService)
	if service.Spec.ClusterIP == corev1.ClusterIPNone {
		e.Labels[corev1.IsHeadlessService] = ""
	}
	var cut bool
	e.Subsets, cut = subsets(service, pods)
	delete(e.Annotations, overCapacity)
	if cut {
		metav1.SetMetaDataAnnotation(&e.ObjectMeta, overCapacity, "truncated")
	}
}

// subsets groups the addresses of pods by the ports they serve under. cut says
// that there were more than an object may hold.
func subsets(service *corev1.Service, pods []*corev1.Pod) (result []corev1.EndpointSubset, cut bool) {
	byPorts := map[string]*corev1.EndpointSubset{}
	for _, pod := range pods {
		if !endpointsliceutil.ShouldPodBeInEndpoints(pod, service.Spec.PublishNotReadyAddresses) {
			continue
		}
		ip := podIP(service, pod)
		if ip == "" {
			continue
		}
		ports, named := ports(service, pod)
		if len(ports) == 0 && len(service.Spec.Ports) > 0 {
			continue
		}
		subset := byPorts[named]
		if subset == nil {
			subset = &corev1.EndpointSubset{Ports: ports}
			byPorts[named] = subset
		}
		address := corev1.EndpointAddress{
			IP:       ip,
			NodeName: &pod.Spec.NodeName,
			TargetRef: &corev1.ObjectReference{
				Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			},
		}
		if endpointsliceutil.ShouldSetHostname(pod, service) {
			address.Hostname = pod.Spec.Hostname
		}
		if service.Spec.PublishNotReadyAddresses || endpointsliceutil.IsPodReady(pod) {
			subset.Addresses = append(subset.Addresses, address)
		} else {
			subset.NotReadyAddresses = append(subset.NotReadyAddresses, address)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(byPorts)) {
		subset := byPorts[key]
		byIP := func(a, b corev1.EndpointAddress) int {
			return cmp.Or(cmp.Compare(a.IP, b.IP), cmp.Compare(a.TargetRef.UID, b.TargetRef.UID))
		}
		slices.SortFunc(subset.Addresses, byIP)
		slices.SortFunc(subset.NotReadyAddresses, byIP)
		result = append(result, *subset)
	}
	cut = truncate(result)
	return slices.DeleteFunc(result, func(s corev1.EndpointSubset) bool {
		return len(s.Addresses)+len(s.NotReadyAddresses) == 0
	}), cut
}

// truncate leaves no more addresses than an object may hold: those that are not
// ready go first, and what stays is shared between subsets as it was before.
func truncate(subsets []corev1.EndpointSubset) (cut bool) {
	ready, unready := 0, 0
	for _, s := range subsets {
		ready, unready = ready+len(s.Addresses), unready+len(s.NotReadyAddresses)
	}
	if ready+unready <= capacity {
		return false
	}
	room, total := capacity-ready, unready
	if ready > capacity {
		room, total = capacity, ready
	}
	left := room
	for i := range subsets {
		list := &subsets[i].NotReadyAddresses
		if ready > capacity {
			subsets[i].NotReadyAddresses = nil
			list = &subsets[i].Addresses
		}
		share := (len(*list)*room + total - 1) / total // rounded up
		*list = (*list)[:min(share, left, len(*list))]
		left -= len(*list)
	}
	return true
}

// podIP is the pod's address of the service's first family.
func podIP(service *corev1.Service, pod *corev1.Pod) string {
	if len(service.Spec.IPFamilies) == 0 {
		return pod.Status.PodIP
	}
	for _, ip := range pod.Status.PodIPs {
		if net.IsIPv6String(ip.IP) == (service.Spec.IPFamilies[0] == corev1.IPv6Protocol) {
			return ip.IP
		}
	}
	return ""
}

// ports resolves the service's ports on a pod; named tells equal lists.
func ports(service *corev1.Service, pod *corev1.Pod) (result []corev1.EndpointPort, named string) {
	var key strings.Builder
	for i := range service.Spec.Ports {
		p := &service.Spec.Ports[i]
		number, err := library.FindPort(pod, p)
		if err != nil {
			continue // this pod does not have the named port
		}
		result = append(result, corev1.EndpointPort{Name: p.Name, Port: int32(number), Protocol: p.Protocol, AppProtocol: p.AppProtocol})
		fmt.Fprintf(&key, "%s/%s/%d,", p.Name, p.Protocol, number)
	}
	return result, key.String()
}
