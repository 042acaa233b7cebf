package pods

import (
	"cmp"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"

	"k8s.io/klog/v2"

	"clusterctl/nodeagent/runtime"
)

// annotationSource tells where a pod comes from: "api", or "file" for static
// pods.
const annotationSource = "kubernetes.io/config.source"

// enter admits the worker's pod, or says why it cannot run here. A pod that
// runs already is not asked again, and one that was admitted before keeps the
// size that it was granted. w.mu is held.
func (w *worker) enter(actual *runtime.Pod) (reason, message string) {
	a := w.agent
	allotment, err := a.loadAllotment(w.uid)
	if err != nil {
		w.logger.Warn("cannot tell what the pod was allotted; it keeps what it asks for", "error", err)
	}
	known := allotment != nil
	if !known {
		allotment = allot(w.pod)
	}
	room := allotment.Granted.of(w.pod)
	if !actual.Empty() {
		a.ledger.grant(room)
	} else if reason, message = a.ledger.admit(room); reason != "" {
		return reason, message
	}
	w.allotment = allotment
	if !known {
		w.keepAllotment()
	}
	w.pending = condition(&w.pod.Status, v1.PodResizePending).DeepCopy()
	w.progress = condition(&w.pod.Status, v1.PodResizeInProgress).DeepCopy()
	return "", ""
}

// Admit judges whether node has room for pod besides others, and whether the
// pod may be on it at all. It is a pure function.
func Admit(node *v1.Node, others []*v1.Pod, pod *v1.Pod) (reason, message string) {
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
	}
	noExecute := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, noExecute, true); untolerated && pod.Annotations[annotationSource] != "file" {
		return "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
	}
	taken := map[string]bool{}
	for _, other := range others {
		for _, port := range hostPorts(other) {
			taken[port] = true
		}
	}
	for _, port := range hostPorts(pod) {
		if taken[port] {
			return "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
		}
	}
	used := v1.ResourceList{v1.ResourcePods: *resource.NewQuantity(int64(len(others)), resource.DecimalSI)}
	for _, other := range others {
		for name, q := range resourcehelper.PodRequests(other, resourcehelper.PodResourcesOptions{}) {
			sum := used[name]
			sum.Add(q)
			used[name] = sum
		}
	}
	wants := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	wants[v1.ResourcePods] = *resource.NewQuantity(1, resource.DecimalSI)
	for name, want := range wants {
		capacity, known := node.Status.Allocatable[name]
		if want.IsZero() || !known && name == v1.ResourcePods {
			continue
		}
		have := used[name]
		sum := have.DeepCopy()
		sum.Add(want)
		if sum.Cmp(capacity) > 0 {
			count := func(q resource.Quantity) int64 {
				if name == v1.ResourceCPU {
					return q.MilliValue()
				}
				return q.Value()
			}
			return "OutOf" + string(name), fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d",
				name, count(want), count(have), count(capacity))
		}
	}
	return "", ""
}

// hostPorts are the ports of the host that a pod takes.
func hostPorts(pod *v1.Pod) []string {
	var ports []string
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			for _, p := range list[i].Ports {
				if p.HostPort != 0 {
					ports = append(ports, fmt.Sprintf("%s/%s:%d", cmp.Or(p.Protocol, v1.ProtocolTCP), p.HostIP, p.HostPort))
				}
			}
		}
	}
	return ports
}
