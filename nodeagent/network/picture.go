package network

import (
	"log/slog"
	"net"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/labels"
)

var everything = labels.Everything()

// picture is what the network of one node has to look like.
type picture struct {
	Address netip.Addr   // of the node
	PodCIDR netip.Prefix // of the node's pods; invalid until it is assigned
	Peers   []peer       // sorted by address

	// ServiceCIDR holds the addresses of services. What is sent there is
	// rewritten before it leaves; but it needs a route until then.
	ServiceCIDR netip.Prefix
}

// peer is another node, and the pods behind it.
type peer struct {
	Address netip.Addr
	PodCIDR netip.Prefix
}

// draw derives the picture from the cluster's nodes. Nodes without an address
// or a pod CIDR are not part of the network yet. Where two nodes claim the
// same, the older one is right.
func draw(nodes []*corev1.Node, self, address string, log *slog.Logger) picture {
	want := picture{}
	want.Address, _ = netip.ParseAddr(address)
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, node := range nodes {
		cidr, ok := podCIDR(node)
		if !ok {
			continue
		}
		if node.Name == self {
			want.PodCIDR = cidr
			continue
		}
		address, ok := internalIP(node)
		if !ok || address == want.Address {
			continue
		}
		clash := slices.ContainsFunc(want.Peers, func(p peer) bool {
			return p.Address == address || p.PodCIDR.Overlaps(cidr)
		})
		if clash {
			log.Warn("node claims the address or pod CIDR of another", "node", node.Name, "address", address, "podCIDR", cidr)
			continue
		}
		want.Peers = append(want.Peers, peer{Address: address, PodCIDR: cidr})
	}
	slices.SortFunc(want.Peers, func(a, b peer) int { return a.Address.Compare(b.Address) })
	return want
}

// podCIDR returns the node's IPv4 pod CIDR.
func podCIDR(node *corev1.Node) (netip.Prefix, bool) {
	for _, text := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if cidr, err := netip.ParsePrefix(text); err == nil && cidr.Addr().Is4() {
			return cidr.Masked(), true
		}
	}
	return netip.Prefix{}, false
}

// internalIP returns the node's IPv4 address inside the cluster.
func internalIP(node *corev1.Node) (netip.Addr, bool) {
	for _, address := range node.Status.Addresses {
		if address.Type != corev1.NodeInternalIP {
			continue
		}
		if ip, err := netip.ParseAddr(address.Address); err == nil && ip.Is4() {
			return ip, true
		}
	}
	return netip.Addr{}, false
}

// differs tells whether an update of a node matters to the network; most are
// heartbeats.
func differs(old, new any) bool {
	before, ok1 := old.(*corev1.Node)
	after, ok2 := new.(*corev1.Node)
	if !ok1 || !ok2 {
		return true
	}
	cidr1, _ := podCIDR(before)
	cidr2, _ := podCIDR(after)
	ip1, _ := internalIP(before)
	ip2, _ := internalIP(after)
	return cidr1 != cidr2 || ip1 != ip2
}

// gate is the address of a node's end of the overlay: the first of its pod
// CIDR, which no pod ever gets.
func gate(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr() }

// overlayMAC is the hardware address of a node's end of the overlay. Every
// node derives those of all others from their addresses.
func overlayMAC(node netip.Addr) net.HardwareAddr {
	ip := node.As4()
	return net.HardwareAddr{0x02, 0xcc, ip[0], ip[1], ip[2], ip[3]}
}
