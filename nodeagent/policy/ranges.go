package policy

import (
	"cmp"
	"encoding/binary"
	"net/netip"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
)

// addrRange is the addresses from first to last, both included.
type addrRange struct{ first, last uint32 }

func number(a netip.Addr) uint32 {
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func rangeOf(p netip.Prefix) addrRange {
	first := number(p.Masked().Addr())
	return addrRange{first, first | uint32(uint64(1)<<(32-p.Bits())-1)}
}

// rangesOf returns the IPv4 addresses that any of the blocks holds, as sorted
// ranges with a gap between any two.
func rangesOf(blocks []networkingv1.IPBlock) []addrRange {
	var all []addrRange
	for _, block := range blocks {
		cidr, err := netip.ParsePrefix(block.CIDR)
		if err != nil || !cidr.Addr().Is4() {
			continue
		}
		left := []addrRange{rangeOf(cidr)}
		for _, text := range block.Except {
			if except, err := netip.ParsePrefix(text); err == nil && except.Addr().Is4() {
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
		if hole.last < r.first || r.last < hole.first {
			left = append(left, r)
			continue
		}
		if r.first < hole.first {
			left = append(left, addrRange{r.first, hole.first - 1})
		}
		if hole.last < r.last {
			left = append(left, addrRange{hole.last + 1, r.last})
		}
	}
	return left
}

// merge sorts ranges, and joins those that touch.
func merge(ranges []addrRange) []addrRange {
	slices.SortFunc(ranges, func(a, b addrRange) int { return cmp.Compare(a.first, b.first) })
	var merged []addrRange
	for _, r := range ranges {
		if n := len(merged); n > 0 && uint64(r.first) <= uint64(merged[n-1].last)+1 {
			merged[n-1].last = max(merged[n-1].last, r.last)
			continue
		}
		merged = append(merged, r)
	}
	return merged
}
