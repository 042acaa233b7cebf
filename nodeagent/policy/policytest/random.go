package policytest

import (
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// Pod is one of the pods that Policies are about: its first container has ports
// named http (TCP) and dns (UDP 8080). Its address is empty as long as it has
// none; two have a comma between them.
func Pod(namespace, name, node, ip string, http int32, set map[string]string) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: set},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: http},
			{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 8080},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
	if ip != "" {
		for part := range strings.SplitSeq(ip, ",") {
			pod.Status.PodIPs = append(pod.Status.PodIPs, corev1.PodIP{IP: part})
		}
		pod.Status.PodIP = pod.Status.PodIPs[0].IP
	}
	return pod
}

func selectors() *rapid.Generator[metav1.LabelSelector] {
	return rapid.SampledFrom([]metav1.LabelSelector{
		{},
		{MatchLabels: map[string]string{"app": "web"}},
		{MatchLabels: map[string]string{"app": "db"}},
		{MatchLabels: map[string]string{"team": "red"}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpExists}}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"red"}}}},
	})
}

func peerLists(addresses []networkingv1.IPBlock) *rapid.Generator[[]networkingv1.NetworkPolicyPeer] {
	blocks := rapid.SampledFrom(addresses)
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicyPeer {
		var p networkingv1.NetworkPolicyPeer
		switch rapid.IntRange(0, 3).Draw(t, "peer") {
		case 0:
			p.IPBlock = new(blocks.Draw(t, "block"))
		case 1:
			p.PodSelector = new(selectors().Draw(t, "pods"))
		case 2:
			p.NamespaceSelector = new(selectors().Draw(t, "namespaces"))
		default:
			p.PodSelector, p.NamespaceSelector = new(selectors().Draw(t, "pods")), new(selectors().Draw(t, "namespaces"))
		}
		return p
	}), 0, 3)
}

func portLists() *rapid.Generator[[]networkingv1.NetworkPolicyPort] {
	return rapid.SliceOfN(rapid.SampledFrom([]networkingv1.NetworkPolicyPort{
		{},
		{Protocol: new(corev1.ProtocolUDP)},
		{Port: new(intstr.FromInt32(8080))},
		{Port: new(intstr.FromInt32(8081)), EndPort: new(int32(8082))},
		{Port: new(intstr.FromString("http")), Protocol: new(corev1.ProtocolTCP)},
		{Port: new(intstr.FromString("dns")), Protocol: new(corev1.ProtocolUDP)},
		{Port: new(intstr.FromString("dns"))},
		{Port: new(intstr.FromInt32(8080)), Protocol: new(corev1.ProtocolSCTP)},
	}), 0, 2)
}

// Policies are lists of policies of the namespaces x and y with all that a
// policy can say. They select pods by the labels app (web, db) and tier,
// namespaces by the label team (red or not), and addresses by the given blocks.
func Policies(addresses []networkingv1.IPBlock) *rapid.Generator[[]*networkingv1.NetworkPolicy] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *networkingv1.NetworkPolicy {
		p := &networkingv1.NetworkPolicy{}
		p.Name = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "name")
		p.Namespace = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "namespace")
		p.Spec.PodSelector = selectors().Draw(t, "selects")
		p.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{
			{networkingv1.PolicyTypeIngress}, {networkingv1.PolicyTypeEgress}, {networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}).Draw(t, "types")
		for range rapid.IntRange(0, 2).Draw(t, "ingress") {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peerLists(addresses).Draw(t, "from"), Ports: portLists().Draw(t, "ports")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "egress") {
			p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peerLists(addresses).Draw(t, "to"), Ports: portLists().Draw(t, "ports")})
		}
		return p
	}), 0, 4).Filter(func(list []*networkingv1.NetworkPolicy) bool {
		seen := map[string]bool{}
		for _, p := range list {
			seen[p.Namespace+"/"+p.Name] = true
		}
		return len(seen) == len(list)
	})
}
