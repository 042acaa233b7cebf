package scheduler

import (
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
)

// noting is a handler that does nothing but change the picture's storage.
func noting[T any](s *scheduler, note func(*picture.Storage, *T)) func(*T) {
	return func(object *T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		note(s.picture.Storage(), object)
	}
}

func (s *scheduler) claimChanged(_, claim *v1.PersistentVolumeClaim) {
	noting(s, (*picture.Storage).SetClaim)(claim)
	s.queue.Notify(framework.Event{Kind: framework.ClaimChanged, Claim: claim})
}

func (s *scheduler) volumeChanged(_, volume *v1.PersistentVolume) {
	noting(s, (*picture.Storage).SetVolume)(volume)
	s.queue.Notify(framework.Event{Kind: framework.VolumeChanged})
}

func (s *scheduler) classChanged(old, class *storagev1.StorageClass) {
	noting(s, (*picture.Storage).SetClass)(class)
	if old == nil || !equality.Semantic.DeepEqual(old.AllowedTopologies, class.AllowedTopologies) {
		s.queue.Notify(framework.Event{Kind: framework.ClassChanged})
	}
}

func (s *scheduler) csiNodeChanged(old, node *storagev1.CSINode) {
	noting(s, (*picture.Storage).SetCSINode)(node)
	if old == nil || grew(old, node) {
		s.queue.Notify(framework.Event{Kind: framework.CSINodeChanged})
	}
}

// grew says that a driver came to the node, or takes more volumes there.
func grew(old, node *storagev1.CSINode) bool {
	limits := map[string]int32{}
	for _, d := range old.Spec.Drivers {
		limits[d.Name] = limitOf(d)
	}
	for _, d := range node.Spec.Drivers {
		if before, known := limits[d.Name]; !known || limitOf(d) > before {
			return true
		}
	}
	return false
}

func limitOf(d storagev1.CSINodeDriver) int32 {
	if d.Allocatable == nil {
		return 0
	}
	return ptr.Deref(d.Allocatable.Count, 0)
}

func (s *scheduler) driverChanged(old, driver *storagev1.CSIDriver) {
	noting(s, (*picture.Storage).SetDriver)(driver)
	if old != nil && ptr.Deref(old.Spec.StorageCapacity, false) && !ptr.Deref(driver.Spec.StorageCapacity, false) {
		s.queue.Notify(framework.Event{Kind: framework.CapacityChanged})
	}
}

func (s *scheduler) capacityChanged(old, capacity *storagev1.CSIStorageCapacity) {
	noting(s, (*picture.Storage).SetCapacity)(capacity)
	if old != nil {
		before, now := plugins.VolumeLimit(old), plugins.VolumeLimit(capacity)
		if now == nil || before != nil && now.Cmp(*before) <= 0 {
			return
		}
	}
	s.queue.Notify(framework.Event{Kind: framework.CapacityChanged})
}

func (s *scheduler) attachmentChanged(_, attachment *storagev1.VolumeAttachment) {
	noting(s, (*picture.Storage).SetAttachment)(attachment)
}

func (s *scheduler) attachmentGone(attachment *storagev1.VolumeAttachment) {
	noting(s, (*picture.Storage).RemoveAttachment)(attachment)
	s.queue.Notify(framework.Event{Kind: framework.AttachmentRemoved})
}
