package plugins

import (
	"strings"

	v1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// VolumeZone keeps pods in the zones and regions that labels of their bound
// volumes name. Volumes that are not bound yet are for VolumeBinding.
type VolumeZone struct{}

func (VolumeZone) Name() string { return "VolumeZone" }
func (VolumeZone) Local() bool  { return false }

func (VolumeZone) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged | framework.ClaimChanged | framework.VolumeChanged | framework.ClassChanged
}

// Helps: another's claim does not.
func (VolumeZone) Helps(event framework.Event, pod *v1.Pod) bool {
	return event.Claim == nil || needsClaim(pod, event.Claim)
}

// zoneLabels are the labels that count, and the names that older ones have now.
var zoneLabels = map[string]string{
	v1.LabelFailureDomainBetaZone: v1.LabelTopologyZone, v1.LabelFailureDomainBetaRegion: v1.LabelTopologyRegion,
	v1.LabelTopologyZone: v1.LabelTopologyZone, v1.LabelTopologyRegion: v1.LabelTopologyRegion,
}

var otherZone = framework.RefuseFinally("node(s) had no available volume zone")

// zoneNeed is a label that a node must have, with one of the values.
type zoneNeed struct {
	key    string
	values map[string]bool
}

func (VolumeZone) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	var needs []zoneNeed
	for i := range pod.Claims {
		claim := cluster.Storage().Claim(pod.Claims[i].Key)
		if claim == nil || claim.Spec.VolumeName == "" {
			continue // VolumeBinding says what is wrong
		}
		v := cluster.Storage().Volume(claim.Spec.VolumeName)
		if v == nil {
			continue
		}
		for key := range zoneLabels {
			if value, ok := v.Labels[key]; ok {
				need := zoneNeed{key: key, values: map[string]bool{}}
				for zone := range strings.SplitSeq(value, "__") { // volumes in several zones
					need.values[strings.TrimSpace(zone)] = true
				}
				needs = append(needs, need)
			}
		}
	}
	if needs == nil {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		set := n.Object.Labels
		constrained := false
		for key := range zoneLabels {
			_, has := set[key]
			constrained = constrained || has
		}
		if !constrained {
			return nil
		}
		for _, need := range needs {
			value, ok := set[need.key]
			if !ok {
				value, ok = set[zoneLabels[need.key]]
			}
			if !ok || !need.values[value] {
				return otherZone
			}
		}
		return nil
	}
}
