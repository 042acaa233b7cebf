package plugins

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/dynamic-resource-allocation/cel"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/dynamic-resource-allocation/structured"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// DynamicResources finds devices for the claims of pods, and for those of their
// extended resources that are devices of a class. It keeps a pod on
// nodes where its allocated claims can be used; for the others it looks for
// devices that the node reaches, takes them when the node is chosen, and writes
// them into the claims before the pod is bound (dynamicresources_bind.go). For
// extended resources it makes a claim then (extendedresources.go).
type DynamicResources struct {
	client kubernetes.Interface
	cel    *cel.Cache

	last *search // what was found for the pod that is being tried, where it is rated; the picture's lock guards it

	mu       sync.Mutex
	reserved map[types.UID][]reservation // by pod
}

// reservation is a claim that a pod is to get.
type reservation struct {
	claim      *resourcev1.ResourceClaim
	allocation *picture.Pending // nil: it is allocated already
	// mappings are those of a claim for extended resources, which is to be made;
	// nil: it is another.
	mappings []v1.ContainerExtendedResourceRequest
}

// key is what the allocation goes by in the picture.
func (r *reservation) key(pod *v1.Pod) types.UID {
	if r.mappings != nil {
		return pod.UID
	}
	return r.claim.UID
}

// What Kubernetes 1.36 has on by default.
var deviceFeatures = structured.Features{
	AdminAccess: true, PrioritizedList: true, PartitionableDevices: true, DeviceTaints: true, DeviceBindingAndStatus: true, ConsumableCapacity: true,
}

const (
	// searchLimit bounds the search for devices on one node: there are claims
	// for which it would take for ever.
	searchLimit = 10 * time.Second
	// expressions are how many compiled selectors are kept.
	expressions = 100
)

// NewDynamicResources makes the plugin; the client is only used to write claims.
func NewDynamicResources(client kubernetes.Interface) *DynamicResources {
	return &DynamicResources{
		client: client, reserved: map[types.UID][]reservation{},
		cel: cel.NewCache(expressions, cel.Features{EnableConsumableCapacity: deviceFeatures.ConsumableCapacity}),
	}
}

func (*DynamicResources) Name() string { return "DynamicResources" }
func (*DynamicResources) Local() bool  { return false }

func (*DynamicResources) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged | framework.NodeAllocatableChanged |
		framework.DeviceClaimChanged | framework.DevicesFreed | framework.DevicesChanged
}

// Helps: another's claim does not, unless it frees devices.
func (*DynamicResources) Helps(event framework.Event, pod *v1.Pod) bool {
	if event.DeviceClaim == nil {
		return true
	}
	for i := range pod.Spec.ResourceClaims {
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err == nil && name != nil && pod.Namespace == event.DeviceClaim.Namespace && *name == event.DeviceClaim.Name {
			return true
		}
	}
	return false
}

func (p *DynamicResources) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	p.last = nil
	if !uses(pod, cluster.Devices()) {
		return nil
	}
	search, refusal := p.search(pod, cluster.Devices())
	if refusal != nil {
		return func(*picture.Node) *framework.Refusal { return refusal }
	}
	if search.chooses() {
		search.found = map[*picture.Node]*found{}
		p.last = search
	}
	return func(n *picture.Node) *framework.Refusal {
		found, refusal := search.on(n)
		if search.found != nil && refusal == nil {
			search.found[n] = found
		}
		return refusal
	}
}

// uses says whether a pod uses devices, or may.
func uses(pod *picture.Pod, devices *picture.Devices) bool {
	return len(pod.Object.Spec.ResourceClaims) > 0 || len(devices.Backed(pod)) > 0
}

// search is the search for the devices of one pod.
type search struct {
	pod       *v1.Pod
	claims    []*resourcev1.ResourceClaim
	open      []*resourcev1.ResourceClaim // those without devices
	usable    []*nodeaffinity.NodeSelector
	expired   []*resourcev1.ResourceClaim // whose devices were not made ready
	allocator structured.Allocator        // nil where nothing is to be found

	backed   []v1.ResourceName         // extended resources that are devices where a node has none
	extended map[string]*extended      // what they come to, by those that are
	stale    *resourcev1.ResourceClaim // what an attempt before this made for them; nil: nothing
	classOf  func(v1.ResourceName) *resourcev1.DeviceClass

	found map[*picture.Node]*found // nil where nodes are not rated by it
}

// found is devices on a node.
type found struct {
	results  []resourcev1.AllocationResult // of the open claims in their order, then of the extended resources
	extended *extended                     // nil: none are devices here
}

// search prepares it; or says why the pod can go nowhere.
func (p *DynamicResources) search(asked *picture.Pod, devices *picture.Devices) (*search, *framework.Refusal) {
	pod := asked.Object
	claims, err := podDeviceClaims(pod, devices)
	if err != nil {
		return nil, framework.RefuseWhole(err.Error())
	}
	s := &search{pod: pod, claims: claims, backed: devices.Backed(asked), extended: map[string]*extended{}, classOf: devices.ClassOf}
	if len(s.backed) > 0 {
		if s.stale = devices.MadeFor(pod.UID); s.stale == nil && devices.Pending(pod.UID) != nil {
			return nil, framework.RefuseWhole("resource claim for extended resources is in the process of being allocated")
		}
	}
	for _, claim := range claims {
		a := claim.Status.Allocation
		switch {
		case a != nil && !resourceclaim.CanBeReserved(claim) && !resourceclaim.IsReservedForPod(pod, claim, false):
			return nil, framework.RefuseWhole("resourceclaim in use")
		case a == nil && devices.Pending(claim.UID) != nil:
			return nil, framework.RefuseWhole(fmt.Sprintf("resource claim %s/%s is in the process of being allocated", claim.Namespace, claim.Name))
		case a == nil:
			if err := checkClasses(claim, devices); err != nil {
				return nil, framework.RefuseWhole(err.Error())
			}
			s.open = append(s.open, claim)
		case a.NodeSelector != nil:
			selector, err := nodeaffinity.NewNodeSelector(a.NodeSelector)
			if err != nil {
				return nil, framework.RefuseWhole(err.Error())
			}
			s.usable = append(s.usable, selector)
		}
		if ready, err := devicesReady(claim); a != nil && (err != nil || !ready && bindingExpired(claim)) {
			s.expired = append(s.expired, claim)
		}
	}
	if len(s.open) > 0 || len(s.backed) > 0 {
		s.allocator, err = structured.NewAllocator(context.Background(), deviceFeatures, devices.Taken(), devices, devices.Slices(), p.cel)
		if err != nil {
			return nil, framework.RefuseWhole(err.Error())
		}
	}
	return s, nil
}

// podDeviceClaims finds the claims of a pod; every one has to be there.
func podDeviceClaims(pod *v1.Pod, devices *picture.Devices) ([]*resourcev1.ResourceClaim, error) {
	var claims []*resourcev1.ResourceClaim
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil {
			return nil, err
		}
		if name == nil {
			continue // none is needed
		}
		claim := devices.Claim(pod.Namespace + "/" + *name)
		if claim == nil {
			return nil, fmt.Errorf("resourceclaim.resource.k8s.io %q not found", *name)
		}
		if claim.DeletionTimestamp != nil {
			return nil, fmt.Errorf("resourceclaim %q is being deleted", claim.Name)
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return nil, err
			}
		}
		claims = append(claims, claim)
	}
	return claims, nil
}

// checkClasses wants every class that a claim names to exist.
func checkClasses(claim *resourcev1.ResourceClaim, devices *picture.Devices) error {
	check := func(class, request string) error {
		if _, err := devices.Get(class); err != nil {
			return fmt.Errorf("request %s: device class %s does not exist", request, class)
		}
		return nil
	}
	for _, r := range claim.Spec.Devices.Requests {
		if r.Exactly != nil {
			if err := check(r.Exactly.DeviceClassName, r.Name); err != nil {
				return err
			}
		}
		for _, sub := range r.FirstAvailable {
			if err := check(sub.DeviceClassName, r.Name+"/"+sub.Name); err != nil {
				return err
			}
		}
	}
	return nil
}

var (
	claimElsewhere = framework.RefuseFinally("resourceclaim not available on the node")
	noDevices      = framework.RefuseFinally("cannot allocate all claims")
	staleClaim     = framework.RefuseFinally("cannot schedule extended resource claim")
)

// on looks for devices on one node.
func (s *search) on(n *picture.Node) (*found, *framework.Refusal) {
	node, open, found := n.Object, s.open, &found{extended: s.extendedOn(n)}
	if s.stale != nil {
		return nil, staleClaim
	}
	for _, selector := range s.usable {
		if !selector.Match(node) {
			return nil, claimElsewhere
		}
	}
	if len(s.expired) > 0 {
		return nil, claimElsewhere
	}
	if found.extended != nil {
		open = append(slices.Clone(open), found.extended.claim(s.pod))
	}
	if len(open) == 0 {
		return found, nil
	}
	ctx, cancel := context.WithTimeout(context.Background(), searchLimit)
	defer cancel()
	results, err := s.allocator.Allocate(ctx, node, open)
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, framework.RefuseFinally(fmt.Sprintf("node %s: timed out trying to allocate devices", node.Name))
	case errors.Is(err, structured.ErrFailedAllocationOnNode):
		return nil, framework.RefuseFinally(err.Error())
	case err != nil: // a claim or a class is at fault
		return nil, framework.RefuseWhole(err.Error())
	case len(results) != len(open):
		return nil, noDevices
	}
	found.results = results
	return found, nil
}

// Reserve takes the devices of the chosen node.
func (p *DynamicResources) Reserve(pod *picture.Pod, cluster *picture.Picture, node *picture.Node) error {
	p.last = nil
	devices := cluster.Devices()
	if !uses(pod, devices) {
		return nil
	}
	search, refusal := p.search(pod, devices)
	if refusal != nil {
		return errors.New(refusal.Reasons[0])
	}
	found, refusal := search.on(node)
	if refusal != nil {
		return errors.New(refusal.Reasons[0])
	}
	var list []reservation
	results := found.results
	for _, claim := range search.claims {
		r := reservation{claim: claim}
		if claim.Status.Allocation == nil {
			r.allocation = &picture.Pending{Result: &results[0]}
			results = results[1:]
			devices.Reserve(claim.UID, r.allocation)
		} else if resourceclaim.IsReservedForPod(pod.Object, claim, false) && len(bindingConditions(claim)) == 0 {
			continue // nothing to do
		}
		list = append(list, r)
	}
	if found.extended != nil {
		r := reservation{claim: found.extended.claim(pod.Object), allocation: &picture.Pending{Result: &results[0]}, mappings: found.extended.mappings}
		devices.Reserve(pod.Object.UID, r.allocation)
		list = append(list, r)
	}
	if len(list) > 0 {
		p.mu.Lock()
		p.reserved[pod.Object.UID] = list
		p.mu.Unlock()
	}
	return nil
}

// Unreserve gives back the devices that were not written into a claim. What was
// written stays: the claim is allocated and reserved for the pod, which is
// tried again with it, and PostFilter frees it where that leads nowhere. The claim
// for extended resources is another for each node, and goes.
func (p *DynamicResources) Unreserve(pod *v1.Pod, cluster *picture.Picture, _ string) {
	for _, r := range p.take(pod.UID) {
		if r.allocation != nil && (r.allocation.Written.Load() == nil || r.mappings != nil) && cluster.Devices().Pending(r.key(pod)) == r.allocation {
			cluster.Devices().Release(r.key(pod))
		}
	}
}

// take ends a pod's reservations.
func (p *DynamicResources) take(pod types.UID) []reservation {
	p.mu.Lock()
	defer p.mu.Unlock()
	list := p.reserved[pod]
	delete(p.reserved, pod)
	return list
}

// Needed says whether the pod's claims have to be written.
func (p *DynamicResources) Needed(pod *v1.Pod) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.reserved[pod.UID]) > 0
}

// PostFilter frees a claim that nobody else uses, where it keeps the pod from
// other nodes, and does away with what an attempt before this made.
func (p *DynamicResources) PostFilter(_ *framework.Profile, pod *picture.Pod, cluster *picture.Picture, _ *framework.Refusals) framework.Remedy {
	if !uses(pod, cluster.Devices()) {
		return framework.Remedy{}
	}
	search, refusal := p.search(pod, cluster.Devices())
	if refusal != nil {
		return framework.Remedy{}
	}
	for _, claim := range search.claims {
		users := claim.Status.ReservedFor
		if claim.Status.Allocation == nil || len(users) > 1 || len(users) == 1 && users[0].UID != pod.Object.UID || !search.hinders(claim, cluster.Nodes()) {
			continue
		}
		return framework.Remedy{Message: "deallocation of ResourceClaim completed", Act: func(ctx context.Context, _ framework.Hands) error {
			return p.deallocate(ctx, claim)
		}}
	}
	if search.stale != nil {
		return framework.Remedy{Message: "deletion of ResourceClaim completed", Act: func(ctx context.Context, _ framework.Hands) error {
			return p.discard(ctx, search.stale)
		}}
	}
	return framework.Remedy{Message: "still not schedulable"}
}

// hinders says that an allocated claim keeps the pod from a node.
func (s *search) hinders(claim *resourcev1.ResourceClaim, nodes []*picture.Node) bool {
	for _, expired := range s.expired {
		if expired == claim {
			return true
		}
	}
	if claim.Status.Allocation.NodeSelector == nil {
		return false
	}
	selector, err := nodeaffinity.NewNodeSelector(claim.Status.Allocation.NodeSelector)
	if err != nil {
		return true
	}
	for _, n := range nodes {
		if !selector.Match(n.Object) {
			return true
		}
	}
	return false
}
