package plugins

import (
	v1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodePorts keeps two pods from one host port.
type NodePorts struct{}

func (NodePorts) Name() string { return "NodePorts" }
func (NodePorts) Local() bool  { return true }

func (NodePorts) Events() framework.EventKind { return framework.NodeAdded | framework.PodRemoved }

var portTaken = framework.Refuse("node(s) didn't have free ports for the requested pod ports")

func (NodePorts) PreFilter(pod *picture.Pod, _ *picture.Picture) framework.Filter {
	if len(pod.Ports) == 0 {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		for _, want := range pod.Ports {
			for used := range n.Ports {
				sameIP := used.HostIP == want.HostIP || used.HostIP == "" || want.HostIP == ""
				if used.Port == want.Port && used.Protocol == want.Protocol && sameIP {
					return portTaken
				}
			}
		}
		return nil
	}
}

// Helps: of the pods that go, only one with host ports frees any.
func (NodePorts) Helps(event framework.Event, _ *v1.Pod) bool {
	return event.Pod == nil || picture.UsesHostPorts(event.Pod)
}
