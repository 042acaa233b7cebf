package plugins

import (
	v1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodeName lets a pod that names its node run nowhere else.
type NodeName struct{}

func (NodeName) Name() string                { return "NodeName" }
func (NodeName) Local() bool                 { return true }
func (NodeName) Events() framework.EventKind { return framework.NodeAdded }

var otherNode = framework.RefuseFinally("node(s) didn't match the requested node name")

func (NodeName) PreFilter(pod *picture.Pod, _ *picture.Picture) framework.Filter {
	want := pod.Object.Spec.NodeName
	if want == "" {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		if n.Name() != want {
			return otherNode
		}
		return nil
	}
}

func (NodeName) Helps(event framework.Event, pod *v1.Pod) bool {
	return event.Node == nil || event.Node.Name == pod.Spec.NodeName
}
