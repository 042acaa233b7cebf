package hostconfig

import (
	"fmt"
	"net/netip"
	"strings"
)

// Load balancing as the cluster's objects know it.
const (
	// LoadBalancerClass is the class of services that get their addresses from
	// the pools; those without a class do, too.
	LoadBalancerClass = "clusterctl.io/load-balancer"
	// AnnotationAddressFrom marks services that have addresses from the pools;
	// its value is the pools' names. Nodes announce the addresses of these alone.
	AnnotationAddressFrom = "clusterctl.io/load-balancer-address-from"
	// AnnotationAddresses asks for certain addresses, one a family, with commas.
	AnnotationAddresses = "clusterctl.io/load-balancer-addresses"
	// AnnotationPool asks for addresses of one pool.
	AnnotationPool = "clusterctl.io/load-balancer-pool"
)

// LoadBalancerPool is where services of type LoadBalancer get addresses from.
type LoadBalancerPool struct {
	Name      string   `json:"name"`
	Addresses []string `json:"addresses"`           // see ParseAddressRange
	OnRequest bool     `json:"onRequest,omitempty"` // only for services that ask for it
}

// AddressRange is what lies between two addresses of one family, with both.
type AddressRange struct{ First, Last netip.Addr }

// Contains says whether a lies in the range.
func (r AddressRange) Contains(a netip.Addr) bool {
	return a.BitLen() == r.First.BitLen() && !a.Less(r.First) && !r.Last.Less(a)
}

// Overlaps says whether both have an address in common.
func (r AddressRange) Overlaps(o AddressRange) bool {
	return r.Contains(o.First) || o.Contains(r.First)
}

// RangeOf is what lies in a network, all of it.
func RangeOf(p netip.Prefix) AddressRange {
	last := p.Masked().Addr().AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last) // it has the length of an address
	return AddressRange{First: p.Masked().Addr(), Last: end}
}

// ParseAddressRange reads an address, first-last, or a network. Of an IPv4
// network, what hosts cannot have is left out: the network's own address and the
// one for broadcast.
func ParseAddressRange(text string) (AddressRange, error) {
	if prefix, err := netip.ParsePrefix(text); err == nil {
		if prefix != prefix.Masked() {
			return AddressRange{}, fmt.Errorf("%s has bits set after its prefix: it is %s", text, prefix.Masked())
		}
		all := RangeOf(prefix)
		if prefix.Addr().Is4() && prefix.Bits() < 31 {
			all.First, all.Last = all.First.Next(), all.Last.Prev()
		}
		return all, nil
	}
	from, to, ranged := strings.Cut(text, "-")
	if !ranged {
		to = from
	}
	first, err1 := netip.ParseAddr(strings.TrimSpace(from))
	last, err2 := netip.ParseAddr(strings.TrimSpace(to))
	switch {
	case err1 != nil || err2 != nil || first.Zone() != "" || last.Zone() != "":
		return AddressRange{}, fmt.Errorf("%q is neither an address nor first-last nor a network", text)
	case first.BitLen() != last.BitLen():
		return AddressRange{}, fmt.Errorf("%s and %s are of different families", first, last)
	case last.Less(first):
		return AddressRange{}, fmt.Errorf("%s comes after %s", first, last)
	}
	return AddressRange{First: first, Last: last}, nil
}
