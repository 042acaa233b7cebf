package deployment

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Reasons of conditions, which kubectl rollout and others know by name.
const (
	reasonFound        = "FoundNewReplicaSet"
	reasonCreated      = "NewReplicaSetCreated"
	reasonCreateFailed = "ReplicaSetCreateError"
	reasonUpdated      = "ReplicaSetUpdated"
	reasonAvailable    = "NewReplicaSetAvailable"
	reasonTimedOut     = "ProgressDeadlineExceeded"
	reasonPaused       = "DeploymentPaused"
	reasonResumed      = "DeploymentResumed"
	reasonEnough       = "MinimumReplicasAvailable"
	reasonTooFew       = "MinimumReplicasUnavailable"
)

func newCondition(kind appsv1.DeploymentConditionType, status corev1.ConditionStatus, reason, message string) appsv1.DeploymentCondition {
	now := metav1.Now()
	return appsv1.DeploymentCondition{Type: kind, Status: status, Reason: reason, Message: message, LastUpdateTime: now, LastTransitionTime: now}
}

func condition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) *appsv1.DeploymentCondition {
	for i := range status.Conditions {
		if status.Conditions[i].Type == kind {
			return &status.Conditions[i]
		}
	}
	return nil
}

// setCondition leaves a condition of the same status and reason as it is.
func setCondition(status *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	current := condition(status, c.Type)
	if current != nil && current.Status == c.Status && current.Reason == c.Reason {
		return
	}
	replaceCondition(status, c)
}

// replaceCondition keeps only the time of the last transition.
func replaceCondition(status *appsv1.DeploymentStatus, c appsv1.DeploymentCondition) {
	if current := condition(status, c.Type); current != nil && current.Status == c.Status {
		c.LastTransitionTime = current.LastTransitionTime
	}
	dropCondition(status, c.Type)
	status.Conditions = append(status.Conditions, c)
}

func dropCondition(status *appsv1.DeploymentStatus, kind appsv1.DeploymentConditionType) {
	status.Conditions = slices.DeleteFunc(status.Conditions, func(c appsv1.DeploymentCondition) bool { return c.Type == kind })
}

func hasDeadline(d *appsv1.Deployment) bool {
	return d.Spec.ProgressDeadlineSeconds != nil && *d.Spec.ProgressDeadlineSeconds != math.MaxInt32
}

// status counts, and judges availability.
func (r *rollout) status() appsv1.DeploymentStatus {
	sets := r.all()
	status := appsv1.DeploymentStatus{
		ObservedGeneration:  r.d.Generation,
		AvailableReplicas:   available(sets),
		TerminatingReplicas: terminating(sets),
		CollisionCount:      r.d.Status.CollisionCount,
		Conditions:          slices.Clone(r.d.Status.Conditions),
	}
	for _, rs := range sets {
		status.Replicas += rs.Status.Replicas
		status.ReadyReplicas += rs.Status.ReadyReplicas
	}
	if r.newSet != nil {
		status.UpdatedReplicas = r.newSet.Status.Replicas
	}
	status.UnavailableReplicas = max(0, total(sets)-status.AvailableReplicas)
	if status.AvailableReplicas >= *r.d.Spec.Replicas-limitsOf(r.d).unavailable {
		setCondition(&status, newCondition(appsv1.DeploymentAvailable, corev1.ConditionTrue, reasonEnough, "Deployment has minimum availability."))
	} else {
		setCondition(&status, newCondition(appsv1.DeploymentAvailable, corev1.ConditionFalse, reasonTooFew, "Deployment does not have minimum availability."))
	}
	return status
}

// terminating is unknown while a set's controller, which has seen it, has not
// counted them: an older one did not.
func terminating(sets []*appsv1.ReplicaSet) *int32 {
	n := int32(0)
	for _, rs := range sets {
		switch {
		case rs.Status.TerminatingReplicas != nil:
			n += *rs.Status.TerminatingReplicas
		case rs.Status.ObservedGeneration > 0:
			return nil
		}
	}
	return &n
}

// complete reports whether all wanted pods, and only they, are new and available.
func (r *rollout) complete(status *appsv1.DeploymentStatus) bool {
	wanted := *r.d.Spec.Replicas
	return status.UpdatedReplicas == wanted && status.Replicas == wanted && status.AvailableReplicas == wanted &&
		status.ObservedGeneration >= r.d.Generation
}

// progressed adds to a status how the rollout gets on, compared with the one
// that the deployment has.
func (r *rollout) progressed(status appsv1.DeploymentStatus) appsv1.DeploymentStatus {
	subject := fmt.Sprintf("Deployment %q", r.d.Name)
	if r.newSet != nil {
		subject = fmt.Sprintf("ReplicaSet %q", r.newSet.Name)
	}
	current := condition(&r.d.Status, appsv1.DeploymentProgressing)
	settled := status.Replicas == status.UpdatedReplicas && current != nil && current.Reason == reasonAvailable
	switch {
	case !hasDeadline(r.d):
		dropCondition(&status, appsv1.DeploymentProgressing)
	case settled:
		// A pod that fails later is no rollout.
	case r.complete(&status):
		setCondition(&status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonAvailable, subject+" has successfully progressed."))
	case isProgress(&r.d.Status, &status):
		replaceCondition(&status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionTrue, reasonUpdated, subject+" is progressing."))
	case r.timedOut(current, time.Now()):
		setCondition(&status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionFalse, reasonTimedOut, subject+" has timed out progressing."))
	}
	if failure := r.failure(); failure != nil {
		setCondition(&status, *failure)
	} else {
		dropCondition(&status, appsv1.DeploymentReplicaFailure)
	}
	return status
}

func isProgress(before, after *appsv1.DeploymentStatus) bool {
	return after.UpdatedReplicas > before.UpdatedReplicas ||
		after.Replicas-after.UpdatedReplicas < before.Replicas-before.UpdatedReplicas ||
		after.ReadyReplicas > before.ReadyReplicas ||
		after.AvailableReplicas > before.AvailableReplicas
}

func (r *rollout) timedOut(current *appsv1.DeploymentCondition, now time.Time) bool {
	switch {
	case current == nil || current.Reason == reasonAvailable:
		return false
	case current.Reason == reasonTimedOut:
		return true
	}
	return current.LastUpdateTime.Add(r.deadline()).Before(now)
}

func (r *rollout) deadline() time.Duration {
	return time.Duration(*r.d.Spec.ProgressDeadlineSeconds) * time.Second
}

// failure is the replica failure of the new set, or else of any.
func (r *rollout) failure() *appsv1.DeploymentCondition {
	sets := r.all()
	slices.Reverse(sets) // the new one is last
	for _, rs := range sets {
		for _, c := range rs.Status.Conditions {
			if c.Type == appsv1.ReplicaSetReplicaFailure {
				return &appsv1.DeploymentCondition{
					Type:               appsv1.DeploymentReplicaFailure,
					Status:             c.Status,
					Reason:             c.Reason,
					Message:            c.Message,
					LastTransitionTime: c.LastTransitionTime,
					LastUpdateTime:     c.LastTransitionTime,
				}
			}
		}
	}
	return nil
}

// watchDeadline comes back when the progress deadline is over.
func (r *rollout) watchDeadline() {
	current := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || current == nil || current.Reason == reasonTimedOut || current.Reason == reasonAvailable || r.complete(&r.d.Status) {
		return
	}
	left := time.Until(current.LastUpdateTime.Add(r.deadline()))
	// Times in the API are whole seconds.
	r.loop.AddAfter(r.d.Namespace+"/"+r.d.Name, max(left, 0)+time.Second)
}

// markPaused notes a pause and its end, so that the deadline does not run
// meanwhile.
func (r *rollout) markPaused(ctx context.Context) error {
	current := condition(&r.d.Status, appsv1.DeploymentProgressing)
	if !hasDeadline(r.d) || current != nil && current.Reason == reasonTimedOut {
		return nil
	}
	noted := current != nil && current.Reason == reasonPaused
	if noted == r.d.Spec.Paused {
		return nil
	}
	status := r.d.Status.DeepCopy()
	if r.d.Spec.Paused {
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonPaused, "Deployment is paused"))
	} else {
		setCondition(status, newCondition(appsv1.DeploymentProgressing, corev1.ConditionUnknown, reasonResumed, "Deployment is resumed"))
	}
	return r.writeStatus(ctx, *status)
}

func (r *rollout) writeStatus(ctx context.Context, status appsv1.DeploymentStatus) error {
	if equality.Semantic.DeepEqual(r.d.Status, status) {
		return nil
	}
	d := r.d.DeepCopy()
	d.Status = status
	updated, err := r.client.AppsV1().Deployments(d.Namespace).UpdateStatus(ctx, d, metav1.UpdateOptions{})
	if err != nil {
		return fmt.Errorf("write status: %w", err)
	}
	r.keep(updated)
	return nil
}
