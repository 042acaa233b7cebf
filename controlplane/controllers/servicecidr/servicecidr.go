package servicecidr

import (
	"context"
	"encoding/json"
	"fmt"
	"net/netip"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	metaapply "k8s.io/client-go/applyconfigurations/meta/v1"
	networkingapply "k8s.io/client-go/applyconfigurations/networking/v1"
	"k8s.io/client-go/kubernetes"
	networkinglisters "k8s.io/client-go/listers/networking/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	name      = "service-cidr-controller"
	finalizer = "networking.k8s.io/service-cidr-finalizer"

	// deletionGrace is how long allocators may take to see that a range goes.
	deletionGrace = 10 * time.Second

	workers = 2
)

// New makes the controller: both parts.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	ranges, err := newRanges(env)
	if err != nil {
		return nil, err
	}
	repair, err := newRepair(env)
	if err != nil {
		return nil, err
	}
	return reconcile.All{ranges.loop, repair}, nil
}

// ranges is the part that looks after ServiceCIDRs.
type ranges struct {
	client    kubernetes.Interface
	cidrs     networkinglisters.ServiceCIDRLister
	addresses networkinglisters.IPAddressLister
	recorder  record.EventRecorder
	loop      *reconcile.Loop
	now       func() time.Time
}

func newRanges(env *reconcile.Environment) (*ranges, error) {
	cidrs, addresses := env.Informers.Networking().V1().ServiceCIDRs(), env.Informers.Networking().V1().IPAddresses()
	r := &ranges{
		client:    env.Client,
		cidrs:     cidrs.Lister(),
		addresses: addresses.Lister(),
		recorder:  env.Recorder(name),
		now:       time.Now,
	}
	r.loop = reconcile.NewLoop(env, "servicecidr", workers, r.reconcile)
	err := reconcile.Watch(env, cidrs.Informer(), reconcile.Handlers[*networkingv1.ServiceCIDR]{
		Add: func(c *networkingv1.ServiceCIDR) {
			r.loop.AddObject(c)
			// It may take over the addresses of one that is to go.
			r.wake(func(p netip.Prefix) bool {
				return slices.ContainsFunc(prefixes(c), p.Overlaps)
			})
		},
		Update: func(_, c *networkingv1.ServiceCIDR) { r.loop.AddObject(c) },
	})
	if err != nil {
		return nil, err
	}
	wake := func(a *networkingv1.IPAddress) {
		if ip, err := netip.ParseAddr(a.Name); err == nil && isManaged(a) {
			r.wake(func(p netip.Prefix) bool { return offers(p, ip) })
		}
	}
	return r, reconcile.Watch(env, addresses.Informer(), reconcile.Handlers[*networkingv1.IPAddress]{Add: wake, Delete: wake})
}

// wake looks again at the ServiceCIDRs of which a prefix matches.
func (r *ranges) wake(match func(netip.Prefix) bool) {
	list, err := r.cidrs.List(labels.Everything())
	if err != nil {
		return // a lister of a cache does not fail
	}
	for _, c := range list {
		if slices.ContainsFunc(prefixes(c), match) {
			r.loop.AddObject(c)
		}
	}
}

func (r *ranges) reconcile(ctx context.Context, key string) error {
	c, err := r.cidrs.Get(key)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if c.DeletionTimestamp != nil {
		return r.letGo(ctx, c)
	}
	if !slices.Contains(c.Finalizers, finalizer) {
		if err := r.patchFinalizers(ctx, c, "finalizers"); err != nil {
			return fmt.Errorf("add finalizer: %w", err)
		}
	}
	err = r.setReady(ctx, c, metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready")
	if err != nil {
		r.recorder.Eventf(c, corev1.EventTypeWarning, "KubernetesServiceCIDRError", "The ServiceCIDR Status can not be set to Ready=True")
	}
	return err
}

// letGo removes the finalizer of a deleted ServiceCIDR once no address needs it
// and every allocator has had time to see that it goes.
func (r *ranges) letGo(ctx context.Context, c *networkingv1.ServiceCIDR) error {
	needed, err := r.needed(c)
	if err != nil {
		return err
	}
	if needed {
		return r.setReady(ctx, c, metav1.ConditionFalse, networkingv1.ServiceCIDRReasonTerminating,
			"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR")
	}
	if wait := deletionGrace - r.now().Sub(c.DeletionTimestamp.Time); wait > 0 {
		r.loop.AddAfter(c.Name, wait)
		return nil
	}
	if !slices.Contains(c.Finalizers, finalizer) {
		return nil
	}
	if err := r.patchFinalizers(ctx, c, "$deleteFromPrimitiveList/finalizers"); err != nil {
		return fmt.Errorf("remove finalizer: %w", err)
	}
	return nil
}

// needed says whether an address would be without a range if c went. Ranges
// that are being deleted too cannot take it over.
func (r *ranges) needed(c *networkingv1.ServiceCIDR) (bool, error) {
	all, err := r.cidrs.List(labels.Everything())
	if err != nil {
		return false, err
	}
	own := prefixes(c)
	var others []netip.Prefix
	for _, o := range all {
		if o.Name != c.Name && o.DeletionTimestamp == nil {
			others = append(others, prefixes(o)...)
		}
	}
	held, err := r.addresses.List(labels.SelectorFromSet(labels.Set{networkingv1.LabelManagedBy: managedBy}))
	if err != nil {
		return false, err
	}
	return slices.ContainsFunc(held, func(a *networkingv1.IPAddress) bool {
		ip, err := netip.ParseAddr(a.Name)
		in := func(p netip.Prefix) bool { return offers(p, ip) }
		return err == nil && slices.ContainsFunc(own, in) && !slices.ContainsFunc(others, in)
	}), nil
}

func (r *ranges) patchFinalizers(ctx context.Context, c *networkingv1.ServiceCIDR, field string) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{field: []string{finalizer}}})
	if err != nil {
		return err
	}
	_, err = r.client.NetworkingV1().ServiceCIDRs().Patch(ctx, c.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}

func (r *ranges) setReady(ctx context.Context, c *networkingv1.ServiceCIDR, status metav1.ConditionStatus, reason, message string) error {
	old := meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
	if old != nil && old.Status == status && old.Reason == reason && old.Message == message {
		return nil
	}
	condition := metaapply.Condition().WithType(networkingv1.ServiceCIDRConditionReady).WithStatus(status).
		WithReason(reason).WithMessage(message).WithLastTransitionTime(metav1.NewTime(r.now()))
	_, err := r.client.NetworkingV1().ServiceCIDRs().ApplyStatus(ctx,
		networkingapply.ServiceCIDR(c.Name).WithStatus(networkingapply.ServiceCIDRStatus().WithConditions(condition)),
		metav1.ApplyOptions{FieldManager: name, Force: true})
	if err != nil {
		return fmt.Errorf("set condition Ready to %s: %w", status, err)
	}
	return nil
}
