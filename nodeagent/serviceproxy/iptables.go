package serviceproxy

import (
	"bytes"
	"errors"
	"fmt"
	"maps"
	"os/exec"
	"slices"
	"strings"

	"github.com/coreos/go-iptables/iptables"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/network"
)

// lockSeconds is how long to wait for other programs that change rules.
const lockSeconds = 10

// jump leads from a chain of the kernel's into one of ours.
type jump struct {
	table, from string
	rule        []string
}

var jumps = []jump{
	{"nat", "PREROUTING", []string{"-j", chainServices}},
	{"nat", "OUTPUT", []string{"-j", chainServices}},
	{"nat", "POSTROUTING", []string{"-j", chainPostrouting}},
	{"filter", "INPUT", []string{"-m", "conntrack", "--ctstate", "NEW", "-j", chainReject}},
	{"filter", "FORWARD", []string{"-m", "conntrack", "--ctstate", "NEW", "-j", chainReject}},
	{"filter", "OUTPUT", []string{"-m", "conntrack", "--ctstate", "NEW", "-j", chainReject}},
}

// iptablesBackend is the back end that runs the programs iptables and
// iptables-restore. It keeps no rules in memory: what the kernel has of a
// service follows from what the service was before.
type iptablesBackend struct {
	iptables *iptables.IPTables
	restore  string // the program
	layout   layout
	known    bool // the kernel has the rules that were last asked for, and passes them
}

func newIptables(l layout) (*iptablesBackend, error) {
	protocol, restore := iptables.ProtocolIPv4, "iptables-restore"
	if l.family == ipv6 {
		protocol, restore = iptables.ProtocolIPv6, "ip6tables-restore"
	}
	tables, err := iptables.New(iptables.Timeout(lockSeconds), iptables.IPFamily(protocol))
	if err != nil {
		return nil, fmt.Errorf("find the program iptables: %w", err)
	}
	return &iptablesBackend{iptables: tables, restore: restore, layout: l}, nil
}

// apply implements backend.
func (k *iptablesBackend) apply(all map[string][]servicePort, changes map[string]change) (changed bool, err error) {
	whole := !k.known
	if !whole && len(changes) == 0 {
		return false, nil
	}
	k.known = false // until it is certain
	r := newRenderer(k.layout, k.iptables.HasRandomFully())
	var old, want rules
	if whole {
		want = r.render(portsIn(all))
		if old, err = k.existing(); err != nil {
			return false, err
		}
	} else {
		old, want = r.partial(all, changes)
	}
	if changed, err = k.write(old, want, whole); err != nil {
		return false, err
	}
	if whole {
		// Last: chains have to exist before something can jump to them.
		if _, err := k.hook(); err != nil {
			return changed, err
		}
	}
	k.known = true
	return changed, nil
}

// write gives the kernel the chains that differ, in one run of iptables-restore.
// It reports whether there was anything to change.
func (k *iptablesBackend) write(old, want rules, whole bool) (changed bool, err error) {
	// First nat: a service that has endpoints again is led to them before it is
	// no longer rejected, and what is led is not rejected.
	input := difference("nat", old.nat, want.nat, whole)
	input = append(input, difference("filter", old.filter, want.filter, whole)...)
	if len(input) == 0 {
		return false, nil
	}
	command := exec.Command(k.restore, "--noflush", fmt.Sprintf("--wait=%d", lockSeconds))
	command.Stdin = bytes.NewReader(input)
	if output, err := command.CombinedOutput(); err != nil {
		return false, fmt.Errorf("%s: %w: %s", k.restore, err, firstLines(string(output), 3))
	}
	return true, nil
}

// existing returns the chains of ours that the kernel has, with nothing in
// them, so that those of an earlier run are emptied or removed.
func (k *iptablesBackend) existing() (rules, error) {
	found := rules{nat: ruleset{}, filter: ruleset{}}
	for table, into := range map[string]ruleset{"nat": found.nat, "filter": found.filter} {
		chains, err := k.iptables.ListChains(table)
		if err != nil {
			return rules{}, fmt.Errorf("list chains of table %s: %w", table, err)
		}
		for _, chain := range chains {
			if own(chain) {
				into[chain] = nil
			}
		}
	}
	return found, nil
}

// own tells whether a chain is the service proxy's.
func own(chain string) bool {
	switch chain {
	case chainServices, chainNodePorts, chainMark, chainPostrouting, chainReject:
		return true
	}
	for _, prefix := range []string{prefixAll, prefixLocal, prefixOuter, prefixSource, prefixTarget} {
		if strings.HasPrefix(chain, prefix) {
			return true
		}
	}
	return false
}

// difference is the input of iptables-restore that turns old into want, or nil
// if they are the same. If whole, every chain is written again.
func difference(table string, old, want ruleset, whole bool) []byte {
	var declared, rules, removed []string
	for _, chain := range slices.Sorted(maps.Keys(want)) {
		before, exists := old[chain]
		if exists && !whole && slices.Equal(before, want[chain]) {
			continue
		}
		declared = append(declared, chain) // which empties it
		for _, rule := range want[chain] {
			rules = append(rules, "-A "+chain+" "+rule)
		}
	}
	for _, chain := range slices.Sorted(maps.Keys(old)) {
		if _, kept := want[chain]; !kept {
			// Emptied first: they may lead to each other.
			declared = append(declared, chain)
			removed = append(removed, "-X "+chain)
		}
	}
	if len(declared) == 0 {
		return nil
	}
	var text bytes.Buffer
	fmt.Fprintf(&text, "*%s\n", table)
	for _, chain := range declared {
		fmt.Fprintf(&text, ":%s - [0:0]\n", chain)
	}
	for _, line := range append(rules, removed...) {
		fmt.Fprintln(&text, line)
	}
	text.WriteString("COMMIT\n")
	return text.Bytes()
}

// hook makes sure that our chains are passed. It reports whether one had been
// forgotten, which means that somebody has emptied the tables.
func (k *iptablesBackend) hook() (missing bool, err error) {
	for _, j := range jumps {
		exists, err := k.iptables.Exists(j.table, j.from, j.rule...)
		if err != nil {
			return missing, fmt.Errorf("find jump from %s: %w", j.from, err)
		}
		if exists {
			continue
		}
		missing = true
		if err := k.iptables.Insert(j.table, j.from, 1, j.rule...); err != nil {
			return missing, fmt.Errorf("add jump from %s: %w", j.from, err)
		}
	}
	return missing, nil
}

// intact implements backend: the chains that lead to all others have to be
// there, and the jumps to them.
func (k *iptablesBackend) intact() (bool, error) {
	for table, chain := range map[string]string{"nat": chainServices, "filter": chainReject} {
		exists, err := k.iptables.ChainExists(table, chain)
		if err != nil {
			return false, fmt.Errorf("find chain %s: %w", chain, err)
		}
		if !exists {
			return false, nil
		}
	}
	missing, err := k.hook()
	return !missing, err
}

// mode implements backend.
func (k *iptablesBackend) mode() string { return hostconfig.ProxyIptables }

// relay implements backend.
func (k *iptablesBackend) relay(l layout) { k.layout, k.known = l, false }

// forget implements backend.
func (k *iptablesBackend) forget() { k.known = false }

// remove implements backend.
func (k *iptablesBackend) remove() error {
	var errs []error
	for _, j := range jumps {
		chain := j.rule[len(j.rule)-1]
		exists, err := k.iptables.ChainExists(j.table, chain)
		if err == nil && exists {
			err = k.iptables.DeleteIfExists(j.table, j.from, j.rule...)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("remove jump from %s: %w", j.from, err))
		}
	}
	k.forget()
	old, err := k.existing()
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	want := rules{nat: ruleset{}, filter: ruleset{}}
	if _, exists := old.filter[chainReject]; exists {
		// The pod network's rules may still pass it.
		exists, err := k.iptables.ChainExists("filter", network.ChainForward)
		if err == nil && exists {
			want.filter.declare(chainReject)
		}
	}
	if _, err := k.write(old, want, true); err != nil {
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

func firstLines(text string, n int) string {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	return strings.Join(lines[:min(n, len(lines))], "; ")
}
