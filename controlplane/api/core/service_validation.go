package core

import (
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// validateService checks a service whose addresses and ports are allocated;
// old is nil on create.
func validateService(s, old *corev1.Service) field.ErrorList {
	spec, path := &s.Spec, field.NewPath("spec")
	var errs field.ErrorList
	hints, said := s.Annotations[corev1.DeprecatedAnnotationTopologyAwareHints]
	if mode, set := s.Annotations[corev1.AnnotationTopologyMode]; said && set && hints != mode {
		errs = append(errs, field.Invalid(field.NewPath("metadata", "annotations").Key(corev1.AnnotationTopologyMode), mode,
			fmt.Sprintf("must match annotations[%s] when both are specified", corev1.DeprecatedAnnotationTopologyAwareHints)))
	}
	if len(spec.Ports) == 0 && !isHeadless(s) && spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(path.Child("ports"), ""))
	}
	switch {
	case mayHaveNodePorts(s) && isHeadless(s):
		errs = append(errs, field.Invalid(path.Child("clusterIPs").Index(0), spec.ClusterIPs[0], fmt.Sprintf("may not be set to 'None' for %s services", spec.Type)))
	case spec.Type == corev1.ServiceTypeExternalName:
		errs = append(errs, validateExternalName(spec, path)...)
	}
	errs = append(errs, validateServicePorts(s, path.Child("ports"))...)
	if spec.Selector != nil {
		errs = append(errs, unversioned.ValidateLabels(spec.Selector, path.Child("selector"))...)
	}
	errs = append(errs, validateSessionAffinity(spec, path)...)
	errs = append(errs, validateServiceAddresses(s, old)...)
	var known []string
	if old != nil {
		known = old.Spec.ExternalIPs
	}
	for i, ip := range spec.ExternalIPs {
		at := path.Child("externalIPs").Index(i)
		if faults := ipAddress(ip, at, known); len(faults) > 0 {
			errs = append(errs, faults...)
		} else {
			errs = append(errs, ValidateEndpointIP(ip, at)...)
		}
	}
	errs = append(errs, oneOf(spec.Type, path.Child("type"), corev1.ServiceTypeClusterIP, corev1.ServiceTypeExternalName, corev1.ServiceTypeLoadBalancer, corev1.ServiceTypeNodePort)...)
	errs = append(errs, validateSourceRanges(s, old)...)
	balanced := spec.Type == corev1.ServiceTypeLoadBalancer
	if spec.AllocateLoadBalancerNodePorts != nil && !balanced {
		errs = append(errs, field.Forbidden(path.Child("allocateLoadBalancerNodePorts"), "may only be used when `type` is 'LoadBalancer'"))
	}
	if balanced && spec.AllocateLoadBalancerNodePorts == nil {
		errs = append(errs, field.Required(field.NewPath("allocateLoadBalancerNodePorts"), ""))
	}
	if class := spec.LoadBalancerClass; class != nil {
		if balanced {
			errs = append(errs, qualifiedName(*class, path.Child("loadBalancerClass"))...)
		} else {
			errs = append(errs, field.Forbidden(path.Child("loadBalancerClass"), "may only be used when `type` is 'LoadBalancer'"))
		}
	}
	return append(errs, validateTrafficPolicies(s, path)...)
}

func validateExternalName(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	const why = "may not be set for ExternalName services"
	var errs field.ErrorList
	for _, f := range []fieldSet{{"clusterIPs", len(spec.ClusterIPs) > 0}, {"ipFamilies", len(spec.IPFamilies) > 0}, {"ipFamilyPolicy", spec.IPFamilyPolicy != nil}} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), why))
		}
	}
	if name := strings.TrimSuffix(spec.ExternalName, "."); name != "" {
		return append(errs, dnsSubdomain(name, path.Child("externalName"))...)
	}
	return append(errs, field.Required(path.Child("externalName"), ""))
}

func validateServicePorts(s *corev1.Service, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	type key struct {
		protocol corev1.Protocol
		port     int32
	}
	ports, nodes := sets.New[key](), sets.New[key]()
	for i, p := range s.Spec.Ports {
		at := path.Index(i)
		if p.Name != "" {
			errs = append(errs, dnsLabel(p.Name, at.Child("name"))...)
			if names.Has(p.Name) {
				errs = append(errs, field.Duplicate(at.Child("name"), p.Name))
			}
			names.Insert(p.Name)
		} else if len(s.Spec.Ports) > 1 {
			errs = append(errs, field.Required(at.Child("name"), ""))
		}
		errs = append(errs, portNumber(p.Port, at.Child("port"))...)
		errs = append(errs, protocol(p.Protocol, at.Child("protocol"))...)
		errs = append(errs, portNumberOrName(p.TargetPort, at.Child("targetPort"))...)
		if p.AppProtocol != nil {
			errs = append(errs, qualifiedName(*p.AppProtocol, at.Child("appProtocol"))...)
		}
		if p.NodePort != 0 {
			if s.Spec.Type == corev1.ServiceTypeClusterIP {
				errs = append(errs, field.Forbidden(at.Child("nodePort"), "may not be used when `type` is 'ClusterIP'"))
			}
			if k := (key{p.Protocol, p.NodePort}); nodes.Has(k) {
				errs = append(errs, field.Duplicate(at.Child("nodePort"), p.NodePort))
			} else {
				nodes.Insert(k)
			}
		}
		if k := (key{p.Protocol, p.Port}); ports.Has(k) {
			errs = append(errs, field.Duplicate(at, corev1.ServicePort{Protocol: p.Protocol, Port: p.Port}))
		} else {
			ports.Insert(k)
		}
	}
	return errs
}

func validateSessionAffinity(spec *corev1.ServiceSpec, path *field.Path) field.ErrorList {
	errs := oneOf(spec.SessionAffinity, path.Child("sessionAffinity"), corev1.ServiceAffinityClientIP, corev1.ServiceAffinityNone)
	at, c := path.Child("sessionAffinityConfig"), spec.SessionAffinityConfig
	if spec.SessionAffinity == corev1.ServiceAffinityNone && c != nil {
		return append(errs, field.Forbidden(at, fmt.Sprintf("must not be set when session affinity is %s", corev1.ServiceAffinityNone)))
	}
	if spec.SessionAffinity != corev1.ServiceAffinityClientIP {
		return errs
	}
	const why, most = "when session affinity type is ClientIP", 86400
	switch {
	case c == nil:
		return append(errs, field.Required(at, why))
	case c.ClientIP == nil:
		return append(errs, field.Required(at.Child("clientIP"), why))
	case c.ClientIP.TimeoutSeconds == nil:
		return append(errs, field.Required(at.Child("clientIP", "timeoutSeconds"), why))
	case *c.ClientIP.TimeoutSeconds <= 0 || *c.ClientIP.TimeoutSeconds > most:
		return append(errs, field.Invalid(at.Child("clientIP", "timeoutSeconds"), c.ClientIP.TimeoutSeconds, fmt.Sprintf("must be greater than 0 and less than %d", most)))
	}
	return errs
}

// validateServiceAddresses checks cluster IPs, families and the policy alone
// and against each other.
func validateServiceAddresses(s, old *corev1.Service) field.ErrorList {
	if !hasClusterIP(s) {
		return nil
	}
	spec, path := &s.Spec, field.NewPath("spec")
	at := path.Child("clusterIPs")
	var errs field.ErrorList
	switch {
	case spec.ClusterIP != "" && len(spec.ClusterIPs) == 0:
		errs = append(errs, field.Required(at, ""))
	case spec.ClusterIP != "" && spec.ClusterIPs[0] != spec.ClusterIP:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "first value must match `clusterIP`"))
	case spec.ClusterIP == "" && len(spec.ClusterIPs) > 0:
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "must be empty when `clusterIP` is not specified"))
	}
	for i, f := range spec.IPFamilies {
		errs = append(errs, anyOf(f, path.Child("ipFamilies").Index(i), corev1.IPv4Protocol, corev1.IPv6Protocol)...)
		if slices.Contains(spec.IPFamilies[:i], f) {
			errs = append(errs, field.Duplicate(path.Child("ipFamilies").Index(i), f))
		}
	}
	if p := spec.IPFamilyPolicy; p != nil {
		errs = append(errs, anyOf(*p, path.Child("ipFamilyPolicy"), corev1.IPFamilyPolicyPreferDualStack, corev1.IPFamilyPolicyRequireDualStack, corev1.IPFamilyPolicySingleStack)...)
	}
	var known []string
	if old != nil {
		known = old.Spec.ClusterIPs
	}
	sound := true
	for i, ip := range spec.ClusterIPs {
		if i == 0 && ip == corev1.ClusterIPNone {
			if len(spec.ClusterIPs) > 1 {
				sound = false
				errs = append(errs, field.Invalid(at, spec.ClusterIPs, "'None' must be the first and only value"))
			}
			continue
		}
		faults := ipAddress(ip, at.Index(i), known)
		sound = sound && len(faults) == 0
		errs = append(errs, faults...)
	}
	if len(spec.ClusterIPs) > 2 {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may only hold up to 2 values"))
	}
	if !sound {
		return errs
	}
	is4 := func(ip string) bool { a, err := netip.ParseAddr(ip); return err == nil && a.Is4() }
	if len(spec.ClusterIPs) > 1 && is4(spec.ClusterIPs[0]) == is4(spec.ClusterIPs[1]) {
		errs = append(errs, field.Invalid(at, spec.ClusterIPs, "may specify no more than one IP for each IP family"))
	}
	for i := 0; !isHeadless(s) && i < min(len(spec.ClusterIPs), len(spec.IPFamilies)); i++ {
		family := spec.IPFamilies[i]
		known := family == corev1.IPv4Protocol || family == corev1.IPv6Protocol
		if known && is4(spec.ClusterIPs[i]) != (family == corev1.IPv4Protocol) {
			errs = append(errs, field.Invalid(at.Index(i), spec.ClusterIPs[i], fmt.Sprintf("expected an %s value as indicated by `ipFamilies[%v]`", family, i)))
		}
	}
	return errs
}

func validateSourceRanges(s, old *corev1.Service) field.ErrorList {
	const only = "may only be used when `type` is 'LoadBalancer'"
	balanced := s.Spec.Type == corev1.ServiceTypeLoadBalancer
	var errs field.ErrorList
	if list := s.Spec.LoadBalancerSourceRanges; len(list) > 0 {
		path := field.NewPath("spec", "LoadBalancerSourceRanges")
		if !balanced {
			errs = append(errs, field.Forbidden(path, only))
		}
		var known []string
		if old != nil {
			for _, r := range old.Spec.LoadBalancerSourceRanges {
				known = append(known, strings.TrimSpace(r))
			}
		}
		for i, r := range list {
			errs = append(errs, cidr(strings.TrimSpace(r), path.Index(i), known)...)
		}
		return errs
	}
	value, said := s.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey]
	if !said {
		return nil
	}
	path := field.NewPath("metadata", "annotations").Key(corev1.AnnotationLoadBalancerSourceRangesKey)
	if !balanced {
		errs = append(errs, field.Forbidden(path, only))
	}
	if old != nil && old.Annotations[corev1.AnnotationLoadBalancerSourceRangesKey] == value || strings.TrimSpace(value) == "" {
		return errs
	}
	for _, r := range strings.Split(value, ",") {
		errs = append(errs, cidr(strings.TrimSpace(r), path, nil)...)
	}
	return errs
}

func validateTrafficPolicies(s *corev1.Service, path *field.Path) field.ErrorList {
	spec := &s.Spec
	var errs field.ErrorList
	at := path.Child("externalTrafficPolicy")
	if isExternal(s) {
		errs = append(errs, oneOf(spec.ExternalTrafficPolicy, at, corev1.ServiceExternalTrafficPolicyCluster, corev1.ServiceExternalTrafficPolicyLocal)...)
	} else if spec.ExternalTrafficPolicy != "" {
		errs = append(errs, field.Invalid(at, spec.ExternalTrafficPolicy, "may only be set for externally-accessible services"))
	}
	at = path.Child("healthCheckNodePort")
	switch port := spec.HealthCheckNodePort; {
	case !needsHealthPort(s) && port != 0:
		errs = append(errs, field.Invalid(at, port, "may only be set when `type` is 'LoadBalancer' and `externalTrafficPolicy` is 'Local'"))
	case needsHealthPort(s) && port == 0:
		errs = append(errs, field.Required(at, ""))
	case needsHealthPort(s):
		errs = append(errs, portNumber(port, at)...)
	}
	at = path.Child("internalTrafficPolicy")
	if p := spec.InternalTrafficPolicy; p != nil {
		errs = append(errs, anyOf(*p, at, corev1.ServiceInternalTrafficPolicyCluster, corev1.ServiceInternalTrafficPolicyLocal)...)
	} else if spec.Type != corev1.ServiceTypeExternalName {
		errs = append(errs, field.Required(at, ""))
	}
	if d := spec.TrafficDistribution; d != nil {
		errs = append(errs, anyOf(*d, path.Child("trafficDistribution"), corev1.ServiceTrafficDistributionPreferClose, corev1.ServiceTrafficDistributionPreferSameZone, corev1.ServiceTrafficDistributionPreferSameNode)...)
	}
	return errs
}

// validateServiceUpdate checks what may not change: addresses once given,
// unless the type changes from or to ExternalName.
func validateServiceUpdate(s, old *corev1.Service) field.ErrorList {
	var errs field.ErrorList
	if hasClusterIP(s) && hasClusterIP(old) {
		errs = append(errs, validateAddressChange(s, old)...)
	}
	if s.Spec.Type == corev1.ServiceTypeLoadBalancer && old.Spec.Type == s.Spec.Type && !ptr.Equal(s.Spec.LoadBalancerClass, old.Spec.LoadBalancerClass) {
		errs = append(errs, field.Invalid(field.NewPath("spec", "loadBalancerClass"), s.Spec.LoadBalancerClass, "may not change once set"))
	}
	if needsHealthPort(s) && needsHealthPort(old) && s.Spec.HealthCheckNodePort != old.Spec.HealthCheckNodePort {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "healthCheckNodePort"), "field is immutable"))
	}
	return append(errs, validateService(s, old)...)
}

func validateAddressChange(s, old *corev1.Service) field.ErrorList {
	const once = "may not change once set"
	var errs field.ErrorList
	single := ptr.Deref(s.Spec.IPFamilyPolicy, "") == corev1.IPFamilyPolicySingleStack
	policy := field.NewPath("spec", "ipFamilyPolicy")
	if !isHeadless(s) || !isHeadless(old) {
		path := field.NewPath("spec", "clusterIPs")
		now, was := s.Spec.ClusterIPs, old.Spec.ClusterIPs
		if len(now) == 0 && len(was) > 0 {
			errs = append(errs, field.Invalid(path.Index(0), now, "primary clusterIP can not be unset"))
		}
		for i := range min(len(now), len(was)) {
			if now[i] != was[i] {
				errs = append(errs, field.Invalid(path.Index(i), now, once))
			}
		}
		if len(now) == 1 && len(was) > 1 && !single {
			errs = append(errs, field.Invalid(policy, s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary clusterIP"))
		}
	}
	if isHeadless(s) || isHeadless(old) {
		return errs // headless services may change their families
	}
	path := field.NewPath("spec", "ipFamilies")
	now, was := s.Spec.IPFamilies, old.Spec.IPFamilies
	for i := range min(len(now), len(was)) {
		if now[i] != was[i] {
			errs = append(errs, field.Invalid(path.Index(0), now, once))
		}
	}
	if len(now) == 1 && len(was) > 1 && !single {
		errs = append(errs, field.Invalid(policy, s.Spec.IPFamilyPolicy, "must be set to 'SingleStack' when releasing the secondary ipFamily"))
	}
	return errs
}

func validateServiceStatus(s *corev1.Service) field.ErrorList {
	path := field.NewPath("status", "loadBalancer", "ingress")
	list := s.Status.LoadBalancer.Ingress
	if len(list) > 0 && s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return field.ErrorList{field.Forbidden(path, "may only be used when `spec.type` is 'LoadBalancer'")}
	}
	var errs field.ErrorList
	for i, in := range list {
		at := path.Index(i)
		if in.IP != "" {
			errs = append(errs, ipAddress(in.IP, at.Child("ip"), nil)...)
		}
		switch {
		case in.IPMode == nil && in.IP != "":
			errs = append(errs, field.Required(at.Child("ipMode"), "must be specified when `ip` is set"))
		case in.IPMode != nil && in.IP == "":
			errs = append(errs, field.Forbidden(at.Child("ipMode"), "may not be specified when `ip` is not set"))
		case in.IPMode != nil:
			errs = append(errs, anyOf(*in.IPMode, at.Child("ipMode"), corev1.LoadBalancerIPModeProxy, corev1.LoadBalancerIPModeVIP)...)
		}
		if in.Hostname != "" {
			errs = append(errs, dnsSubdomain(in.Hostname, at.Child("hostname"))...)
			if _, err := netip.ParseAddr(in.Hostname); err == nil {
				errs = append(errs, field.Invalid(at.Child("hostname"), in.Hostname, "must be a DNS name, not an IP address"))
			}
		}
	}
	return errs
}
