package replicaset

import (
	"cmp"
	"math"
	"slices"
	"strconv"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// victims picks the n pods whose loss costs least.
func (c *controller) victims(rs *appsv1.ReplicaSet, active []*corev1.Pod, n int) ([]*corev1.Pod, error) {
	if n >= len(active) {
		return active, nil
	}
	// Pods of sibling replica sets count too: in a rollout, old and new pods
	// of one deployment are to stay spread over the nodes.
	siblings := []*appsv1.ReplicaSet{rs}
	if ref := metav1.GetControllerOfNoCopy(rs); ref != nil {
		found, err := c.env.ReplicaSetsControlledBy(ref.UID)
		if err != nil {
			return nil, err
		}
		siblings = found
	}
	perNode := map[string]int{}
	for _, sibling := range siblings {
		pods, err := c.env.PodsOf(sibling, false)
		if err != nil {
			return nil, err
		}
		for _, pod := range pods {
			if reconcile.PodActive(pod) {
				perNode[pod.Spec.NodeName]++
			}
		}
	}
	sorted := slices.Clone(active)
	slices.SortFunc(sorted, func(a, b *corev1.Pod) int { return compareCost(a, b, perNode, time.Now()) })
	return sorted[:n], nil
}

var phaseOrder = map[corev1.PodPhase]int{corev1.PodPending: 0, corev1.PodUnknown: 1, corev1.PodRunning: 2}

// compareCost is negative if a is to be deleted before b: the one without a
// node, the one in an earlier phase, not ready, of lower
// controller.kubernetes.io/pod-deletion-cost, with more company on its node,
// ready for less long, restarted more often, younger. Ages are compared by
// their order of magnitude only, and by UID within one, so that the same age
// does not always hit the same node or zone.
func compareCost(a, b *corev1.Pod, perNode map[string]int, now time.Time) int {
	if c := compareBool(a.Spec.NodeName != "", b.Spec.NodeName != ""); c != 0 {
		return c
	}
	if c := cmp.Compare(phaseOrder[a.Status.Phase], phaseOrder[b.Status.Phase]); c != 0 {
		return c
	}
	if c := compareBool(reconcile.PodReady(a), reconcile.PodReady(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(deletionCost(a), deletionCost(b)); c != 0 {
		return c
	}
	if c := cmp.Compare(perNode[b.Spec.NodeName], perNode[a.Spec.NodeName]); c != 0 {
		return c
	}
	if reconcile.PodReady(a) {
		ra := reconcile.PodCondition(a, corev1.PodReady).LastTransitionTime
		rb := reconcile.PodCondition(b, corev1.PodReady).LastTransitionTime
		if !ra.Equal(&rb) {
			return compareAge(ra, rb, a, b, now)
		}
	}
	ca, ia := reconcile.PodRestarts(a)
	cb, ib := reconcile.PodRestarts(b)
	if c := cmp.Or(cmp.Compare(cb, ca), cmp.Compare(ib, ia)); c != 0 {
		return c
	}
	if !a.CreationTimestamp.Equal(&b.CreationTimestamp) {
		return compareAge(a.CreationTimestamp, b.CreationTimestamp, a, b, now)
	}
	return 0
}

func compareBool(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// compareAge puts the younger first; an unknown time is youngest.
func compareAge(ta, tb metav1.Time, a, b *corev1.Pod, now time.Time) int {
	if ta.IsZero() || tb.IsZero() {
		return compareBool(!ta.IsZero(), !tb.IsZero())
	}
	if c := cmp.Compare(magnitude(now.Sub(ta.Time)), magnitude(now.Sub(tb.Time))); c != 0 {
		return c
	}
	return cmp.Compare(a.UID, b.UID)
}

func magnitude(age time.Duration) int {
	if age <= 0 {
		return -1
	}
	return int(math.Log2(float64(age)))
}

func deletionCost(pod *corev1.Pod) int32 {
	cost, err := strconv.ParseInt(pod.Annotations[corev1.PodDeletionCost], 10, 32)
	if err != nil {
		return 0
	}
	return int32(cost)
}
