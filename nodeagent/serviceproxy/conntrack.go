package serviceproxy

import (
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// A UDP client that keeps its port keeps its flow, and with it the endpoint
// that was chosen first, even if that has gone. So flows to a service that do
// not lead to one of its endpoints are forgotten. An endpoint that is about to
// go keeps its flows while it serves them, though it gets no new ones. Where there
// is no other endpoint to go to, flows stay as they are: what was sent last may
// still be answered.

// flowFilter matches flows to forget. It implements
// netlink.CustomConntrackFilter.
type flowFilter struct {
	byAddress map[netip.AddrPort][]netip.AddrPort // where a flow may lead that began here
	byPort    map[uint16][]netip.AddrPort         // the same for ports of this node
	own       map[netip.Addr]bool                 // this node's addresses
}

var _ netlink.CustomConntrackFilter = (*flowFilter)(nil)

// newFlowFilter returns nil if no service speaks UDP, or none has endpoints.
func newFlowFilter(ports []servicePort, own []netip.Addr) *flowFilter {
	f := &flowFilter{
		byAddress: map[netip.AddrPort][]netip.AddrPort{},
		byPort:    map[uint16][]netip.AddrPort{},
		own:       map[netip.Addr]bool{},
	}
	for i := range ports {
		p := &ports[i]
		if p.protocol != corev1.ProtocolUDP || len(p.serving) == 0 {
			continue
		}
		for _, ip := range slices.Concat([]netip.Addr{p.clusterIP}, p.externalIPs, p.balancerIPs) {
			f.byAddress[netip.AddrPortFrom(ip, p.port)] = p.serving
		}
		if p.nodePort != 0 {
			f.byPort[p.nodePort] = p.serving
		}
	}
	if len(f.byAddress) == 0 {
		return nil
	}
	for _, ip := range own {
		f.own[ip] = true
	}
	return f
}

// MatchConntrackFlow tells whether a flow is to be forgotten.
func (f *flowFilter) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	if flow.Forward.Protocol != unix.IPPROTO_UDP {
		return false
	}
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	endpoint, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if !ok1 || !ok2 {
		return false
	}
	to, endpoint = to.Unmap(), endpoint.Unmap()
	endpoints, known := f.byAddress[netip.AddrPortFrom(to, flow.Forward.DstPort)]
	if !known && f.own[to] {
		endpoints, known = f.byPort[flow.Forward.DstPort]
	}
	// The port counts too: that of a service's target may change, and an
	// address have several.
	return known && !slices.Contains(endpoints, netip.AddrPortFrom(endpoint, flow.Reverse.SrcPort))
}

// forgetFlows makes the kernel forget UDP flows to endpoints that have gone, and
// returns how many.
func forgetFlows(ports []servicePort, family family) (forgotten uint, err error) {
	filter := newFlowFilter(ports, ownAddresses(family))
	if filter == nil {
		return 0, nil
	}
	protocol := netlink.InetFamily(unix.AF_INET)
	if family == ipv6 {
		protocol = unix.AF_INET6
	}
	if forgotten, err = netlink.ConntrackDeleteFilters(netlink.ConntrackTable, protocol, filter); err != nil {
		return forgotten, fmt.Errorf("forget UDP flows: %w", err)
	}
	return forgotten, nil
}

func ownAddresses(family family) []netip.Addr {
	networks, err := net.InterfaceAddrs()
	if err != nil {
		return nil
	}
	var own []netip.Addr
	for _, network := range networks {
		if prefix, err := netip.ParsePrefix(network.String()); err == nil && family.has(prefix.Addr()) {
			own = append(own, prefix.Addr())
		}
	}
	return own
}
