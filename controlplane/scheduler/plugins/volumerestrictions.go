package plugins

import (
	"slices"

	v1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// VolumeRestrictions keeps pods apart that may not share a volume: a claim of
// access mode ReadWriteOncePod has one user in the cluster, and some disks that
// pods name themselves have one writer on a node.
type VolumeRestrictions struct{}

func (VolumeRestrictions) Name() string { return "VolumeRestrictions" }
func (VolumeRestrictions) Local() bool  { return false }

func (VolumeRestrictions) Events() framework.EventKind {
	return framework.NodeAdded | framework.PodRemoved | framework.ClaimChanged
}

// Helps: only the end of a pod that shares a volume, or the pod's own claim.
func (VolumeRestrictions) Helps(event framework.Event, pod *v1.Pod) bool {
	switch {
	case event.Claim != nil:
		return needsClaim(pod, event.Claim)
	case event.Pod == nil || event.Kind&framework.PodRemoved == 0:
		return true
	case event.Pod.Namespace != pod.Namespace:
		return false
	}
	return disksClash(pod, event.Pod) || slices.ContainsFunc(picture.ClaimsOf(pod), func(mine picture.ClaimRef) bool {
		return slices.Contains(picture.ClaimsOf(event.Pod), mine)
	})
}

var (
	diskConflict   = framework.Refuse("node(s) had no available disk")
	claimInUse     = framework.Refuse("node(s) unavailable due to PersistentVolumeClaim with ReadWriteOncePod access mode already in-use by another pod")
	claimInUseElse = func(*picture.Node) *framework.Refusal { return claimInUse }
)

func (VolumeRestrictions) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	for i := range pod.Claims {
		ref := &pod.Claims[i]
		if ref.Ephemeral || cluster.Storage().Users(ref.Key) == 0 {
			continue
		}
		if claim := cluster.Storage().Claim(ref.Key); claim != nil && slices.Contains(claim.Spec.AccessModes, v1.ReadWriteOncePod) {
			return claimInUseElse
		}
	}
	if !hasExclusive(pod.Object) {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		for _, other := range n.Pods {
			if disksClash(pod.Object, other.Object) {
				return diskConflict
			}
		}
		return nil
	}
}

// Exclusive says that a volume may clash with another pod's.
func Exclusive(v *v1.Volume) bool {
	return v.GCEPersistentDisk != nil || v.AWSElasticBlockStore != nil || v.RBD != nil || v.ISCSI != nil
}

func hasExclusive(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if Exclusive(&pod.Spec.Volumes[i]) {
			return true
		}
	}
	return false
}

// disksClash says whether two pods name a disk that they may not share.
func disksClash(a, b *v1.Pod) bool {
	for i := range a.Spec.Volumes {
		if !Exclusive(&a.Spec.Volumes[i]) {
			continue
		}
		for j := range b.Spec.Volumes {
			if clash(&a.Spec.Volumes[i].VolumeSource, &b.Spec.Volumes[j].VolumeSource) {
				return true
			}
		}
	}
	return false
}

func clash(a, b *v1.VolumeSource) bool {
	switch {
	case a.GCEPersistentDisk != nil && b.GCEPersistentDisk != nil:
		return a.GCEPersistentDisk.PDName == b.GCEPersistentDisk.PDName && !(a.GCEPersistentDisk.ReadOnly && b.GCEPersistentDisk.ReadOnly)
	case a.AWSElasticBlockStore != nil && b.AWSElasticBlockStore != nil:
		return a.AWSElasticBlockStore.VolumeID == b.AWSElasticBlockStore.VolumeID
	case a.ISCSI != nil && b.ISCSI != nil:
		return a.ISCSI.IQN == b.ISCSI.IQN && !(a.ISCSI.ReadOnly && b.ISCSI.ReadOnly)
	case a.RBD != nil && b.RBD != nil:
		shared := slices.ContainsFunc(a.RBD.CephMonitors, func(m string) bool { return slices.Contains(b.RBD.CephMonitors, m) })
		return shared && a.RBD.RBDPool == b.RBD.RBDPool && a.RBD.RBDImage == b.RBD.RBDImage && !(a.RBD.ReadOnly && b.RBD.ReadOnly)
	}
	return false
}
