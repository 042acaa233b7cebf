package network

import (
	"crypto/sha256"
	"log/slog"
	"maps"
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
	// Outer is the family of the addresses that the overlay's packets go between.
	// Every node has one of it: IPv4, unless hosts have only IPv6.
	Outer   family
	Address map[family]netip.Addr   // the node's
	PodCIDR map[family]netip.Prefix // of the node's pods; empty until it is assigned
	Peers   []peer                  // sorted by outer address

	// Services are the networks of services' addresses. What is sent there is
	// rewritten before it leaves; but it needs a route until then.
	Services []netip.Prefix
}

// peer is another node, and the pods behind it.
type peer struct {
	Address map[family]netip.Addr
	PodCIDR map[family]netip.Prefix
}

// draw derives the picture from the cluster's nodes. Nodes without an address or
// pod CIDR of the outer family are not part of the network yet. Where two nodes
// claim the same, the older one is right.
func draw(nodes []*corev1.Node, self string, outer family, own map[family]netip.Addr, log *slog.Logger) picture {
	want := picture{Outer: outer, Address: own}
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, node := range nodes {
		p := peer{Address: addressesOf(node), PodCIDR: podCIDRs(node)}
		if !p.PodCIDR[outer].IsValid() {
			continue
		}
		if node.Name == self {
			want.PodCIDR = p.PodCIDR
			continue
		}
		if !p.Address[outer].IsValid() || p.Address[outer] == own[outer] {
			continue
		}
		if slices.ContainsFunc(want.Peers, func(other peer) bool { return p.clashes(other, outer) }) {
			log.Warn("node claims the address or pod CIDR of another", "node", node.Name, "address", p.Address[outer], "podCIDR", p.PodCIDR)
			continue
		}
		want.Peers = append(want.Peers, p)
	}
	slices.SortFunc(want.Peers, func(a, b peer) int { return a.Address[outer].Compare(b.Address[outer]) })
	return want
}

func (p peer) clashes(other peer, outer family) bool {
	for _, f := range families {
		if p.PodCIDR[f].Overlaps(other.PodCIDR[f]) { // never of what is not there
			return true
		}
	}
	return p.Address[outer] == other.Address[outer]
}

// podCIDRs returns the node's pod CIDRs, one of each family.
func podCIDRs(node *corev1.Node) map[family]netip.Prefix {
	found := map[family]netip.Prefix{}
	for _, text := range append([]string{node.Spec.PodCIDR}, node.Spec.PodCIDRs...) {
		if cidr, err := netip.ParsePrefix(text); err == nil && !found[familyOf(cidr.Addr())].IsValid() {
			found[familyOf(cidr.Addr())] = cidr.Masked()
		}
	}
	return found
}

// addressesOf returns the node's addresses inside the cluster, one of each
// family.
func addressesOf(node *corev1.Node) map[family]netip.Addr {
	found := map[family]netip.Addr{}
	for _, ip := range InternalIPs(node) {
		found[familyOf(ip)] = ip
	}
	return found
}

// differs tells whether an update of a node matters to the network; most are
// heartbeats.
func differs(old, new any) bool {
	before, ok1 := old.(*corev1.Node)
	after, ok2 := new.(*corev1.Node)
	return !ok1 || !ok2 || !maps.Equal(podCIDRs(before), podCIDRs(after)) || !maps.Equal(addressesOf(before), addressesOf(after))
}

// gate is the address of a node's end of the overlay: the first of its pod
// CIDR, which no pod ever gets.
func gate(cidr netip.Prefix) netip.Addr { return cidr.Masked().Addr() }

// overlayMAC is the hardware address of a node's end of the overlay. Every
// node derives those of all others from their addresses.
func overlayMAC(node netip.Addr) net.HardwareAddr {
	if node.Is6() {
		sum := sha256.Sum256(node.AsSlice())
		return append(net.HardwareAddr{0x02}, sum[:5]...)
	}
	ip := node.As4()
	return net.HardwareAddr{0x02, 0xcc, ip[0], ip[1], ip[2], ip[3]}
}
