package pods

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	corev1helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"clusterctl/nodeagent/devices"
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

// shortage is a resource that a node has too little of.
type shortage struct {
	name                  v1.ResourceName
	wanted, used, allowed int64
}

func (s shortage) missing() int64 { return s.wanted - (s.allowed - s.used) }

func (s shortage) reason() string { return "OutOf" + string(s.name) }

func (s shortage) message() string {
	return fmt.Sprintf("Node didn't have enough resource: %s, requested: %d, used: %d, capacity: %d", s.name, s.wanted, s.used, s.allowed)
}

// Admit judges whether node has room for pod besides others, and whether the
// pod may be on it at all. It is a pure function.
func Admit(node *v1.Node, others []*v1.Pod, pod *v1.Pod) (reason, message string) {
	reason, message = suits(node, others, pod)
	if short := shortages(node, others, pod); len(short) > 0 && !unsuited[reason] {
		return short[0].reason(), short[0].message()
	}
	return reason, message
}

// unsuited are the reasons that come before room is asked for.
var unsuited = map[string]bool{"PodOSSelectorNodeLabelDoesNotMatch": true, "PodOSNotSupported": true, "SupplementalGroupsPolicyNotSupported": true}

// suits says why the pod may not be on the node, be there room or not.
func suits(node *v1.Node, others []*v1.Pod, pod *v1.Pod) (reason, message string) {
	if label, ok := pod.Labels[v1.LabelOSStable]; ok && label != string(v1.Linux) {
		return "PodOSSelectorNodeLabelDoesNotMatch", "Failed to admit pod as the `kubernetes.io/os` label doesn't match node label"
	}
	if os := pod.Spec.OS; os != nil && os.Name != v1.Linux {
		return "PodOSNotSupported", "Failed to admit pod as the OS field doesn't match node OS"
	}
	if sc := pod.Spec.SecurityContext; sc != nil && sc.SupplementalGroupsPolicy != nil && *sc.SupplementalGroupsPolicy == v1.SupplementalGroupsPolicyStrict &&
		(node.Status.Features == nil || !isTrue(node.Status.Features.SupplementalGroupsPolicy)) {
		return "SupplementalGroupsPolicyNotSupported", "SupplementalGroupsPolicy=Strict is not supported in this node"
	}
	if ok, err := nodeaffinity.GetRequiredNodeAffinity(pod).Match(node); err != nil || !ok {
		return "NodeAffinity", "Predicate NodeAffinity failed: node(s) didn't match Pod's node affinity/selector"
	}
	for _, port := range hostPorts(pod) {
		if slices.ContainsFunc(others, func(other *v1.Pod) bool { return slices.ContainsFunc(hostPorts(other), port.meets) }) {
			return "NodePorts", "Predicate NodePorts failed: node(s) didn't have free ports for the requested pod ports"
		}
	}
	noExecute := func(t *v1.Taint) bool { return t.Effect == v1.TaintEffectNoExecute }
	if _, untolerated := corev1helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, pod.Spec.Tolerations, noExecute, true); untolerated && pod.Annotations[annotationSource] != "file" {
		return "TaintToleration", "Predicate TaintToleration failed: node(s) had taints that the pod didn't tolerate"
	}
	return "", ""
}

// shortages are what the node has too little of for pod besides others: pods, CPU,
// memory and storage first. Extended resources that the node does not know are the
// cluster's, or of devices that are claimed.
func shortages(node *v1.Node, others []*v1.Pod, pod *v1.Pod) []shortage {
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
	rank := map[v1.ResourceName]int{v1.ResourcePods: -4, v1.ResourceCPU: -3, v1.ResourceMemory: -2, v1.ResourceEphemeralStorage: -1}
	var short []shortage
	for _, name := range slices.SortedFunc(maps.Keys(wants), func(a, b v1.ResourceName) int {
		return cmp.Or(cmp.Compare(rank[a], rank[b]), cmp.Compare(a, b))
	}) {
		want := wants[name]
		capacity, known := node.Status.Allocatable[name]
		if want.IsZero() || !known && (name == v1.ResourcePods || extended(name)) || devices.Claimed(pod, "", string(name)) {
			continue
		}
		have := used[name]
		sum := have.DeepCopy()
		sum.Add(want)
		if sum.Cmp(capacity) > 0 {
			short = append(short, shortage{name, count(name, want), count(name, have), count(name, capacity)})
		}
	}
	return short
}

func extended(name v1.ResourceName) bool {
	return strings.Contains(string(name), "/") && !strings.HasPrefix(string(name), v1.ResourceHugePagesPrefix) && !strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix)
}

func count(name v1.ResourceName, q resource.Quantity) int64 {
	if name == v1.ResourceCPU {
		return q.MilliValue()
	}
	return q.Value()
}

// hostPort is a port of the host that a pod takes, at one address or at all.
type hostPort struct {
	protocol v1.Protocol
	ip       string // empty: all
	port     int32
}

// meets says that two pods cannot have a and b.
func (a hostPort) meets(b hostPort) bool {
	return a.protocol == b.protocol && a.port == b.port && (a.ip == b.ip || a.ip == "" || b.ip == "")
}

// hostPorts are the ports of the host that a pod takes while it runs.
func hostPorts(pod *v1.Pod) []hostPort {
	var ports []hostPort
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if isInit(pod, list[i].Name) && !isSidecar(&list[i]) {
				continue
			}
			for _, p := range list[i].Ports {
				if p.HostPort == 0 {
					continue
				}
				ip := p.HostIP
				if ip == "0.0.0.0" {
					ip = ""
				}
				ports = append(ports, hostPort{cmp.Or(p.Protocol, v1.ProtocolTCP), ip, p.HostPort})
			}
		}
	}
	return ports
}
