package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// Chains of ours. ChainForward passes ChainReject first.
const (
	chainMasquerade = "CCTL-MASQUERADE" // nat: what pods send out of the cluster
	ChainForward    = "CCTL-FORWARD"    // filter: pods' packets may pass
)

// ChainReject is filled by the service proxy: packets to services without
// endpoints. It has to be passed before anything is accepted.
const ChainReject = "CCTL-REJECT"

// What is never masqueraded.
var multicast = map[family]string{ipv4: "224.0.0.0/4", ipv6: "ff00::/8"}

// The programs that speak to the packet filter.
var programs = map[family]string{ipv4: "iptables", ipv6: "ip6tables"}

// rules keeps the packet filter's part of the pod network, for one family.
type rules struct {
	family family
	pods   netip.Prefix // of the whole cluster
	tables *iptables.IPTables
}

func newRules(f family, pods netip.Prefix) (*rules, error) {
	protocol := iptables.ProtocolIPv4
	if f == ipv6 {
		protocol = iptables.ProtocolIPv6
	}
	tables, err := iptables.New(iptables.Timeout(10), iptables.IPFamily(protocol))
	if err != nil {
		return nil, fmt.Errorf("the pod network needs the program %s: %w", programs[f], err)
	}
	return &rules{family: f, pods: pods, tables: tables}, nil
}

// chain is one of our chains: its rules, and where it is jumped to from.
type chain struct {
	table, name, from string
	rules             [][]string
}

// chains are what they have to be for a node with that CIDR.
func (r *rules) chains(cidr netip.Prefix) []chain {
	cluster := r.pods.String()
	masquerade := []string{"-s", cidr.String(), "-j", "MASQUERADE"}
	if r.tables.HasRandomFully() {
		masquerade = append(masquerade, "--random-fully")
	}
	return []chain{
		{"filter", ChainForward, "FORWARD", [][]string{
			{"-j", ChainReject},
			{"-s", cluster, "-j", "ACCEPT"},
			{"-d", cluster, "-j", "ACCEPT"},
		}},
		{"nat", chainMasquerade, "POSTROUTING", [][]string{
			{"-d", cluster, "-j", "RETURN"},
			{"-d", multicast[r.family], "-j", "RETURN"},
			masquerade,
		}},
	}
}

// reconcile makes the chains what they have to be. A chain that differs is
// emptied and filled again.
func (r *rules) reconcile(cidr netip.Prefix) error {
	if ok, err := r.tables.ChainExists("filter", ChainReject); err != nil {
		return fmt.Errorf("find chain %s: %w", ChainReject, err)
	} else if !ok {
		if err := r.tables.NewChain("filter", ChainReject); err != nil {
			return fmt.Errorf("make chain %s: %w", ChainReject, err)
		}
	}
	for _, c := range r.chains(cidr) {
		if err := r.reconcileChain(c); err != nil {
			return fmt.Errorf("reconcile chain %s: %w", c.name, err)
		}
	}
	return nil
}

func (r *rules) reconcileChain(c chain) error {
	same, err := r.same(c)
	if err != nil {
		return err
	}
	if !same {
		if err := r.tables.ClearChain(c.table, c.name); err != nil {
			return err
		}
		for _, rule := range c.rules {
			if err := r.tables.Append(c.table, c.name, rule...); err != nil {
				return err
			}
		}
	}
	return r.tables.InsertUnique(c.table, c.from, 1, "-j", c.name)
}

// same tells whether the chain has the rules, and no others.
func (r *rules) same(c chain) (bool, error) {
	exists, err := r.tables.ChainExists(c.table, c.name)
	if err != nil || !exists {
		return false, err
	}
	have, err := r.tables.List(c.table, c.name)
	if err != nil || len(have) != len(c.rules)+1 { // the chain itself comes first
		return false, err
	}
	for _, rule := range c.rules {
		if ok, err := r.tables.Exists(c.table, c.name, rule...); err != nil || !ok {
			return false, err
		}
	}
	return true, nil
}

// removeRules removes our chains, and those that the portmap plugin leaves
// behind when nothing is mapped any more.
func removeRules(log *slog.Logger) error {
	var errs []error
	for _, f := range families {
		r, err := newRules(f, netip.Prefix{})
		if err != nil || f == ipv6 && !hasIPv6() {
			log.Debug("no rules of this family", "program", programs[f], "err", err)
			continue
		}
		errs = append(errs, r.remove())
	}
	return errors.Join(errs...)
}

func (r *rules) remove() error {
	var errs []error
	for _, c := range r.chains(netip.Prefix{}) {
		errs = append(errs, r.removeChain(c.table, c.name, c.from))
	}
	// The service proxy's jumps to it, should its rules still be there.
	for _, parent := range []string{"INPUT", "FORWARD", "OUTPUT"} {
		errs = append(errs, r.removeJumps("filter", parent, ChainReject))
	}
	errs = append(errs, r.removeChain("filter", ChainReject), r.removePortMaps())
	return errors.Join(errs...)
}

// removeChain removes a chain and the jumps to it, if there are any.
func (r *rules) removeChain(table, name string, from ...string) error {
	exists, err := r.tables.ChainExists(table, name)
	if err != nil {
		return fmt.Errorf("find chain %s: %w", name, err)
	}
	if !exists {
		return nil
	}
	for _, parent := range from {
		if err := r.tables.DeleteIfExists(table, parent, "-j", name); err != nil {
			return fmt.Errorf("remove jump to %s: %w", name, err)
		}
	}
	if err := r.tables.ClearAndDeleteChain(table, name); err != nil {
		return fmt.Errorf("remove chain %s: %w", name, err)
	}
	return nil
}

// removePortMaps removes portmap's own chains if they serve nobody.
func (r *rules) removePortMaps() error {
	const dnat, masquerade, mark = "CNI-HOSTPORT-DNAT", "CNI-HOSTPORT-MASQ", "CNI-HOSTPORT-SETMARK"
	chains, err := r.tables.ListChains("nat")
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	if slices.Contains(chains, dnat) {
		mapped, err := r.tables.List("nat", dnat)
		if err != nil {
			return fmt.Errorf("list port maps: %w", err)
		}
		if len(mapped) > 1 {
			return nil
		}
	}
	jumps := []struct{ parent, chain string }{
		{"PREROUTING", dnat}, {"OUTPUT", dnat}, {"POSTROUTING", masquerade},
	}
	for _, jump := range jumps {
		if err := r.removeJumps("nat", jump.parent, jump.chain); err != nil {
			return err
		}
	}
	for _, chain := range []string{dnat, masquerade, mark} {
		if slices.Contains(chains, chain) {
			if err := r.tables.ClearAndDeleteChain("nat", chain); err != nil {
				return fmt.Errorf("remove chain %s: %w", chain, err)
			}
		}
	}
	return nil
}

// removeJumps removes every rule of parent that jumps to a chain, whatever
// else it matches.
func (r *rules) removeJumps(table, parent, chain string) error {
	list, err := r.tables.List(table, parent)
	if err != nil {
		return fmt.Errorf("list rules of %s: %w", parent, err)
	}
	for id := len(list) - 1; id > 0; id-- { // the first line is the policy
		if !strings.HasSuffix(list[id], "-j "+chain) {
			continue
		}
		if err := r.tables.DeleteById(table, parent, id); err != nil {
			return fmt.Errorf("remove jump to %s: %w", chain, err)
		}
	}
	return nil
}
