package garbagecollector

import (
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// ownerState is how things stand with one owner.
type ownerState int

const (
	solid   ownerState = iota // exists and stays
	waiting                   // is being deleted in the foreground: waits for this object
	absent                    // does not exist
)

// action is what is to be done about an object that is not being deleted.
type action struct {
	remove  bool                       // delete it
	unblock bool                       // first, let it no longer block its owners
	policy  metav1.DeletionPropagation // of that deletion; empty: what its finalizers say
	drop    []types.UID                // or else: cut these references to owners
}

// decide weighs the owners of an object. states has one entry for each owner.
//
// One solid owner keeps an object alive; references to others are then cut.
// Without one it goes. If an owner waits for it, and it has dependents of its
// own, those go first; and where one of those waits too, the two may wait for
// each other, so it stops blocking.
func decide(n node, states []ownerState, dependents []node) action {
	if len(states) == 0 {
		return action{}
	}
	if slices.Contains(states, solid) {
		var drop []types.UID
		for i, state := range states {
			if state != solid {
				drop = append(drop, n.owners[i].UID)
			}
		}
		return action{drop: drop}
	}
	if slices.Contains(states, waiting) && len(dependents) > 0 {
		return action{
			remove:  true,
			unblock: slices.ContainsFunc(dependents, func(d node) bool { return d.waits() }),
			policy:  metav1.DeletePropagationForeground,
		}
	}
	return action{remove: true}
}

// keptPolicy is the policy that an object's own finalizers ask for.
func keptPolicy(finalizers []string) metav1.DeletionPropagation {
	switch {
	case slices.Contains(finalizers, metav1.FinalizerOrphanDependents):
		return metav1.DeletePropagationOrphan
	case slices.Contains(finalizers, metav1.FinalizerDeleteDependents):
		return metav1.DeletePropagationForeground
	}
	return metav1.DeletePropagationBackground
}

// without returns refs but for those to owners in drop.
func without(refs []metav1.OwnerReference, drop []types.UID) []metav1.OwnerReference {
	kept := []metav1.OwnerReference{} // not nil: a patch with null would be no list
	for _, ref := range refs {
		if !slices.Contains(drop, ref.UID) {
			kept = append(kept, ref)
		}
	}
	return kept
}

// unblocked returns refs that block no owner.
func unblocked(refs []metav1.OwnerReference) []metav1.OwnerReference {
	result := slices.Clone(refs)
	for i := range result {
		if result[i].BlockOwnerDeletion != nil {
			no := false
			result[i].BlockOwnerDeletion = &no
		}
	}
	return result
}
