package namespace

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/reconcile"
)

// leftover is what a pass over a namespace has found and failed to do.
type leftover struct {
	discovery  error
	parsing    error
	content    []error
	resources  map[schema.GroupResource]int // objects that remain
	finalizers map[string]int               // objects that each finalizer holds
}

func (l *leftover) objects() int {
	n := 0
	for _, count := range l.resources {
		n += count
	}
	return n
}

func (l *leftover) err() error {
	return errors.Join(append([]error{l.discovery, l.parsing}, l.content...)...)
}

// deletable is a kind that can be deleted out of a namespace.
type deletable struct {
	resource   schema.GroupVersionResource
	collection bool
}

var pods = schema.GroupVersionResource{Version: "v1", Resource: "pods"}

// empty asks for the deletion of everything in a namespace. Pods go first: what
// they run may depend on the rest (policies, secrets) up to its end.
func (c *controller) empty(ctx context.Context, ns *corev1.Namespace) *leftover {
	namespace := ns.Name
	left := &leftover{resources: map[schema.GroupResource]int{}, finalizers: map[string]int{}}
	kinds := c.discover(left)
	if i := slices.IndexFunc(kinds, func(d deletable) bool { return d.resource == pods }); i >= 0 {
		grace := c.grace(ctx, namespace, left)
		c.emptyOf(ctx, namespace, kinds[i], time.Since(ns.DeletionTimestamp.Time) < grace, left)
		if left.objects() > 0 || len(left.content) > 0 {
			return left
		}
		kinds = slices.Delete(kinds, i, i+1)
	}
	for _, kind := range kinds {
		c.emptyOf(ctx, namespace, kind, false, left)
	}
	return left
}

// grace is how long the pods of a namespace may take to end.
func (c *controller) grace(ctx context.Context, namespace string, left *leftover) time.Duration {
	list, err := c.client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		left.content = append(left.content, fmt.Errorf("list pods: %w", err))
		return 0
	}
	longest := int64(0)
	for i := range list.Items {
		if pod := &list.Items[i]; !reconcile.PodTerminal(pod) {
			longest = max(longest, ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, 0))
		}
	}
	return time.Duration(longest) * time.Second
}

// discover lists the kinds to delete, each in the version its group prefers.
func (c *controller) discover(left *leftover) []deletable {
	lists, err := discovery.ServerPreferredNamespacedResources(c.discovery)
	if err != nil {
		// A group that cannot be asked may have objects here: what is known
		// is deleted, but the namespace stays.
		left.discovery = fmt.Errorf("discover kinds: %w", err)
	}
	lists = discovery.FilteredBy(discovery.SupportsAllVerbs{Verbs: []string{"delete", "list"}}, lists)
	var kinds []deletable
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			left.parsing = fmt.Errorf("parse group version: %w", err)
			continue
		}
		for _, r := range list.APIResources {
			kinds = append(kinds, deletable{resource: gv.WithResource(r.Name), collection: slices.Contains(r.Verbs, "deletecollection")})
		}
	}
	if len(kinds) == 0 && left.discovery == nil {
		// Never true of a server that is well; believing it would let every
		// namespace go with all that is in it.
		left.discovery = errors.New("discover kinds: the API server names none")
	}
	return kinds
}

// emptyOf deletes the objects of one kind and counts those that remain. Unless
// they may take their time, something has to hold them.
func (c *controller) emptyOf(ctx context.Context, namespace string, kind deletable, slow bool, left *leftover) {
	client := c.metadata.Resource(kind.resource).Namespace(namespace)
	fail := func(what string, err error) {
		if !apierrors.IsNotFound(err) && !apierrors.IsMethodNotSupported(err) {
			left.content = append(left.content, fmt.Errorf("%s %s: %w", what, kind.resource.GroupResource(), err))
		}
	}
	found, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		fail("list", err)
		return
	}
	if len(found.Items) == 0 {
		return
	}
	background := metav1.DeletePropagationBackground
	options := metav1.DeleteOptions{PropagationPolicy: &background}
	if kind.collection {
		if err := client.DeleteCollection(ctx, options, metav1.ListOptions{}); err != nil {
			fail("delete all", err)
		}
	} else {
		for i := range found.Items {
			if err := client.Delete(ctx, found.Items[i].Name, options); err != nil && !apierrors.IsNotFound(err) {
				fail("delete", err)
			}
		}
	}
	remaining, err := client.List(ctx, metav1.ListOptions{})
	if err != nil {
		fail("list", err)
		return
	}
	held := false
	for i := range remaining.Items {
		o := &remaining.Items[i]
		left.resources[kind.resource.GroupResource()]++
		for _, finalizer := range o.Finalizers {
			left.finalizers[finalizer]++
			held = true
		}
	}
	if len(remaining.Items) > 0 && !held && !slow {
		left.content = append(left.content, fmt.Errorf("unexpected items still remain in namespace: %s for gvr: %v", namespace, kind.resource))
	}
}

// waits spaces out the looks at each namespace. The zero value is ready.
type waits struct {
	mu     sync.Mutex
	byName map[string]time.Duration
}

func (w *waits) next(name string) time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.byName == nil {
		w.byName = map[string]time.Duration{}
	}
	wait := min(lastAgain, max(firstAgain, 2*w.byName[name]))
	w.byName[name] = wait
	return wait
}

func (w *waits) forget(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.byName, name)
}
