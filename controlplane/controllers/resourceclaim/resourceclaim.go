package resourceclaim

import (
	"context"
	"fmt"
	"sync"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
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
	workers = 10

	byClaim    = "device-claim"    // pods, by "namespace/name" of the claims they use
	byTemplate = "device-template" // pods, by "namespace/name" of templates
	byOwner    = "owning-pod"      // claims, by the UID of the pod that owns them
)

type controller struct {
	client    kubernetes.Interface
	pods      corelisters.PodLister
	claims    resourcelisters.ResourceClaimLister
	templates resourcelisters.ResourceClaimTemplateLister
	owned     cache.Indexer // claims
	users     cache.Indexer // pods
	recorder  record.EventRecorder

	mu   sync.Mutex
	made map[made]string // names of claims, until they are gone: the cache may not show them yet

	podLoop, claimLoop *reconcile.Loop
}

// made is what a claim was made for.
type made struct {
	pod  types.UID
	name string // within the pod's spec
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c, err := newController(env)
	if err != nil {
		return nil, err
	}
	return reconcile.All{c.podLoop, c.claimLoop}, nil
}

func newController(env *reconcile.Environment) (*controller, error) {
	pods := env.Informers.Core().V1().Pods()
	claims := env.Informers.Resource().V1().ResourceClaims()
	templates := env.Informers.Resource().V1().ResourceClaimTemplates()
	if err := pods.Informer().AddIndexers(cache.Indexers{byClaim: claimsOf, byTemplate: templatesOf}); err != nil {
		return nil, fmt.Errorf("index pods by claim: %w", err)
	}
	if err := claims.Informer().AddIndexers(cache.Indexers{byOwner: ownerOf}); err != nil {
		return nil, fmt.Errorf("index claims by pod: %w", err)
	}
	c := &controller{
		client: env.Client, pods: pods.Lister(), claims: claims.Lister(), templates: templates.Lister(),
		owned: claims.Informer().GetIndexer(), made: map[made]string{},
		users: pods.Informer().GetIndexer(), recorder: env.Recorder("resource_claim"),
	}
	c.podLoop = reconcile.NewLoop(env, "resourceclaim-pods", workers, c.reconcilePod)
	c.claimLoop = reconcile.NewLoop(env, "resourceclaim", workers, c.reconcileClaim)
	err := reconcile.Watch(env, pods.Informer(), reconcile.Handlers[*corev1.Pod]{
		Add:    func(pod *corev1.Pod) { c.podChanged(pod, false) },
		Update: func(_, pod *corev1.Pod) { c.podChanged(pod, false) },
		Delete: func(pod *corev1.Pod) { c.podChanged(pod, true) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, claims.Informer(), reconcile.Handlers[*resourcev1.ResourceClaim]{
		Add:    func(claim *resourcev1.ResourceClaim) { c.claimChanged(claim) },
		Update: func(_, claim *resourcev1.ResourceClaim) { c.claimChanged(claim) },
		Delete: func(claim *resourcev1.ResourceClaim) { c.claimGone(claim) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, templates.Informer(), reconcile.Handlers[*resourcev1.ResourceClaimTemplate]{
		Add:    func(t *resourcev1.ResourceClaimTemplate) { c.wakeUsers(byTemplate, reconcile.Key(t)) },
		Update: func(_, t *resourcev1.ResourceClaimTemplate) { c.wakeUsers(byTemplate, reconcile.Key(t)) },
	})
	return c, err
}

// podChanged looks at the claims of a pod that is done, and at a pod that is
// not.
func (c *controller) podChanged(pod *corev1.Pod, gone bool) {
	if len(pod.Spec.ResourceClaims) == 0 && pod.Status.ExtendedResourceClaimStatus == nil {
		return
	}
	if gone || done(pod) {
		for _, name := range claimNames(pod) {
			c.claimLoop.Add(pod.Namespace + "/" + name)
		}
	}
	if !gone && pod.DeletionTimestamp == nil && len(pod.Spec.ResourceClaims) > 0 {
		c.podLoop.AddObject(pod)
	}
}

func (c *controller) claimChanged(claim *resourcev1.ResourceClaim) {
	c.claimLoop.AddObject(claim)
	c.wakeUsers(byClaim, reconcile.Key(claim))
}

func (c *controller) claimGone(claim *resourcev1.ResourceClaim) {
	if owner := owningPod(claim); owner != nil {
		c.mu.Lock()
		if of := (made{owner.UID, claim.Annotations[resourcev1.PodResourceClaimAnnotation]}); c.made[of] == claim.Name {
			delete(c.made, of)
		}
		c.mu.Unlock()
	}
	c.wakeUsers(byClaim, reconcile.Key(claim))
}

func (c *controller) wakeUsers(index, key string) {
	users, err := c.users.ByIndex(index, key)
	if err != nil {
		c.podLoop.Logger().Error("find pods", "index", index, "error", err)
	}
	for _, user := range users {
		if pod, ok := user.(*corev1.Pod); ok {
			c.podChanged(pod, false)
		}
	}
}

// done says that a pod will not run (again), and needs no devices.
func done(pod *corev1.Pod) bool {
	return reconcile.PodTerminal(pod) || pod.DeletionTimestamp != nil && pod.Spec.NodeName == ""
}

// claimNames are the claims of a pod that have been made, as far as the pod
// knows of them.
func claimNames(pod *corev1.Pod) []string {
	var names []string
	for i := range pod.Spec.ResourceClaims {
		if name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && name != nil {
			names = append(names, *name)
		}
	}
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		names = append(names, extended.ResourceClaimName)
	}
	return names
}

func claimsOf(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("index claims of %T: want a Pod", obj)
	}
	var keys []string
	for _, name := range claimNames(pod) {
		keys = append(keys, pod.Namespace+"/"+name)
	}
	return keys, nil
}

func templatesOf(obj any) ([]string, error) {
	pod, ok := obj.(*corev1.Pod)
	if !ok {
		return nil, fmt.Errorf("index templates of %T: want a Pod", obj)
	}
	var keys []string
	for _, c := range pod.Spec.ResourceClaims {
		if c.ResourceClaimTemplateName != nil {
			keys = append(keys, pod.Namespace+"/"+*c.ResourceClaimTemplateName)
		}
	}
	return keys, nil
}

func ownerOf(obj any) ([]string, error) {
	claim, ok := obj.(*resourcev1.ResourceClaim)
	if !ok {
		return nil, fmt.Errorf("index owner of %T: want a ResourceClaim", obj)
	}
	if owner := owningPod(claim); owner != nil {
		return []string{string(owner.UID)}, nil
	}
	return nil, nil
}

// owningPod is the pod that a claim was made for, or nil.
func owningPod(claim *resourcev1.ResourceClaim) *metav1.OwnerReference {
	if owner := metav1.GetControllerOfNoCopy(claim); owner != nil && owner.APIVersion == "v1" && owner.Kind == "Pod" {
		return owner
	}
	return nil
}

// updateStatus writes a claim's status; it fails if the claim has changed since
// it was read.
func (c *controller) updateStatus(ctx context.Context, claim *resourcev1.ResourceClaim) (*resourcev1.ResourceClaim, error) {
	return c.client.ResourceV1().ResourceClaims(claim.Namespace).UpdateStatus(ctx, claim, metav1.UpdateOptions{})
}
