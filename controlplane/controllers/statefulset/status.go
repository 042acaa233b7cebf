package statefulset

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/history"
	"clusterctl/controlplane/controllers/reconcile"
)

// newStatus counts pods, and ends an update once all pods are of the new
// revision and ready.
func newStatus(set *appsv1.StatefulSet, current string, revisions history.History, pods []*corev1.Pod, now time.Time) appsv1.StatefulSetStatus {
	collisions := int32(0)
	if revisions.Collisions != nil {
		collisions = *revisions.Collisions
	}
	status := appsv1.StatefulSetStatus{
		ObservedGeneration: set.Generation,
		CurrentRevision:    current,
		UpdateRevision:     revisions.Update.Name,
		CollisionCount:     &collisions,
		Replicas:           int32(len(pods)),
		Conditions:         set.Status.Conditions,
	}
	for _, pod := range pods {
		if running(pod) {
			status.ReadyReplicas++
			if left, _ := reconcile.PodAvailableIn(pod, set.Spec.MinReadySeconds, now); left <= 0 {
				status.AvailableReplicas++
			}
		}
		if pod.DeletionTimestamp != nil {
			continue
		}
		revision := pod.Labels[appsv1.ControllerRevisionHashLabelKey]
		if revision == current {
			status.CurrentReplicas++
		}
		if revision == status.UpdateRevision {
			status.UpdatedReplicas++
		}
	}
	wanted := *set.Spec.Replicas
	if set.Spec.UpdateStrategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && current != status.UpdateRevision &&
		status.UpdatedReplicas == wanted && status.ReadyReplicas == wanted && status.Replicas == wanted {
		status.CurrentRevision = status.UpdateRevision
		status.CurrentReplicas = status.UpdatedReplicas
	}
	return status
}

func (c *controller) writeStatus(ctx context.Context, set *appsv1.StatefulSet, status appsv1.StatefulSetStatus) error {
	if equality.Semantic.DeepEqual(set.Status, status) {
		return nil
	}
	updated := set.DeepCopy()
	updated.Status = status
	if _, err := c.client.AppsV1().StatefulSets(set.Namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
