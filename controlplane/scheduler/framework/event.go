package framework

import (
	"math/bits"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
)

// EventKind is a kind of change in the cluster that may help a pod that did
// not fit. Kinds are bits, so that a set of them is one number.
type EventKind uint32

// Kinds of events.
const (
	NodeAdded EventKind = 1 << iota
	NodeAllocatableChanged
	NodeLabelsChanged
	NodeTaintsChanged // spec.unschedulable included
	PodRemoved        // from a node, or finished, or terminating now
	PodAdded          // to a node, or its labels changed: it may be what another wants to be near
	Surroundings      // labels of a namespace, a service
	ClaimChanged      // a persistent volume claim came or changed
	VolumeChanged     // a persistent volume came or changed
	ClassChanged      // a storage class came, or its topologies changed
	CSINodeChanged    // a driver came to a node, or a limit of one grew
	CapacityChanged   // storage came, or a driver stopped telling how much there is
	AttachmentRemoved // of a volume to a node
	DeviceClaimChanged
	DevicesFreed   // by a claim
	DevicesChanged // a slice or a class of devices came or changed
	ResourceBacked // an extended resource is the devices of another class now
	NodeFeaturesChanged

	// Anything stands for an event of any kind.
	Anything = NodeAdded | NodeAllocatableChanged | NodeLabelsChanged | NodeTaintsChanged | PodRemoved | PodAdded | Surroundings |
		ClaimChanged | VolumeChanged | ClassChanged | CSINodeChanged | CapacityChanged | AttachmentRemoved |
		DeviceClaimChanged | DevicesFreed | DevicesChanged | ResourceBacked | NodeFeaturesChanged
)

// Event is one change. Node, Pod and the claims are what changed, as it is now;
// nil: not known, so whatever depends on it has to assume the best.
type Event struct {
	Kind  EventKind
	Node  *v1.Node
	Pod   *v1.Pod
	Claim *v1.PersistentVolumeClaim

	DeviceClaim *resourcev1.ResourceClaim
	DeviceClass *resourcev1.DeviceClass
	// ClassOf is the class whose devices an extended resource is, nil: of none.
	ClassOf func(v1.ResourceName) *resourcev1.DeviceClass
}

// names of kinds, by bit, are those that upstream's metrics have.
var names = []string{
	"NodeAdd", "NodeUpdateNodeAllocatable", "NodeUpdateNodeLabel", "NodeUpdateNodeTaint", "AssignedPodDelete", "AssignedPodAdd", "NamespaceUpdate",
	"PersistentVolumeClaimUpdate", "PersistentVolumeUpdate", "storage.k8s.io/StorageClassUpdate", "storage.k8s.io/CSINodeUpdate",
	"storage.k8s.io/CSIStorageCapacityUpdate", "storage.k8s.io/VolumeAttachmentDelete", "resource.k8s.io/ResourceClaimUpdate",
	"resource.k8s.io/ResourceClaimUpdate", "resource.k8s.io/ResourceSliceUpdate", "resource.k8s.io/DeviceClassUpdate", "NodeUpdateNodeDeclaredFeature",
}

// String names the first of the kinds.
func (k EventKind) String() string {
	if bit := bits.TrailingZeros32(uint32(k)); bit < len(names) {
		return names[bit]
	}
	return "Unknown"
}
