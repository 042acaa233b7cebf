package garbagecollector

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/metadata"

	"clusterctl/controlplane/controllers/reconcile"
)

// reconcile looks at the object whose UID is key.
func (c *controller) reconcile(ctx context.Context, key string) error {
	n, ok := c.graph.get(types.UID(key))
	switch {
	case !ok:
		return nil
	case n.deleting && n.orphan:
		return c.orphan(ctx, n)
	case n.waits():
		return c.finish(ctx, n)
	case n.deleting || len(n.owners) == 0:
		return nil
	}
	states := make([]ownerState, len(n.owners))
	for i, ref := range n.owners {
		state, err := c.stateOf(ctx, n, ref)
		if errors.Is(err, errUndecided) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("find owner %s %s of %s: %w", ref.Kind, ref.Name, describe(n), err)
		}
		states[i] = state
	}
	todo := decide(n, states, c.graph.dependentsOf(n.uid))
	if !todo.remove && len(todo.drop) == 0 {
		return nil
	}
	return c.apply(ctx, n, todo)
}

func describe(n node) string {
	if n.namespace == "" {
		return n.kind + " " + n.name
	}
	return n.kind + " " + n.namespace + "/" + n.name
}

// errUndecided says that nothing can be found out about an owner, and so nothing
// is to be done about what it owns.
var errUndecided = errors.New("owner cannot be found out about")

// stateOf finds out about one owner, from the graph if it knows it, or else
// from the API server.
func (c *controller) stateOf(ctx context.Context, n node, ref metav1.OwnerReference) (ownerState, error) {
	kind, known := c.kinds.lookup(ref.APIVersion, ref.Kind)
	if !known {
		// The kind may be new, or its API down for a while.
		c.loop.Logger().Info("owner is of a kind that is not known", "object", describe(n), "apiVersion", ref.APIVersion, "kind", ref.Kind)
		c.loop.AddAfter(string(n.uid), recheck)
		return solid, errUndecided
	}
	c.tellMisplaced(n, ref)
	namespace := ""
	if kind.namespaced {
		if n.namespace == "" {
			c.loop.Logger().Warn("an object without a namespace cannot have an owner in one", "object", describe(n), "owner", ref.Name)
			return solid, errUndecided
		}
		namespace = n.namespace
	}
	if owner, ok := c.graph.get(ref.UID); ok && owner.name == ref.Name && owner.namespace == namespace &&
		owner.kind == ref.Kind && owner.resource.Group == kind.resource.Group {
		if owner.waits() {
			return waiting, nil
		}
		return solid, nil
	}
	id := absentID(ref, namespace)
	if _, ok := c.absent.Get(id); ok {
		return absent, nil
	}
	owner, err := c.metadata.Resource(kind.resource).Namespace(namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err), err == nil && owner.UID != ref.UID:
		c.absent.Add(id, true)
		return absent, nil
	case err != nil:
		return solid, err
	}
	// It exists and is not watched (yet): nothing will tell when it goes.
	c.loop.AddAfter(string(n.uid), recheck)
	if owner.DeletionTimestamp != nil && slices.Contains(owner.Finalizers, metav1.FinalizerDeleteDependents) {
		return waiting, nil
	}
	return solid, nil
}

// tellMisplaced says on n that the owner it refers to is in another namespace,
// where it can own nothing of n's.
func (c *controller) tellMisplaced(n node, ref metav1.OwnerReference) {
	owner, ok := c.graph.get(ref.UID)
	if !ok || owner.namespace == "" || owner.namespace == n.namespace {
		return
	}
	c.recorder.Eventf(&corev1.ObjectReference{
		APIVersion: n.resource.GroupVersion().String(), Kind: n.kind, Namespace: n.namespace, Name: n.name, UID: n.uid,
	}, corev1.EventTypeWarning, "OwnerRefInvalidNamespace", "ownerRef [%s/%s, namespace: %s, name: %s, uid: %s] does not exist in namespace %q",
		ref.APIVersion, ref.Kind, n.namespace, ref.Name, ref.UID, n.namespace)
}

// absentID names an owner as a reference does. UIDs are never used again, but a
// reference may give a UID with the wrong name.
func absentID(ref metav1.OwnerReference, namespace string) string {
	return fmt.Sprintf("%s|%s|%s|%s|%s", ref.UID, ref.APIVersion, ref.Kind, namespace, ref.Name)
}

func (c *controller) client(n node) metadata.ResourceInterface {
	return c.metadata.Resource(n.resource).Namespace(n.namespace)
}

// fresh reads an object; nil means that it is gone, which the graph then knows.
func (c *controller) fresh(ctx context.Context, n node) (*metav1.PartialObjectMetadata, error) {
	live, err := c.client(n).Get(ctx, n.name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) || err == nil && live.UID != n.uid {
		c.monitors.wake(c.graph.remove(n.uid))
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", describe(n), err)
	}
	return live, nil
}

// apply does what decide has said, if the object still is what it was decided on.
func (c *controller) apply(ctx context.Context, n node, todo action) error {
	live, err := c.fresh(ctx, n)
	if err != nil || live == nil {
		return err
	}
	if live.DeletionTimestamp != nil {
		return nil
	}
	if !equality.Semantic.DeepEqual(live.OwnerReferences, n.owners) {
		return fmt.Errorf("%s has other owners by now: %w", describe(n), reconcile.ErrStale)
	}
	if !todo.remove {
		return c.setOwners(ctx, n, live, without(live.OwnerReferences, todo.drop))
	}
	if todo.unblock {
		if err := c.setOwners(ctx, n, live, unblocked(live.OwnerReferences)); err != nil {
			return err
		}
		if live, err = c.fresh(ctx, n); err != nil || live == nil {
			return err
		}
	}
	policy := todo.policy
	if policy == "" {
		policy = keptPolicy(live.Finalizers)
	}
	c.loop.Logger().Debug("delete", "object", describe(n), "policy", policy)
	err = c.client(n).Delete(ctx, n.name, metav1.DeleteOptions{
		PropagationPolicy: &policy,
		Preconditions:     &metav1.Preconditions{UID: &live.UID, ResourceVersion: &live.ResourceVersion},
	})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s: %w", describe(n), err)
	}
	return nil
}

// orphan cuts the references of all dependents to n, and lets n go.
func (c *controller) orphan(ctx context.Context, n node) error {
	var errs []error
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		live, err := c.fresh(ctx, dependent)
		if err == nil && live != nil {
			if kept := without(live.OwnerReferences, []types.UID{n.uid}); len(kept) < len(live.OwnerReferences) {
				err = c.setOwners(ctx, dependent, live, kept)
			}
		}
		if err != nil {
			errs = append(errs, err)
		}
	}
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("orphan dependents of %s: %w", describe(n), err)
	}
	return c.dropFinalizer(ctx, n, metav1.FinalizerOrphanDependents)
}

// finish lets n, which waits for its dependents, go when none blocks it.
func (c *controller) finish(ctx context.Context, n node) error {
	blocked := false
	for _, dependent := range c.graph.dependentsOf(n.uid) {
		if dependent.blocks(n.uid) {
			blocked = true
			if !dependent.deleting {
				c.loop.Add(string(dependent.uid))
			}
		}
	}
	if blocked {
		return nil // a dependent that goes wakes n
	}
	return c.dropFinalizer(ctx, n, metav1.FinalizerDeleteDependents)
}

func (c *controller) dropFinalizer(ctx context.Context, n node, finalizer string) error {
	live, err := c.fresh(ctx, n)
	if err != nil || live == nil || !slices.Contains(live.Finalizers, finalizer) {
		return err
	}
	kept := slices.DeleteFunc(slices.Clone(live.Finalizers), func(f string) bool { return f == finalizer })
	return c.patch(ctx, n, live, "finalizers", kept)
}

func (c *controller) setOwners(ctx context.Context, n node, live *metav1.PartialObjectMetadata, owners []metav1.OwnerReference) error {
	return c.patch(ctx, n, live, "ownerReferences", owners)
}

// patch replaces one list of the metadata. A merge patch works for every kind;
// the resource version makes it one for the object that was read.
func (c *controller) patch(ctx context.Context, n node, live *metav1.PartialObjectMetadata, field string, value any) error {
	raw, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid":             live.UID,
		"resourceVersion": live.ResourceVersion,
		field:             value,
	}})
	if err != nil {
		return err
	}
	_, err = c.client(n).Patch(ctx, n.name, types.MergePatchType, raw, metav1.PatchOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("write %s of %s: %w", field, describe(n), err)
	}
	return nil
}
