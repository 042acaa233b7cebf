package persistentvolume

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/component-helpers/storage/volume"

	"clusterctl/controlplane/controllers/localpath"
)

func (c *controller) syncVolume(ctx context.Context, name string) error {
	v, err := c.volumeLister.Get(name)
	switch {
	case apierrors.IsNotFound(err):
		return nil // the informer has told its claim
	case err != nil:
		return err
	}
	if changed, err := c.protect(ctx, v); err != nil || changed {
		return err // the update brings the volume back
	}
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == "" {
		if _, err = c.setVolumePhase(ctx, v, corev1.VolumeAvailable, ""); err != nil {
			return err
		}
		return c.discard(ctx, v)
	}
	claim, err := c.claimOf(ctx, v)
	if err != nil {
		return err
	}
	switch {
	case claim == nil:
		return c.release(ctx, v)
	case claim.Spec.VolumeName == "":
		if volume.CheckVolumeModeMismatches(&claim.Spec, &v.Spec) {
			c.recorder.Eventf(v, corev1.EventTypeWarning, volumeMismatch, "Cannot bind PersistentVolume to requested PersistentVolumeClaim %q due to incompatible volumeMode.", claim.Name)
			c.recorder.Eventf(claim, corev1.EventTypeWarning, volumeMismatch, "Cannot bind PersistentVolume %q to requested PersistentVolumeClaim due to incompatible volumeMode.", v.Name)
			return nil
		}
		c.claims.AddObject(claim) // completes the binding
		return nil
	case claim.Spec.VolumeName == v.Name:
		_, err := c.setVolumePhase(ctx, v, corev1.VolumeBound, "")
		return err
	case metav1.HasAnnotation(v.ObjectMeta, volume.AnnDynamicallyProvisioned) && v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete:
		return c.release(ctx, v) // made for a claim that got another
	}
	return c.unbind(ctx, v)
}

// claimOf is the claim that a volume is bound to; nil: it is gone, or another of
// its name took its place. Nothing that can lose data is decided by a cache.
func (c *controller) claimOf(ctx context.Context, v *corev1.PersistentVolume) (*corev1.PersistentVolumeClaim, error) {
	ref := v.Spec.ClaimRef
	claim, err := c.claimLister.PersistentVolumeClaims(ref.Namespace).Get(ref.Name)
	if err == nil && claim.UID == ref.UID {
		return claim, nil
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return nil, err
	}
	claim, err = c.env.Client.CoreV1().PersistentVolumeClaims(ref.Namespace).Get(ctx, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err) || err == nil && claim.UID != ref.UID:
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("read claim %s/%s: %w", ref.Namespace, ref.Name, err)
	}
	return claim, nil
}

// release marks a volume whose claim is gone, and does with it as its policy
// says. One that has failed stays marked so, for users to see, and is tried again.
func (c *controller) release(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Status.Phase != corev1.VolumeReleased && v.Status.Phase != corev1.VolumeFailed {
		var err error
		if v, err = c.setVolumePhase(ctx, v, corev1.VolumeReleased, ""); err != nil {
			return err
		}
	}
	switch v.Spec.PersistentVolumeReclaimPolicy {
	case corev1.PersistentVolumeReclaimRetain:
		return nil
	case corev1.PersistentVolumeReclaimDelete:
		return c.remove(ctx, v)
	case corev1.PersistentVolumeReclaimRecycle:
		return c.fail(ctx, v, "VolumeFailedRecycle", "No recycler plugin found for the volume!")
	}
	return c.fail(ctx, v, "VolumeUnknownReclaimPolicy", "Volume has unrecognized PersistentVolumeReclaimPolicy")
}

func (c *controller) fail(ctx context.Context, v *corev1.PersistentVolume, reason, message string) error {
	if v.Status.Phase == corev1.VolumeFailed {
		return nil
	}
	failed, err := c.setVolumePhase(ctx, v, corev1.VolumeFailed, message)
	if err == nil {
		c.recorder.Event(failed, corev1.EventTypeWarning, reason, message)
	}
	return err
}

// remove deletes what is behind a released volume, then the volume. External
// provisioners do so themselves.
func (c *controller) remove(ctx context.Context, v *corev1.PersistentVolume) error {
	if v.Annotations[volume.AnnMigratedTo] != "" {
		return nil
	}
	provisioner := v.Annotations[volume.AnnDynamicallyProvisioned]
	switch {
	case provisioner == localpath.Name:
		return c.removeLocal(ctx, v)
	case provisioner != "" && !strings.HasPrefix(provisioner, "kubernetes.io/"), v.Spec.CSI != nil:
		return nil
	case provisioner != "":
		return c.fail(ctx, v, "VolumeFailedDelete", fmt.Sprintf("no deletable volume plugin matched %q", provisioner))
	}
	return c.fail(ctx, v, "VolumeFailedDelete", fmt.Sprintf("error getting deleter volume plugin for volume %q: no deletable volume plugin matched", v.Name))
}

func (c *controller) removeLocal(ctx context.Context, v *corev1.PersistentVolume) error {
	// The cache may be behind: what is judged last is the volume itself.
	fresh, err := c.env.Client.CoreV1().PersistentVolumes().Get(ctx, v.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil
	case err != nil:
		return fmt.Errorf("read volume before it is deleted: %w", err)
	case fresh.UID != v.UID || fresh.Spec.ClaimRef == nil || fresh.Spec.ClaimRef.UID != v.Spec.ClaimRef.UID:
		return nil
	}
	err = c.local.Remove(ctx, fresh)
	switch {
	case errors.Is(err, localpath.ErrInUse):
		c.recorder.Event(v, corev1.EventTypeNormal, "VolumeDelete", err.Error())
		return err // again, later
	case err != nil:
		return errors.Join(err, c.fail(ctx, fresh, "VolumeFailedDelete", err.Error()))
	}
	if err := c.unprotect(ctx, fresh); err != nil {
		return err
	}
	err = c.env.Client.CoreV1().PersistentVolumes().Delete(ctx, v.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(v.UID))})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("delete volume: %w", err)
	}
	return nil
}

// owned says that what is behind the volume is removed by this controller.
func owned(v *corev1.PersistentVolume) bool {
	return v.Annotations[volume.AnnDynamicallyProvisioned] == localpath.Name
}

// protect keeps our volumes from going before what is behind them, for as long
// as their policy is to delete it.
func (c *controller) protect(ctx context.Context, v *corev1.PersistentVolume) (changed bool, err error) {
	if !owned(v) {
		return false, nil
	}
	has := slices.Contains(v.Finalizers, volume.PVDeletionInTreeProtectionFinalizer)
	switch deletes := v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimDelete; {
	case deletes && !has && v.DeletionTimestamp == nil:
		protected := v.DeepCopy()
		protected.Finalizers = append(protected.Finalizers, volume.PVDeletionInTreeProtectionFinalizer)
		if _, err := c.env.Client.CoreV1().PersistentVolumes().Update(ctx, protected, metav1.UpdateOptions{}); err != nil {
			return false, fmt.Errorf("protect volume: %w", err)
		}
		return true, nil
	case !deletes && has:
		return true, c.unprotect(ctx, v)
	}
	return false, nil
}

func (c *controller) unprotect(ctx context.Context, v *corev1.PersistentVolume) error {
	freed := v.DeepCopy()
	freed.Finalizers = slices.DeleteFunc(freed.Finalizers, func(f string) bool { return f == volume.PVDeletionInTreeProtectionFinalizer })
	if len(freed.Finalizers) == len(v.Finalizers) {
		return nil
	}
	if _, err := c.env.Client.CoreV1().PersistentVolumes().Update(ctx, freed, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("release volume: %w", err)
	}
	return nil
}

// discard removes one of our volumes that a user deletes after it was freed by
// hand: no claim's end does it any more.
func (c *controller) discard(ctx context.Context, v *corev1.PersistentVolume) error {
	if !owned(v) || v.DeletionTimestamp == nil {
		return nil
	}
	if err := c.local.Remove(ctx, v); err != nil {
		return err
	}
	return c.unprotect(ctx, v)
}
