package main

import (
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	namespace = "bench"
	fillers   = "fill"
	important = "important" // priority class of preemptors
	zones     = 10
	nodeCPU   = 32_000     // thousandths
	groupSize = 5          // pods that want to be in one zone
	hopeless  = "hopeless" // label of pods that fit nowhere
)

// workload is pods to schedule. The one at i is the same for all who compete.
type workload struct {
	name string
	// filled nodes have no CPU left, and pods without priority on them.
	filled bool
	pod    func(b *bench, i int) *corev1.Pod
}

var workloads = []workload{
	{name: "plain", pod: func(_ *bench, i int) *corev1.Pod { return newPod(i, "100m") }},
	{name: "spread", pod: func(_ *bench, i int) *corev1.Pod {
		pod := newPod(i, "100m")
		for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelHostname} {
			pod.Spec.TopologySpreadConstraints = append(pod.Spec.TopologySpreadConstraints, corev1.TopologySpreadConstraint{
				MaxSkew: 2, TopologyKey: key, WhenUnsatisfiable: corev1.DoNotSchedule, LabelSelector: &metav1.LabelSelector{MatchLabels: pod.Labels},
			})
		}
		return pod
	}},
	{name: "affinity", pod: func(_ *bench, i int) *corev1.Pod {
		pod := newPod(i, "100m")
		pod.Labels["group"] = strconv.Itoa(i / groupSize)
		others := func(key string) []corev1.PodAffinityTerm {
			return []corev1.PodAffinityTerm{{TopologyKey: key, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"group": pod.Labels["group"]}}}}
		}
		pod.Spec.Affinity = &corev1.Affinity{
			PodAffinity:     &corev1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: others(corev1.LabelTopologyZone)},
			PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: others(corev1.LabelHostname)},
		}
		return pod
	}},
	{name: "backlog", pod: func(_ *bench, i int) *corev1.Pod {
		if i%2 == 0 {
			return newPod(i, "100m")
		}
		pod := newPod(i, "1000")
		pod.Labels[hopeless] = ""
		return pod
	}},
	{name: "preemption", filled: true, pod: func(b *bench, i int) *corev1.Pod {
		pod := newPod(i, b.fillerCPU())
		pod.Spec.PriorityClassName = important
		return pod
	}},
}

func newPod(i int, cpu string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: podName(i), Labels: map[string]string{"app": "bench"}},
		Spec: corev1.PodSpec{
			Containers: []corev1.Container{{
				Name: "c", Image: "registry.k8s.io/pause:3.10",
				Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
					corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse("64Mi"),
				}},
			}},
			// Deleted pods are gone at once: there is no agent to wait for.
			TerminationGracePeriodSeconds: new(int64),
		},
	}
}

func podName(i int) string { return fmt.Sprintf("p-%06d", i) }

// fillersPerNode is how many pods without priority fill a node up: one for each
// preemptor at least, and as many again.
func (b *bench) fillersPerNode() int { return max(1, 2*b.pods/b.nodes) }

func (b *bench) fillerCPU() string { return strconv.Itoa(nodeCPU/b.fillersPerNode()) + "m" }

// filler is the pod at i of those that fill the nodes.
func (b *bench) filler(i int) *corev1.Pod {
	pod := newPod(i, b.fillerCPU())
	pod.Spec.NodeName = nodeName(i % b.nodes)
	return pod
}

func nodeName(i int) string { return fmt.Sprintf("n-%06d", i) }

// newNode is a node that looks as one of ours does, of many zones.
func newNode(i int) *corev1.Node {
	now := metav1.Now()
	all := corev1.ResourceList{
		corev1.ResourceCPU:              *resource.NewMilliQuantity(nodeCPU, resource.DecimalSI),
		corev1.ResourceMemory:           resource.MustParse("256Gi"),
		corev1.ResourceEphemeralStorage: resource.MustParse("500Gi"),
		corev1.ResourcePods:             resource.MustParse("110"),
	}
	// 100.64.0.0/10 in parts of 256 addresses.
	cidr := fmt.Sprintf("100.%d.%d.0/24", 64+i/256, i%256)
	node := &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: nodeName(i), Labels: map[string]string{
			corev1.LabelHostname: nodeName(i), corev1.LabelTopologyZone: "z" + strconv.Itoa(i%zones),
			corev1.LabelOSStable: "linux", corev1.LabelArchStable: "amd64",
		}},
		Spec:   corev1.NodeSpec{PodCIDR: cidr, PodCIDRs: []string{cidr}},
		Status: corev1.NodeStatus{Capacity: all, Allocatable: all},
	}
	for kind, status := range map[corev1.NodeConditionType]corev1.ConditionStatus{
		corev1.NodeReady: corev1.ConditionTrue, corev1.NodeMemoryPressure: corev1.ConditionFalse,
		corev1.NodeDiskPressure: corev1.ConditionFalse, corev1.NodePIDPressure: corev1.ConditionFalse,
	} {
		node.Status.Conditions = append(node.Status.Conditions, corev1.NodeCondition{Type: kind, Status: status, LastHeartbeatTime: now, LastTransitionTime: now})
	}
	return node
}
