package statefulset

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/controllers/reconcile"
)

var podKind = corev1.SchemeGroupVersion.WithKind("Pod")

func claimName(template *corev1.PersistentVolumeClaim, pod string) string {
	return template.Name + "-" + pod
}

// mount makes the volumes of the claim templates those of the pod's own claims.
func mount(set *appsv1.StatefulSet, pod *corev1.Pod) {
	claims := set.Spec.VolumeClaimTemplates
	if len(claims) == 0 {
		return
	}
	var volumes []corev1.Volume
	replaced := map[string]bool{}
	for i := range claims {
		replaced[claims[i].Name] = true
		volumes = append(volumes, corev1.Volume{Name: claims[i].Name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: claimName(&claims[i], pod.Name)}}})
	}
	for _, v := range pod.Spec.Volumes {
		if !replaced[v.Name] {
			volumes = append(volumes, v)
		}
	}
	pod.Spec.Volumes = volumes
}

// ensureClaims makes the claims that pod is missing. It is an error if one is
// about to go with a former pod of that name: the new one must not use it.
func (c *controller) ensureClaims(ctx context.Context, set *appsv1.StatefulSet, pod *corev1.Pod) error {
	for i := range set.Spec.VolumeClaimTemplates {
		template := &set.Spec.VolumeClaimTemplates[i]
		name := claimName(template, pod.Name)
		claims := c.client.CoreV1().PersistentVolumeClaims(set.Namespace)
		there, err := claims.Get(ctx, name, metav1.GetOptions{})
		switch {
		case err == nil && (there.DeletionTimestamp != nil || leaving(there, pod)):
			return fmt.Errorf("claim %s goes with a former pod: %w", name, reconcile.ErrStale)
		case err == nil:
			continue
		case !apierrors.IsNotFound(err):
			return fmt.Errorf("read claim %s: %w", name, err)
		}
		claim := template.DeepCopy()
		claim.Name, claim.Namespace = name, set.Namespace
		claim.Status = corev1.PersistentVolumeClaimStatus{}
		labels := maps.Clone(template.Labels)
		if labels == nil {
			labels = map[string]string{}
		}
		maps.Copy(labels, set.Spec.Selector.MatchLabels)
		claim.Labels = labels
		claim.OwnerReferences, _ = owners(set, claim.OwnerReferences, pod.Name, nil)
		if _, err := claims.Create(ctx, claim, metav1.CreateOptions{}); err != nil && !apierrors.IsAlreadyExists(err) {
			c.recorder.Eventf(set, corev1.EventTypeWarning, "FailedCreate", "Create Claim %s for Pod %s in StatefulSet %s failed error: %v", name, pod.Name, set.Name, err)
			return fmt.Errorf("create claim %s: %w", name, err)
		}
		c.recorder.Eventf(set, corev1.EventTypeNormal, "SuccessfulCreate", "Create Claim %s Pod %s in StatefulSet %s success", name, pod.Name, set.Name)
	}
	return nil
}

// leaving reports whether claim belongs to a pod of pod's name which is another.
func leaving(claim *corev1.PersistentVolumeClaim, pod *corev1.Pod) bool {
	for _, ref := range claim.OwnerReferences {
		if ref.Kind == podKind.Kind && ref.Name == pod.Name && ref.UID != pod.UID {
			return true
		}
	}
	return false
}

// owners returns the refs of a pod's claim as the retention policy wants them:
// the set where claims go with it, condemned (unless nil) where they go when it
// scales down. A claim that something else controls is left to that, and
// another set of this name, which is gone, to the garbage collector.
func owners(set *appsv1.StatefulSet, refs []metav1.OwnerReference, pod string, condemned *corev1.Pod) (result []metav1.OwnerReference, conflict bool) {
	for _, ref := range refs {
		switch {
		case ref.UID == set.UID || ref.APIVersion == podKind.Version && ref.Kind == podKind.Kind && ref.Name == pod:
			continue // ours
		case ref.APIVersion == kind.GroupVersion().String() && ref.Kind == kind.Kind && ref.Name == set.Name:
			return refs, false
		case ref.Controller != nil && *ref.Controller:
			conflict = true
		}
		result = append(result, ref)
	}
	policy := set.Spec.PersistentVolumeClaimRetentionPolicy
	const retain = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	switch {
	case policy == nil || policy.WhenScaled == retain && policy.WhenDeleted == retain:
		return result, false
	case conflict:
	case condemned != nil && policy.WhenScaled == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		result = append(result, *metav1.NewControllerRef(condemned, podKind))
	case policy.WhenDeleted == appsv1.DeletePersistentVolumeClaimRetentionPolicyType:
		result = append(result, *metav1.NewControllerRef(set, kind))
	}
	return result, conflict
}

// retain brings the owners of all claims of pods in line with the policy.
func (c *controller) retain(ctx context.Context, set *appsv1.StatefulSet, pods, condemned []*corev1.Pod) error {
	if len(set.Spec.VolumeClaimTemplates) == 0 {
		return nil
	}
	// A list from the API server's cache costs one request for all claims.
	list, err := c.client.CoreV1().PersistentVolumeClaims(set.Namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
	if err != nil {
		return fmt.Errorf("list claims: %w", err)
	}
	claims := make(map[string]*corev1.PersistentVolumeClaim, len(list.Items))
	for i := range list.Items {
		claims[list.Items[i].Name] = &list.Items[i]
	}
	leaves := map[string]*corev1.Pod{}
	for _, pod := range condemned {
		leaves[pod.Name] = pod
	}
	var errs []error
	for _, pod := range pods {
		for i := range set.Spec.VolumeClaimTemplates {
			claim := claims[claimName(&set.Spec.VolumeClaimTemplates[i], pod.Name)]
			if claim == nil || claim.DeletionTimestamp != nil || leaving(claim, pod) {
				continue
			}
			refs, conflict := owners(set, claim.OwnerReferences, pod.Name, leaves[pod.Name])
			if equality.Semantic.DeepEqual(refs, claim.OwnerReferences) {
				continue
			}
			if conflict {
				c.recorder.Eventf(set, corev1.EventTypeWarning, "ConflictingController", "PersistentVolumeClaim %s has a conflicting OwnerReference that acts as a manging controller, the retention policy is ignored for this claim", claim.Name)
			}
			errs = append(errs, c.reown(ctx, claim, refs))
		}
	}
	return errors.Join(errs...)
}

func (c *controller) reown(ctx context.Context, claim *corev1.PersistentVolumeClaim, refs []metav1.OwnerReference) error {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": claim.UID, "resourceVersion": claim.ResourceVersion, "ownerReferences": refs}})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().PersistentVolumeClaims(claim.Namespace).Patch(ctx, claim.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write owners of claim %s: %w", claim.Name, err)
	}
	return nil
}
