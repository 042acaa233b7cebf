package resourceclaim

import (
	"context"
	"errors"
	"fmt"
	"maps"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/reconcile"
)

// fieldManager is who a pod's resourceClaimStatuses belong to.
const fieldManager = "ResourceClaimController"

// reconcilePod makes the claims that a pod lacks, says so in its status, and
// reserves its claims once it is bound.
func (c *controller) reconcilePod(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	pod, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	if pod.DeletionTimestamp != nil || reconcile.PodTerminal(pod) {
		return nil
	}
	changed, statuses := false, []*applycorev1.PodResourceClaimStatusApplyConfiguration{}
	for i := range pod.Spec.ResourceClaims {
		wanted := &pod.Spec.ResourceClaims[i]
		if wanted.ResourceClaimTemplateName == nil {
			continue
		}
		claim, made, err := c.claimFor(ctx, pod, wanted)
		if err != nil {
			c.recorder.Event(pod, corev1.EventTypeWarning, "FailedResourceClaimCreation", fmt.Sprintf("PodResourceClaim %s: %v", wanted.Name, err))
			return fmt.Errorf("make claim %s of pod: %w", wanted.Name, err)
		}
		changed = changed || made
		status := applycorev1.PodResourceClaimStatus().WithName(wanted.Name)
		if claim != "" {
			status.WithResourceClaimName(claim)
		}
		statuses = append(statuses, status)
	}
	if changed {
		status := applycorev1.Pod(name, namespace).WithUID(pod.UID).WithStatus(applycorev1.PodStatus().WithResourceClaimStatuses(statuses...))
		_, err := c.client.CoreV1().Pods(namespace).ApplyStatus(ctx, status, metav1.ApplyOptions{FieldManager: fieldManager, Force: true})
		if err != nil {
			return fmt.Errorf("name claims in pod's status: %w", err)
		}
	}
	if pod.Spec.NodeName == "" {
		return nil // the scheduler reserves
	}
	return c.reserve(ctx, pod)
}

// claimFor finds or makes the claim for a template of a pod. An empty name
// says that none is needed, changed that the pod does not know of it yet.
func (c *controller) claimFor(ctx context.Context, pod *corev1.Pod, wanted *corev1.PodResourceClaim) (name string, changed bool, err error) {
	known, _, err := resourceclaim.Name(pod, wanted)
	switch {
	case errors.Is(err, resourceclaim.ErrClaimNotFound):
	case err != nil:
		return "", false, err
	case known == nil:
		return "", false, nil
	default:
		claim, err := c.claims.ResourceClaims(pod.Namespace).Get(*known)
		if err != nil && !apierrors.IsNotFound(err) {
			return "", false, err
		}
		if err == nil && resourceclaim.IsForPod(pod, claim, false) == nil {
			return *known, false, nil
		}
	}
	if name, err := c.found(pod, wanted.Name); err != nil || name != "" {
		return name, known == nil || *known != name, err
	}
	template, err := c.templates.ResourceClaimTemplates(pod.Namespace).Get(*wanted.ResourceClaimTemplateName)
	if err != nil {
		return "", false, fmt.Errorf("resource claim template %q: %w", *wanted.ResourceClaimTemplateName, err)
	}
	claim, err := c.client.ResourceV1().ResourceClaims(pod.Namespace).Create(ctx, newClaim(pod, wanted.Name, template), metav1.CreateOptions{})
	if err != nil {
		return "", false, fmt.Errorf("create ResourceClaim: %w", err)
	}
	c.mu.Lock()
	c.made[made{pod.UID, wanted.Name}] = claim.Name
	c.mu.Unlock()
	return claim.Name, true, nil
}

// found is the claim that was made for a pod before, of which the pod's status
// may not have been told; empty: none.
func (c *controller) found(pod *corev1.Pod, name string) (string, error) {
	owned, err := c.owned.ByIndex(byOwner, string(pod.UID))
	if err != nil {
		return "", fmt.Errorf("find claims of pod: %w", err)
	}
	for _, obj := range owned {
		if claim, ok := obj.(*resourcev1.ResourceClaim); ok && claim.Annotations[resourcev1.PodResourceClaimAnnotation] == name {
			return claim.Name, nil
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.made[made{pod.UID, name}], nil
}

// newClaim is the claim that a template describes, for a pod.
func newClaim(pod *corev1.Pod, name string, template *resourcev1.ResourceClaimTemplate) *resourcev1.ResourceClaim {
	annotations := map[string]string{}
	maps.Copy(annotations, template.Spec.Annotations)
	annotations[resourcev1.PodResourceClaimAnnotation] = name
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: generateName(pod.Name, name), Labels: template.Spec.Labels, Annotations: annotations,
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}},
		},
		Spec: template.Spec.Spec,
	}
}

// generateName begins with the names of the pod and of its claim. Where that is
// too long for a label, both are shortened, each in proportion.
func generateName(pod, claim string) string {
	const most = 57 // the server adds a hyphen's worth and five characters to 63
	name := pod + "-" + claim + "-"
	if n := len(name); n > most {
		return pod[:len(pod)*most/n] + "-" + claim[:len(claim)*most/n]
	}
	return name
}

// reserve reserves allocated claims for a pod that was bound past the
// scheduler.
func (c *controller) reserve(ctx context.Context, pod *corev1.Pod) error {
	for i := range pod.Spec.ResourceClaims {
		name, own, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if errors.Is(err, resourceclaim.ErrClaimNotFound) || err == nil && name == nil {
			continue // the pod's status comes back
		}
		if err != nil {
			return err
		}
		claim, err := c.claims.ResourceClaims(pod.Namespace).Get(*name)
		if apierrors.IsNotFound(err) {
			continue // comes back with the claim
		}
		if err != nil {
			return err
		}
		if own {
			if err := resourceclaim.IsForPod(pod, claim, false); err != nil {
				return err
			}
		}
		if claim.Status.Allocation == nil || resourceclaim.IsReservedForPod(pod, claim, false) || !resourceclaim.CanBeReserved(claim) {
			continue
		}
		claim = claim.DeepCopy()
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: pod.Name, UID: pod.UID})
		if _, err := c.updateStatus(ctx, claim); err != nil {
			return fmt.Errorf("reserve claim %s: %w", claim.Name, err)
		}
	}
	return nil
}
