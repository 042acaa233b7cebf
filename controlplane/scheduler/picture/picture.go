package picture

import (
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// Picture is every node and every pod that is bound, assumed or nominated. It
// is not safe for concurrent use: its owner locks.
type Picture struct {
	nodes    []*Node  // dense, so that a walk over all is cheap; order is arbitrary
	versions []uint64 // of nodes, in the same order
	byName   map[string]*Node
	pods     map[types.UID]*Pod
	waiting  map[string]map[types.UID]*Pod // pods whose node is not known yet
	version  uint64                        // grows with every change
	shape    uint64                        // the version of the last change of what nodes there are, their labels, or what surrounds pods
	budgeted uint64                        // the version of the last change of a disruption budget

	nominated   map[types.UID]*Pod
	nominations map[string][]*Pod // by node

	classes    map[classKey]*class
	selections map[string]*Selection
	uses       uint64 // of selections: tells which was used last
	topologies map[string]*Topology
	terms      map[string]*Term
	termsIn    map[string][]*Term // by namespace; "": those that choose namespaces by label
	priorities map[int32]int      // pods by priority
	holders    map[string]int     // nodes by image
	advising   int                // nodes with a PreferNoSchedule taint

	namespaces map[string]labels.Set
	services   map[string]map[string]labels.Set // selectors by namespace and name
	budgets    map[string]map[string]*policyv1.PodDisruptionBudget

	storage *Storage
	devices *Devices
}

// Node is a node and what runs there.
type Node struct {
	Object      *v1.Node
	Allocatable Resources
	Requested   Resources // the sum of Pods' Requests
	Scored      Resources // the sum of Pods' ScoredRequests
	Pods        []*Pod
	Nominated   []*Pod           // for which room is kept
	Ports       map[Port]int     // host ports in use, with the number of their users
	Images      map[string]int64 // bytes by name
	index       int
	domains     []int32 // by number of topology; none: the node lacks the label
	advises     bool
}

// Name is the node's.
func (n *Node) Name() string { return n.Object.Name }

// Port is a host port in use. HostIP is empty for every address.
type Port struct {
	HostIP   string
	Protocol v1.Protocol
	Port     int32
}

// New returns an empty picture.
func New() *Picture {
	return &Picture{
		byName: map[string]*Node{}, pods: map[types.UID]*Pod{}, waiting: map[string]map[types.UID]*Pod{},
		nominated: map[types.UID]*Pod{}, nominations: map[string][]*Pod{},
		classes: map[classKey]*class{}, selections: map[string]*Selection{}, topologies: map[string]*Topology{},
		terms: map[string]*Term{}, termsIn: map[string][]*Term{}, priorities: map[int32]int{}, holders: map[string]int{},
		namespaces: map[string]labels.Set{}, services: map[string]map[string]labels.Set{},
		budgets: map[string]map[string]*policyv1.PodDisruptionBudget{}, storage: newStorage(), devices: newDevices(),
	}
}

// Nodes is every node. The slice is the picture's own: do not keep it.
func (p *Picture) Nodes() []*Node { return p.nodes }

// Versions tells, in the order of Nodes, states of nodes apart, with their pods
// and what they have room kept for: no two states of one node, and no two nodes,
// ever have the same.
func (p *Picture) Versions() []uint64 { return p.versions }

// Version tells states of the whole picture apart.
func (p *Picture) Version() uint64 { return p.version }

// VersionFor tells states of the picture apart, as far as they matter to a pod.
func (p *Picture) VersionFor(pod *Pod) uint64 {
	version := p.version // all of them only grow
	if len(pod.Claims) > 0 {
		version += p.storage.version
	}
	if len(pod.Object.Spec.ResourceClaims) > 0 || len(p.devices.Backed(pod)) > 0 {
		version += p.devices.version
	}
	return version
}

// Storage is claims, volumes and what has to do with them.
func (p *Picture) Storage() *Storage { return p.storage }

// Devices is claims of devices, and what drivers offer.
func (p *Picture) Devices() *Devices { return p.devices }

// Shape changes with what nodes there are, their labels and taints, and with
// namespaces, services, budgets and what resources are devices of classes; not
// with pods.
func (p *Picture) Shape() uint64 { return p.shape + p.devices.mapped } // both only grow

// Node finds a node by name, nil if there is none.
func (p *Picture) Node(name string) *Node { return p.byName[name] }

// Holders is how many nodes have an image.
func (p *Picture) Holders(image string) int { return p.holders[image] }

// Advising is how many nodes have a PreferNoSchedule taint.
func (p *Picture) Advising() int { return p.advising }

// SetNode adds a node or replaces what is known of it.
func (p *Picture) SetNode(object *v1.Node) {
	n := p.byName[object.Name]
	if n == nil {
		n = &Node{Object: object, Ports: map[Port]int{}, Nominated: p.nominations[object.Name], index: len(p.nodes)}
		p.nodes = append(p.nodes, n)
		p.versions = append(p.versions, 0)
		p.byName[object.Name] = n
		p.place(n)
		for _, pod := range p.waiting[object.Name] {
			p.attach(pod, n)
		}
		delete(p.waiting, object.Name)
		p.reshaped()
	} else {
		relabelled := !maps.Equal(n.Object.Labels, object.Labels)
		if relabelled || n.Object.Spec.Unschedulable != object.Spec.Unschedulable || !slices.Equal(n.Object.Spec.Taints, object.Spec.Taints) {
			p.reshaped()
		}
		if relabelled {
			for _, pod := range n.Pods {
				p.count(pod, n, -1)
			}
			p.displace(n)
			n.Object = object
			p.place(n)
			for _, pod := range n.Pods {
				p.count(pod, n, 1)
			}
		}
		n.Object = object
	}
	n.Allocatable = FromList(object.Status.Allocatable)
	p.setImages(n, object.Status.Images)
	p.setAdvises(n, slices.ContainsFunc(object.Spec.Taints, func(t v1.Taint) bool { return t.Effect == v1.TaintEffectPreferNoSchedule }))
	p.changed(n)
}

// RemoveNode forgets a node; its pods wait in case that it comes back.
func (p *Picture) RemoveNode(name string) {
	n := p.byName[name]
	if n == nil {
		return
	}
	for len(n.Pods) > 0 {
		pod := n.Pods[len(n.Pods)-1]
		p.detach(pod)
		p.wait(pod)
	}
	p.setImages(n, nil)
	p.setAdvises(n, false)
	p.displace(n)
	delete(p.byName, name)
	last := len(p.nodes) - 1
	p.nodes[n.index], p.versions[n.index] = p.nodes[last], p.versions[last]
	p.nodes[n.index].index = n.index
	p.nodes, p.versions = slices.Delete(p.nodes, last, last+1), p.versions[:last]
	p.reshaped()
}

// Change is what a new state of a pod means to others.
type Change struct {
	Added      bool // it is new
	Relabelled bool
	Freed      bool // it takes less than before, or is terminating now
}

// SetPod adds a bound or assumed pod, or replaces what is known of it.
func (p *Picture) SetPod(object *v1.Pod) Change {
	old := p.pods[object.UID]
	if old != nil && sameLoad(old.Object, object) {
		// Nothing changed that is counted; who started first may matter to victims.
		if old.node != nil && !old.Object.Status.StartTime.Equal(object.Status.StartTime) {
			p.changed(old.node)
		}
		old.Object = object
		return Change{}
	}
	pod := NewPod(object)
	change := Change{Added: old == nil}
	if old != nil {
		change.Relabelled = !maps.Equal(old.Object.Labels, object.Labels)
		change.Freed = old.Requests.exceeds(pod.Requests) || old.Object.DeletionTimestamp == nil && object.DeletionTimestamp != nil
	}
	if old != nil {
		pod.evicted = old.evicted
	}
	p.RemovePod(object.UID)
	p.add(pod)
	return change
}

// SetEvicted says whether somebody is about to delete a pod; see Pod.Evicted.
func (p *Picture) SetEvicted(uid types.UID, evicted bool) {
	pod := p.pods[uid]
	if pod == nil || pod.evicted == evicted {
		return
	}
	pod.evicted = evicted
	if pod.node != nil {
		p.changed(pod.node)
	}
}

// Assume takes the pod as bound to a node, as object says, before the API
// server knows.
func (p *Picture) Assume(pod *Pod, object *v1.Pod) {
	p.RemovePod(object.UID)
	assumed := *pod
	assumed.Object = object
	p.add(&assumed)
}

func (p *Picture) add(pod *Pod) {
	p.pods[pod.Object.UID] = pod
	p.register(pod)
	p.priorities[pod.Priority]++
	if n := p.byName[pod.Object.Spec.NodeName]; n != nil {
		p.attach(pod, n)
		p.changed(n)
		return
	}
	p.wait(pod)
}

func (p *Picture) wait(pod *Pod) {
	name := pod.Object.Spec.NodeName
	if p.waiting[name] == nil {
		p.waiting[name] = map[types.UID]*Pod{}
	}
	p.waiting[name][pod.Object.UID] = pod
}

// RemovePod forgets a pod.
func (p *Picture) RemovePod(uid types.UID) {
	pod := p.pods[uid]
	if pod == nil {
		return
	}
	delete(p.pods, uid)
	if n := pod.node; n != nil {
		p.detach(pod)
		p.changed(n)
	} else {
		name := pod.Object.Spec.NodeName
		delete(p.waiting[name], uid)
		if len(p.waiting[name]) == 0 {
			delete(p.waiting, name)
		}
	}
	if p.priorities[pod.Priority]--; p.priorities[pod.Priority] == 0 {
		delete(p.priorities, pod.Priority)
	}
	p.unregister(pod)
}

// RemoveAssumed forgets a pod if it is still known as object, the very one
// that was assumed: an informer's confirmation replaces it.
func (p *Picture) RemoveAssumed(object *v1.Pod) {
	if pod := p.pods[object.UID]; pod != nil && pod.Object == object {
		p.RemovePod(object.UID)
	}
}

// HasPod says whether a pod is in the picture, and on which node.
func (p *Picture) HasPod(uid types.UID) (node string, ok bool) {
	pod := p.pods[uid]
	if pod == nil {
		return "", false
	}
	return pod.Object.Spec.NodeName, true
}

// LowestPriority is that of the least important pod; false: there are no pods.
func (p *Picture) LowestPriority() (lowest int32, ok bool) {
	for priority := range p.priorities {
		if !ok || priority < lowest {
			lowest, ok = priority, true
		}
	}
	return lowest, ok
}

// Lift takes a pod off its node to see what would be without it. Whoever
// lifts puts back with Put before the picture is unlocked, so that versions
// need not change.
func (p *Picture) Lift(pod *Pod) { p.detach(pod) }

// Put puts a lifted or a nominated pod on a node to see what would be with it.
func (p *Picture) Put(pod *Pod, n *Node) { p.attach(pod, n) }

func (p *Picture) changed(n *Node) {
	p.version++
	p.versions[n.index] = p.version
}

func (p *Picture) reshaped() {
	p.version++
	p.shape = p.version
}

func (p *Picture) attach(pod *Pod, n *Node) {
	pod.node, pod.slot = n, len(n.Pods)
	n.Pods = append(n.Pods, pod)
	n.Requested.Add(pod.Requests)
	n.Scored.Add(pod.ScoredRequests)
	for _, port := range pod.Ports {
		n.Ports[port]++
	}
	p.storage.count(pod, 1)
	p.count(pod, n, 1)
}

func (p *Picture) detach(pod *Pod) {
	n := pod.node
	p.storage.count(pod, -1)
	p.count(pod, n, -1)
	last := len(n.Pods) - 1
	n.Pods[pod.slot] = n.Pods[last]
	n.Pods[pod.slot].slot = pod.slot
	n.Pods[last] = nil
	n.Pods = n.Pods[:last]
	n.Requested.Subtract(pod.Requests)
	n.Scored.Subtract(pod.ScoredRequests)
	for _, port := range pod.Ports {
		if n.Ports[port]--; n.Ports[port] == 0 {
			delete(n.Ports, port)
		}
	}
	pod.node = nil
}

func (p *Picture) setImages(n *Node, list []v1.ContainerImage) {
	for name := range n.Images {
		if p.holders[name]--; p.holders[name] == 0 {
			delete(p.holders, name)
		}
	}
	n.Images = nil
	if len(list) == 0 {
		return
	}
	n.Images = make(map[string]int64, len(list))
	for _, image := range list {
		for _, name := range image.Names {
			n.Images[name] = image.SizeBytes
		}
	}
	for name := range n.Images {
		if p.holders[name]++; p.holders[name] == 1 {
			p.reshaped() // it makes a difference from now on
		}
	}
}

func (p *Picture) setAdvises(n *Node, advises bool) {
	switch {
	case advises && !n.advises:
		p.advising++
	case !advises && n.advises:
		p.advising--
	}
	n.advises = advises
}
