package policy

import (
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// addrRange is the addresses from first to last, both included.
type addrRange struct{ first, last netip.Addr }

func rangeOf(p netip.Prefix) addrRange {
	first := p.Masked().Addr()
	last := first.AsSlice()
	for bit := p.Bits(); bit < len(last)*8; bit++ {
		last[bit/8] |= 0x80 >> (bit % 8)
	}
	end, _ := netip.AddrFromSlice(last)
	return addrRange{first, end}
}

// rangesOf returns the addresses of a family that any of the blocks holds, as
// sorted ranges with a gap between any two.
func rangesOf(blocks []networkingv1.IPBlock, f family) []addrRange {
	var all []addrRange
	for _, block := range blocks {
		cidr, err := netip.ParsePrefix(block.CIDR)
		if err != nil || !f.has(cidr.Addr()) {
			continue
		}
		left := []addrRange{rangeOf(cidr)}
		for _, text := range block.Except {
			if except, err := netip.ParsePrefix(text); err == nil && f.has(except.Addr()) {
				left = without(left, rangeOf(except))
			}
		}
		all = append(all, left...)
	}
	return merge(all)
}

// without cuts a hole into ranges.
func without(ranges []addrRange, hole addrRange) []addrRange {
	var left []addrRange
	for _, r := range ranges {
		if hole.last.Less(r.first) || r.last.Less(hole.first) {
			left = append(left, r)
			continue
		}
		if r.first.Less(hole.first) {
			left = append(left, addrRange{r.first, hole.first.Prev()})
		}
		if hole.last.Less(r.last) {
			left = append(left, addrRange{hole.last.Next(), r.last})
		}
	}
	return left
}

// merge sorts ranges, and joins those that touch.
func merge(ranges []addrRange) []addrRange {
	slices.SortFunc(ranges, func(a, b addrRange) int { return a.first.Compare(b.first) })
	var merged []addrRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && !merged[n-1].endsBefore(r.first) {
			if merged[n-1].last.Less(r.last) {
				merged[n-1].last = r.last
			}
			continue
		}
		merged = append(merged, r)
	}
	return merged
}

// endsBefore tells whether there is a gap between the range and an address that
// is not before it.
func (r addrRange) endsBefore(addr netip.Addr) bool {
	next := r.last.Next() // invalid after the last address there is
	return next.IsValid() && next.Less(addr)
}
