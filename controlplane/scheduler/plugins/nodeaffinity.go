package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodeAffinity is spec.nodeSelector and spec.affinity.nodeAffinity, required
// and preferred.
type NodeAffinity struct{}

func (NodeAffinity) Name() string { return "NodeAffinity" }
func (NodeAffinity) Local() bool  { return true }

func (NodeAffinity) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged
}

var noNodeAffinity = framework.RefuseFinally("node(s) didn't match Pod's node affinity/selector")

func (NodeAffinity) PreFilter(pod *picture.Pod, _ *picture.Picture) framework.Filter {
	spec := &pod.Object.Spec
	if len(spec.NodeSelector) == 0 && (spec.Affinity == nil || spec.Affinity.NodeAffinity == nil ||
		spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil) {
		return nil
	}
	required := nodeaffinity.GetRequiredNodeAffinity(pod.Object)
	return func(n *picture.Node) *framework.Refusal {
		if match, err := required.Match(n.Object); err != nil || !match {
			return noNodeAffinity
		}
		return nil
	}
}

func (NodeAffinity) Helps(event framework.Event, pod *v1.Pod) bool {
	if event.Node == nil {
		return true
	}
	match, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(event.Node)
	return err == nil && match
}

func (NodeAffinity) PreScore(pod *picture.Pod, _ *picture.Picture, _ []*picture.Node) framework.Score {
	affinity := pod.Object.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil || len(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution) == 0 {
		return nil
	}
	terms, err := nodeaffinity.NewPreferredSchedulingTerms(affinity.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	if err != nil {
		return nil // the API server refuses such terms
	}
	return func(n *picture.Node) int64 { return terms.Score(n.Object) }
}

func (NodeAffinity) Normalize(scores []int64) { proportional(scores, false) }
