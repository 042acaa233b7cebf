package serviceproxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// tableName is the table of ours; nobody else writes to it.
const tableName = "clusterctl-services"

// Sets and maps of the table. A front is where packets come in: an address,
// protocol and port, or a protocol and port of this node.
const (
	setServices         = "services"          // front at an address: chain
	setNodePorts        = "nodeports"         // front at this node: chain
	setOuter            = "outer"             // front at an address of the outside: zero, service port
	setOuterNodePorts   = "outer-nodeports"   // front at this node: zero, service port
	setEndpoints        = "endpoints"         // service port, number: endpoint
	setLocalEndpoints   = "local-endpoints"   // the same for those on this node
	setSticky           = "sticky"            // service port whose clients are kept, number: zero, endpoint
	setLocalSticky      = "local-sticky"      // the same for those on this node
	setKept             = "kept"              // endpoint, service port: may be kept to
	setLocalKept        = "local-kept"        // the same for those on this node
	setClients          = "clients"           // service port, client: zero, endpoint; filled by packets
	setHairpin          = "hairpin"           // endpoint on this node, itself
	setClusterIPs       = "cluster-ips"       // cluster IP
	setGuards           = "guards"            // front at an address: chain that stops sources
	setUnreachable      = "unreachable"       // front at an address: what becomes of its packets
	setUnreachablePorts = "unreachable-ports" // front at this node: what becomes of its packets
)

// maxClients is how many clients the kernel remembers the endpoint of. More
// are served too, but may be led elsewhere the next time.
const maxClients = 1 << 18

// Chains that are always there.
const (
	nftServices = "lead"   // to a service's endpoint
	nftReject   = "reject" // tells the sender
	nftLayout   = "layout-"
)

// verdictDrop is a verdict of maps that is no chain.
const verdictDrop = "drop"

// dynsetDelete has a packet take an element away (NFT_DYNSET_OP_DELETE of the
// kernel's headers).
const dynsetDelete = 2

// masqueradeBit is mark, as a number.
const masqueradeBit = 0x4000

// Registers of four bytes hold what elements are made of, one part after the
// other: a zero, the endpoint's address and port, the service's cluster IP,
// protocol and port, and the client or the number of an endpoint.
//
// What a map gives can be looked up with, but nft (1.1.6 too) cannot tell how
// long it is then, and aborts whatever it was asked to list. Nor does it see
// that a map fills registers behind the first one. So maps whose values are
// looked up with give a zero before them, into the register in front of those
// that they are for: these have been loaded already, which is what nft shows,
// and the one in front is loaded anew where it counts.
func (l layout) zero() uint32      { return unix.NFT_REG32_00 }
func (l layout) endpoint() uint32  { return l.zero() + 1 }
func (l layout) target() uint32    { return l.endpoint() + l.words() }
func (l layout) clusterIP() uint32 { return l.target() + 1 }
func (l layout) protocol() uint32  { return l.clusterIP() + l.words() }
func (l layout) port() uint32      { return l.protocol() + 1 }
func (l layout) client() uint32    { return l.port() + 1 }
func (l layout) number() uint32    { return l.client() }

// words is how many registers an address fills.
func (l layout) words() uint32 { return l.bytes() / 4 }

func (l layout) bytes() uint32 {
	if l.family == ipv6 {
		return 16
	}
	return 4
}

func (l layout) table() *nftables.Table {
	family := nftables.TableFamilyIPv4
	if l.family == ipv6 {
		family = nftables.TableFamilyIPv6
	}
	return &nftables.Table{Name: tableName, Family: family}
}

// sets returns all of them, by name.
func (l layout) sets() map[string]*nftables.Set {
	address, port, protocol := nftables.TypeIPAddr, nftables.TypeInetService, nftables.TypeInetProto
	if l.family == ipv6 {
		address = nftables.TypeIP6Addr
	}
	type types = []nftables.SetDatatype
	front, node := types{address, protocol, port}, types{protocol, port}
	of := func(front types, more ...nftables.SetDatatype) types {
		return append(front[:len(front):len(front)], more...)
	}
	verdict, endpoint := types{nftables.TypeVerdict}, types{address, port}
	all := map[string]*nftables.Set{}
	add := func(name string, key, data types) {
		s := &nftables.Set{Table: l.table(), Name: name, KeyType: key[0]}
		if len(key) > 1 {
			s.KeyType, s.Concatenation = nftables.MustConcatSetType(key...), true
		}
		if len(data) > 0 {
			s.IsMap, s.DataType = true, data[0]
			if len(data) > 1 {
				s.DataType = nftables.MustConcatSetType(data...)
			}
		}
		all[name] = s
	}
	add(setServices, front, verdict)
	add(setNodePorts, node, verdict)
	number, zero := nftables.TypeMark, types{nftables.TypeMark}
	for _, p := range []pool{everywhere, onNode} {
		add(p.endpoints, of(front, number), endpoint)
		add(p.sticky, of(front, number), of(zero, endpoint...))
		add(p.kept, of(endpoint, front...), nil)
	}
	add(setOuter, front, of(zero, front...))
	add(setOuterNodePorts, node, of(zero, front...))
	add(setClients, of(front, address), of(zero, endpoint...))
	add(setHairpin, types{address, address}, nil)
	add(setClusterIPs, types{address}, nil)
	add(setGuards, front, verdict)
	add(setUnreachable, front, verdict)
	add(setUnreachablePorts, node, verdict)
	clients := all[setClients]
	clients.Dynamic, clients.HasTimeout, clients.Size = true, true, maxClients
	return all
}

// pool names the sets that endpoints are drawn from.
type pool struct{ endpoints, sticky, kept string }

var (
	everywhere = pool{setEndpoints, setSticky, setKept}
	onNode     = pool{setLocalEndpoints, setLocalSticky, setLocalKept}
)

// baseChain is a chain that packets pass, or that those jump to.
type baseChain struct {
	name     string
	kind     nftables.ChainType // empty: no packet passes it of itself
	hook     *nftables.ChainHook
	priority *nftables.ChainPriority
	rules    [][]expr.Any
}

// chains returns those that are always there, each after those it leads to.
func (l layout) chains() []baseChain {
	masquerade := &expr.Masq{FullyRandom: true}
	const nat, filter = nftables.ChainTypeNAT, nftables.ChainTypeFilter
	lead := []expr.Any{&expr.Verdict{Kind: expr.VerdictJump, Chain: nftServices}}
	started := l.started()
	look := func(set string) []expr.Any { return join(l.loadFront(), []expr.Any{l.verdictOf(set, l.clusterIP())}) }
	services := [][]expr.Any{look(setGuards), look(setServices)}
	unreachable := [][]expr.Any{join(started, look(setUnreachable))}
	unknown := [][]expr.Any{join(started, l.load(l.destination(), l.clusterIP()),
		[]expr.Any{&expr.Lookup{SourceRegister: l.clusterIP(), SetName: setClusterIPs}, &expr.Verdict{Kind: expr.VerdictGoto, Chain: nftReject}})}
	for _, network := range l.services {
		// Of services that are not known yet: who tries again will be served.
		unknown = append(unknown, join(started, l.within(l.destination(), network, expr.CmpOpEq),
			[]expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}))
	}
	nodePorts := func(set string) [][]expr.Any {
		var rules [][]expr.Any
		here := l.nodeAddresses()
		for _, match := range here {
			rules = append(rules, join(match, l.loadNodePort(), []expr.Any{l.verdictOf(set, l.protocol())}))
		}
		return rules
	}
	reject := &expr.Reject{Type: unix.NFT_REJECT_ICMP_UNREACH, Code: 3} // ICMP's word for: port unreachable
	if l.family == ipv6 {
		reject.Code = 4 // ICMPv6's
	}
	inputPorts := nodePorts(setUnreachablePorts)
	for i := range inputPorts {
		inputPorts[i] = join(started, inputPorts[i])
	}
	return []baseChain{
		{name: nftReject, rules: [][]expr.Any{{reject}}},
		{name: nftServices, rules: append(services, nodePorts(setNodePorts)...)},
		{"nat-prerouting", nat, nftables.ChainHookPrerouting, nftables.ChainPriorityNATDest, [][]expr.Any{lead}},
		{"nat-output", nat, nftables.ChainHookOutput, nftables.ChainPriorityNATDest, [][]expr.Any{lead}},
		{"nat-postrouting", nat, nftables.ChainHookPostrouting, nftables.ChainPriorityNATSource, [][]expr.Any{
			// The mark is cleared, lest it is masqueraded again on its way.
			join(l.marked(), l.setMark(0), []expr.Any{masquerade}),
			// An endpoint that reaches itself would answer itself directly.
			join(l.load(l.source(), unix.NFT_REG32_00), l.load(l.destination(), unix.NFT_REG32_00+l.words()),
				[]expr.Any{&expr.Lookup{SourceRegister: unix.NFT_REG32_00, SetName: setHairpin}, masquerade}),
		}},
		{"filter-input", filter, nftables.ChainHookInput, nftables.ChainPriorityFilter, append(unreachable[:1:1], inputPorts...)},
		{"filter-forward", filter, nftables.ChainHookForward, nftables.ChainPriorityFilter, append([][]expr.Any{l.strays(), unreachable[0]}, unknown...)},
		{"filter-output", filter, nftables.ChainHookOutput, nftables.ChainPriorityFilter, append(unreachable[:1:1], unknown...)},
	}
}

// entry is the chain that a front leads to: all that packets' way to an
// endpoint depends on, and nothing of a service's own.
type entry struct {
	front  front
	keep   bool // packets stay on this node
	all    int  // how many endpoints there are; 0 where it does not matter
	local  int  // how many are on this node; 0 where it does not matter
	sticky time.Duration
}

// front is the kind of address that packets come in at.
type front string

const (
	atCluster  front = "cluster"
	atOuter    front = "outer"
	atNodePort front = "nodeport"
)

// name says everything of the entry, so that a chain of that name has the
// right rules.
func (e entry) name() string {
	name := string(e.front)
	if e.all > 0 {
		name += "-" + strconv.Itoa(e.all)
	}
	if e.keep {
		name += "-local-" + strconv.Itoa(e.local)
	}
	if e.sticky > 0 {
		name += "-sticky-" + e.sticky.String()
	}
	return name
}

// entry returns the rules of an entry's chain.
func (l layout) entry(e entry) [][]expr.Any {
	switch {
	case e.front == atCluster:
		// Answers to what does not come from a pod have to come back through
		// here.
		rules := [][]expr.Any{join(l.within(l.source(), l.pods, expr.CmpOpNeq), l.setMark(masqueradeBit))}
		if e.keep {
			return append(rules, l.pick(e, nil, onNode, e.local)...)
		}
		return append(rules, l.pick(e, nil, everywhere, e.all)...)
	case !e.keep:
		rules := [][]expr.Any{l.setMark(masqueradeBit)}
		return append(rules, l.pick(e, nil, everywhere, e.all)...)
	}
	// Pods and the node itself are inside already: they may reach every
	// endpoint at the outer addresses too.
	rules := l.pick(e, l.within(l.source(), l.pods, expr.CmpOpEq), everywhere, e.all)
	node := l.fromNode()
	rules = append(rules, join(node, l.setMark(masqueradeBit)))
	rules = append(rules, l.pick(e, node, everywhere, e.all)...)
	if e.local > 0 {
		rules = append(rules, l.pick(e, nil, onNode, e.local)...)
	}
	return rules
}

// pick leads packets that match to one of n endpoints.
func (l layout) pick(e entry, match []expr.Any, from pool, n int) [][]expr.Any {
	base := join(match, l.servicePort(e.front))
	draw := func(pool string, to uint32) []expr.Any {
		return []expr.Any{
			&expr.Numgen{Register: l.number(), Modulus: uint32(n), Type: unix.NFT_NG_RANDOM},
			&expr.Lookup{SourceRegister: l.clusterIP(), DestRegister: to, IsDestRegSet: true, SetName: pool},
		}
	}
	family := uint32(unix.NFPROTO_IPV4)
	if l.family == ipv6 {
		family = unix.NFPROTO_IPV6
	}
	lead := []expr.Any{&expr.NAT{Type: expr.NATTypeDestNAT, Family: family, RegAddrMin: l.endpoint(), RegProtoMin: l.target()}}
	if e.sticky == 0 {
		return [][]expr.Any{join(base, draw(from.endpoints, l.endpoint()), lead)}
	}
	base = join(base, l.load(l.source(), l.endpoint()), l.loadPort(l.target()))
	zero := &expr.Immediate{Register: l.zero(), Data: make([]byte, 4)}
	client := l.load(l.source(), l.client())
	drawn := join(draw(from.sticky, l.zero()), []expr.Any{zero}, client)
	known := join(client, []expr.Any{
		&expr.Lookup{SourceRegister: l.clusterIP(), DestRegister: l.zero(), IsDestRegSet: true, SetName: setClients},
		zero,
	})
	clients := func(operation uint32) []expr.Any {
		d := &expr.Dynset{SrcRegKey: l.clusterIP(), SrcRegData: l.zero(), SetName: setClients, Operation: operation}
		if operation != dynsetDelete {
			d.Timeout = e.sticky
		}
		return []expr.Any{d}
	}
	kept := []expr.Any{&expr.Lookup{SourceRegister: l.endpoint(), SetName: from.kept}}
	return [][]expr.Any{
		// To where the client was led before, if that is still there.
		join(base, known, kept, clients(unix.NFT_DYNSET_OP_UPDATE), lead),
		// If it is not: an update would not change it.
		join(base, known, clients(dynsetDelete)),
		join(base, drawn, clients(unix.NFT_DYNSET_OP_ADD), lead),
		join(base, drawn, lead), // there is no room for more clients
	}
}

// guard returns the rules of a chain that stops sources outside of ranges.
func (l layout) guard(ranges []netip.Prefix) [][]expr.Any {
	var rules [][]expr.Any
	for _, prefix := range ranges {
		rules = append(rules, join(l.within(l.source(), prefix, expr.CmpOpEq), []expr.Any{&expr.Verdict{Kind: expr.VerdictReturn}}))
	}
	return append(rules, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// fingerprint is the name of an empty chain that tells whether the table was
// laid out as we would.
func (l layout) fingerprint() string {
	sum := sha256.New()
	describe := func(rules [][]expr.Any) {
		for _, rule := range rules {
			for _, e := range rule {
				fmt.Fprintf(sum, "%T%+v ", e, e)
			}
			fmt.Fprintln(sum)
		}
	}
	sets := l.sets()
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		s := sets[name]
		fmt.Fprintln(sum, name, s.KeyType.Name, s.IsMap, s.DataType.Name, s.Dynamic, s.Size)
	}
	for _, c := range l.chains() {
		fmt.Fprintln(sum, c.name, c.kind, c.hooked())
		describe(c.rules)
	}
	for _, e := range []entry{
		{front: atCluster, all: 2, sticky: time.Second},
		{front: atCluster, keep: true, local: 2},
		{front: atOuter, all: 2},
		{front: atNodePort, keep: true, all: 2, local: 1},
	} {
		describe(l.entry(e))
	}
	describe(l.guard([]netip.Prefix{l.pods}))
	return nftLayout + base32.StdEncoding.EncodeToString(sum.Sum(nil))[:16]
}

// hooked says where packets come into the chain.
func (c baseChain) hooked() string {
	if c.hook == nil {
		return ""
	}
	return fmt.Sprint(*c.hook, *c.priority)
}

// Expressions.

func join(parts ...[]expr.Any) []expr.Any {
	var all []expr.Any
	for _, part := range parts {
		all = append(all, part...)
	}
	return all
}

// source and destination are where addresses stand in a packet.
func (l layout) source() uint32 {
	if l.family == ipv6 {
		return 8
	}
	return 12
}

func (l layout) destination() uint32 { return l.source() + l.bytes() }

// load puts an address of the packet into a register.
func (l layout) load(offset, register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: l.bytes()}}
}

// loadPort puts the port that the packet is for into a register.
func (l layout) loadPort(register uint32) []expr.Any {
	return []expr.Any{&expr.Payload{DestRegister: register, Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2}}
}

func (l layout) loadNodePort() []expr.Any {
	return join([]expr.Any{&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: l.protocol()}}, l.loadPort(l.port()))
}

func (l layout) loadFront() []expr.Any {
	return join(l.load(l.destination(), l.clusterIP()), l.loadNodePort())
}

// servicePort loads the cluster IP, protocol and port of the service that is
// reached at a front.
func (l layout) servicePort(at front) []expr.Any {
	outer := func(set string, key uint32) []expr.Any {
		return join(l.loadFront(), []expr.Any{
			&expr.Lookup{SourceRegister: key, DestRegister: l.clusterIP() - 1, IsDestRegSet: true, SetName: set}})
	}
	switch at {
	case atOuter:
		return outer(setOuter, l.clusterIP())
	case atNodePort:
		return outer(setOuterNodePorts, l.protocol())
	}
	return l.loadFront()
}

// verdictOf does what a map says.
func (l layout) verdictOf(set string, from uint32) expr.Any {
	return &expr.Lookup{SourceRegister: from, SetName: set, DestRegister: unix.NFT_REG_VERDICT, IsDestRegSet: true}
}

// within compares an address of the packet with a network.
func (l layout) within(offset uint32, network netip.Prefix, op expr.CmpOp) []expr.Any {
	mask := make([]byte, l.bytes())
	for i := range network.Bits() {
		mask[i/8] |= 0x80 >> (i % 8)
	}
	r := l.client()
	return join(l.load(offset, r), []expr.Any{
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: l.bytes(), Mask: mask, Xor: make([]byte, l.bytes())},
		&expr.Cmp{Op: op, Register: r, Data: network.Masked().Addr().AsSlice()},
	})
}

// nodeAddresses matches packets to addresses of this node at which its ports
// lead to services, in as many ways as there are networks of such. Loopback
// addresses lead nowhere else.
func (l layout) nodeAddresses() [][]expr.Any {
	match := join([]expr.Any{
		&expr.Fib{Register: l.client(), ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: l.client(), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}, l.within(l.destination(), l.loopback(), expr.CmpOpNeq))
	if len(l.nodeNets) == 0 {
		return [][]expr.Any{match}
	}
	var ways [][]expr.Any
	for _, network := range l.nodeNets {
		ways = append(ways, join(match, l.within(l.destination(), network, expr.CmpOpEq)))
	}
	return ways
}

// fromNode matches packets with a source address of this node.
func (l layout) fromNode() []expr.Any {
	return []expr.Any{
		&expr.Fib{Register: l.client(), ResultADDRTYPE: true, FlagSADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: l.client(), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
}

// started matches the first packet of a connection.
func (l layout) started() []expr.Any {
	r := l.client()
	return []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: r},
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitNEW), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r, Data: make([]byte, 4)},
	}
}

// strays drops pods' packets that the kernel takes for no connection's: an answer
// among them would go out with the endpoint's address in place of the service's, and
// the client would end the connection.
func (l layout) strays() []expr.Any {
	r := l.client()
	return join([]expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: r},
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(expr.CtStateBitINVALID), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r, Data: make([]byte, 4)},
	}, l.within(l.source(), l.pods, expr.CmpOpEq), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
}

// marked matches packets that have to come back through this node.
func (l layout) marked() []expr.Any {
	r := l.client()
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r},
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(masqueradeBit), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: r, Data: make([]byte, 4)},
	}
}

// setMark sets the bit that is marked with, or clears it.
func (l layout) setMark(bit uint32) []expr.Any {
	r := l.client()
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r},
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(masqueradeBit)), Xor: binaryutil.NativeEndian.PutUint32(bit)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r, SourceRegister: true},
	}
}
