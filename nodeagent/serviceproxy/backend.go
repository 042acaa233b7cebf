package serviceproxy

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"

	"clusterctl/hostconfig"
)

// backend gives the kernel what services ask for, in one family.
type backend interface {
	// apply makes the kernel's rules what the ports of all services ask for,
	// by service. Changes are what became of them since the last time; after a
	// failure, or the first time, the back end goes by all. It reports whether
	// there was anything to change.
	apply(all map[string][]servicePort, changes map[string]change) (changed bool, err error)
	// intact tells whether others have left the rules alone. What can be mended
	// without looking at services is mended.
	intact() (bool, error)
	// relay has the next apply go by another layout of the same family.
	relay(l layout)
	// forget makes the next apply go by what the kernel has.
	forget()
	// remove takes all rules away.
	remove() error
	// mode is the back end's name in inventories.
	mode() string
}

var (
	_ backend = (*nftablesBackend)(nil)
	_ backend = (*iptablesBackend)(nil)
)

// change is what became of a service: its ports before and after.
type change struct{ old, new []servicePort }

// layout is what back ends have to know beside services: the family of the
// packets that they lead, and a cluster's networks.
type layout struct {
	family   family
	pods     netip.Prefix
	services []netip.Prefix // of the family
	nodeNets []netip.Prefix // of this node's addresses that node ports are reached at; empty: all
}

func (l layout) loopback() netip.Prefix {
	if l.family == ipv6 {
		return netip.MustParsePrefix("::1/128")
	}
	return netip.MustParsePrefix("127.0.0.0/8")
}

// newBackend returns the back end that is asked for and another, whose rules
// are to go; nil: it cannot have any.
func newBackend(kind string, l layout, log *slog.Logger) (chosen, other backend, err error) {
	var nft, ipt backend
	tables := newNftables(l)
	probed := tables.probe()
	if probed == nil {
		nft = tables
	}
	programs, missing := newIptables(l)
	if missing == nil {
		ipt = programs
	}
	switch kind {
	case "", hostconfig.ProxyAuto:
		if probed == nil {
			return nft, ipt, nil
		}
		log.Warn("the kernel lacks what services need of nftables: using iptables", "err", probed)
	case hostconfig.ProxyNftables:
		if probed != nil {
			return nil, nil, fmt.Errorf("the service proxy needs nftables: %w", probed)
		}
		return nft, ipt, nil
	case hostconfig.ProxyIptables:
	default:
		return nil, nil, fmt.Errorf("service proxy %q is neither nftables nor iptables", kind)
	}
	if missing != nil {
		return nil, nil, fmt.Errorf("the service proxy needs iptables: %w", errors.Join(missing, probed))
	}
	return ipt, nft, nil
}
