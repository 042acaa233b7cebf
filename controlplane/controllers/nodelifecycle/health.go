package nodelifecycle

import (
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// period is how often every node is looked at.
	period = 5 * time.Second
	// grace is how long a node may be silent. Node agents renew their leases
	// every 10 s, so four renewals in a row may get lost.
	grace = 50 * time.Second
	// startupGrace is how long a node may take to report for the first time.
	startupGrace = 60 * time.Second
)

// watched are the conditions that only the node agent can know.
var watched = []corev1.NodeConditionType{corev1.NodeReady, corev1.NodeMemoryPressure, corev1.NodeDiskPressure, corev1.NodePIDPressure}

// pulse is what was last seen of a node. Its times are by our own clock, so
// that skew between hosts does not matter.
type pulse struct {
	renewed metav1.MicroTime // of the lease, as the node wrote it
	beat    metav1.Time      // of the Ready condition, as the node wrote it
	seen    time.Time        // when one of the two last changed
	uid     types.UID
}

// observe updates p by what the node has written meanwhile.
func (p *pulse) observe(node *corev1.Node, lease *coordinationv1.Lease, now time.Time) {
	renewed, beat, reported := p.renewed, p.beat, false
	if lease != nil && lease.Spec.RenewTime != nil {
		renewed, reported = *lease.Spec.RenewTime, true
	}
	if c := nodeCondition(&node.Status, corev1.NodeReady); c != nil {
		beat, reported = c.LastHeartbeatTime, true
	}
	switch {
	case p.seen.IsZero() && !reported:
		p.seen = node.CreationTimestamp.Time
	case p.seen.IsZero(), !renewed.Equal(&p.renewed) || !beat.Equal(&p.beat):
		p.seen = now
	}
	p.renewed, p.beat, p.uid = renewed, beat, node.UID
}

// judge returns the status that a node is to have, and whether it is silent.
// For a node that is not, it is the one it has.
func (p *pulse) judge(node *corev1.Node, now time.Time) (status corev1.NodeStatus, silent bool) {
	ready := nodeCondition(&node.Status, corev1.NodeReady)
	allowed := grace
	if ready == nil {
		allowed = startupGrace
	}
	if now.Sub(p.seen) <= allowed {
		return node.Status, false
	}
	status = *node.Status.DeepCopy()
	for _, kind := range watched {
		c := nodeCondition(&status, kind)
		switch {
		case c == nil:
			status.Conditions = append(status.Conditions, corev1.NodeCondition{
				Type:               kind,
				Status:             corev1.ConditionUnknown,
				Reason:             "NodeStatusNeverUpdated",
				Message:            "Kubelet never posted node status.",
				LastHeartbeatTime:  node.CreationTimestamp,
				LastTransitionTime: metav1.NewTime(now),
			})
		case c.Status != corev1.ConditionUnknown:
			c.Status = corev1.ConditionUnknown
			c.Reason = "NodeStatusUnknown"
			c.Message = "Kubelet stopped posting node status."
			c.LastTransitionTime = metav1.NewTime(now)
		}
	}
	return status, true
}

// changed reports whether judge found something to write.
func changed(node *corev1.Node, status *corev1.NodeStatus) bool {
	return !equality.Semantic.DeepEqual(node.Status.Conditions, status.Conditions)
}

func nodeCondition(status *corev1.NodeStatus, kind corev1.NodeConditionType) *corev1.NodeCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

// readiness is the status of the Ready condition, Unknown where there is none.
func readiness(status *corev1.NodeStatus) corev1.ConditionStatus {
	if c := nodeCondition(status, corev1.NodeReady); c != nil {
		return c.Status
	}
	return corev1.ConditionUnknown
}
