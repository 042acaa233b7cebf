package volumeexpand

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

type controller struct {
	recorder record.EventRecorder
	claims   corelisters.PersistentVolumeClaimLister
	volumes  corelisters.PersistentVolumeLister
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	core := env.Informers.Core().V1()
	c := &controller{recorder: env.Recorder("volume_expand"), claims: core.PersistentVolumeClaims().Lister(), volumes: core.PersistentVolumes().Lister()}
	core.PersistentVolumes().Informer()
	loop := reconcile.NewLoop(env, "volumeexpand", 1, c.reconcile)
	return loop, reconcile.Watch(env, core.PersistentVolumeClaims().Informer(), reconcile.Handlers[*corev1.PersistentVolumeClaim]{
		Update: func(old, claim *corev1.PersistentVolumeClaim) {
			was, wants := old.Spec.Resources.Requests[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
			if wants.Cmp(was) > 0 {
				loop.AddObject(claim)
			}
		},
	})
}

func (c *controller) reconcile(_ context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	claim, err := c.claims.PersistentVolumeClaims(namespace).Get(name)
	if apierrors.IsNotFound(err) || err == nil && claim.Status.Phase != corev1.ClaimBound {
		return nil
	}
	if err != nil {
		return err
	}
	v, err := c.volumes.Get(claim.Spec.VolumeName)
	if err != nil {
		return err
	}
	has, wants := v.Spec.Capacity[corev1.ResourceStorage], claim.Spec.Resources.Requests[corev1.ResourceStorage]
	if v.Spec.ClaimRef == nil || v.Spec.ClaimRef.UID != claim.UID || wants.Cmp(has) <= 0 {
		return nil
	}
	c.recorder.Event(claim, corev1.EventTypeNormal, "ExternalExpanding", "waiting for an external controller to expand this PVC")
	return nil
}
