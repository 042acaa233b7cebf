package servicecidr

import (
	"context"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	corelisters "k8s.io/client-go/listers/core/v1"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/events"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	// requestLife is how long an API server may take to create a service once
	// it has taken an address for it.
	requestLife = 60 * time.Second
	// undoLife is how long it may take to give back what it took in vain for a
	// service that exists.
	undoLife = 5 * time.Second
	// lookAgain is how often every service and address is looked at, and what
	// is wrong with them reported again.
	lookAgain = 3 * time.Minute

	allocation = "ClusterIPAllocation" // action of events about services
	release    = "IPAddressAllocation" // action of events about addresses
)

// repair is the part that keeps services and IPAddresses in step. Of the two,
// the service is right.
type repair struct {
	client      kubernetes.Interface
	services    corelisters.ServiceLister
	cidrs       networkinglisters.ServiceCIDRLister
	addresses   networkinglisters.IPAddressLister
	broadcaster events.EventBroadcaster
	recorder    events.EventRecorder
	logger      *slog.Logger
	ofServices  *reconcile.Loop
	ofAddresses *reconcile.Loop
	again       *reconcile.Ticker
	now         func() time.Time
}

func newRepair(env *reconcile.Environment) (*repair, error) {
	services := env.Informers.Core().V1().Services()
	addresses := env.Informers.Networking().V1().IPAddresses()
	r := &repair{
		client:      env.Client,
		services:    services.Lister(),
		cidrs:       env.Informers.Networking().V1().ServiceCIDRs().Lister(),
		addresses:   addresses.Lister(),
		broadcaster: events.NewBroadcaster(&events.EventSinkImpl{Interface: env.Client.EventsV1()}),
		logger:      env.Logger.With("controller", "serviceaddresses"),
		now:         time.Now,
	}
	r.recorder = r.broadcaster.NewRecorder(scheme.Scheme, "ipallocator-repair-controller")
	r.ofServices = reconcile.NewLoop(env, "serviceaddresses", workers, r.service)
	r.ofAddresses = reconcile.NewLoop(env, "ipaddresses", workers, r.address)
	r.again = reconcile.NewTicker(env, "serviceaddresses-all", lookAgain, r.addAll)
	err := reconcile.Watch(env, services.Informer(), reconcile.Handlers[*corev1.Service]{
		Add:    func(s *corev1.Service) { r.ofServices.AddObject(s) },
		Update: func(_, s *corev1.Service) { r.ofServices.AddObject(s) },
		// The API server gives back what it held; if it was cut off, it does not.
		Delete: func(s *corev1.Service) {
			for _, ip := range s.Spec.ClusterIPs {
				r.ofAddresses.AddAfter(ip, undoLife)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return r, reconcile.Watch(env, addresses.Informer(), reconcile.Handlers[*networkingv1.IPAddress]{
		Add:    func(a *networkingv1.IPAddress) { r.ofAddresses.AddObject(a) },
		Update: func(_, a *networkingv1.IPAddress) { r.ofAddresses.AddObject(a) },
		Delete: func(a *networkingv1.IPAddress) {
			if p := a.Spec.ParentRef; refersToService(p) {
				r.ofServices.Add(p.Namespace + "/" + p.Name)
			}
		},
	})
}

// Run works until ctx ends.
func (r *repair) Run(ctx context.Context) error {
	if err := r.broadcaster.StartRecordingToSinkWithContext(ctx); err != nil {
		return fmt.Errorf("start recording events: %w", err)
	}
	defer r.broadcaster.Shutdown()
	return reconcile.All{r.ofServices, r.ofAddresses, r.again}.Run(ctx)
}

func (r *repair) addAll(context.Context) error {
	services, err := r.services.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, s := range services {
		r.ofServices.AddObject(s)
	}
	addresses, err := r.addresses.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, a := range addresses {
		r.ofAddresses.AddObject(a)
	}
	return nil
}

// service sees to it that every address of a service is held by an IPAddress
// in its name.
func (r *repair) service(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	cached, err := r.services.Services(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, text := range clusterIPs(cached) {
		held, err := r.addresses.Get(text)
		if err == nil && isHeldBy(held, cached) && hasLabels(held) && r.offered(text) {
			continue
		}
		// Caches are filled one by one. What they disagree on is looked up.
		s, err := r.client.CoreV1().Services(namespace).Get(ctx, name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) || err == nil && (s.UID != cached.UID || !slices.Contains(clusterIPs(s), text)) {
			return nil // its event is still to come
		}
		if err != nil {
			return fmt.Errorf("read service: %w", err)
		}
		if err := r.hold(ctx, s, text); err != nil {
			return fmt.Errorf("repair address %s: %w", text, err)
		}
	}
	return nil
}

// hold makes one address of a service held by it.
func (r *repair) hold(ctx context.Context, s *corev1.Service, text string) error {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		r.warn(s, "ClusterIPNotValid", "ClusterIPValidation", "Cluster IP %s is not a valid IP; please recreate Service", text)
		return nil
	}
	family := familyOf(ip)
	if !r.offered(text) {
		r.warn(s, "ClusterIPOutOfRange", allocation, "Cluster IP [%v]: %s is not within any configured Service CIDR; please recreate service", family, ip)
		return nil
	}
	all := r.client.NetworkingV1().IPAddresses()
	held, err := all.Get(ctx, ip.String(), metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		r.warn(s, "ClusterIPNotAllocated", allocation, "Cluster IP [%v]: %s is not allocated; repairing", family, ip)
		_, err := all.Create(ctx, newAddress(ip, s), metav1.CreateOptions{})
		return err
	case err != nil:
		r.warn(s, "UnknownError", allocation, "Unable to allocate ClusterIP [%v]: %s due to an unknown error", family, ip)
		return err
	case isHeldBy(held, s) && hasLabels(held):
		return nil
	case isHeldBy(held, s):
		return r.replace(ctx, held, ip, s)
	}
	if p := held.Spec.ParentRef; refersToService(p) {
		other, err := r.client.CoreV1().Services(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			return err
		}
		if err == nil && slices.Contains(clusterIPs(other), held.Name) {
			// Nothing here can tell which of the two shall keep it.
			r.warn(s, "ClusterIPAlreadyAllocated", allocation, "Cluster IP [%v]:%s was assigned to multiple services; please recreate service", family, ip)
			return nil
		}
	}
	r.warn(s, "ClusterIPNotAllocated", allocation, "the ClusterIP [%v]: %s for Service %s/%s has a wrong reference; repairing", family, ip, s.Namespace, s.Name)
	return r.replace(ctx, held, ip, s)
}

// replace puts an address in the name of s: the reference of one cannot change.
func (r *repair) replace(ctx context.Context, held *networkingv1.IPAddress, ip netip.Addr, s *corev1.Service) error {
	if err := r.remove(ctx, held); err != nil {
		return err
	}
	_, err := r.client.NetworkingV1().IPAddresses().Create(ctx, newAddress(ip, s), metav1.CreateOptions{})
	return err
}

// address removes an IPAddress that no service uses, once the request that took
// it has had its time.
func (r *repair) address(ctx context.Context, key string) error {
	a, err := r.addresses.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if !isManaged(a) {
		return nil
	}
	p := a.Spec.ParentRef
	if !refersToService(p) {
		r.warn(a, "IPAddressNotAllocated", release, "IPAddress %s appears to have been modified, not referencing a Service %v: cleaning up", a.Name, p)
		return r.remove(ctx, a)
	}
	if s, err := r.services.Services(p.Namespace).Get(p.Name); err == nil && slices.Contains(s.Spec.ClusterIPs, a.Name) {
		return nil
	}
	s, err := r.client.CoreV1().Services(p.Namespace).Get(ctx, p.Name, metav1.GetOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		r.warn(a, "UnknownError", release, "Unable to get parent Service for IPAddress %s due to an unknown error", a.Name)
		return fmt.Errorf("read service of address: %w", err)
	}
	gone := apierrors.IsNotFound(err)
	var patience time.Duration
	switch {
	case gone:
		patience = requestLife
	case slices.Contains(s.Spec.ClusterIPs, a.Name):
		return nil
	case s.Spec.Type == corev1.ServiceTypeExternalName:
		patience = requestLife // it may be about to get a cluster IP
	case a.CreationTimestamp.After(s.CreationTimestamp.Time):
		patience = undoLife
	}
	if wait := patience - r.now().Sub(a.CreationTimestamp.Time); wait > 0 {
		r.ofAddresses.AddAfter(key, wait)
		return nil
	}
	if gone {
		r.warn(a, "IPAddressNotAllocated", release, "IPAddress: %s for Service %s/%s appears to have leaked: cleaning up", a.Name, p.Namespace, p.Name)
	} else {
		r.warn(a, "IPAddressWrongReference", release, "IPAddress: %s for Service %s/%s has a wrong reference; cleaning up", a.Name, p.Namespace, p.Name)
	}
	return r.remove(ctx, a)
}

// remove deletes this very address, not the next of its name.
func (r *repair) remove(ctx context.Context, a *networkingv1.IPAddress) error {
	err := r.client.NetworkingV1().IPAddresses().Delete(ctx, a.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &a.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete IPAddress %s: %w", a.Name, err)
	}
	return nil
}

// offered says whether a ServiceCIDR has the address. What is no address is no
// ServiceCIDR's.
func (r *repair) offered(text string) bool {
	ip, err := netip.ParseAddr(text)
	if err != nil {
		return false
	}
	all, err := r.cidrs.List(labels.Everything())
	return err == nil && slices.ContainsFunc(all, func(c *networkingv1.ServiceCIDR) bool {
		return slices.ContainsFunc(prefixes(c), func(p netip.Prefix) bool { return offers(p, ip) })
	})
}

// object is a service or an address.
type object interface {
	metav1.Object
	runtime.Object
}

// warn tells users and operators what is wrong with an object.
func (r *repair) warn(obj object, reason, action, format string, args ...any) {
	r.recorder.Eventf(obj, nil, corev1.EventTypeWarning, reason, action, format, args...)
	r.logger.Warn("services and their addresses disagree", "object", reconcile.Key(obj), "reason", reason, "message", fmt.Sprintf(format, args...))
}

// clusterIPs are the addresses that a service holds.
func clusterIPs(s *corev1.Service) []string {
	if s.Spec.Type == corev1.ServiceTypeExternalName || s.Spec.ClusterIP == "" || s.Spec.ClusterIP == corev1.ClusterIPNone {
		return nil
	}
	return s.Spec.ClusterIPs
}

func refersToService(p *networkingv1.ParentReference) bool {
	return p != nil && p.Group == "" && p.Resource == "services"
}

func isHeldBy(a *networkingv1.IPAddress, s *corev1.Service) bool {
	p := a.Spec.ParentRef
	return refersToService(p) && p.Namespace == s.Namespace && p.Name == s.Name
}

func hasLabels(a *networkingv1.IPAddress) bool {
	ip, err := netip.ParseAddr(a.Name)
	return err == nil && isManaged(a) && a.Labels[networkingv1.LabelIPAddressFamily] == string(familyOf(ip))
}

func familyOf(ip netip.Addr) corev1.IPFamily {
	if ip.Is4() {
		return corev1.IPv4Protocol
	}
	return corev1.IPv6Protocol
}

func newAddress(ip netip.Addr, s *corev1.Service) *networkingv1.IPAddress {
	return &networkingv1.IPAddress{
		ObjectMeta: metav1.ObjectMeta{Name: ip.String(), Labels: map[string]string{
			networkingv1.LabelIPAddressFamily: string(familyOf(ip)), networkingv1.LabelManagedBy: managedBy,
		}},
		Spec: networkingv1.IPAddressSpec{ParentRef: &networkingv1.ParentReference{Resource: "services", Namespace: s.Namespace, Name: s.Name}},
	}
}
