package replicaset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"clusterctl/controlplane/controllers/reconcile"
)

// newStatus counts pods and says whether the last step failed.
func newStatus(rs *appsv1.ReplicaSet, active []*corev1.Pod, terminating int32, manageErr error, now time.Time) appsv1.ReplicaSetStatus {
	status := appsv1.ReplicaSetStatus{
		Replicas:            int32(len(active)),
		TerminatingReplicas: &terminating,
		ObservedGeneration:  rs.Generation,
		Conditions:          slices.Clone(rs.Status.Conditions),
	}
	template := labels.SelectorFromSet(rs.Spec.Template.Labels)
	for _, pod := range active {
		if template.Matches(labels.Set(pod.Labels)) {
			status.FullyLabeledReplicas++
		}
		left, ready := reconcile.PodAvailableIn(pod, rs.Spec.MinReadySeconds, now)
		if ready {
			status.ReadyReplicas++
			if left <= 0 {
				status.AvailableReplicas++
			}
		}
	}
	isFailure := func(c appsv1.ReplicaSetCondition) bool { return c.Type == appsv1.ReplicaSetReplicaFailure }
	switch failing := slices.ContainsFunc(status.Conditions, isFailure); {
	case manageErr == nil && failing:
		status.Conditions = slices.DeleteFunc(status.Conditions, isFailure)
	case manageErr != nil && !failing:
		reason := "FailedCreate"
		if len(active) > int(*rs.Spec.Replicas) {
			reason = "FailedDelete"
		}
		status.Conditions = append(status.Conditions, appsv1.ReplicaSetCondition{
			Type:               appsv1.ReplicaSetReplicaFailure,
			Status:             corev1.ConditionTrue,
			LastTransitionTime: metav1.NewTime(now),
			Reason:             reason,
			Message:            reasonOf(manageErr),
		})
	}
	return status
}

// reasonOf is what the API server said, without what we were about to do.
func reasonOf(err error) string {
	if said := apierrors.APIStatus(nil); errors.As(err, &said) {
		return said.Status().Message
	}
	return err.Error()
}

func (c *controller) writeStatus(ctx context.Context, rs *appsv1.ReplicaSet, status appsv1.ReplicaSetStatus) error {
	if c.source.kind.Kind != "ReplicaSet" {
		status.TerminatingReplicas = nil // is no field of the other kind
	}
	if equality.Semantic.DeepEqual(rs.Status, status) {
		return nil
	}
	updated := rs.DeepCopy()
	updated.Status = status
	if err := c.source.writeStatus(ctx, updated); err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}

// nextAvailable is when the next ready pod becomes available; 0 if none will.
func nextAvailable(rs *appsv1.ReplicaSet, active []*corev1.Pod, now time.Time) time.Duration {
	next := time.Duration(0)
	for _, pod := range active {
		if left, ready := reconcile.PodAvailableIn(pod, rs.Spec.MinReadySeconds, now); ready && left > 0 && (next == 0 || left < next) {
			next = left
		}
	}
	return next
}
