package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"

	"clusterctl/nodeagent/checkpoint"
)

// Claims are the claims that are, or are being, prepared for pods of this host.
// Safe for concurrent use.
type Claims struct {
	client  kubernetes.Interface
	drivers *Drivers
	file    string // checkpoint

	mu     sync.Mutex
	claims map[types.NamespacedName]*claim
}

// claim is one, as the checkpoint has it.
type claim struct {
	Namespace string                     `json:"namespace"`
	Name      string                     `json:"name"`
	UID       types.UID                  `json:"uid"`
	Pods      []types.UID                `json:"pods"`
	Drivers   map[string][]*drav1.Device `json:"drivers"` // what each prepared
	Prepared  bool                       `json:"prepared"`

	calls *sync.Mutex // one caller of drivers at a time
}

// NewClaims reads what an earlier run left in file.
func NewClaims(client kubernetes.Interface, drivers *Drivers, file string) (*Claims, error) {
	c := &Claims{client: client, drivers: drivers, file: file, claims: map[types.NamespacedName]*claim{}}
	var list []*claim
	if err := checkpoint.Load(file, &list); err != nil {
		return nil, err
	}
	for _, one := range list {
		one.calls = &sync.Mutex{}
		c.claims[types.NamespacedName{Namespace: one.Namespace, Name: one.Name}] = one
	}
	return c, nil
}

// save writes the checkpoint. c.mu is held.
func (c *Claims) save() error { return checkpoint.Store(c.file, slices.Collect(maps.Values(c.claims))) }

// Pods are those for which claims are prepared.
func (c *Claims) Pods() []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var uids []types.UID
	for _, one := range c.claims {
		uids = append(uids, one.Pods...)
	}
	return uids
}

// Prepare has drivers prepare the claims of a pod; again, it does what is left
// to do.
func (c *Claims) Prepare(ctx context.Context, pod *v1.Pod) error {
	var fetched []*resourcev1.ResourceClaim
	wanted := pod.Spec.ResourceClaims
	if extended := pod.Status.ExtendedResourceClaimStatus; extended != nil {
		wanted = append(slices.Clip(wanted), v1.PodResourceClaim{ResourceClaimName: &extended.ResourceClaimName})
	}
	for i := range wanted {
		name, own, err := resourceclaim.Name(pod, &wanted[i])
		if err != nil {
			return err
		}
		if name == nil {
			continue // none is needed
		}
		claim, err := c.client.ResourceV1().ResourceClaims(pod.Namespace).Get(ctx, *name, metav1.GetOptions{})
		if err != nil {
			return fmt.Errorf("fetch ResourceClaim %s: %w", *name, err)
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return err
			}
		}
		if !resourceclaim.IsReservedForPod(pod, claim, false) {
			return fmt.Errorf("pod %s (%s) is not allowed to use ResourceClaim %s (%s)", pod.Name, pod.UID, claim.Name, claim.UID)
		}
		if claim.Status.Allocation == nil {
			return fmt.Errorf("ResourceClaim %s: not allocated", claim.Name)
		}
		fetched = append(fetched, claim)
	}
	if err := c.reachable(pod.UID, fetched); err != nil {
		return err
	}
	for _, claim := range fetched {
		if err := c.prepare(ctx, pod.UID, claim); err != nil {
			return err
		}
	}
	return nil
}

// reachable wants the drivers of the claims that the pod does not use yet to be
// there, all of them before any is asked: what a driver that never was on the node
// was not asked to prepare, it need not be waited for to undo.
func (c *Claims) reachable(pod types.UID, claims []*resourcev1.ResourceClaim) error {
	for _, claim := range claims {
		c.mu.Lock()
		one := c.claims[types.NamespacedName{Namespace: claim.Namespace, Name: claim.Name}]
		used := one != nil && slices.Contains(one.Pods, pod)
		c.mu.Unlock()
		if used {
			continue
		}
		for _, r := range claim.Status.Allocation.Devices.Results {
			if !c.drivers.known(r.Driver) {
				return fmt.Errorf("DRA driver %s is not registered", r.Driver)
			}
		}
	}
	return nil
}

// use notes that a pod uses a claim, before any driver is asked: whatever
// happens then, it is undone with the pod.
func (c *Claims) use(pod types.UID, from *resourcev1.ResourceClaim) (*claim, error) {
	key := types.NamespacedName{Namespace: from.Namespace, Name: from.Name}
	c.mu.Lock()
	defer c.mu.Unlock()
	one := c.claims[key]
	if one == nil {
		one = &claim{Namespace: from.Namespace, Name: from.Name, UID: from.UID, Drivers: map[string][]*drav1.Device{}, calls: &sync.Mutex{}}
		for _, r := range from.Status.Allocation.Devices.Results {
			one.Drivers[r.Driver] = nil
		}
		c.claims[key] = one
	}
	if one.UID != from.UID {
		return nil, fmt.Errorf("old ResourceClaim with same name %s and different UID %s still exists (previous pod force-deleted?!)", from.Name, one.UID)
	}
	if !slices.Contains(one.Pods, pod) {
		one.Pods = append(one.Pods, pod)
	}
	return one, c.save()
}

func (c *Claims) prepare(ctx context.Context, pod types.UID, from *resourcev1.ResourceClaim) error {
	one, err := c.use(pod, from)
	if err != nil {
		return err
	}
	one.calls.Lock()
	defer one.calls.Unlock()
	c.mu.Lock()
	done, drivers := one.Prepared, slices.Sorted(maps.Keys(one.Drivers))
	c.mu.Unlock()
	if done {
		return nil
	}
	got := map[string][]*drav1.Device{}
	for _, driver := range drivers {
		response := &drav1.NodePrepareResourcesResponse{}
		err := c.drivers.call(ctx, driver, "NodePrepareResources", &drav1.NodePrepareResourcesRequest{Claims: one.request()}, response)
		if err != nil {
			return err
		}
		result := response.Claims[string(one.UID)]
		if result == nil {
			return errors.New("NodePrepareResources skipped 1 ResourceClaims")
		}
		if result.Error != "" {
			return fmt.Errorf("NodePrepareResources failed for ResourceClaim %s: %s", one.Name, result.Error)
		}
		got[driver] = result.Devices
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one.Drivers, one.Prepared = got, true
	return c.save()
}

func (one *claim) request() []*drav1.Claim {
	return []*drav1.Claim{{Namespace: one.Namespace, Name: one.Name, Uid: string(one.UID)}}
}

// Unprepare ends a pod's use of its claims; those that no other pod uses are
// unprepared. It does nothing for a pod without any.
func (c *Claims) Unprepare(ctx context.Context, pod types.UID) error {
	c.mu.Lock()
	var used []*claim
	for _, one := range c.claims {
		if slices.Contains(one.Pods, pod) {
			used = append(used, one)
		}
	}
	c.mu.Unlock()
	var errs []error
	for _, one := range used {
		errs = append(errs, c.unprepare(ctx, pod, one))
	}
	return errors.Join(errs...)
}

func (c *Claims) unprepare(ctx context.Context, pod types.UID, one *claim) error {
	one.calls.Lock()
	defer one.calls.Unlock()
	c.mu.Lock()
	if len(one.Pods) > 1 || !slices.Contains(one.Pods, pod) {
		defer c.mu.Unlock()
		one.Pods = slices.DeleteFunc(one.Pods, func(uid types.UID) bool { return uid == pod })
		return c.save()
	}
	// Until it is prepared again, nobody may rely on it.
	one.Prepared = false
	drivers, err := slices.Sorted(maps.Keys(one.Drivers)), c.save()
	c.mu.Unlock()
	if err != nil {
		return err
	}
	for _, driver := range drivers {
		response := &drav1.NodeUnprepareResourcesResponse{}
		if err := c.drivers.call(ctx, driver, "NodeUnprepareResources", &drav1.NodeUnprepareResourcesRequest{Claims: one.request()}, response); err != nil {
			return err
		}
		result, ok := response.Claims[string(one.UID)]
		if !ok {
			return errors.New("NodeUnprepareResources skipped 1 ResourceClaims")
		}
		if result.GetError() != "" {
			return fmt.Errorf("NodeUnprepareResources failed for ResourceClaim %s: %s", one.Name, result.GetError())
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	one.Pods = slices.DeleteFunc(one.Pods, func(uid types.UID) bool { return uid == pod })
	if key := (types.NamespacedName{Namespace: one.Namespace, Name: one.Name}); len(one.Pods) == 0 && c.claims[key] == one {
		delete(c.claims, key)
	}
	return c.save()
}

// ids are the CDI devices of the claims that a container uses.
func (c *Claims) ids(pod *v1.Pod, container *v1.Container) ([]string, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	var ids []string
	add := func(name, request string) error {
		one := c.claims[types.NamespacedName{Namespace: pod.Namespace, Name: name}]
		if one == nil || !one.Prepared || !slices.Contains(one.Pods, pod.UID) {
			return fmt.Errorf("ResourceClaim %s is not prepared", name)
		}
		for _, driver := range slices.Sorted(maps.Keys(one.Drivers)) {
			for _, device := range one.Drivers[driver] {
				if !serves(device.RequestNames, request) {
					continue
				}
				for _, id := range device.CdiDeviceIds {
					if !slices.Contains(ids, id) {
						ids = append(ids, id)
					}
				}
			}
		}
		return nil
	}
	for _, wanted := range container.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(r v1.PodResourceClaim) bool { return r.Name == wanted.Name })
		if i < 0 {
			return nil, fmt.Errorf("pod has no claim %s", wanted.Name)
		}
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue
		}
		if err := add(*name, wanted.Request); err != nil {
			return nil, err
		}
	}
	for _, m := range extendedRequests(pod, container.Name) {
		if err := add(pod.Status.ExtendedResourceClaimStatus.ResourceClaimName, m.RequestName); err != nil {
			return nil, err
		}
	}
	return ids, nil
}

// extendedRequests are the requests of the claim for a pod's extended resources
// that serve a container.
func extendedRequests(pod *v1.Pod, container string) []v1.ContainerExtendedResourceRequest {
	extended := pod.Status.ExtendedResourceClaimStatus
	if extended == nil {
		return nil
	}
	return slices.DeleteFunc(slices.Clone(extended.RequestMappings), func(m v1.ContainerExtendedResourceRequest) bool { return m.ContainerName != container })
}

// Claimed says whether an extended resource of a container (empty: of any of the
// pod's) is devices of a claim: no device plugin is to give them.
func Claimed(pod *v1.Pod, container, resource string) bool {
	extended := pod.Status.ExtendedResourceClaimStatus
	return extended != nil && slices.ContainsFunc(extended.RequestMappings, func(m v1.ContainerExtendedResourceRequest) bool {
		return m.ResourceName == resource && (container == "" || m.ContainerName == container)
	})
}

// serves says whether a device that serves these requests (none: all) belongs
// to a container that wants one of them (empty: all).
func serves(requests []string, wanted string) bool {
	return wanted == "" || len(requests) == 0 || slices.ContainsFunc(requests, func(r string) bool {
		return r == wanted || resourceclaim.BaseRequestRef(r) == wanted
	})
}
