package reconcile

import (
	"context"
	"encoding/json"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Disrupt deletes pod, after it has been given the condition that says who
// takes it away, and why. It is no error if the pod is gone.
func Disrupt(ctx context.Context, client kubernetes.Interface, pod *corev1.Pod, reason, message string) error {
	pods := client.CoreV1().Pods(pod.Namespace)
	var err error
	if c := PodCondition(pod, corev1.DisruptionTarget); c == nil || c.Status != corev1.ConditionTrue || c.Reason != reason || c.Message != message {
		var patch []byte
		if patch, err = disruption(pod, reason, message); err != nil {
			return err
		}
		_, err = pods.Patch(ctx, pod.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}, "status")
	}
	if err == nil {
		err = pods.Delete(ctx, pod.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(pod.UID))})
	}
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("evict pod: %w", err)
	}
	return nil
}

func disruption(pod *corev1.Pod, reason, message string) ([]byte, error) {
	return json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": pod.UID},
		"status": map[string]any{"conditions": []corev1.PodCondition{{
			Type:               corev1.DisruptionTarget,
			Status:             corev1.ConditionTrue,
			ObservedGeneration: pod.Generation,
			Reason:             reason,
			Message:            message,
			LastTransitionTime: metav1.Now(),
		}}},
	})
}
