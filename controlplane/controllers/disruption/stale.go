package disruption

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

// staleAfter is how long a pod that is said to be disrupted may take to be
// deleted before it is said no longer.
const staleAfter = 2 * time.Minute

// staleIn is how long the condition of a pod still counts; ok is false for pods
// that have none, that leave, and whose node agent takes its time to stop them.
func staleIn(pod *corev1.Pod, now time.Time) (left time.Duration, ok bool) {
	c := reconcile.PodCondition(pod, corev1.DisruptionTarget)
	if c == nil || c.Status != corev1.ConditionTrue || c.Reason == corev1.PodReasonTerminationByKubelet ||
		pod.DeletionTimestamp != nil || reconcile.PodTerminal(pod) {
		return 0, false
	}
	return max(0, c.LastTransitionTime.Add(staleAfter).Sub(now)), true
}

func (c *controller) watchCondition(pod *corev1.Pod) {
	if left, ok := staleIn(pod, time.Now()); ok {
		c.stale.AddAfter(reconcile.Key(pod), left)
	}
}

// refresh takes back that a pod is disrupted, once nobody has deleted it.
func (c *controller) refresh(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	cached, err := c.pods.Pods(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	now := time.Now()
	left, ok := staleIn(cached, now)
	if !ok {
		return nil
	}
	if left > 0 {
		c.stale.AddAfter(key, left)
		return nil
	}
	pod := cached.DeepCopy()
	*reconcile.PodCondition(pod, corev1.DisruptionTarget) = corev1.PodCondition{
		Type: corev1.DisruptionTarget, Status: corev1.ConditionFalse, ObservedGeneration: pod.Generation, LastTransitionTime: metav1.NewTime(now),
	}
	if _, err := c.client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take back the condition of pod %s: %w", key, err)
	}
	return nil
}
