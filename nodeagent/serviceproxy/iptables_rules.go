package serviceproxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"

	"clusterctl/nodeagent/network"
)

// Chains of ours. Those of one service or endpoint are named after a hash.
const (
	chainServices    = "CCTL-SERVICES"    // nat: every address a service is reached at
	chainNodePorts   = "CCTL-NODEPORTS"   // nat: every port of this node it is reached at
	chainMark        = "CCTL-MARK"        // nat: marks packets to masquerade
	chainPostrouting = "CCTL-POSTROUTING" // nat: masquerades them
	chainReject      = network.ChainReject

	chainPrefix  = "CCTL-"
	prefixAll    = "CCTL-SVC-" // to any endpoint of a service
	prefixLocal  = "CCTL-SVL-" // to an endpoint on this node
	prefixOuter  = "CCTL-EXT-" // from outside the cluster
	prefixSource = "CCTL-SRC-" // from outside, if the source may
	prefixTarget = "CCTL-SEP-" // to one endpoint
)

// mark is set on packets that have to come back through this node.
const mark = "0x4000"

// ruleset is the rules of one table: for each chain, the arguments of each
// rule after "-A chain".
type ruleset map[string][]string

func (r ruleset) add(chain, format string, args ...any) {
	r[chain] = append(r[chain], fmt.Sprintf(format, args...))
}

// declare makes sure of a chain without rules.
func (r ruleset) declare(chains ...string) {
	for _, chain := range chains {
		if _, ok := r[chain]; !ok {
			r[chain] = nil
		}
	}
}

// rules are those of all tables.
type rules struct{ nat, filter ruleset }

// shared are the chains that many services have rules in; every other chain is
// of one service, or has the same rules whatever services there are.
var shared = []string{chainServices, chainNodePorts, chainReject}

// renderer turns ports into rules. It may be used again and again.
type renderer struct {
	layout      layout
	clusterCIDR string // of all pods
	randomFully bool   // iptables knows --random-fully

	sharedOnly  bool // leave out what is in no shared chain
	nat, filter ruleset
	fanned      map[string]bool // chains that lead to endpoints already
}

func newRenderer(l layout, randomFully bool) *renderer {
	return &renderer{layout: l, clusterCIDR: l.pods.String(), randomFully: randomFully}
}

// portsIn yields the ports of services in the order of the services' names.
func portsIn(all map[string][]servicePort) iter.Seq[*servicePort] {
	return func(yield func(*servicePort) bool) {
		for _, service := range slices.Sorted(maps.Keys(all)) {
			for i := range all[service] {
				if !yield(&all[service][i]) {
					return
				}
			}
		}
	}
}

// render returns the rules for ports.
func (r *renderer) render(ports iter.Seq[*servicePort]) rules {
	r.nat, r.filter, r.fanned = ruleset{}, ruleset{}, map[string]bool{}
	r.nat.declare(chainServices, chainNodePorts)
	// Pods' packets that the kernel takes for no connection's, on their way through
	// the pod network's chain: an answer among them would go out with the endpoint's
	// address in place of the service's.
	r.filter.add(chainReject, "-m conntrack --ctstate INVALID -s %s -j DROP", r.clusterCIDR)
	r.masquerading()
	for p := range ports {
		r.port(p)
	}
	// After all addresses: packets to this node itself. Its loopback
	// addresses lead nowhere else.
	if len(r.layout.nodeNets) == 0 {
		r.add(chainServices, "-m addrtype --dst-type LOCAL ! -d %s -j %s", r.layout.loopback(), chainNodePorts)
	}
	for _, network := range r.layout.nodeNets {
		r.add(chainServices, "-m addrtype --dst-type LOCAL -d %s -j %s", network, chainNodePorts)
	}
	return rules{r.nat, r.filter}
}

// partial returns the rules before and after changes, of the chains alone that
// may differ by them; all is what the services ask for now.
func (r *renderer) partial(all map[string][]servicePort, changes map[string]change) (old, want rules) {
	before, after := make(map[string][]servicePort, len(changes)), make(map[string][]servicePort, len(changes))
	for name, c := range changes {
		before[name], after[name] = c.old, c.new
	}
	old, want = r.render(portsIn(before)), r.render(portsIn(after))
	type pair struct {
		old, want ruleset
		every     func(rules) ruleset
		chain     string
	}
	nat, filter := func(all rules) ruleset { return all.nat }, func(all rules) ruleset { return all.filter }
	pairs := slices.DeleteFunc([]pair{
		{old.nat, want.nat, nat, chainServices},
		{old.nat, want.nat, nat, chainNodePorts},
		{old.filter, want.filter, filter, chainReject},
	}, func(p pair) bool { return slices.Equal(p.old[p.chain], p.want[p.chain]) })
	if len(pairs) == 0 {
		return old, want
	}
	r.sharedOnly = true
	every := r.render(portsIn(all))
	r.sharedOnly = false
	for _, p := range pairs {
		delete(p.old, p.chain)
		p.want[p.chain] = p.every(every)[p.chain]
	}
	return old, want
}

// add adds a rule of table nat.
func (r *renderer) add(chain, format string, args ...any) {
	if !r.sharedOnly || slices.Contains(shared, chain) {
		r.nat.add(chain, format, args...)
	}
}

func (r *renderer) masquerading() {
	r.add(chainMark, "-j MARK --or-mark %s", mark)
	r.add(chainPostrouting, "-m mark ! --mark %s/%s -j RETURN", mark, mark)
	// Cleared, lest it is masqueraded again on its way.
	r.add(chainPostrouting, "-j MARK --xor-mark %s", mark)
	if r.randomFully {
		r.add(chainPostrouting, "-j MASQUERADE --random-fully")
	} else {
		r.add(chainPostrouting, "-j MASQUERADE")
	}
}

func (r *renderer) port(p *servicePort) {
	id := hash(p.name, string(p.protocol))
	inner := all(p, id)
	if p.internalLocal {
		inner = local(p, id)
	}
	if inner.chain == "" {
		r.filter.add(chainReject, "%s -j %s", to(p, p.clusterIP), inner.verdict)
	} else {
		// Answers to what does not come from a pod have to come back through
		// here.
		r.add(inner.chain, "%s ! -s %s -j %s", to(p, p.clusterIP), r.clusterCIDR, chainMark)
		r.add(chainServices, "%s -j %s", to(p, p.clusterIP), r.reach(p, inner))
	}
	if p.nodePort == 0 && len(p.externalIPs) == 0 && len(p.balancerIPs) == 0 {
		return
	}
	outer := r.outer(p, id)
	if p.nodePort != 0 {
		match := fmt.Sprintf("%s --dport %d -m comment --comment \"%s\"", protocolMatch(p), p.nodePort, p.name)
		r.lead(chainNodePorts, match, "-m addrtype --dst-type LOCAL "+match, outer)
	}
	for _, ip := range p.externalIPs {
		r.lead(chainServices, to(p, ip), to(p, ip), outer)
	}
	if len(p.sourceRanges) > 0 {
		outer = r.guard(p, id, outer)
	}
	for _, ip := range p.balancerIPs {
		r.lead(chainServices, to(p, ip), to(p, ip), outer)
	}
}

// path is a way to endpoints.
type path struct {
	chain     string // leads there; empty if there is no endpoint
	verdict   string // on packets that the chain leads nowhere; empty if there are none
	endpoints []netip.AddrPort
}

// all is the way to any endpoint.
func all(p *servicePort, id string) path {
	if len(p.endpoints) == 0 {
		return path{verdict: "REJECT"}
	}
	return path{chain: prefixAll + id, endpoints: p.endpoints}
}

// local is the way to an endpoint on this node. If there are only others,
// packets are dropped: there may be a node that the client had better ask.
func local(p *servicePort, id string) path {
	switch {
	case len(p.local) > 0:
		return path{chain: prefixLocal + id, endpoints: p.local}
	case len(p.endpoints) > 0:
		return path{verdict: "DROP"}
	}
	return path{verdict: "REJECT"}
}

// outer is the way for packets from outside the cluster, or to an address of
// its outside.
func (r *renderer) outer(p *servicePort, id string) path {
	outer := path{chain: prefixOuter + id}
	anywhere := all(p, id)
	if anywhere.chain == "" {
		return anywhere
	}
	if !p.externalLocal {
		r.add(outer.chain, "-j %s", chainMark)
		r.add(outer.chain, "-j %s", r.reach(p, anywhere))
		return outer
	}
	// Pods and the node itself are inside already: they may reach every
	// endpoint at the outer addresses too.
	r.add(outer.chain, "-s %s -j %s", r.clusterCIDR, r.reach(p, anywhere))
	r.add(outer.chain, "-m addrtype --src-type LOCAL -j %s", chainMark)
	r.add(outer.chain, "-m addrtype --src-type LOCAL -j %s", anywhere.chain)
	here := local(p, id)
	if here.chain != "" {
		r.add(outer.chain, "-j %s", r.reach(p, here))
	}
	outer.verdict = here.verdict
	return outer
}

// guard lets only some sources through to a path.
func (r *renderer) guard(p *servicePort, id string, way path) path {
	if way.chain == "" {
		return way
	}
	guarded := path{chain: prefixSource + id, verdict: "DROP"}
	for _, prefix := range p.sourceRanges {
		r.add(guarded.chain, "-s %s -j %s", prefix, way.chain)
	}
	return guarded
}

// lead sends packets that match onto a path, from a chain of table nat, and
// disposes of those that it led nowhere: they still match in table filter.
func (r *renderer) lead(from, match, unled string, way path) {
	if way.chain != "" {
		r.add(from, "%s -j %s", match, way.chain)
	}
	if way.verdict != "" {
		r.filter.add(chainReject, "%s -j %s", unled, way.verdict)
	}
}

// reach returns the path's chain, having made sure that it leads to the
// path's endpoints.
func (r *renderer) reach(p *servicePort, way path) string {
	if !r.fanned[way.chain] && !r.sharedOnly {
		r.fanned[way.chain] = true
		r.fan(p, way.chain, way.endpoints)
	}
	return way.chain
}

// fan spreads what comes into a chain evenly over endpoints.
func (r *renderer) fan(p *servicePort, chain string, endpoints []netip.AddrPort) {
	if p.affinity > 0 {
		for _, endpoint := range endpoints {
			target := targetChain(p, endpoint)
			r.add(chain, "-m recent --name %s --rcheck --seconds %d --reap -j %s",
				target, int(p.affinity.Seconds()), target)
		}
	}
	for i, endpoint := range endpoints {
		target := targetChain(p, endpoint)
		if left := len(endpoints) - i; left > 1 {
			r.add(chain, "-m statistic --mode random --probability %s -j %s", probability(left), target)
		} else {
			r.add(chain, "-j %s", target)
		}
		r.target(p, target, endpoint)
	}
}

// target sends packets to an endpoint.
func (r *renderer) target(p *servicePort, chain string, endpoint netip.AddrPort) {
	if _, made := r.nat[chain]; made {
		return
	}
	// An endpoint that reaches itself would answer itself directly.
	r.add(chain, "-s %s -j %s", host(endpoint.Addr()), chainMark)
	remember := ""
	if p.affinity > 0 {
		remember = " -m recent --name " + chain + " --set"
	}
	r.add(chain, "%s%s -j DNAT --to-destination %s", protocolMatch(p), remember, endpoint)
}

// to matches packets to a port of a service at one of its addresses.
func to(p *servicePort, ip netip.Addr) string {
	return fmt.Sprintf("-d %s %s --dport %d -m comment --comment \"%s\"", host(ip), protocolMatch(p), p.port, p.name)
}

// host is an address as a network of its own.
func host(ip netip.Addr) netip.Prefix { return netip.PrefixFrom(ip, ip.BitLen()) }

func protocolMatch(p *servicePort) string {
	protocol := strings.ToLower(string(p.protocol))
	return "-p " + protocol + " -m " + protocol
}

func targetChain(p *servicePort, endpoint netip.AddrPort) string {
	return prefixTarget + hash(p.name, string(p.protocol), endpoint.String())
}

func probability(n int) string { return strconv.FormatFloat(1/float64(n), 'f', 10, 64) }

// hash is short enough for a chain's name and long enough to be unique.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return base32.StdEncoding.EncodeToString(sum[:])[:16]
}
