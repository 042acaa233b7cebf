package network

import (
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"
)

// ChainForward is a chain of ours in the filter table of iptables: pods' packets
// may pass. It passes ChainReject first.
const ChainForward = "CCTL-FORWARD"

// ChainReject is filled by the service proxy: packets to services without
// endpoints. It has to be passed before anything is accepted.
const ChainReject = "CCTL-REJECT"

// The programs that speak to the packet filter.
var programs = map[family]string{ipv4: "iptables", ipv6: "ip6tables"}

// chainMasquerade was ours in iptables' nat table before nftables did its work.
const chainMasquerade = "CCTL-MASQUERADE"

// rules keeps the packet filter's part of the pod network, for one family.
type rules struct {
	family family
	pods   netip.Prefix       // of the whole cluster
	tables *iptables.IPTables // nil while the host has no such program
}

// find looks for the program iptables: it may come while we run.
func (r *rules) find() error {
	if r.tables != nil {
		return nil
	}
	protocol := iptables.ProtocolIPv4
	if r.family == ipv6 {
		protocol = iptables.ProtocolIPv6
	}
	tables, err := iptables.New(iptables.Timeout(10), iptables.IPFamily(protocol))
	if errors.Is(err, exec.ErrNotFound) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("use the program %s: %w", programs[r.family], err)
	}
	r.tables = tables
	return nil
}

// chain is one of our chains: its rules, and where it is jumped to from.
type chain struct {
	table, name, from string
	rules             [][]string
}

// forward is what the chain has to be.
func (r *rules) forward() chain {
	cluster := r.pods.String()
	return chain{"filter", ChainForward, "FORWARD", [][]string{
		{"-j", ChainReject},
		{"-s", cluster, "-j", "ACCEPT"},
		{"-d", cluster, "-j", "ACCEPT"},
	}}
}

// reconcile makes the rules what they have to be for a node with that CIDR. In
// iptables, a chain that differs is emptied and filled again.
func (r *rules) reconcile(cidr netip.Prefix) error {
	if err := masquerade(r.family, r.pods, cidr); err != nil {
		return err
	}
	if err := r.find(); err != nil || r.tables == nil {
		return err
	}
	if ok, err := r.tables.ChainExists("filter", ChainReject); err != nil {
		return fmt.Errorf("find chain %s: %w", ChainReject, err)
	} else if !ok {
		if err := r.tables.NewChain("filter", ChainReject); err != nil {
			return fmt.Errorf("make chain %s: %w", ChainReject, err)
		}
	}
	if err := r.reconcileChain(r.forward()); err != nil {
		return fmt.Errorf("reconcile chain %s: %w", ChainForward, err)
	}
	return r.removeMasquerade()
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

// removeMasquerade removes the chain that was ours in an earlier version. A
// kernel that has no such table, or loads it only for those who ask, has none.
func (r *rules) removeMasquerade() error {
	return r.removeChain("nat", chainMasquerade, "POSTROUTING")
}

// removeRules removes our chains, and those that the portmap plugin of an earlier
// version left.
func removeRules(log *slog.Logger) error {
	errs := []error{removeTables(log)}
	for _, f := range families {
		r := &rules{family: f}
		if err := r.find(); err != nil || r.tables == nil || f == ipv6 && !hasIPv6() {
			log.Debug("no iptables of this family", "program", programs[f], "err", err)
			continue
		}
		errs = append(errs, r.remove())
	}
	return errors.Join(errs...)
}

func (r *rules) remove() error {
	errs := []error{r.removeMasquerade(), r.removeChain("filter", ChainForward, "FORWARD")}
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

// Chains of the portmap plugin, which mapped host ports in an earlier version.
const (
	portmapDNAT       = "CNI-HOSTPORT-DNAT"
	portmapMasquerade = "CNI-HOSTPORT-MASQ"
	portmapMark       = "CNI-HOSTPORT-SETMARK"
)

// portmapOurs is in the comments of rules that it made for our pods: others may use
// it too.
const portmapOurs = `name: \"clusterctl\"`

// withPortMaps returns the rules of the families in which portmap has chains.
func withPortMaps(log *slog.Logger) []*rules {
	var found []*rules
	for _, f := range families {
		r := &rules{family: f}
		if err := r.find(); err != nil || r.tables == nil || f == ipv6 && !hasIPv6() {
			log.Debug("no iptables of this family", "program", programs[f], "err", err)
			continue
		}
		if exists, err := r.tables.ChainExists("nat", portmapDNAT); err != nil {
			log.Debug("iptables has no such table", "program", programs[f], "err", err)
		} else if exists {
			found = append(found, r)
		}
	}
	return found
}

// removePortMaps removes what portmap mapped for our pods, and its own chains if
// they serve nobody then.
func (r *rules) removePortMaps() error {
	chains, err := r.tables.ListChains("nat")
	if err != nil {
		return fmt.Errorf("list chains: %w", err)
	}
	if slices.Contains(chains, portmapDNAT) {
		mapped, err := r.tables.List("nat", portmapDNAT)
		if err != nil {
			return fmt.Errorf("list port maps: %w", err)
		}
		others := false
		for id := len(mapped) - 1; id > 0; id-- { // the first line is the chain
			if !strings.Contains(mapped[id], portmapOurs) {
				others = true
				continue
			}
			if err := r.tables.DeleteById("nat", portmapDNAT, id); err != nil {
				return fmt.Errorf("remove port map: %w", err)
			}
			if chain := mapped[id][strings.LastIndex(mapped[id], " ")+1:]; slices.Contains(chains, chain) {
				if err := r.tables.ClearAndDeleteChain("nat", chain); err != nil {
					return fmt.Errorf("remove port map's chain: %w", err)
				}
			}
		}
		if others {
			return nil
		}
	}
	jumps := []struct{ parent, chain string }{
		{"PREROUTING", portmapDNAT}, {"OUTPUT", portmapDNAT}, {"POSTROUTING", portmapMasquerade},
	}
	for _, jump := range jumps {
		if err := r.removeJumps("nat", jump.parent, jump.chain); err != nil {
			return err
		}
	}
	for _, chain := range []string{portmapDNAT, portmapMasquerade, portmapMark} {
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
