package persistentvolume

import (
	"context"
	"time"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/labels"
	corelisters "k8s.io/client-go/listers/core/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/record"
	"k8s.io/component-helpers/storage/volume"

	"clusterctl/controlplane/controllers/localpath"
	"clusterctl/controlplane/controllers/reconcile"
)

// resync is how often what is not settled is looked at again, as upstream does:
// users see from the count of events that somebody still tries.
const resync = 15 * time.Second

const volumeWorkers = 8

type controller struct {
	env      *reconcile.Environment
	recorder record.EventRecorder
	local    *localpath.Provisioner

	volumeLister corelisters.PersistentVolumeLister
	claimLister  corelisters.PersistentVolumeClaimLister
	podLister    corelisters.PodLister
	nodeLister   corelisters.NodeLister
	classLister  storagelisters.StorageClassLister

	claims  *reconcile.Loop
	volumes *reconcile.Loop
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c, err := newController(env, localpath.New(env.Client))
	if err != nil {
		return nil, err
	}
	again := reconcile.NewTicker(env, "persistentvolume-resync", resync, c.unsettled)
	return reconcile.All{c.claims, c.volumes, again}, nil
}

func newController(env *reconcile.Environment, local *localpath.Provisioner) (*controller, error) {
	core, storage := env.Informers.Core().V1(), env.Informers.Storage().V1()
	c := &controller{
		env: env, local: local, recorder: env.Recorder("persistentvolume-controller"),
		volumeLister: core.PersistentVolumes().Lister(), claimLister: core.PersistentVolumeClaims().Lister(),
		podLister: core.Pods().Lister(), nodeLister: core.Nodes().Lister(), classLister: storage.StorageClasses().Lister(),
	}
	// One worker: two claims never reach for one volume at once, and what a
	// stale cache offers twice, the second write is refused. Volumes reach for
	// nothing, and may wait long for a node to answer.
	c.claims = reconcile.NewLoop(env, "persistentvolumeclaim", 1, c.syncClaim)
	c.volumes = reconcile.NewLoop(env, "persistentvolume", volumeWorkers, c.syncVolume)
	core.Nodes().Informer()

	if err := reconcile.Each(env, core.PersistentVolumes().Informer(), func(v *corev1.PersistentVolume) {
		c.volumes.AddObject(v)
		c.volumeSeen(v)
	}); err != nil {
		return nil, err
	}
	if err := reconcile.Each(env, core.PersistentVolumeClaims().Informer(), func(claim *corev1.PersistentVolumeClaim) {
		c.claims.AddObject(claim)
		if claim.Spec.VolumeName != "" {
			c.volumes.Add(claim.Spec.VolumeName)
		}
	}); err != nil {
		return nil, err
	}
	return c, reconcile.Watch(env, storage.StorageClasses().Informer(), reconcile.Handlers[*storagev1.StorageClass]{
		Add: func(*storagev1.StorageClass) { c.wakeClaims(func(*corev1.PersistentVolumeClaim) bool { return true }) },
		Update: func(_, _ *storagev1.StorageClass) {
			c.wakeClaims(func(*corev1.PersistentVolumeClaim) bool { return true })
		},
	})
}

// volumeSeen wakes the claims that a volume may serve, or that have lost it.
func (c *controller) volumeSeen(v *corev1.PersistentVolume) {
	if ref := v.Spec.ClaimRef; ref != nil {
		c.claims.Add(ref.Namespace + "/" + ref.Name)
		return
	}
	c.wakeClaims(func(claim *corev1.PersistentVolumeClaim) bool {
		if claim.Spec.VolumeName != "" {
			return claim.Spec.VolumeName == v.Name
		}
		return v.Status.Phase == corev1.VolumeAvailable &&
			volume.GetPersistentVolumeClaimClass(claim) == volume.GetPersistentVolumeClass(v)
	})
}

// wakeClaims wakes the claims that are not bound and that may be helped.
func (c *controller) wakeClaims(may func(*corev1.PersistentVolumeClaim) bool) {
	claims, err := c.claimLister.List(labels.Everything())
	if err != nil {
		c.claims.Logger().Warn("list claims", "error", err) // of a cache: cannot be
		return
	}
	for _, claim := range claims {
		if claim.Status.Phase != corev1.ClaimBound && may(claim) {
			c.claims.AddObject(claim)
		}
	}
}

// unsettled wakes everything that is not where it is to end.
func (c *controller) unsettled(context.Context) error {
	c.wakeClaims(func(*corev1.PersistentVolumeClaim) bool { return true })
	volumes, err := c.volumeLister.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, v := range volumes {
		if v.Status.Phase != corev1.VolumeBound && v.Status.Phase != corev1.VolumeAvailable || v.DeletionTimestamp != nil {
			c.volumes.AddObject(v)
		}
	}
	return nil
}
