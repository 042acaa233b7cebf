package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodeUnschedulable keeps pods away from cordoned nodes, unless they tolerate
// the taint that stands for it.
type NodeUnschedulable struct{}

func (NodeUnschedulable) Name() string { return "NodeUnschedulable" }
func (NodeUnschedulable) Local() bool  { return true }

func (NodeUnschedulable) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeTaintsChanged
}

var cordonedNode = framework.RefuseFinally("node(s) were unschedulable")

func (NodeUnschedulable) PreFilter(pod *picture.Pod, _ *picture.Picture) framework.Filter {
	cordoned := v1.Taint{Key: v1.TaintNodeUnschedulable, Effect: v1.TaintEffectNoSchedule}
	if corev1.TolerationsTolerateTaint(klog.Background(), pod.Object.Spec.Tolerations, &cordoned, false) {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		if n.Object.Spec.Unschedulable {
			return cordonedNode
		}
		return nil
	}
}

func (NodeUnschedulable) Helps(event framework.Event, _ *v1.Pod) bool {
	return event.Node == nil || !event.Node.Spec.Unschedulable
}
