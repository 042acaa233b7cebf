package picture

import (
	"maps"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/component-helpers/resource"
	"k8s.io/component-helpers/scheduling/corev1"
)

// What a container that asks for nothing counts as in scores, so that such
// pods spread too (the figures are Kubernetes').
const (
	scoredMilliCPU = 100
	scoredMemory   = 200 << 20
)

// Pod is a pod with what the scheduler needs of it computed once.
type Pod struct {
	Object         *v1.Pod
	Requests       Resources // what it takes from a node
	ScoredRequests Resources // the same, with a minimum for each container
	Ports          []Port    // host ports
	Owner          types.UID // of its controller; empty: none
	Priority       int32
	Terms          []TermSpec // of its affinity
	Claims         []ClaimRef

	node        *Node // where it counts; nil: nowhere now
	slot        int   // in node.Pods
	class       *class
	place       int // in class.pods
	terms       []*Term
	nominatedTo string
	evicted     bool
}

// Evicted says that somebody is about to delete the pod, to make room for those
// that its node keeps room for.
func (p *Pod) Evicted() bool { return p.evicted }

// Going says that the pod is on its way out.
func (p *Pod) Going() bool { return p.evicted || p.Object.DeletionTimestamp != nil }

// Node is where the pod counts; nil: nowhere now.
func (p *Pod) Node() *Node { return p.node }

// NewPod computes them.
func NewPod(object *v1.Pod) *Pod {
	// Containers of a running pod may hold more than the spec asks for while
	// a resize is under way; count the larger of the two.
	requests := resource.PodRequests(object, resource.PodResourcesOptions{UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true})
	scored := resource.PodRequests(object, resource.PodResourcesOptions{
		UseStatusResources: true, InPlacePodLevelResourcesVerticalScalingEnabled: true,
		NonMissingContainerRequests: v1.ResourceList{
			v1.ResourceCPU:    *newMilli(scoredMilliCPU),
			v1.ResourceMemory: *newBytes(scoredMemory),
		},
	})
	pod := &Pod{
		Object: object, Requests: FromList(requests), ScoredRequests: FromList(scored),
		Priority: corev1.PodPriority(object), Terms: TermsOf(object), Claims: ClaimsOf(object),
	}
	pod.Requests.Pods, pod.ScoredRequests.Pods = 1, 1
	pod.Ports = hostPorts(object)
	if owner := metav1.GetControllerOfNoCopy(object); owner != nil {
		pod.Owner = owner.UID
	}
	return pod
}

// hostPorts lists the host ports of a pod's containers and sidecars.
func hostPorts(pod *v1.Pod) []Port {
	var ports []Port
	add := func(c *v1.Container) {
		for _, p := range c.Ports {
			if p.HostPort <= 0 {
				continue
			}
			port := Port{HostIP: p.HostIP, Protocol: p.Protocol, Port: p.HostPort}
			if port.HostIP == "0.0.0.0" || port.HostIP == "::" {
				port.HostIP = ""
			}
			if port.Protocol == "" {
				port.Protocol = v1.ProtocolTCP
			}
			ports = append(ports, port)
		}
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return ports
}

// sameLoad says that a pod known as old counts the same as object. Pods whose
// spec was ever changed are always counted anew: a resize may be under way.
func sameLoad(old, object *v1.Pod) bool {
	return old.Generation == 1 && object.Generation == 1 && old.Spec.NodeName == object.Spec.NodeName &&
		(old.DeletionTimestamp == nil) == (object.DeletionTimestamp == nil) && maps.Equal(old.Labels, object.Labels)
}

// UsesHostPorts says whether a pod takes any port of its node.
func UsesHostPorts(pod *v1.Pod) bool { return len(hostPorts(pod)) > 0 }
