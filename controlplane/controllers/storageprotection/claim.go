package storageprotection

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/storage/ephemeral"

	"clusterctl/controlplane/controllers/reconcile"
)

func newClaims(env *reconcile.Environment) (*reconcile.Loop, error) {
	loop, err := claimProtection(env).loop(env, "pvcprotection", env.Informers.Core().V1().PersistentVolumeClaims().Informer())
	if err != nil {
		return nil, err
	}
	return loop, wake(env, loop, env.Informers.Core().V1().Pods().Informer(), claimsOf)
}

// claimProtection keeps claims for as long as a pod that was given a node uses
// them.
func claimProtection(env *reconcile.Environment) protection[*corev1.PersistentVolumeClaim] {
	claims := env.Informers.Core().V1().PersistentVolumeClaims().Lister()
	pods := env.Informers.Core().V1().Pods().Lister()
	return protection[*corev1.PersistentVolumeClaim]{
		finalizer: claimFinalizer,
		get: func(key string) (*corev1.PersistentVolumeClaim, error) {
			namespace, name := reconcile.Split(key)
			return claims.PersistentVolumeClaims(namespace).Get(name)
		},
		used: func(ctx context.Context, claim *corev1.PersistentVolumeClaim) (bool, error) {
			cached, err := pods.Pods(claim.Namespace).List(labels.Everything())
			if err != nil {
				return false, err
			}
			for _, pod := range cached {
				if uses(pod, claim) {
					return true, nil
				}
			}
			// The cache may not show the newest pods yet, and data is at stake.
			live, err := env.Client.CoreV1().Pods(claim.Namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, fmt.Errorf("list pods: %w", err)
			}
			for i := range live.Items {
				if pod := &live.Items[i]; uses(pod, claim) {
					return true, fmt.Errorf("pod %s uses the claim: %w", reconcile.Key(pod), reconcile.ErrStale)
				}
			}
			return false, nil
		},
		update: func(ctx context.Context, claim *corev1.PersistentVolumeClaim) error {
			_, err := env.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).Update(ctx, claim, metav1.UpdateOptions{})
			return err
		},
	}
}

// claimsOf returns the keys of the claims behind a pod's volumes.
func claimsOf(pod *corev1.Pod) []string {
	var keys []string
	for i := range pod.Spec.Volumes {
		if name := claimOf(pod, &pod.Spec.Volumes[i]); name != "" {
			keys = append(keys, pod.Namespace+"/"+name)
		}
	}
	return keys
}

// claimOf names the claim behind a volume of a pod, or is "".
func claimOf(pod *corev1.Pod, volume *corev1.Volume) string {
	switch {
	case volume.PersistentVolumeClaim != nil:
		return volume.PersistentVolumeClaim.ClaimName
	case volume.Ephemeral != nil:
		return ephemeral.VolumeClaimName(pod, volume)
	}
	return ""
}

// uses reports whether pod, of the claim's namespace, needs claim to stay. A pod
// without a node does not: no node agent starts it once the claim is deleted. A
// finished one does until it is gone, as its node may hold the volume still. A
// pod whose containers are known to have ended (deleted, with no grace left) no
// longer needs the claims that go with it: when it is deleted in the foreground
// it waits for them.
func uses(pod *corev1.Pod, claim *corev1.PersistentVolumeClaim) bool {
	if pod.Spec.NodeName == "" {
		return false
	}
	ended := pod.DeletionTimestamp != nil && pod.DeletionGracePeriodSeconds != nil && *pod.DeletionGracePeriodSeconds == 0
	for i := range pod.Spec.Volumes {
		volume := &pod.Spec.Volumes[i]
		if claimOf(pod, volume) != claim.Name {
			continue
		}
		if volume.Ephemeral == nil || !ended && ephemeral.VolumeIsForPod(pod, claim) == nil {
			return true
		}
	}
	return false
}
