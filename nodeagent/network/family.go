package network

import (
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// family is an address family, as the kernel numbers them.
type family int

const (
	ipv4 family = netlink.FAMILY_V4
	ipv6 family = netlink.FAMILY_V6
)

// families in the order of the cluster's networks.
var families = []family{ipv4, ipv6}

func familyOf(address netip.Addr) family {
	if address.Is4() {
		return ipv4
	}
	return ipv6
}

// hasIPv6 tells whether the kernel speaks IPv6. One that does not answers
// questions about it with what it knows of other families.
func hasIPv6() bool {
	_, err := os.Stat("/proc/net/if_inet6")
	return err == nil
}

// SecondAddress returns the IPv6 address that stands for a host beside its
// address, which is IPv4: a global one of the same link, a permanent one rather
// than one that comes and goes. ok is false if there is none.
func SecondAddress(address netip.Addr) (second netip.Addr, ok bool) {
	uplink, err := findUplink(address)
	if err != nil || !hasIPv6() {
		return netip.Addr{}, false
	}
	list, err := netlink.AddrList(uplink, netlink.FAMILY_V6)
	if err != nil {
		return netip.Addr{}, false
	}
	const unfit = unix.IFA_F_TEMPORARY | unix.IFA_F_DEPRECATED | unix.IFA_F_TENTATIVE | unix.IFA_F_DADFAILED
	permanent := false
	for _, a := range list {
		candidate, valid := netip.AddrFromSlice(a.IP)
		if !valid || !candidate.IsGlobalUnicast() || a.Flags&unfit != 0 {
			continue
		}
		stays := a.Flags&unix.IFA_F_PERMANENT != 0
		if !ok || stays && !permanent || stays == permanent && candidate.Less(second) {
			second, permanent, ok = candidate, stays, true
		}
	}
	return second, ok
}

// InternalIPs are the addresses by which the cluster knows a node: the first of
// each family, in the order of the node's status.
func InternalIPs(node *corev1.Node) []netip.Addr {
	var list []netip.Addr
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		ip, err := netip.ParseAddr(address.Address)
		if err != nil || len(list) > 0 && familyOf(list[0]) == familyOf(ip) || len(list) > 1 {
			continue
		}
		list = append(list, ip)
	}
	return list
}

func ipNet(p netip.Prefix) *net.IPNet {
	return &net.IPNet{IP: p.Addr().AsSlice(), Mask: net.CIDRMask(p.Bits(), p.Addr().BitLen())}
}
