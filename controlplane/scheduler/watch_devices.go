package scheduler

import (
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// devices is a handler that does nothing but change the picture's devices.
func devices[T any](s *scheduler, note func(*picture.Devices, *T)) func(*T) {
	return func(object *T) {
		s.mu.Lock()
		defer s.mu.Unlock()
		note(s.picture.Devices(), object)
	}
}

func (s *scheduler) deviceClaimChanged(old, claim *resourcev1.ResourceClaim) {
	devices(s, (*picture.Devices).SetClaim)(claim)
	switch {
	case old != nil && old.Status.Allocation != nil && claim.Status.Allocation == nil:
		s.queue.Notify(framework.Event{Kind: framework.DevicesFreed})
	case old == nil || !equality.Semantic.DeepEqual(old.Status, claim.Status):
		s.queue.Notify(framework.Event{Kind: framework.DeviceClaimChanged, DeviceClaim: claim})
	}
}

func (s *scheduler) deviceClaimGone(claim *resourcev1.ResourceClaim) {
	devices(s, (*picture.Devices).RemoveClaim)(claim)
	// Of a claim for extended resources the pod waits to get rid before it is given
	// another.
	if claim.Status.Allocation != nil || claim.Annotations[resourcev1.ExtendedResourceClaimAnnotation] == "true" {
		s.queue.Notify(framework.Event{Kind: framework.DevicesFreed})
	}
}

func (s *scheduler) sliceChanged(_, slice *resourcev1.ResourceSlice) {
	devices(s, (*picture.Devices).SetSlice)(slice)
	s.queue.Notify(framework.Event{Kind: framework.DevicesChanged})
}

func (s *scheduler) deviceClassChanged(old, class *resourcev1.DeviceClass) {
	devices(s, (*picture.Devices).SetClass)(class)
	kind := framework.DevicesChanged
	if old == nil || ptr.Deref(old.Spec.ExtendedResourceName, "") != ptr.Deref(class.Spec.ExtendedResourceName, "") {
		kind |= framework.ResourceBacked
	}
	s.queue.Notify(framework.Event{Kind: kind, DeviceClass: class})
}

// awaitsClaims says that claims are still to be made for a pod: its status will
// name them, and until then there is nothing to try.
func awaitsClaims(pod *v1.Pod) bool {
	for i := range pod.Spec.ResourceClaims {
		if _, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err != nil {
			return true
		}
	}
	return false
}
