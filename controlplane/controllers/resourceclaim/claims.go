package resourceclaim

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// reconcileClaim drops the reservations of pods that are done, takes the
// devices from a claim that the last of them left, and deletes a claim that was
// made for a pod which is done.
func (c *controller) reconcileClaim(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	claim, err := c.claims.ResourceClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	var remaining []resourcev1.ResourceClaimConsumerReference
	for _, consumer := range claim.Status.ReservedFor {
		needs, err := c.needs(ctx, namespace, consumer)
		if err != nil {
			return err
		}
		if needs {
			remaining = append(remaining, consumer)
		}
	}
	ours := slices.Contains(claim.Finalizers, resourcev1.Finalizer)
	left := len(remaining) < len(claim.Status.ReservedFor)
	unused := len(remaining) == 0 && ours && (left || claim.DeletionTimestamp != nil)
	if left || unused {
		if err := c.release(ctx, claim.DeepCopy(), remaining, unused); err != nil {
			return err
		}
	}
	if len(remaining) > 0 {
		return nil
	}
	return c.deleteUnneeded(ctx, claim)
}

// needs says whether a consumer still needs the claim that is reserved for it.
// Of consumers that are no pods nothing is known.
func (c *controller) needs(ctx context.Context, namespace string, consumer resourcev1.ResourceClaimConsumerReference) (bool, error) {
	if consumer.APIGroup != corev1.GroupName || consumer.Resource != "pods" {
		return true, nil
	}
	pod, err := c.pods.Pods(namespace).Get(consumer.Name)
	if apierrors.IsNotFound(err) {
		// The cache may be behind the scheduler.
		pod, err = c.client.CoreV1().Pods(namespace).Get(ctx, consumer.Name, metav1.GetOptions{})
		if apierrors.IsNotFound(err) {
			return false, nil
		}
	}
	if err != nil {
		return false, fmt.Errorf("look for pod %s: %w", consumer.Name, err)
	}
	return pod.UID == consumer.UID && !done(pod), nil
}

// release leaves the claim to the remaining consumers; without any it is
// allocated no more, and free to go. claim is the caller's own.
func (c *controller) release(ctx context.Context, claim *resourcev1.ResourceClaim, remaining []resourcev1.ResourceClaimConsumerReference, unused bool) error {
	var err error
	if len(remaining) < len(claim.Status.ReservedFor) || claim.Status.Allocation != nil {
		claim.Status.ReservedFor = remaining
		if unused {
			claim.Status.Allocation = nil
		}
		if claim, err = c.updateStatus(ctx, claim); err != nil {
			return fmt.Errorf("release claim: %w", err)
		}
	}
	if !unused {
		return nil
	}
	claim.Finalizers = slices.DeleteFunc(claim.Finalizers, func(f string) bool { return f == resourcev1.Finalizer })
	if _, err := c.client.ResourceV1().ResourceClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("remove finalizer of claim: %w", err)
	}
	return nil
}

// deleteUnneeded deletes a claim that was made for a pod which will not run:
// the pod itself may stay for long. Claims of pods that are gone are garbage.
func (c *controller) deleteUnneeded(ctx context.Context, claim *resourcev1.ResourceClaim) error {
	owner := owningPod(claim)
	if owner == nil || claim.DeletionTimestamp != nil {
		return nil
	}
	pod, err := c.pods.Pods(claim.Namespace).Get(owner.Name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.UID == owner.UID && !done(pod) {
		return nil
	}
	err = c.client.ResourceV1().ResourceClaims(claim.Namespace).Delete(ctx, claim.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &claim.UID}})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete unused generated claim: %w", err)
	}
	return nil
}
