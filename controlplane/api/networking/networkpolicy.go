package networking

import (
	"context"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	netutils "k8s.io/utils/net"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var networkPolicy = api.Definition[*networkingv1.NetworkPolicy]{
	GroupVersion: networkingv1.SchemeGroupVersion,
	Kind:         "NetworkPolicy",
	Resource:     "networkpolicies",
	Singular:     "networkpolicy",
	ShortNames:   []string{"netpol"},
	New:          func() *networkingv1.NetworkPolicy { return &networkingv1.NetworkPolicy{} },
	NewList:      func() runtime.Object { return &networkingv1.NetworkPolicyList{} },

	Default: defaultNetworkPolicy,
	Validate: func(_ context.Context, p *networkingv1.NetworkPolicy) field.ErrorList {
		return policyCheck{}.spec(&p.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, p, old *networkingv1.NetworkPolicy) field.ErrorList {
		check := policyCheck{selectors: metav1validation.LabelSelectorValidationOptions{
			AllowInvalidLabelValueInSelector: metav1validation.LabelSelectorHasInvalidLabelValue(&old.Spec.PodSelector),
		}}
		eachBlock(&old.Spec, func(b *networkingv1.IPBlock, _ *field.Path) {
			check.known = append(append(check.known, b.CIDR), b.Except...)
		})
		return check.spec(&p.Spec, field.NewPath("spec"))
	},
	Warnings: func(_ context.Context, p, _ *networkingv1.NetworkPolicy) (warnings []string) {
		eachBlock(&p.Spec, func(b *networkingv1.IPBlock, path *field.Path) {
			warnings = append(warnings, validation.GetWarningsForCIDR(path.Child("cidr"), b.CIDR)...)
			for i, except := range b.Except {
				warnings = append(warnings, validation.GetWarningsForCIDR(path.Child("except").Index(i), except)...)
			}
		})
		return warnings
	},
	Spec:      func(p *networkingv1.NetworkPolicy) any { return p.Spec },
	ExactSpec: true,
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Pod-Selector", networkingv1.NetworkPolicySpec{}.SwaggerDoc()["podSelector"]),
		columns.Age(),
	},
	Row: func(p *networkingv1.NetworkPolicy) []any {
		return []any{p.Name, metav1.FormatLabelSelector(&p.Spec.PodSelector), columns.Since(p.CreationTimestamp.Time)}
	},
}

func defaultNetworkPolicy(p *networkingv1.NetworkPolicy) {
	if len(p.Spec.PolicyTypes) == 0 {
		p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
		if len(p.Spec.Egress) > 0 {
			p.Spec.PolicyTypes = append(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		}
	}
	protocols := func(ports []networkingv1.NetworkPolicyPort) {
		for i := range ports {
			if ports[i].Protocol == nil {
				ports[i].Protocol = ptr.To(corev1.ProtocolTCP)
			}
		}
	}
	for i := range p.Spec.Ingress {
		protocols(p.Spec.Ingress[i].Ports)
	}
	for i := range p.Spec.Egress {
		protocols(p.Spec.Egress[i].Ports)
	}
}

// eachPeer calls f with every peer of a policy.
func eachPeer(spec *networkingv1.NetworkPolicySpec, path *field.Path, f func(*networkingv1.NetworkPolicyPeer, *field.Path)) {
	for i := range spec.Ingress {
		for j := range spec.Ingress[i].From {
			f(&spec.Ingress[i].From[j], path.Child("ingress").Index(i).Child("from").Index(j))
		}
	}
	for i := range spec.Egress {
		for j := range spec.Egress[i].To {
			f(&spec.Egress[i].To[j], path.Child("egress").Index(i).Child("to").Index(j))
		}
	}
}

func eachBlock(spec *networkingv1.NetworkPolicySpec, f func(*networkingv1.IPBlock, *field.Path)) {
	eachPeer(spec, field.NewPath("spec"), func(peer *networkingv1.NetworkPolicyPeer, path *field.Path) {
		if peer.IPBlock != nil {
			f(peer.IPBlock, path.Child("ipBlock"))
		}
	})
}

// policyCheck knows what a policy may keep from before it was checked:
// selectors, and CIDRs anywhere in it.
type policyCheck struct {
	selectors metav1validation.LabelSelectorValidationOptions
	known     []string
}

func (c policyCheck) spec(spec *networkingv1.NetworkPolicySpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(&spec.PodSelector, c.selectors, path.Child("podSelector"))
	for i := range spec.Ingress {
		errs = append(errs, checkPolicyPorts(spec.Ingress[i].Ports, path.Child("ingress").Index(i).Child("ports"))...)
	}
	for i := range spec.Egress {
		errs = append(errs, checkPolicyPorts(spec.Egress[i].Ports, path.Child("egress").Index(i).Child("ports"))...)
	}
	eachPeer(spec, path, func(peer *networkingv1.NetworkPolicyPeer, path *field.Path) {
		errs = append(errs, c.peer(peer, path)...)
	})
	known := []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	if len(spec.PolicyTypes) > len(known) {
		return append(errs, field.Invalid(path.Child("policyTypes"), &spec.PolicyTypes, "may not specify more than two policyTypes"))
	}
	for i, kind := range spec.PolicyTypes {
		if !slices.Contains(known, kind) {
			errs = append(errs, field.NotSupported(path.Child("policyTypes").Index(i), kind, known))
		}
	}
	return errs
}

func checkPolicyPorts(ports []networkingv1.NetworkPolicyPort, path *field.Path) (errs field.ErrorList) {
	protocols := []corev1.Protocol{corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP}
	for i := range ports {
		p, at := &ports[i], path.Index(i)
		if p.Protocol != nil && !slices.Contains(protocols, *p.Protocol) {
			errs = append(errs, field.NotSupported(at.Child("protocol"), *p.Protocol, protocols))
		}
		switch {
		case p.Port == nil:
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is not specified"))
			}
		case p.Port.Type == intstr.Int:
			errs = append(errs, invalid(at.Child("port"), p.Port.IntVal, validation.IsValidPortNum(int(p.Port.IntVal)))...)
			if p.EndPort == nil {
				continue
			}
			if *p.EndPort < p.Port.IntVal {
				errs = append(errs, field.Invalid(at.Child("endPort"), p.Port.IntVal, "must be greater than or equal to `port`"))
			}
			errs = append(errs, invalid(at.Child("endPort"), *p.EndPort, validation.IsValidPortNum(int(*p.EndPort)))...)
		default:
			if p.EndPort != nil {
				errs = append(errs, field.Invalid(at.Child("endPort"), *p.EndPort, "may not be specified when `port` is non-numeric"))
			}
			errs = append(errs, invalid(at.Child("port"), p.Port.StrVal, validation.IsValidPortName(p.Port.StrVal))...)
		}
	}
	return errs
}

func (c policyCheck) peer(peer *networkingv1.NetworkPolicyPeer, path *field.Path) (errs field.ErrorList) {
	if peer.PodSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(peer.PodSelector, c.selectors, path.Child("podSelector"))...)
	}
	if peer.NamespaceSelector != nil {
		errs = append(errs, metav1validation.ValidateLabelSelector(peer.NamespaceSelector, c.selectors, path.Child("namespaceSelector"))...)
	}
	if peer.IPBlock != nil {
		errs = append(errs, c.block(peer.IPBlock, path.Child("ipBlock"))...)
	}
	switch selected := peer.PodSelector != nil || peer.NamespaceSelector != nil; {
	case selected && peer.IPBlock != nil:
		errs = append(errs, field.Forbidden(path, "may not specify both ipBlock and another peer"))
	case !selected && peer.IPBlock == nil:
		errs = append(errs, field.Required(path, "must specify a peer"))
	}
	return errs
}

func (c policyCheck) block(b *networkingv1.IPBlock, path *field.Path) (errs field.ErrorList) {
	if b.CIDR == "" {
		return field.ErrorList{field.Required(path.Child("cidr"), "")}
	}
	errs = validation.IsValidCIDRForLegacyField(path.Child("cidr"), b.CIDR, true, c.known)
	_, whole, err := netutils.ParseCIDRSloppy(b.CIDR)
	if err != nil {
		return errs
	}
	size, _ := whole.Mask.Size()
	for i, text := range b.Except {
		at := path.Child("except").Index(i)
		errs = append(errs, validation.IsValidCIDRForLegacyField(at, text, true, c.known)...)
		_, except, err := netutils.ParseCIDRSloppy(text)
		if err != nil {
			continue
		}
		if exceptSize, _ := except.Mask.Size(); !whole.Contains(except.IP) || size >= exceptSize {
			errs = append(errs, field.Invalid(at, text, "must be a strict subset of `cidr`"))
		}
	}
	return errs
}
