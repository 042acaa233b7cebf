package policy

import (
	"net/netip"

	"github.com/google/nftables"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// family is an address family. Each has a table of its own, and rules that know
// of the other's addresses as little as the kernel does.
type family nftables.TableFamily

const (
	ipv4 = family(nftables.TableFamilyIPv4)
	ipv6 = family(nftables.TableFamilyIPv6)
)

var families = []family{ipv4, ipv6}

// Where addresses stand in a packet, in bytes: the source's, and right after it
// the destination's.
func (f family) sourceOffset() uint32 {
	if f == ipv6 {
		return 8
	}
	return 12
}

func (f family) addressLen() uint32 {
	if f == ipv6 {
		return 16
	}
	return 4
}

func (f family) destinationOffset() uint32 { return f.sourceOffset() + f.addressLen() }

// registers are two neighbouring ones: for an address, and what follows it.
func (f family) registers() (address, next uint32) {
	return unix.NFT_REG32_00, unix.NFT_REG32_00 + f.addressLen()/4
}

func (f family) addressType() nftables.SetDatatype {
	if f == ipv6 {
		return nftables.TypeIP6Addr
	}
	return nftables.TypeIPAddr
}

func (f family) has(addr netip.Addr) bool { return addr.Is4() == (f == ipv4) }

// addressOf returns a pod's own address of the family.
func (f family) addressOf(pod *corev1.Pod) (netip.Addr, bool) {
	if !networked(pod) {
		return netip.Addr{}, false
	}
	for _, text := range append([]corev1.PodIP{{IP: pod.Status.PodIP}}, pod.Status.PodIPs...) {
		if addr, err := netip.ParseAddr(text.IP); err == nil && f.has(addr) {
			return addr, true
		}
	}
	return netip.Addr{}, false
}

// hasAddress tells whether a pod has an address of its own.
func hasAddress(pod *corev1.Pod) bool {
	for _, f := range families {
		if _, ok := f.addressOf(pod); ok {
			return true
		}
	}
	return false
}
