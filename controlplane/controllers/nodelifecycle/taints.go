package nodelifecycle

import (
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// conditionTaints says which taint stands for which condition being so.
var conditionTaints = []struct {
	condition corev1.NodeConditionType
	status    corev1.ConditionStatus
	taint     string
}{
	{corev1.NodeReady, corev1.ConditionFalse, corev1.TaintNodeNotReady},
	{corev1.NodeReady, corev1.ConditionUnknown, corev1.TaintNodeUnreachable},
	{corev1.NodeMemoryPressure, corev1.ConditionTrue, corev1.TaintNodeMemoryPressure},
	{corev1.NodeDiskPressure, corev1.ConditionTrue, corev1.TaintNodeDiskPressure},
	{corev1.NodePIDPressure, corev1.ConditionTrue, corev1.TaintNodePIDPressure},
	{corev1.NodeNetworkUnavailable, corev1.ConditionTrue, corev1.TaintNodeNetworkUnavailable},
}

// evicting are the taints that are set with NoExecute too.
var evicting = []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}

// wantedTaints returns the taints of a node whose conditions are as in status.
// Taints that are not this package's are kept, and so is the time of those that
// stay. A NoExecute taint is added only where evict is true: emptying nodes is
// paced.
func wantedTaints(node *corev1.Node, status *corev1.NodeStatus, evict bool, now metav1.Time) []corev1.Taint {
	noSchedule := map[string]bool{corev1.TaintNodeUnschedulable: node.Spec.Unschedulable}
	for _, row := range conditionTaints {
		c := nodeCondition(status, row.condition)
		noSchedule[row.taint] = c != nil && c.Status == row.status
	}
	var result []corev1.Taint
	for _, taint := range node.Spec.Taints {
		wanted, ours := noSchedule[taint.Key]
		switch {
		case ours && taint.Effect == corev1.TaintEffectNoSchedule && !wanted:
		case slices.Contains(evicting, taint.Key) && taint.Effect == corev1.TaintEffectNoExecute && !wanted:
		default:
			result = append(result, taint)
		}
	}
	add := func(key string, effect corev1.TaintEffect) {
		if !slices.ContainsFunc(result, func(t corev1.Taint) bool { return t.Key == key && t.Effect == effect }) {
			result = append(result, corev1.Taint{Key: key, Effect: effect, TimeAdded: &now})
		}
	}
	for _, row := range conditionTaints {
		if noSchedule[row.taint] {
			add(row.taint, corev1.TaintEffectNoSchedule)
			if evict && slices.Contains(evicting, row.taint) {
				add(row.taint, corev1.TaintEffectNoExecute)
			}
		}
	}
	if node.Spec.Unschedulable {
		add(corev1.TaintNodeUnschedulable, corev1.TaintEffectNoSchedule)
	}
	return result
}

// marked reports whether the node has the NoExecute taint of its readiness.
func marked(node *corev1.Node, ready corev1.ConditionStatus) bool {
	key := corev1.TaintNodeUnreachable
	if ready == corev1.ConditionFalse {
		key = corev1.TaintNodeNotReady
	}
	return slices.ContainsFunc(node.Spec.Taints, func(t corev1.Taint) bool {
		return t.Key == key && t.Effect == corev1.TaintEffectNoExecute
	})
}
