package persistentvolume

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"
	"k8s.io/component-helpers/storage/volume"

	"clusterctl/controlplane/controllers/reconcile"
)

// Reasons of events, as users know them.
const (
	failedBinding        = "FailedBinding"
	volumeMismatch       = "VolumeMismatch"
	waitForFirstConsumer = "WaitForFirstConsumer"
	waitForPodScheduled  = "WaitForPodScheduled"
)

func (c *controller) syncClaim(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	claim, err := c.claimLister.PersistentVolumeClaims(namespace).Get(name)
	switch {
	case apierrors.IsNotFound(err):
		return nil // the informer has told its volume
	case err != nil:
		return err
	case metav1.HasAnnotation(claim.ObjectMeta, volume.AnnBindCompleted):
		return c.syncBound(ctx, claim)
	case claim.Spec.VolumeName != "":
		return c.syncReserved(ctx, claim)
	}
	return c.syncUnbound(ctx, claim)
}

// syncUnbound finds a volume for a claim that takes any, or has one made.
func (c *controller) syncUnbound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	delayed, err := volume.IsDelayBindingMode(claim, c.classLister)
	if err != nil {
		return err
	}
	found, err := c.match(claim, delayed)
	switch {
	case err != nil:
		return fmt.Errorf("error finding PV for claim %q: %w", reconcile.Key(claim), err)
	case found != nil:
		return c.bind(ctx, found, claim)
	}
	if assigned, err := c.assignDefaultClass(ctx, claim); err != nil || assigned {
		return err // the update brings the claim back
	}
	switch {
	case delayed && !volume.IsDelayBindingProvisioning(claim):
		if err := c.tellWaiting(claim); err != nil {
			return err
		}
	case volume.GetPersistentVolumeClaimClass(claim) != "":
		return c.provision(ctx, claim)
	default:
		c.recorder.Event(claim, corev1.EventTypeNormal, failedBinding, "no persistent volumes available for this claim and no storage class is set")
	}
	_, err = c.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
	return err
}

// assignDefaultClass gives a claim that was made before there was a default
// class the one there is now.
func (c *controller) assignDefaultClass(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
	if volume.PersistentVolumeClaimHasClass(claim) {
		return false, nil
	}
	class, err := c.defaultClass()
	if err != nil || class == nil {
		return false, err
	}
	changed := claim.DeepCopy()
	changed.Spec.StorageClassName = &class.Name
	if _, err := c.env.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, changed, metav1.UpdateOptions{}); err != nil {
		return false, fmt.Errorf("assign default class: %w", err)
	}
	return true, nil
}

// defaultClass is the newest of the default classes, nil if there is none.
func (c *controller) defaultClass() (*storagev1.StorageClass, error) {
	classes, err := c.classLister.List(labels.Everything())
	if err != nil {
		return nil, err
	}
	classes = slices.DeleteFunc(classes, func(s *storagev1.StorageClass) bool {
		return s.Annotations["storageclass.kubernetes.io/is-default-class"] != "true" &&
			s.Annotations["storageclass.beta.kubernetes.io/is-default-class"] != "true"
	})
	if len(classes) == 0 {
		return nil, nil
	}
	return slices.MinFunc(classes, func(a, b *storagev1.StorageClass) int {
		return cmp.Or(b.CreationTimestamp.Compare(a.CreationTimestamp.Time), cmp.Compare(a.Name, b.Name))
	}), nil
}

// tellWaiting says what a claim that waits for its first consumer waits for.
func (c *controller) tellWaiting(claim *corev1.PersistentVolumeClaim) error {
	pods, err := c.podLister.Pods(claim.Namespace).List(labels.Everything())
	if err != nil {
		return err
	}
	var names []string
	for _, pod := range pods {
		if pod.Spec.NodeName == "" && !reconcile.PodTerminal(pod) && usesClaim(pod, claim.Name) {
			names = append(names, pod.Name)
		}
	}
	slices.Sort(names)
	switch len(names) {
	case 0:
		c.recorder.Event(claim, corev1.EventTypeNormal, waitForFirstConsumer, "waiting for first consumer to be created before binding")
	case 1:
		c.recorder.Eventf(claim, corev1.EventTypeNormal, waitForPodScheduled, "waiting for pod %s to be scheduled", names[0])
	default:
		c.recorder.Eventf(claim, corev1.EventTypeNormal, waitForPodScheduled, "waiting for pods %s to be scheduled", strings.Join(names, ","))
	}
	return nil
}

func usesClaim(pod *corev1.Pod, claim string) bool {
	return slices.ContainsFunc(pod.Spec.Volumes, func(v corev1.Volume) bool {
		return v.PersistentVolumeClaim != nil && v.PersistentVolumeClaim.ClaimName == claim ||
			v.Ephemeral != nil && ephemeral.VolumeClaimName(pod, &v) == claim
	})
}

// syncReserved binds a claim that asks for one volume by name.
func (c *controller) syncReserved(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	v, err := c.volumeLister.Get(claim.Spec.VolumeName)
	switch {
	case apierrors.IsNotFound(err):
		// It may come yet.
	case err != nil:
		return err
	case v.Spec.ClaimRef == nil:
		mismatch := satisfies(v, claim)
		if mismatch == nil {
			return c.bind(ctx, v, claim)
		}
		c.recorder.Eventf(claim, corev1.EventTypeWarning, volumeMismatch, "Cannot bind to requested volume %q: %s", v.Name, mismatch)
	case volume.IsVolumeBoundToClaim(v, claim):
		return c.bind(ctx, v, claim)
	default:
		c.recorder.Eventf(claim, corev1.EventTypeWarning, failedBinding, "volume %q already bound to a different claim.", v.Name)
	}
	_, err = c.setClaimStatus(ctx, claim, corev1.ClaimPending, nil)
	return err
}

// syncBound looks after a claim that was bound once: its volume must not go.
func (c *controller) syncBound(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
	if claim.Spec.VolumeName == "" {
		return c.lose(ctx, claim, "ClaimLost", "Bound claim has lost reference to PersistentVolume. Data on the volume is lost!")
	}
	v, err := c.volumeLister.Get(claim.Spec.VolumeName)
	if apierrors.IsNotFound(err) {
		// One that was just made may not be in the cache yet.
		v, err = c.env.Client.CoreV1().PersistentVolumes().Get(ctx, claim.Spec.VolumeName, metav1.GetOptions{})
	}
	switch {
	case apierrors.IsNotFound(err):
		return c.lose(ctx, claim, "ClaimLost", "Bound claim has lost its PersistentVolume. Data on the volume is lost!")
	case err != nil:
		return err
	case v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID == claim.UID:
		return c.bind(ctx, v, claim)
	}
	return c.lose(ctx, claim, "ClaimMisbound", "Two claims are bound to the same volume, this one is bound incorrectly")
}

func (c *controller) lose(ctx context.Context, claim *corev1.PersistentVolumeClaim, reason, message string) error {
	if claim.Status.Phase == corev1.ClaimLost {
		return nil
	}
	lost, err := c.setClaimStatus(ctx, claim, corev1.ClaimLost, nil)
	if err == nil {
		c.recorder.Event(lost, corev1.EventTypeWarning, reason, message)
	}
	return err
}
