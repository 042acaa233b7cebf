package plugins

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// TaintToleration keeps pods away from nodes with taints that they do not
// tolerate (NoSchedule, NoExecute), and prefers nodes with fewer of those that
// only advise (PreferNoSchedule).
type TaintToleration struct{}

func (TaintToleration) Name() string { return "TaintToleration" }
func (TaintToleration) Local() bool  { return true }

func (TaintToleration) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeTaintsChanged
}

var untolerated = framework.RefuseFinally("node(s) had untolerated taint(s)")

// binding says whether a taint keeps pods away, rather than only advises.
func binding(t *v1.Taint) bool { return t.Effect != v1.TaintEffectPreferNoSchedule }

func (TaintToleration) PreFilter(pod *picture.Pod, _ *picture.Picture) framework.Filter {
	tolerations := pod.Object.Spec.Tolerations
	return func(n *picture.Node) *framework.Refusal {
		if len(n.Object.Spec.Taints) == 0 {
			return nil
		}
		if _, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), n.Object.Spec.Taints, tolerations, binding, false); found {
			return untolerated
		}
		return nil
	}
}

func (TaintToleration) Helps(event framework.Event, pod *v1.Pod) bool {
	if event.Node == nil {
		return true
	}
	_, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), event.Node.Spec.Taints, pod.Spec.Tolerations, binding, false)
	return !found
}

func (TaintToleration) PreScore(pod *picture.Pod, cluster *picture.Picture, _ []*picture.Node) framework.Score {
	if cluster.Advising() == 0 {
		return nil
	}
	return func(n *picture.Node) int64 {
		var intolerable int64
		for i := range n.Object.Spec.Taints {
			t := &n.Object.Spec.Taints[i]
			if t.Effect == v1.TaintEffectPreferNoSchedule && !corev1.TolerationsTolerateTaint(klog.Background(), pod.Object.Spec.Tolerations, t, false) {
				intolerable++
			}
		}
		return intolerable
	}
}

func (TaintToleration) Normalize(scores []int64) { proportional(scores, true) }
