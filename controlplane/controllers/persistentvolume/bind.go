package persistentvolume

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"
)

// beforeResize is the capacity that a claim shows until its file system has
// followed a volume that grew without the claim.
const beforeResize = "volume.alpha.kubernetes.io/pre-resize-capacity"

// bind makes volume and claim point at each other, and both say so. What is
// done already is not done again.
func (c *controller) bind(ctx context.Context, v *corev1.PersistentVolume, claim *corev1.PersistentVolumeClaim) error {
	bound, changed, err := volume.GetBindVolumeToClaim(v, claim)
	if err != nil {
		return err
	}
	if changed {
		if bound, err = c.env.Client.CoreV1().PersistentVolumes().Update(ctx, bound, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind volume %s: %w", v.Name, err)
		}
	}
	if bound, err = c.setVolumePhase(ctx, bound, corev1.VolumeBound, ""); err != nil {
		return err
	}
	owner := claim
	if claim.Spec.VolumeName != bound.Name || !metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted) {
		owner = claim.DeepCopy()
		if owner.Spec.VolumeName != bound.Name {
			owner.Spec.VolumeName = bound.Name
			metav1.SetMetaDataAnnotation(&owner.ObjectMeta, volume.AnnBoundByController, "yes")
		}
		metav1.SetMetaDataAnnotation(&owner.ObjectMeta, volume.AnnBindCompleted, "yes")
		if owner, err = c.env.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, owner, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("bind claim to volume %s: %w", bound.Name, err)
		}
	}
	_, err = c.setClaimStatus(ctx, owner, corev1.ClaimBound, bound)
	return err
}

// unbind frees a volume that was bound to a claim which has another: wholly, or,
// where a user reserved it for the claim, for the claim to come back.
func (c *controller) unbind(ctx context.Context, v *corev1.PersistentVolume) error {
	freed := v.DeepCopy()
	if metav1.HasAnnotation(v.ObjectMeta, volume.AnnBoundByController) {
		freed.Spec.ClaimRef = nil
		delete(freed.Annotations, volume.AnnBoundByController)
	} else {
		freed.Spec.ClaimRef.UID = ""
	}
	freed, err := c.env.Client.CoreV1().PersistentVolumes().Update(ctx, freed, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("unbind volume: %w", err)
	}
	_, err = c.setVolumePhase(ctx, freed, corev1.VolumeAvailable, "")
	return err
}

func (c *controller) setVolumePhase(ctx context.Context, v *corev1.PersistentVolume, phase corev1.PersistentVolumePhase, message string) (*corev1.PersistentVolume, error) {
	if v.Status.Phase == phase {
		return v, nil
	}
	changed := v.DeepCopy()
	changed.Status.Phase, changed.Status.Message = phase, message
	changed, err := c.env.Client.CoreV1().PersistentVolumes().UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("set phase %s of volume %s: %w", phase, v.Name, err)
	}
	return changed, nil
}

// setClaimStatus writes the phase, and what the claim shows of its volume; nil
// for a claim without one.
func (c *controller) setClaimStatus(ctx context.Context, claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	status, err := claimStatus(claim, phase, v)
	if err != nil {
		return nil, err
	}
	if equality.Semantic.DeepEqual(*status, claim.Status) {
		return claim, nil
	}
	changed := claim.DeepCopy()
	changed.Status = *status
	changed, err = c.env.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("set phase %s of claim: %w", phase, err)
	}
	return changed, nil
}

func claimStatus(claim *corev1.PersistentVolumeClaim, phase corev1.PersistentVolumeClaimPhase, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaimStatus, error) {
	status := claim.Status.DeepCopy()
	status.Phase = phase
	if v == nil {
		status.AccessModes, status.Capacity, status.CurrentVolumeAttributesClassName = nil, nil, nil
		return status, nil
	}
	status.AccessModes = slices.Clone(v.Spec.AccessModes)
	// Later on capacity and class are for those who resize and modify.
	if claim.Status.Phase == phase {
		return status, nil
	}
	size, ok := v.Spec.Capacity[corev1.ResourceStorage]
	if !ok {
		return nil, fmt.Errorf("PersistentVolume %q is without a storage capacity", v.Name)
	}
	if before, ok := v.Annotations[beforeResize]; ok {
		if was, err := resource.ParseQuantity(before); err == nil {
			size = was
		}
	}
	status.Capacity = v.Spec.Capacity.DeepCopy()
	status.Capacity[corev1.ResourceStorage] = size
	if claim.Status.Phase == corev1.ClaimPending && phase == corev1.ClaimBound {
		status.CurrentVolumeAttributesClassName = v.Spec.VolumeAttributesClassName
	}
	return status, nil
}
