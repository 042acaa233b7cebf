package garbagecollector

import (
	"slices"
	"sync"

	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
)

// node is what the collector needs to know of an object.
type node struct {
	uid        types.UID
	resource   schema.GroupVersionResource
	kind       string
	namespace  string
	name       string
	owners     []metav1.OwnerReference
	deleting   bool
	orphan     bool // has the finalizer that asks for its dependents to be kept
	foreground bool // has the finalizer that waits for its dependents
}

func newNode(resource schema.GroupVersionResource, kind string, obj metav1.Object) node {
	return node{
		uid:        obj.GetUID(),
		resource:   resource,
		kind:       kind,
		namespace:  obj.GetNamespace(),
		name:       obj.GetName(),
		owners:     obj.GetOwnerReferences(),
		deleting:   obj.GetDeletionTimestamp() != nil,
		orphan:     slices.Contains(obj.GetFinalizers(), metav1.FinalizerOrphanDependents),
		foreground: slices.Contains(obj.GetFinalizers(), metav1.FinalizerDeleteDependents),
	}
}

// waits reports whether n is being deleted once its dependents are.
func (n *node) waits() bool { return n.deleting && n.foreground }

// blocks reports whether n keeps owner from going in a foreground deletion.
func (n *node) blocks(owner types.UID) bool {
	return slices.ContainsFunc(n.owners, func(ref metav1.OwnerReference) bool {
		return ref.UID == owner && ref.BlockOwnerDeletion != nil && *ref.BlockOwnerDeletion
	})
}

// graph is every object that is known to exist, and the dependents of every
// owner that is referred to, known or not. It is safe for concurrent use.
type graph struct {
	mu         sync.Mutex
	nodes      map[types.UID]*node
	dependents map[types.UID]sets.Set[types.UID]
}

func newGraph() *graph {
	return &graph{nodes: map[types.UID]*node{}, dependents: map[types.UID]sets.Set[types.UID]{}}
}

// observe takes in an object that was added or changed, and returns those that
// have to be looked at because of it.
func (g *graph) observe(n node) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	wake := sets.New[types.UID]()
	old := g.nodes[n.uid]
	var before []metav1.OwnerReference
	if old != nil {
		before = old.owners
	}
	if old == nil && (len(n.owners) > 0 || n.deleting) || old != nil && (!equality.Semantic.DeepEqual(before, n.owners) || old.deleting != n.deleting || old.waits() != n.waits() || old.orphan != n.orphan) {
		wake.Insert(n.uid)
	}
	for _, ref := range before {
		g.unlink(ref.UID, n.uid)
		if old.blocks(ref.UID) && !n.blocks(ref.UID) {
			g.wakeWaiting(ref.UID, wake)
		}
	}
	for _, ref := range n.owners {
		if g.dependents[ref.UID] == nil {
			g.dependents[ref.UID] = sets.New[types.UID]()
		}
		g.dependents[ref.UID].Insert(n.uid)
	}
	if n.waits() && (old == nil || !old.waits()) {
		wake = wake.Union(g.dependents[n.uid])
	}
	g.nodes[n.uid] = &n
	return wake.UnsortedList()
}

// remove takes in that an object is gone, and returns those that have to be
// looked at because of it.
func (g *graph) remove(uid types.UID) []types.UID {
	g.mu.Lock()
	defer g.mu.Unlock()
	n := g.nodes[uid]
	if n == nil {
		return nil
	}
	delete(g.nodes, uid)
	wake := sets.New[types.UID]()
	for _, ref := range n.owners {
		g.unlink(ref.UID, uid)
		g.wakeWaiting(ref.UID, wake)
	}
	return wake.Union(g.dependents[uid]).UnsortedList()
}

// removeResource takes in that a resource is no longer served.
func (g *graph) removeResource(resource schema.GroupVersionResource) []types.UID {
	g.mu.Lock()
	var gone []types.UID
	for uid, n := range g.nodes {
		if n.resource == resource {
			gone = append(gone, uid)
		}
	}
	g.mu.Unlock()
	wake := sets.New[types.UID]()
	for _, uid := range gone {
		wake.Insert(g.remove(uid)...)
	}
	return wake.UnsortedList()
}

func (g *graph) unlink(owner, dependent types.UID) {
	set := g.dependents[owner]
	set.Delete(dependent)
	if set.Len() == 0 {
		delete(g.dependents, owner)
	}
}

func (g *graph) wakeWaiting(owner types.UID, wake sets.Set[types.UID]) {
	if n := g.nodes[owner]; n != nil && n.waits() {
		wake.Insert(owner)
	}
}

// get returns a copy of a node; ok is false if the object is not known.
func (g *graph) get(uid types.UID) (n node, ok bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if found := g.nodes[uid]; found != nil {
		return *found, true
	}
	return node{}, false
}

// dependentsOf returns copies of the known dependents of owner.
func (g *graph) dependentsOf(owner types.UID) []node {
	g.mu.Lock()
	defer g.mu.Unlock()
	var result []node
	for uid := range g.dependents[owner] {
		if n := g.nodes[uid]; n != nil {
			result = append(result, *n)
		}
	}
	return result
}

// size returns the number of known objects.
func (g *graph) size() int {
	g.mu.Lock()
	defer g.mu.Unlock()
	return len(g.nodes)
}
