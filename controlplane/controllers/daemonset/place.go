package daemonset

import (
	"slices"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	helpers "k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"
)

// nodeNameField is what a pod's node affinity names its node by.
const nodeNameField = "metadata.name"

// everywhere is what every daemon pod tolerates: it has to be on a node that
// is in trouble, too.
var everywhere = []corev1.Toleration{
	{Key: corev1.TaintNodeNotReady, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeUnreachable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute},
	{Key: corev1.TaintNodeDiskPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeMemoryPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodePIDPressure, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
	{Key: corev1.TaintNodeUnschedulable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule},
}

var hostNetwork = corev1.Toleration{Key: corev1.TaintNodeNetworkUnavailable, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}

// tolerations returns those of a pod with the ones that every daemon pod has.
func tolerations(spec *corev1.PodSpec) []corev1.Toleration {
	result := slices.Clone(spec.Tolerations)
	add := func(t corev1.Toleration) {
		if !slices.ContainsFunc(result, func(r corev1.Toleration) bool { return r.MatchToleration(&t) }) {
			result = append(result, t)
		}
	}
	for _, t := range everywhere {
		add(t)
	}
	if spec.HostNetwork {
		add(hostNetwork)
	}
	return result
}

// placement answers for one daemon set where its pods belong.
type placement struct {
	affinity nodeaffinity.RequiredNodeAffinity
	tolerate []corev1.Toleration
	node     string // the only one, or ""
}

func newPlacement(ds *appsv1.DaemonSet) placement {
	return placement{
		affinity: nodeaffinity.GetRequiredNodeAffinity(&corev1.Pod{Spec: ds.Spec.Template.Spec}),
		tolerate: tolerations(&ds.Spec.Template.Spec),
		node:     ds.Spec.Template.Spec.NodeName,
	}
}

// on reports whether a pod should come to be on node, and whether one that is
// there may stay.
func (p placement) on(node *corev1.Node) (run, stay bool) {
	if p.node != "" && p.node != node.Name {
		return false, false
	}
	if fits, err := p.affinity.Match(node); err != nil || !fits {
		return false, false
	}
	untolerated := func(effects ...corev1.TaintEffect) bool {
		_, found := helpers.FindMatchingUntoleratedTaint(klog.Background(), node.Spec.Taints, p.tolerate,
			func(t *corev1.Taint) bool { return slices.Contains(effects, t.Effect) }, false)
		return found
	}
	run = !untolerated(corev1.TaintEffectNoSchedule, corev1.TaintEffectNoExecute)
	stay = run || !untolerated(corev1.TaintEffectNoExecute)
	return run, stay
}

// target returns the node that a pod is on or made for, or "".
func target(pod *corev1.Pod) string {
	if pod.Spec.NodeName != "" {
		return pod.Spec.NodeName
	}
	if pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil || pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution == nil {
		return ""
	}
	for _, term := range pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms {
		for _, field := range term.MatchFields {
			if field.Key == nodeNameField && field.Operator == corev1.NodeSelectorOpIn && len(field.Values) == 1 {
				return field.Values[0]
			}
		}
	}
	return ""
}

// newPod is a pod after the template, made for one node.
func newPod(ds *appsv1.DaemonSet, node, hash string) *corev1.Pod {
	template := ds.Spec.Template.DeepCopy()
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{
			GenerateName:    ds.Name + "-",
			Namespace:       ds.Namespace,
			Labels:          template.Labels,
			Annotations:     template.Annotations,
			Finalizers:      template.Finalizers,
			OwnerReferences: []metav1.OwnerReference{*metav1.NewControllerRef(ds, kind)},
		},
		Spec: template.Spec,
	}
	if pod.Labels == nil {
		pod.Labels = map[string]string{}
	}
	pod.Labels[appsv1.ControllerRevisionHashLabelKey] = hash
	if generation := ds.Annotations[appsv1.DeprecatedTemplateGeneration]; generation != "" {
		pod.Labels[generationLabel] = generation
	}
	pod.Spec.Tolerations = tolerations(&pod.Spec)
	if pod.Spec.Affinity == nil {
		pod.Spec.Affinity = &corev1.Affinity{}
	}
	if pod.Spec.Affinity.NodeAffinity == nil {
		pod.Spec.Affinity.NodeAffinity = &corev1.NodeAffinity{}
	}
	// The node was chosen after all other terms, so that its name is enough.
	pod.Spec.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution = &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchFields: []corev1.NodeSelectorRequirement{
			{Key: nodeNameField, Operator: corev1.NodeSelectorOpIn, Values: []string{node}}}}},
	}
	return pod
}
