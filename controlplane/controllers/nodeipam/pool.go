package nodeipam

import (
	"fmt"
	"math/big"
	"math/bits"
	"net/netip"
)

// maxSubnets bounds the bitmap, and with it the nodes of a cluster.
const maxSubnets = 1 << 16

// pool hands out equal subnets of a network. It is not safe for concurrent use.
type pool struct {
	network netip.Prefix
	size    int // prefix length of a subnet
	count   int
	used    []uint64
	next    int // where to look first, so that a released one rests a while
}

func newPool(network netip.Prefix, size int) (*pool, error) {
	network = network.Masked()
	length := size - network.Bits()
	if length < 0 || size > network.Addr().BitLen() {
		return nil, fmt.Errorf("a node's /%d does not fit into the pod network %s", size, network)
	}
	count := maxSubnets
	if length < 16 {
		count = 1 << length
	}
	return &pool{network: network, size: size, count: count, used: make([]uint64, (count+63)/64)}, nil
}

// subnet is the i-th subnet.
func (p *pool) subnet(i int) netip.Prefix {
	raw := p.network.Addr().AsSlice()
	offset := new(big.Int).Lsh(big.NewInt(int64(i)), uint(len(raw)*8-p.size))
	sum := new(big.Int).Or(new(big.Int).SetBytes(raw), offset)
	addr, _ := netip.AddrFromSlice(sum.FillBytes(raw))
	return netip.PrefixFrom(addr, p.size)
}

// indexes returns the first and last subnet that cidr touches; ok is false if
// it touches none.
func (p *pool) indexes(cidr netip.Prefix) (first, last int, ok bool) {
	cidr = cidr.Masked()
	if cidr.Addr().Is4() != p.network.Addr().Is4() || !p.network.Overlaps(cidr) {
		return 0, 0, false
	}
	if cidr.Bits() <= p.network.Bits() {
		return 0, p.count - 1, true
	}
	raw := cidr.Addr().AsSlice()
	offset := new(big.Int).Xor(new(big.Int).SetBytes(raw), new(big.Int).SetBytes(p.network.Addr().AsSlice()))
	index := offset.Rsh(offset, uint(len(raw)*8-p.size))
	if !index.IsInt64() || index.Int64() >= int64(p.count) {
		return 0, 0, false
	}
	first = int(index.Int64())
	last = first
	if cidr.Bits() < p.size {
		last = min(p.count, first+1<<min(p.size-cidr.Bits(), 30)) - 1
	}
	return first, last, true
}

// occupy marks what cidr touches as used, and reports whether some of it was
// already.
func (p *pool) occupy(cidr netip.Prefix) (clash bool) {
	first, last, ok := p.indexes(cidr)
	for i := first; ok && i <= last; i++ {
		clash = clash || p.taken(i)
		p.used[i/64] |= 1 << (i % 64)
	}
	return clash
}

func (p *pool) release(cidr netip.Prefix) {
	first, last, ok := p.indexes(cidr)
	for i := first; ok && i <= last; i++ {
		p.used[i/64] &^= 1 << (i % 64)
	}
}

func (p *pool) taken(i int) bool { return p.used[i/64]&(1<<(i%64)) != 0 }

// allocate takes a free subnet; ok is false if there is none.
func (p *pool) allocate() (subnet netip.Prefix, ok bool) {
	for range p.count {
		i := p.next
		p.next = (p.next + 1) % p.count
		if !p.taken(i) {
			p.used[i/64] |= 1 << (i % 64)
			return p.subnet(i), true
		}
	}
	return netip.Prefix{}, false
}

// inUse counts the subnets that are taken.
func (p *pool) inUse() int {
	n := 0
	for _, word := range p.used {
		n += bits.OnesCount64(word)
	}
	return n
}
