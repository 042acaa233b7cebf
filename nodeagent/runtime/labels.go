package runtime

import (
	"strconv"

	v1 "k8s.io/api/core/v1"
)

// Labels and annotations that sandboxes and containers carry. They are the
// field's own, so that crictl and log collectors find their way.
const (
	LabelPodName       = "io.kubernetes.pod.name"
	LabelPodNamespace  = "io.kubernetes.pod.namespace"
	LabelPodUID        = "io.kubernetes.pod.uid"
	LabelContainerName = "io.kubernetes.container.name"

	AnnotationHash                   = "io.kubernetes.container.hash"
	AnnotationRestartCount           = "io.kubernetes.container.restartCount"
	AnnotationTerminationMessagePath = "io.kubernetes.container.terminationMessagePath"
	AnnotationTerminationPolicy      = "io.kubernetes.container.terminationMessagePolicy"
	AnnotationPodDeletionGrace       = "io.kubernetes.pod.deletionGracePeriod"
	AnnotationPodGrace               = "io.kubernetes.pod.terminationGracePeriod"
)

// PodLabels are the labels of pod's sandbox: the pod's own and ours.
func PodLabels(pod *v1.Pod) map[string]string {
	labels := make(map[string]string, len(pod.Labels)+3)
	for k, v := range pod.Labels {
		labels[k] = v
	}
	labels[LabelPodName] = pod.Name
	labels[LabelPodNamespace] = pod.Namespace
	labels[LabelPodUID] = string(pod.UID)
	return labels
}

// ContainerLabels are the labels of one of pod's containers.
func ContainerLabels(pod *v1.Pod, container string) map[string]string {
	return map[string]string{
		LabelPodName:       pod.Name,
		LabelPodNamespace:  pod.Namespace,
		LabelPodUID:        string(pod.UID),
		LabelContainerName: container,
	}
}

// ContainerAnnotations record what the agent has to know about a container
// after its own restart, when the pod may be gone already.
func ContainerAnnotations(pod *v1.Pod, c *v1.Container, hash string, attempt uint32) map[string]string {
	annotations := map[string]string{
		AnnotationHash:                   hash,
		AnnotationRestartCount:           strconv.FormatUint(uint64(attempt), 10),
		AnnotationTerminationMessagePath: c.TerminationMessagePath,
		AnnotationTerminationPolicy:      string(c.TerminationMessagePolicy),
	}
	if pod.DeletionGracePeriodSeconds != nil {
		annotations[AnnotationPodDeletionGrace] = strconv.FormatInt(*pod.DeletionGracePeriodSeconds, 10)
	}
	if pod.Spec.TerminationGracePeriodSeconds != nil {
		annotations[AnnotationPodGrace] = strconv.FormatInt(*pod.Spec.TerminationGracePeriodSeconds, 10)
	}
	return annotations
}
