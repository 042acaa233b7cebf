package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodeVolumeLimits keeps to the number of volumes that a CSI driver can attach
// to a node.
type NodeVolumeLimits struct{}

func (NodeVolumeLimits) Name() string { return "NodeVolumeLimits" }
func (NodeVolumeLimits) Local() bool  { return false }

func (NodeVolumeLimits) Events() framework.EventKind {
	return framework.CSINodeChanged | framework.PodRemoved | framework.ClaimChanged | framework.AttachmentRemoved
}

// Helps: pods without claims free no volume.
func (NodeVolumeLimits) Helps(event framework.Event, pod *v1.Pod) bool {
	switch {
	case event.Claim != nil:
		return needsClaim(pod, event.Claim)
	case event.Pod != nil && event.Kind&framework.PodRemoved != 0:
		return len(picture.ClaimsOf(event.Pod)) > 0
	}
	return true
}

var tooManyVolumes = framework.Refuse("node(s) exceed max volume count")

// attachable is a volume of a driver; handle is unique for the driver.
type attachable struct{ driver, handle string }

func (NodeVolumeLimits) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	storage := cluster.Storage()
	wanted := map[attachable]bool{}
	addAttachables(wanted, pod, storage)
	if len(wanted) == 0 {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		limits := limitsOf(storage, n.Name())
		if len(limits) == 0 {
			return nil
		}
		used := map[attachable]bool{}
		for _, other := range n.Pods {
			addAttachables(used, other, storage)
		}
		// What is attached still, though no pod of the node uses it.
		for attachment := range storage.Attachments(n.Name()) {
			if name := attachment.Spec.Source.PersistentVolumeName; name != nil {
				if v := storage.Volume(*name); v != nil && v.Spec.CSI != nil {
					used[attachable{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = true
				}
			}
		}
		counts, more := map[string]int{}, map[string]bool{}
		for a := range used {
			counts[a.driver]++
		}
		for a := range wanted {
			if !used[a] {
				counts[a.driver]++
				more[a.driver] = true
			}
		}
		for driver := range more {
			if limit, ok := limits[driver]; ok && counts[driver] > int(limit) {
				return tooManyVolumes
			}
		}
		return nil
	}
}

func limitsOf(storage *picture.Storage, node string) map[string]int32 {
	csiNode := storage.CSINode(node)
	if csiNode == nil {
		return nil
	}
	limits := map[string]int32{}
	for i := range csiNode.Spec.Drivers {
		if d := &csiNode.Spec.Drivers[i]; d.Allocatable != nil && d.Allocatable.Count != nil {
			limits[d.Name] = *d.Allocatable.Count
		}
	}
	return limits
}

// addAttachables adds the CSI volumes of a pod; one that is yet to be made
// counts for its class' provisioner.
func addAttachables(all map[attachable]bool, pod *picture.Pod, storage *picture.Storage) {
	for i := range pod.Claims {
		claim := storage.Claim(pod.Claims[i].Key)
		if claim == nil {
			continue
		}
		if v := storage.Volume(claim.Spec.VolumeName); v != nil {
			if v.Spec.CSI != nil {
				all[attachable{v.Spec.CSI.Driver, v.Spec.CSI.VolumeHandle}] = true
			}
			continue
		}
		if class := storage.Class(volume.GetPersistentVolumeClaimClass(claim)); class != nil {
			all[attachable{class.Provisioner, "claim " + pod.Claims[i].Key}] = true
		}
	}
}
