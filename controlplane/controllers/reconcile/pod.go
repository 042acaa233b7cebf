package reconcile

import (
	"time"

	corev1 "k8s.io/api/core/v1"
)

// PodCondition returns the condition of a type, or nil.
func PodCondition(pod *corev1.Pod, kind corev1.PodConditionType) *corev1.PodCondition {
	for i := range pod.Status.Conditions {
		if pod.Status.Conditions[i].Type == kind {
			return &pod.Status.Conditions[i]
		}
	}
	return nil
}

// PodReady reports whether the pod's readiness condition is true.
func PodReady(pod *corev1.Pod) bool {
	c := PodCondition(pod, corev1.PodReady)
	return c != nil && c.Status == corev1.ConditionTrue
}

// PodAvailableIn is how long a ready pod still has to stay ready to count as
// available: zero or less if it is available at now. ok is false for a pod that
// is not ready.
func PodAvailableIn(pod *corev1.Pod, minReadySeconds int32, now time.Time) (left time.Duration, ok bool) {
	if !PodReady(pod) {
		return 0, false
	}
	if minReadySeconds == 0 {
		return 0, true
	}
	since := PodCondition(pod, corev1.PodReady).LastTransitionTime
	if since.IsZero() {
		return time.Duration(minReadySeconds) * time.Second, true
	}
	return since.Add(time.Duration(minReadySeconds) * time.Second).Sub(now), true
}

// PodTerminal reports whether the pod has run to its end.
func PodTerminal(pod *corev1.Pod) bool {
	return pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed
}

// PodActive reports whether the pod runs or may still come to run.
func PodActive(pod *corev1.Pod) bool {
	return !PodTerminal(pod) && pod.DeletionTimestamp == nil
}

// PodRestarts returns the most restarts of one of the pod's containers, and of
// one of its sidecars.
func PodRestarts(pod *corev1.Pod) (containers, sidecars int32) {
	for _, s := range pod.Status.ContainerStatuses {
		containers = max(containers, s.RestartCount)
	}
	for _, c := range pod.Spec.InitContainers {
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		for _, s := range pod.Status.InitContainerStatuses {
			if s.Name == c.Name {
				sidecars = max(sidecars, s.RestartCount)
			}
		}
	}
	return containers, sidecars
}
