package plugins

import (
	"encoding/json"

	v1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodePreferAvoidPods keeps the pods of those controllers off a node, where
// others are feasible, that the node's annotation
// scheduler.alpha.kubernetes.io/preferAvoidPods names. It is not part of the
// default profile, and wants a large weight.
type NodePreferAvoidPods struct{}

func (NodePreferAvoidPods) Name() string { return "NodePreferAvoidPods" }
func (NodePreferAvoidPods) Local() bool  { return true }

func (NodePreferAvoidPods) PreScore(pod *picture.Pod, _ *picture.Picture, _ []*picture.Node) framework.Score {
	if pod.Owner == "" {
		return nil
	}
	return func(n *picture.Node) int64 {
		annotation, ok := n.Object.Annotations[v1.PreferAvoidPodsAnnotationKey]
		if !ok {
			return framework.MaxScore
		}
		var avoid v1.AvoidPods
		if err := json.Unmarshal([]byte(annotation), &avoid); err != nil {
			return framework.MaxScore // says nothing that could be understood
		}
		for i := range avoid.PreferAvoidPods {
			if c := avoid.PreferAvoidPods[i].PodSignature.PodController; c != nil && c.UID == pod.Owner {
				return 0
			}
		}
		return framework.MaxScore
	}
}
