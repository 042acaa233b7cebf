package networking

import (
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func from(peer networkingv1.NetworkPolicyPeer) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{}
	p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}}}
	networkPolicy.Default(p)
	return p
}

func to(port networkingv1.NetworkPolicyPort) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{}
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{Ports: []networkingv1.NetworkPolicyPort{port}}}
	networkPolicy.Default(p)
	return p
}

func block(cidr string, except ...string) networkingv1.NetworkPolicyPeer {
	return networkingv1.NetworkPolicyPeer{IPBlock: &networkingv1.IPBlock{CIDR: cidr, Except: except}}
}

func TestDefaultNetworkPolicy(t *testing.T) {
	p := to(networkingv1.NetworkPolicyPort{})
	if len(p.Spec.PolicyTypes) != 2 || *p.Spec.Egress[0].Ports[0].Protocol != corev1.ProtocolTCP {
		t.Errorf("defaulted to %+v", p.Spec)
	}
	if p = from(networkingv1.NetworkPolicyPeer{}); len(p.Spec.PolicyTypes) != 1 || p.Spec.PolicyTypes[0] != networkingv1.PolicyTypeIngress {
		t.Errorf("defaulted to %+v", p.Spec)
	}
}

func TestInvalidNetworkPolicies(t *testing.T) {
	number, text := func(n int32) *intstr.IntOrString { return ptr.To(intstr.FromInt32(n)) }, func(s string) *intstr.IntOrString { return ptr.To(intstr.FromString(s)) }
	peer, port := "spec.ingress[0].from[0]", "spec.egress[0].ports[0]"
	both := block("10.0.0.0/8")
	both.PodSelector = &metav1.LabelSelector{}
	odd := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Odd"}}}
	many := &networkingv1.NetworkPolicy{Spec: networkingv1.NetworkPolicySpec{PolicyTypes: []networkingv1.PolicyType{"Ingress", "Egress", "Ingress"}}}
	for name, test := range map[string]struct {
		policy *networkingv1.NetworkPolicy
		want   []string
	}{
		"block":          {from(block("10.0.0.0/8", "10.1.0.0/16")), nil},
		"ports":          {to(networkingv1.NetworkPolicyPort{Port: number(80), EndPort: ptr.To[int32](90)}), nil},
		"no peer":        {from(networkingv1.NetworkPolicyPeer{}), []string{peer + ": Required value: must specify a peer"}},
		"two peers":      {from(both), []string{peer + ": Forbidden: may not specify both ipBlock and another peer"}},
		"no CIDR":        {from(block("")), []string{peer + ".ipBlock.cidr: Required value"}},
		"odd CIDR":       {from(block("10.0.0.0")), []string{peer + `.ipBlock.cidr: Invalid value: "10.0.0.0"`}},
		"outside":        {from(block("10.0.0.0/8", "11.0.0.0/16")), []string{peer + ".ipBlock.except[0]: Invalid value: \"11.0.0.0/16\": must be a strict subset of `cidr`"}},
		"all of it":      {from(block("10.0.0.0/8", "10.0.0.0/8")), []string{peer + ".ipBlock.except[0]: Invalid value"}},
		"selector":       {from(networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"a": "no good"}}}), []string{peer + ".namespaceSelector.matchLabels: Invalid value"}},
		"protocol":       {to(networkingv1.NetworkPolicyPort{Protocol: ptr.To(corev1.Protocol("ICMP"))}), []string{port + `.protocol: Unsupported value: "ICMP": supported values: "TCP", "UDP", "SCTP"`}},
		"port":           {to(networkingv1.NetworkPolicyPort{Port: number(0)}), []string{port + ".port: Invalid value: 0: must be between 1 and 65535, inclusive"}},
		"port name":      {to(networkingv1.NetworkPolicyPort{Port: text("No"), EndPort: ptr.To[int32](1)}), []string{port + ".endPort: Invalid value: 1: may not be specified when `port` is non-numeric", port + `.port: Invalid value: "No"`}},
		"backwards":      {to(networkingv1.NetworkPolicyPort{Port: number(90), EndPort: ptr.To[int32](80)}), []string{port + ".endPort: Invalid value: 90: must be greater than or equal to `port`"}},
		"end alone":      {to(networkingv1.NetworkPolicyPort{EndPort: ptr.To[int32](80)}), []string{port + ".endPort: Invalid value: 80: may not be specified when `port` is not specified"}},
		"type":           {odd, []string{`spec.policyTypes[0]: Unsupported value: "Odd": supported values: "Ingress", "Egress"`}},
		"too many types": {many, []string{"spec.policyTypes: Invalid value: "}},
	} {
		t.Run(name, func(t *testing.T) { want(t, networkPolicy.Validate(ctx, test.policy), test.want...) })
	}
	// A CIDR that got in once may stay.
	old := from(block("10.00.0.0/8"))
	want(t, networkPolicy.Validate(ctx, old), peer+".ipBlock.cidr: Invalid value")
	want(t, networkPolicy.ValidateUpdate(ctx, old, old))
	if warnings := networkPolicy.Warnings(ctx, from(block("10.0.0.1/8")), nil); len(warnings) != 1 {
		t.Errorf("warnings %v", warnings)
	}
	if row := networkPolicy.Row(old); len(row) != len(networkPolicy.Columns) || row[1] != "<none>" {
		t.Errorf("row %v", row)
	}
}
