package serviceproxy

import (
	"net/netip"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	netutils "k8s.io/utils/net"
)

// Labels by which services, and endpoint slices, ask not to be served.
const (
	labelOtherProxy = "service.kubernetes.io/service-proxy-name"
	labelHeadless   = corev1.IsHeadlessService
)

// family is one of the two protocols that addresses are of. Each has rules of
// its own.
type family bool

const (
	ipv4 family = false
	ipv6 family = true
)

func (f family) has(ip netip.Addr) bool { return ip.IsValid() && ip.Is6() == bool(f) && !ip.Is4In6() }

// String is what the API calls it.
func (f family) String() string {
	if f == ipv6 {
		return string(corev1.IPv6Protocol)
	}
	return string(corev1.IPv4Protocol)
}

func (f family) addressType() discoveryv1.AddressType {
	if f == ipv6 {
		return discoveryv1.AddressTypeIPv6
	}
	return discoveryv1.AddressTypeIPv4
}

// self is what the model has to know of its own node, and which half of the
// services it is of.
type self struct {
	node    string // name
	zone    string // may be empty
	family  family
	address netip.Addr // the node's of the family; may be invalid
}

// servicePort is one port of one service: where packets come in, and where
// they may go.
type servicePort struct {
	name     string // namespace/name:port
	service  string // namespace/name
	protocol corev1.Protocol

	clusterIP     netip.Addr
	port          uint16
	nodePort      uint16         // 0: none
	externalIPs   []netip.Addr   // sorted
	balancerIPs   []netip.Addr   // sorted
	sourceRanges  []netip.Prefix // who may use balancerIPs; empty: everybody
	affinity      time.Duration  // how long a client stays with its endpoint; 0: not
	internalLocal bool           // packets to the cluster IP stay on this node
	externalLocal bool           // packets from outside stay on this node
	healthPort    uint16         // 0: none

	endpoints []netip.AddrPort // to choose from, sorted
	local     []netip.AddrPort // to choose from if packets must stay, sorted

	serving   []netip.AddrPort // of UDP: where flows that are there may go on to, sorted
	own       []netip.Addr     // of endpoints on this node, sorted
	readyHere []netip.Addr     // of those, the ready ones; empty where nobody asks (healthPort)
}

// portsOf derives the ports of a service from it and its endpoint slices.
func portsOf(service *corev1.Service, all []*discoveryv1.EndpointSlice, here self) []servicePort {
	clusterIP, ok := clusterIP(service, here.family)
	if !ok {
		return nil
	}
	all = slices.DeleteFunc(slices.Clone(all), func(s *discoveryv1.EndpointSlice) bool {
		_, headless := s.Labels[labelHeadless]
		return headless || s.AddressType != here.family.addressType()
	})
	ports := make([]servicePort, 0, len(service.Spec.Ports))
	for i := range service.Spec.Ports {
		p := newServicePort(service, &service.Spec.Ports[i], clusterIP, here)
		p.choose(collect(all, &service.Spec.Ports[i]), here)
		ports = append(ports, p)
	}
	return ports
}

// clusterIP returns the service's address, unless it is not ours to serve.
func clusterIP(service *corev1.Service, family family) (netip.Addr, bool) {
	_, other := service.Labels[labelOtherProxy]
	if other || service.Spec.Type == corev1.ServiceTypeExternalName {
		return netip.Addr{}, false
	}
	for _, text := range append([]string{service.Spec.ClusterIP}, service.Spec.ClusterIPs...) {
		if ip, ok := parseAddress(text); ok && family.has(ip) {
			return ip, true
		}
	}
	return netip.Addr{}, false // headless, or not given one yet
}

func newServicePort(service *corev1.Service, port *corev1.ServicePort, clusterIP netip.Addr, here self) servicePort {
	spec, family := &service.Spec, here.family
	name := service.Namespace + "/" + service.Name
	p := servicePort{
		name:          name + ":" + port.Name,
		service:       name,
		protocol:      protocolOf(port.Protocol),
		clusterIP:     clusterIP,
		port:          uint16(port.Port),
		nodePort:      uint16(port.NodePort),
		externalIPs:   addresses(spec.ExternalIPs, family),
		internalLocal: spec.InternalTrafficPolicy != nil && *spec.InternalTrafficPolicy == corev1.ServiceInternalTrafficPolicyLocal,
		externalLocal: spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal,
	}
	if spec.SessionAffinity == corev1.ServiceAffinityClientIP {
		p.affinity = time.Duration(corev1.DefaultClientIPServiceAffinitySeconds) * time.Second
		if c := spec.SessionAffinityConfig; c != nil && c.ClientIP != nil && c.ClientIP.TimeoutSeconds != nil {
			p.affinity = time.Duration(*c.ClientIP.TimeoutSeconds) * time.Second
		}
	}
	if spec.Type == corev1.ServiceTypeLoadBalancer {
		var ips []string
		for _, ingress := range service.Status.LoadBalancer.Ingress {
			if ingress.IPMode == nil || *ingress.IPMode == corev1.LoadBalancerIPModeVIP {
				ips = append(ips, ingress.IP)
			}
		}
		p.balancerIPs = addresses(ips, family)
		p.sourceRanges = prefixes(spec.LoadBalancerSourceRanges, family)
		if here.address.IsValid() && slices.ContainsFunc(p.sourceRanges, func(r netip.Prefix) bool { return r.Contains(here.address) }) {
			// Where such an address is the node's too, what the node sends there comes
			// from there.
			for _, ip := range p.balancerIPs {
				p.sourceRanges = append(p.sourceRanges, netip.PrefixFrom(ip, ip.BitLen()))
			}
		}
		if p.externalLocal {
			p.healthPort = uint16(spec.HealthCheckNodePort)
		}
	}
	return p
}

// candidate is an endpoint of a port, and its conditions.
type candidate struct {
	address     netip.AddrPort
	node        string
	ready       bool
	terminating bool // still serving, though about to go
	zones       []string
	nodes       []string
}

// collect returns the endpoints of a service's port, without those that serve
// nobody any more. The same endpoint may stand in two slices for a moment.
func collect(all []*discoveryv1.EndpointSlice, port *corev1.ServicePort) []candidate {
	var candidates []candidate
	for _, slice := range all {
		for _, slicePort := range slice.Ports {
			if slicePort.Port == nil || value(slicePort.Name) != port.Name ||
				protocolOf(value(slicePort.Protocol)) != protocolOf(port.Protocol) {
				continue
			}
			candidates = slices.Grow(candidates, len(slice.Endpoints))
			for i := range slice.Endpoints {
				if c, ok := newCandidate(&slice.Endpoints[i], uint16(*slicePort.Port)); ok {
					candidates = append(candidates, c)
				}
			}
		}
	}
	// Of the same ones, the first that is ready counts, or else the last.
	slices.SortStableFunc(candidates, func(a, b candidate) int { return a.address.Compare(b.address) })
	kept := candidates[:0]
	for _, c := range candidates {
		switch last := len(kept) - 1; {
		case last < 0 || kept[last].address != c.address:
			kept = append(kept, c)
		case !kept[last].ready:
			kept[last] = c
		}
	}
	return kept
}

func newCandidate(endpoint *discoveryv1.Endpoint, port uint16) (candidate, bool) {
	if len(endpoint.Addresses) == 0 {
		return candidate{}, false
	}
	// All addresses of an endpoint mean the same; the first one counts.
	ip, ok := parseAddress(endpoint.Addresses[0])
	if !ok {
		return candidate{}, false
	}
	conditions := endpoint.Conditions
	c := candidate{
		address:     netip.AddrPortFrom(ip, port),
		node:        value(endpoint.NodeName),
		ready:       conditions.Ready == nil || *conditions.Ready,
		terminating: value(conditions.Terminating) && (conditions.Serving == nil || *conditions.Serving),
	}
	if hints := endpoint.Hints; hints != nil {
		for _, zone := range hints.ForZones {
			c.zones = append(c.zones, zone.Name)
		}
		for _, node := range hints.ForNodes {
			c.nodes = append(c.nodes, node.Name)
		}
	}
	return c, c.ready || c.terminating
}

// choose sets the endpoints to choose from: those that are ready or, when
// there is none, those that are about to go but still serve.
func (p *servicePort) choose(candidates []candidate, here self) {
	anyReady := slices.ContainsFunc(candidates, func(c candidate) bool { return c.ready })
	usable := make([]candidate, 0, len(candidates))
	var local, localGoing []candidate
	for _, c := range candidates {
		if c.ready || !anyReady && c.terminating {
			usable = append(usable, c)
		}
		if p.protocol == corev1.ProtocolUDP {
			p.serving = append(p.serving, c.address)
		}
		switch {
		case c.node != here.node:
		case c.ready:
			local = append(local, c)
		default:
			localGoing = append(localGoing, c)
		}
	}
	for _, c := range slices.Concat(local, localGoing) {
		p.own = append(p.own, c.address.Addr())
	}
	slices.SortFunc(p.own, netip.Addr.Compare)
	p.own = slices.Compact(p.own)
	if p.healthPort != 0 {
		for _, c := range local {
			p.readyHere = append(p.readyHere, c.address.Addr())
		}
	}
	if len(local) == 0 {
		local = localGoing
	}
	if anyReady { // those that are about to go are for everybody
		usable = nearest(usable, here)
	}
	p.endpoints = addressesOf(usable)
	if p.internalLocal || p.externalLocal {
		p.local = addressesOf(local)
	}
}

// nearest keeps the endpoints that are meant for clients on this node or in
// its zone, provided that every endpoint says whom it is meant for and there
// is one for us.
func nearest(candidates []candidate, here self) []candidate {
	for _, scope := range []struct {
		here  string
		hints func(candidate) []string
	}{
		{here.node, func(c candidate) []string { return c.nodes }},
		{here.zone, func(c candidate) []string { return c.zones }},
	} {
		var near []candidate
		hinted := scope.here != ""
		for _, c := range candidates {
			hints := scope.hints(c)
			hinted = hinted && len(hints) > 0
			if slices.Contains(hints, scope.here) {
				near = append(near, c)
			}
		}
		if hinted && len(near) > 0 {
			return near
		}
	}
	return candidates
}

func addressesOf(candidates []candidate) []netip.AddrPort {
	if len(candidates) == 0 {
		return nil
	}
	list := make([]netip.AddrPort, 0, len(candidates))
	for _, c := range candidates {
		list = append(list, c.address)
	}
	return list
}

// parseAddress reads an address as the API did when it first took it: old objects
// may have leading zeros, or IPv4 written as IPv6.
func parseAddress(text string) (netip.Addr, bool) {
	ip, ok := netip.AddrFromSlice(netutils.ParseIPSloppy(text))
	return ip.Unmap(), ok
}

// addresses parses a family's addresses, passing over what is none, and sorts
// them.
func addresses(texts []string, family family) []netip.Addr {
	var list []netip.Addr
	for _, text := range texts {
		if ip, ok := parseAddress(text); ok && family.has(ip) && !slices.Contains(list, ip) {
			list = append(list, ip)
		}
	}
	slices.SortFunc(list, netip.Addr.Compare)
	return list
}

func prefixes(texts []string, family family) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		_, network, err := netutils.ParseCIDRSloppy(strings.TrimSpace(text))
		if err != nil {
			continue
		}
		bits, _ := network.Mask.Size()
		if ip, ok := netip.AddrFromSlice(network.IP); ok && family.has(ip) {
			list = append(list, netip.PrefixFrom(ip, bits))
		}
	}
	return list
}

func protocolOf(protocol corev1.Protocol) corev1.Protocol {
	if protocol == "" {
		return corev1.ProtocolTCP
	}
	return protocol
}

func value[T any](pointer *T) T {
	if pointer == nil {
		var zero T
		return zero
	}
	return *pointer
}
