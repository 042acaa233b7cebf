package announce

import (
	"net/netip"
	"time"
)

const (
	// beat is how often an address is claimed.
	beat = time.Second
	// silence is how long the second in rank waits for a claim, and stagger how
	// much longer each one after it: the first to claim is heard by the others.
	silence = 3 * beat
	stagger = beat / 2
	// slowest bounds that where there are many nodes.
	slowest = silence + 20*stagger
)

// turns knows whose turn it is, by what was heard. It is not safe for concurrent
// use.
type turns map[netip.Addr]*turn

// turn is what a node that is in an address's ranking knows.
type turn struct {
	rank  int
	mine  bool      // this node announces the address
	quiet time.Time // since when nobody else has claimed it
}

// follow takes the ranks of this node over; who is not in ranks has no part any
// more.
func (t turns) follow(ranks map[netip.Addr]int, now time.Time) {
	for a := range t {
		if _, is := ranks[a]; !is {
			delete(t, a)
		}
	}
	for a, rank := range ranks {
		if t[a] == nil {
			t[a] = &turn{quiet: now}
		}
		t[a].rank = rank
	}
	t.pass(now)
}

// heard tells that another node has claimed an address.
func (t turns) heard(a netip.Addr, now time.Time) {
	one := t[a]
	if one == nil {
		return
	}
	one.quiet = now
	if one.rank > 0 {
		one.mine = false
	}
}

// pass takes the turns that have come by now.
func (t turns) pass(now time.Time) {
	for _, one := range t {
		wait := time.Duration(0)
		if one.rank > 0 {
			wait = min(silence+time.Duration(one.rank-1)*stagger, slowest)
		}
		if now.Sub(one.quiet) >= wait || one.rank == 0 {
			one.mine = true
		}
	}
}

// mine are the addresses that this node announces.
func (t turns) mine() map[netip.Addr]bool {
	all := map[netip.Addr]bool{}
	for a, one := range t {
		if one.mine {
			all[a] = true
		}
	}
	return all
}
