package core

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api/columns"
)

var podColumns = []metav1.TableColumnDefinition{
	columns.Name(),
	columns.Text("Ready", "The aggregate readiness state of this pod for accepting traffic."),
	columns.Text("Status", "The aggregate status of the containers in this pod."),
	columns.Text("Restarts", "The number of times the containers in this pod have been restarted and when the last container in this pod has restarted."),
	columns.Age(),
	columns.Wide("IP", corev1.PodStatus{}.SwaggerDoc()["podIP"]),
	columns.Wide("Node", corev1.PodSpec{}.SwaggerDoc()["nodeName"]),
	columns.Wide("Nominated Node", corev1.PodStatus{}.SwaggerDoc()["nominatedNodeName"]),
	columns.Wide("Readiness Gates", corev1.PodSpec{}.SwaggerDoc()["readinessGates"]),
}

func podRow(pod *corev1.Pod) []any {
	s := summarize(pod)
	restarts := strconv.Itoa(s.restarts)
	if s.restarts > 0 && !s.lastRestart.IsZero() {
		restarts = fmt.Sprintf("%d (%s ago)", s.restarts, columns.Since(s.lastRestart.Time))
	}
	ip := ""
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return []any{
		pod.Name, fmt.Sprintf("%d/%d", s.ready, s.total), s.reason, restarts, columns.Since(pod.CreationTimestamp.Time),
		orNone(ip), orNone(pod.Spec.NodeName), orNone(pod.Status.NominatedNodeName), readinessGates(pod),
	}
}

// orNone is how an empty cell prints.
func orNone(s string) string {
	if s == "" {
		return "<none>"
	}
	return s
}

func readinessGates(pod *corev1.Pod) string {
	if len(pod.Spec.ReadinessGates) == 0 {
		return "<none>"
	}
	passed := 0
	for _, g := range pod.Spec.ReadinessGates {
		if isTrue(pod, g.ConditionType) {
			passed++
		}
	}
	return fmt.Sprintf("%d/%d", passed, len(pod.Spec.ReadinessGates))
}

func isTrue(pod *corev1.Pod, condition corev1.PodConditionType) bool {
	for _, c := range pod.Status.Conditions {
		if c.Type == condition {
			return c.Status == corev1.ConditionTrue
		}
	}
	return false
}

// summary is what a line about a pod says of its containers.
type summary struct {
	ready, total, restarts int
	lastRestart            metav1.Time
	reason                 string
}

// restarted counts a container's restarts.
func (s *summary) restarted(c *corev1.ContainerStatus) {
	s.restarts += int(c.RestartCount)
	if end := c.LastTerminationState.Terminated; end != nil && s.lastRestart.Before(&end.FinishedAt) {
		s.lastRestart = end.FinishedAt
	}
}

func summarize(pod *corev1.Pod) summary {
	s := summary{total: len(pod.Spec.Containers), reason: string(pod.Status.Phase)}
	if pod.Status.Reason != "" {
		s.reason = pod.Status.Reason
	}
	for _, c := range pod.Status.Conditions {
		if c.Type == corev1.PodScheduled && c.Reason == corev1.PodReasonSchedulingGated {
			s.reason = c.Reason
		}
	}
	sidecars := map[string]bool{}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; isSidecar(c) {
			sidecars[c.Name] = true
			s.total++
		}
	}
	// Restarts of init containers count only until the pod is initialized;
	// those of sidecars always.
	started := summary{}
	initializing := false
	for i := range pod.Status.InitContainerStatuses {
		c := &pod.Status.InitContainerStatuses[i]
		s.restarted(c)
		if sidecars[c.Name] {
			started.restarted(c)
		}
		if !s.initialized(pod, c, i, sidecars[c.Name]) {
			initializing = true
			break
		}
	}
	if !initializing || isTrue(pod, corev1.PodInitialized) {
		s.restarts, s.lastRestart = started.restarts, started.lastRestart
		s.running(pod)
	}
	terminal := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	if pod.DeletionTimestamp != nil && pod.Status.Reason == "NodeLost" {
		s.reason = "Unknown"
	} else if pod.DeletionTimestamp != nil && !terminal {
		s.reason = "Terminating"
	}
	return s
}

// initialized says whether the init container does not hold the pod up; where
// it does, the reason tells how.
func (s *summary) initialized(pod *corev1.Pod, c *corev1.ContainerStatus, index int, sidecar bool) bool {
	switch end, wait := c.State.Terminated, c.State.Waiting; {
	case end != nil && end.ExitCode == 0:
		return true
	case sidecar && ptr.Deref(c.Started, false):
		if c.Ready {
			s.ready++
		}
		return true
	case end != nil:
		s.reason = "Init:" + endReason(end)
	case wait != nil && wait.Reason != "" && wait.Reason != "PodInitializing":
		s.reason = "Init:" + wait.Reason
	default:
		s.reason = fmt.Sprintf("Init:%d/%d", index, len(pod.Spec.InitContainers))
	}
	return false
}

func endReason(end *corev1.ContainerStateTerminated) string {
	switch {
	case end.Reason != "":
		return end.Reason
	case end.Signal != 0:
		return fmt.Sprintf("Signal:%d", end.Signal)
	}
	return fmt.Sprintf("ExitCode:%d", end.ExitCode)
}

// running sums up the containers of a pod that is past its init containers.
// The first container that says something has the last word.
func (s *summary) running(pod *corev1.Pod) {
	runs, failure := false, ""
	for i := len(pod.Status.ContainerStatuses) - 1; i >= 0; i-- {
		c := &pod.Status.ContainerStatuses[i]
		s.restarted(c)
		switch end, wait := c.State.Terminated, c.State.Waiting; {
		case wait != nil && wait.Reason != "":
			s.reason = wait.Reason
		case end != nil:
			s.reason = endReason(end)
			if end.ExitCode != 0 {
				failure = s.reason
			}
		case c.Ready && c.State.Running != nil:
			runs = true
			s.ready++
		}
	}
	if s.reason != "Completed" {
		return
	}
	switch {
	case runs && isTrue(pod, corev1.PodReady):
		s.reason = "Running"
	case failure != "":
		s.reason = failure
	case runs:
		s.reason = "NotReady"
	}
}
