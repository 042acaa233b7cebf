package devicetainteviction

import (
	"context"
	"fmt"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
	"k8s.io/dynamic-resource-allocation/resourceclaim"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 8
	byPool  = "device-pool" // slices, and claims by where their devices are from
)

type controller struct {
	client   kubernetes.Interface
	pods     corelisters.PodLister
	claims   resourcelisters.ResourceClaimLister
	slices   cache.Indexer
	users    cache.Indexer // claims
	recorder record.EventRecorder
	loop     *reconcile.Loop

	mu sync.Mutex
	// condemned are the pods that have to go at some time to come.
	condemned map[string]types.UID
}

// New makes the controller. Its keys are pods.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	pods := env.Informers.Core().V1().Pods()
	claims := env.Informers.Resource().V1().ResourceClaims()
	slices := env.Informers.Resource().V1().ResourceSlices().Informer()
	if err := claims.Informer().AddIndexers(cache.Indexers{byPool: poolsOfClaim}); err != nil {
		return nil, fmt.Errorf("index claims by pool: %w", err)
	}
	if err := slices.AddIndexers(cache.Indexers{byPool: poolOfSlice}); err != nil {
		return nil, fmt.Errorf("index slices by pool: %w", err)
	}
	c := &controller{
		client: env.Client, pods: pods.Lister(), claims: claims.Lister(), slices: slices.GetIndexer(), users: claims.Informer().GetIndexer(),
		recorder: env.Recorder("device-taint-eviction-controller"), condemned: map[string]types.UID{},
	}
	c.loop = reconcile.NewLoop(env, "devicetainteviction", workers, c.reconcile)
	err := reconcile.Watch(env, pods.Informer(), reconcile.Handlers[*corev1.Pod]{
		Add: c.podChanged,
		Update: func(old, pod *corev1.Pod) {
			if old.Spec.NodeName != pod.Spec.NodeName || !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, pod.Status.ResourceClaimStatuses) {
				c.podChanged(pod)
			}
		},
		Delete: c.podChanged,
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, claims.Informer(), reconcile.Handlers[*resourcev1.ResourceClaim]{
		Add: c.claimChanged,
		Update: func(old, claim *resourcev1.ResourceClaim) {
			c.claimChanged(old)
			c.claimChanged(claim)
		},
		Delete: c.claimChanged,
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, slices, reconcile.Handlers[*resourcev1.ResourceSlice]{
		Add: c.sliceChanged,
		Update: func(old, slice *resourcev1.ResourceSlice) {
			if tainted(old) {
				c.poolChanged(poolOf(old))
			}
			c.sliceChanged(slice)
		},
		Delete: func(slice *resourcev1.ResourceSlice) { c.poolChanged(poolOf(slice)) },
	})
	return c.loop, err
}

func (c *controller) podChanged(pod *corev1.Pod) {
	if pod.Spec.NodeName != "" && len(pod.Spec.ResourceClaims) > 0 {
		c.loop.AddObject(pod)
	}
}

// claimChanged asks for the pods that a claim is reserved for.
func (c *controller) claimChanged(claim *resourcev1.ResourceClaim) {
	for _, user := range claim.Status.ReservedFor {
		if user.APIGroup == "" && user.Resource == "pods" {
			c.loop.Add(claim.Namespace + "/" + user.Name)
		}
	}
}

// sliceChanged: a newer generation takes back what older slices say.
func (c *controller) sliceChanged(slice *resourcev1.ResourceSlice) {
	for _, s := range c.slicesOf(poolOf(slice)) {
		if tainted(s) {
			c.poolChanged(poolOf(slice))
			return
		}
	}
}

// poolChanged asks for the pods that use a pool's devices.
func (c *controller) poolChanged(p pool) {
	claims, err := c.users.ByIndex(byPool, p.String())
	if err != nil {
		c.loop.Logger().Error("find claims", "pool", p, "error", err)
	}
	for _, claim := range claims {
		c.claimChanged(claim.(*resourcev1.ResourceClaim))
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && (pod.DeletionTimestamp != nil || pod.Spec.NodeName == "") {
		c.condemn(key, "")
		return nil
	}
	if err != nil {
		return err
	}
	at, evict := c.podDeadline(pod)
	if !evict {
		if c.condemn(key, "") == pod.UID {
			c.recorder.Eventf(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Cancelling deletion")
		}
		return nil
	}
	c.condemn(key, pod.UID)
	if left := time.Until(at); left > 0 {
		// Taints and tolerations are looked at again then.
		c.loop.AddAfter(key, left)
		return nil
	}
	if err := c.evict(ctx, pod); err != nil {
		return err
	}
	c.condemn(key, "")
	return nil
}

// condemn notes that a pod has to go, or with "" that it has not, and returns
// what was noted before.
func (c *controller) condemn(key string, pod types.UID) types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.condemned[key]
	if pod == "" {
		delete(c.condemned, key)
	} else {
		c.condemned[key] = pod
	}
	return before
}

// podDeadline is the first of its claims' deadlines. Claims that are not the
// pod's, or not reserved for it, do not count.
func (c *controller) podDeadline(pod *corev1.Pod) (at time.Time, evict bool) {
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue // none yet, or none needed
		}
		claim, err := c.claims.ResourceClaims(pod.Namespace).Get(*name)
		if err != nil || claim.Status.Allocation == nil || own && resourceclaim.IsForPod(pod, claim, false) != nil ||
			!resourceclaim.IsReservedForPod(pod, claim, false) {
			continue
		}
		if leave, bounded := deadline(claim, c.slicesOf); bounded && (!evict || leave.Before(at)) {
			at, evict = leave, true
		}
	}
	return at, evict
}

// evict looks at the pod itself: that of the cache may be gone already, and
// another in its place.
func (c *controller) evict(ctx context.Context, cached *corev1.Pod) error {
	pod, err := c.client.CoreV1().Pods(cached.Namespace).Get(ctx, cached.Name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && (pod.UID != cached.UID || pod.DeletionTimestamp != nil) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read pod: %w", err)
	}
	c.recorder.Eventf(pod, corev1.EventTypeNormal, "DeviceTaintManagerEviction", "Marking for deletion")
	return reconcile.Disrupt(ctx, c.client, pod, "DeletionByDeviceTaintManager", "Device Taint manager: deleting due to NoExecute taint")
}

func (c *controller) slicesOf(p pool) []*resourcev1.ResourceSlice {
	objects, err := c.slices.ByIndex(byPool, p.String())
	if err != nil {
		c.loop.Logger().Error("find slices", "pool", p, "error", err)
	}
	result := make([]*resourcev1.ResourceSlice, 0, len(objects))
	for _, obj := range objects {
		result = append(result, obj.(*resourcev1.ResourceSlice))
	}
	return result
}

func poolOf(s *resourcev1.ResourceSlice) pool { return pool{s.Spec.Driver, s.Spec.Pool.Name} }

func poolOfSlice(obj any) ([]string, error) {
	slice, ok := obj.(*resourcev1.ResourceSlice)
	if !ok {
		return nil, fmt.Errorf("index pool of %T: want a ResourceSlice", obj)
	}
	return []string{poolOf(slice).String()}, nil
}

func poolsOfClaim(obj any) ([]string, error) {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok {
		return nil, fmt.Errorf("index pools of %T: want a ResourceClaim", obj)
	}
	if claim.Status.Allocation == nil {
		return nil, nil
	}
	var pools []string
	for _, d := range claim.Status.Allocation.Devices.Results {
		pools = append(pools, pool{d.Driver, d.Pool}.String())
	}
	return pools, nil
}
