package daemonset

import (
	"context"
	"fmt"
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// newStatus counts nodes.
// The senior pod of a node stands for it. When availability changes by itself
// is noted in d.
func newStatus(v view, collisions *int32, d *decision) appsv1.DaemonSetStatus {
	status := appsv1.DaemonSetStatus{
		ObservedGeneration: v.ds.Generation,
		CollisionCount:     collisions,
		Conditions:         v.ds.Status.Conditions,
	}
	place := newPlacement(v.ds)
	for _, node := range v.nodes {
		pods := v.byNode[node.Name]
		run, _ := place.on(node)
		if !run {
			if len(pods) > 0 {
				status.NumberMisscheduled++
			}
			continue
		}
		status.DesiredNumberScheduled++
		if len(pods) == 0 {
			continue
		}
		status.CurrentNumberScheduled++
		pod := slices.MinFunc(pods, bySeniority)
		wait, ready := reconcile.PodAvailableIn(pod, v.ds.Spec.MinReadySeconds, v.now)
		if ready && wait > 0 && (d.wait == 0 || wait < d.wait) {
			d.wait = wait
		}
		status.NumberReady += count(ready)
		status.NumberAvailable += count(ready && wait <= 0)
		status.UpdatedNumberScheduled += count(v.current(pod))
	}
	status.NumberUnavailable = status.DesiredNumberScheduled - status.NumberAvailable
	return status
}

func count(yes bool) int32 {
	if yes {
		return 1
	}
	return 0
}

func (c *controller) writeStatus(ctx context.Context, ds *appsv1.DaemonSet, status appsv1.DaemonSetStatus) error {
	if equality.Semantic.DeepEqual(ds.Status, status) {
		return nil
	}
	updated := ds.DeepCopy()
	updated.Status = status
	if _, err := c.client.AppsV1().DaemonSets(ds.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
