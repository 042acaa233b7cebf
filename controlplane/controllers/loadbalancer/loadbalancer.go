package loadbalancer

import (
	"cmp"
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/hostconfig"
)

// finalizer is upstream's: it keeps a service until its address is free.
const finalizer = "service.kubernetes.io/load-balancer-cleanup"

type controller struct {
	client   kubernetes.Interface
	services corelisters.ServiceLister
	recorder record.EventRecorder
	loop     *reconcile.Loop
	pools    []pool

	// What follows belongs to the loop's one worker, and before it to Run.
	owner   map[netip.Addr]string // key of the service that has the address
	waiting map[string]bool       // keys of services that lack something
}

// New makes the controller. Without pools it only takes back what it gave while
// there were some.
func New(env *reconcile.Environment, pools []hostconfig.LoadBalancerPool) (reconcile.Controller, error) {
	read, err := readPools(pools)
	if err != nil {
		return nil, err
	}
	services := env.Informers.Core().V1().Services()
	c := &controller{
		client: env.Client, services: services.Lister(), recorder: env.Recorder("service-controller"), pools: read,
		owner: map[netip.Addr]string{}, waiting: map[string]bool{},
	}
	c.loop = reconcile.NewLoop(env, "loadbalancer", 1, c.reconcile)
	return c, reconcile.Watch(env, services.Informer(), reconcile.Handlers[*corev1.Service]{
		Add: func(s *corev1.Service) {
			if c.concerns(s) {
				c.loop.AddObject(s)
			}
		},
		Update: func(old, s *corev1.Service) {
			if c.concerns(old) || c.concerns(s) {
				c.loop.AddObject(s)
			}
		},
		Delete: func(s *corev1.Service) {
			if c.concerns(s) {
				c.loop.AddObject(s)
			}
		},
	})
}

// concerns says whether there may be something to do for s.
func (c *controller) concerns(s *corev1.Service) bool { return c.serves(s) || marked(s) }

// serves says whether s gets its addresses here.
func (c *controller) serves(s *corev1.Service) bool {
	return len(c.pools) > 0 && s.Spec.Type == corev1.ServiceTypeLoadBalancer && s.DeletionTimestamp == nil &&
		ptr.Deref(s.Spec.LoadBalancerClass, hostconfig.LoadBalancerClass) == hostconfig.LoadBalancerClass
}

// marked says whether s has, or had, addresses from here.
func marked(s *corev1.Service) bool {
	_, is := s.Annotations[hostconfig.AnnotationAddressFrom]
	return is
}

// Run works until ctx ends. It reads first what the last leader has done: the
// informer may not know yet.
func (c *controller) Run(ctx context.Context) error {
	for len(c.pools) > 0 {
		all, err := c.client.CoreV1().Services("").List(ctx, metav1.ListOptions{})
		if err == nil {
			c.learn(all.Items)
			break
		}
		c.loop.Logger().Warn("read which addresses services have", "error", err)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(time.Second):
		}
	}
	return c.loop.Run(ctx)
}

// learn takes note of who has what; of two with the same address, the older one.
func (c *controller) learn(services []corev1.Service) {
	slices.SortFunc(services, func(a, b corev1.Service) int {
		return cmp.Or(a.CreationTimestamp.Compare(b.CreationTimestamp.Time), strings.Compare(string(a.UID), string(b.UID)))
	})
	for i := range services {
		s := &services[i]
		for _, a := range addressesOf(s) {
			if _, taken := c.owner[a]; !taken && marked(s) {
				c.owner[a] = reconcile.Key(s)
			}
		}
	}
}

// addressesOf are those of the status.
func addressesOf(s *corev1.Service) []netip.Addr {
	var list []netip.Addr
	for _, in := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			list = append(list, a)
		}
	}
	return list
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	s, err := c.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		c.forget(key)
		return nil
	}
	if err != nil {
		return err
	}
	if !c.serves(s) {
		return c.release(ctx, s)
	}
	// What was given before may not be in the informer yet.
	have := addressesOf(s)
	for a, owner := range c.owner {
		if owner == key && !slices.Contains(have, a) {
			have = append(have, a)
		}
	}
	g, problem := choose(c.pools, s, have, func(a netip.Addr) (string, bool) {
		owner, is := c.owner[a]
		return owner, is && owner != key
	})
	changed := s.DeepCopy()
	if !slices.Contains(changed.Finalizers, finalizer) {
		changed.Finalizers = append(changed.Finalizers, finalizer)
	}
	metav1.SetMetaDataAnnotation(&changed.ObjectMeta, hostconfig.AnnotationAddressFrom, strings.Join(g.pools, ","))
	changed.Status.LoadBalancer = corev1.LoadBalancerStatus{}
	for _, a := range g.addresses {
		changed.Status.LoadBalancer.Ingress = append(changed.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{
			IP: a.String(), IPMode: ptr.To(corev1.LoadBalancerIPModeVIP),
		})
	}
	if problem != nil {
		c.waiting[key] = true
		c.recorder.Eventf(s, corev1.EventTypeWarning, "SyncLoadBalancerFailed", "Error syncing load balancer: %v", problem)
	} else {
		delete(c.waiting, key)
	}
	// Taken before it is written: a write whose answer is lost may have come about.
	for _, a := range g.addresses {
		c.owner[a] = key
	}
	if !equality.Semantic.DeepEqual(s, changed) {
		// Metadata too: a write of the status may change finalizers and annotations.
		if _, err := c.client.CoreV1().Services(namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write addresses: %w", err)
		}
		if len(g.addresses) > 0 {
			c.recorder.Event(s, corev1.EventTypeNormal, "EnsuredLoadBalancer", "Ensured load balancer")
		}
	}
	c.keep(key, g.addresses)
	return nil
}

// release takes back what s has from here.
func (c *controller) release(ctx context.Context, s *corev1.Service) error {
	if marked(s) {
		changed := s.DeepCopy()
		delete(changed.Annotations, hostconfig.AnnotationAddressFrom)
		changed.Finalizers = slices.DeleteFunc(changed.Finalizers, func(f string) bool { return f == finalizer })
		changed.Status.LoadBalancer = corev1.LoadBalancerStatus{}
		_, err := c.client.CoreV1().Services(s.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return fmt.Errorf("take addresses back: %w", err)
		}
		c.recorder.Event(s, corev1.EventTypeNormal, "DeletedLoadBalancer", "Deleted load balancer")
	}
	c.forget(reconcile.Key(s))
	return nil
}

// forget is for services that are to have nothing.
func (c *controller) forget(key string) {
	delete(c.waiting, key)
	c.keep(key, nil)
}

// keep leaves the service with addresses alone, and has those that wait look at
// what that frees.
func (c *controller) keep(key string, addresses []netip.Addr) {
	freed := false
	for a, owner := range c.owner {
		if owner == key && !slices.Contains(addresses, a) {
			delete(c.owner, a)
			freed = true
		}
	}
	if !freed {
		return
	}
	for other := range c.waiting {
		c.loop.Add(other)
	}
}
