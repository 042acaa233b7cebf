package network

import (
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
	// Address is the node's. That of IPv4 is always there: between those the
	// overlay's packets go.
	Address map[family]netip.Addr
	PodCIDR map[family]netip.Prefix // of the node's pods; empty until it is assigned
	Peers   []peer                  // sorted by IPv4 address

	// ServiceCIDR holds the addresses of services. What is sent there is
	// rewritten before it leaves; but it needs a route until then.
	ServiceCIDR map[family]netip.Prefix
}

// peer is another node, and the pods behind it.
type peer struct {
	Address map[family]netip.Addr
	PodCIDR map[family]netip.Prefix
}

// draw derives the picture from the cluster's nodes. Nodes without an IPv4
// address or pod CIDR are not part of the network yet. Where two nodes claim the
// same, the older one is right.
func draw(nodes []*corev1.Node, self string, own map[family]netip.Addr, log *slog.Logger) picture {
	want := picture{Address: own}
	nodes = slices.Clone(nodes)
	slices.SortFunc(nodes, func(a, b *corev1.Node) int {
		if c := a.CreationTimestamp.Compare(b.CreationTimestamp.Time); c != 0 {
			return c
		}
		return strings.Compare(a.Name, b.Name)
	})
	for _, node := range nodes {
		p := peer{Address: addressesOf(node), PodCIDR: podCIDRs(node)}
		if !p.PodCIDR[ipv4].IsValid() {
			continue
		}
		if node.Name == self {
			want.PodCIDR = p.PodCIDR
			continue
		}
		if !p.Address[ipv4].IsValid() || p.Address[ipv4] == own[ipv4] {
			continue
		}
		if slices.ContainsFunc(want.Peers, p.clashes) {
			log.Warn("node claims the address or pod CIDR of another", "node", node.Name, "address", p.Address[ipv4], "podCIDR", p.PodCIDR)
			continue
		}
		want.Peers = append(want.Peers, p)
	}
	slices.SortFunc(want.Peers, func(a, b peer) int { return a.Address[ipv4].Compare(b.Address[ipv4]) })
	return want
}

func (p peer) clashes(other peer) bool {
	for _, f := range families {
		if p.PodCIDR[f].Overlaps(other.PodCIDR[f]) { // never of what is not there
			return true
		}
	}
	return p.Address[ipv4] == other.Address[ipv4]
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
	ip := node.As4()
	return net.HardwareAddr{0x02, 0xcc, ip[0], ip[1], ip[2], ip[3]}
}
