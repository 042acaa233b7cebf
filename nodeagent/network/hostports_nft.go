package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
)

// Maps of the table, from where packets come in to where they go.
const (
	mapAddressed = "addressed" // address, protocol, port of the host: address, port of a pod
	mapPorts     = "ports"     // protocol, port of the host: the same
)

// chainHostPorts leads packets to an address of the host to pods.
const chainHostPorts = "lead"

// returnMark is on packets whose answers have to come back through the host's
// own address: the sender would not know them otherwise.
const returnMark = 0x2000

// Registers of four bytes hold what a map's key is made of, one part after the
// other, and then what it leads to.
func (f family) address() uint32    { return unix.NFT_REG32_00 }
func (f family) protocol() uint32   { return f.address() + f.bytes()/4 }
func (f family) port() uint32       { return f.protocol() + 1 }
func (f family) target() uint32     { return f.port() + 1 }
func (f family) targetPort() uint32 { return f.target() + f.bytes()/4 }

// changeHostPorts turns what the kernel has into what is wanted, in one
// transaction. If fresh, whatever stands in the table is replaced. There is no
// table while nothing is wanted.
func changeHostPorts(f family, old, want map[front]netip.AddrPort, fresh bool) error {
	table := f.table(tableHostPorts)
	if len(want) == 0 {
		return removeTable(table)
	}
	if f == ipv4 {
		// Packets from the host's loopback address may leave it for pods, and their
		// answers come back. The setting goes with the bridge.
		if err := writeSysctl("net/ipv4/conf/"+BridgeLink+"/route_localnet", "1"); err != nil {
			return err
		}
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the kernel's nftables: %w", err)
	}
	sets := f.hostPortMaps()
	if fresh || len(old) == 0 {
		old = nil
		replaceTable(conn, table)
		for _, name := range []string{mapAddressed, mapPorts} {
			if err := conn.AddSet(sets[name], nil); err != nil {
				return fmt.Errorf("encode map %s: %w", name, err)
			}
		}
		f.layHostPorts(conn, table)
	}
	change := func(from, except map[front]netip.AddrPort, do func(*nftables.Set, []nftables.SetElement) error) error {
		for at, target := range from {
			if other, both := except[at]; both && other == target {
				continue
			}
			name, key := at.key()
			value := append(target.Addr().AsSlice(), portKey(target.Port())...)
			if err := do(sets[name], []nftables.SetElement{{Key: key, Val: value}}); err != nil {
				return fmt.Errorf("encode host port %d: %w", at.port, err)
			}
		}
		return nil
	}
	if err := errors.Join(change(old, want, conn.SetDeleteElements), change(want, old, conn.SetAddElements)); err != nil {
		return err
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("change host ports in nftables: %w", err)
	}
	return nil
}

func (f family) hostPortMaps() map[string]*nftables.Set {
	address := nftables.TypeIPAddr
	if f == ipv6 {
		address = nftables.TypeIP6Addr
	}
	all := map[string]*nftables.Set{}
	for name, key := range map[string][]nftables.SetDatatype{
		mapAddressed: {address, nftables.TypeInetProto, nftables.TypeInetService},
		mapPorts:     {nftables.TypeInetProto, nftables.TypeInetService},
	} {
		all[name] = &nftables.Set{Table: f.table(tableHostPorts), Name: name, IsMap: true, Concatenation: true,
			KeyType: nftables.MustConcatSetType(key...), DataType: nftables.MustConcatSetType(address, nftables.TypeInetService)}
	}
	return all
}

// layHostPorts adds the chains.
func (f family) layHostPorts(conn *nftables.Conn, table *nftables.Table) {
	add := func(c *nftables.Chain, rules ...[]expr.Any) {
		c.Table = table
		conn.AddChain(c)
		for _, exprs := range rules {
			conn.AddRule(&nftables.Rule{Table: table, Chain: c, Exprs: exprs})
		}
	}
	add(&nftables.Chain{Name: chainHostPorts}, append(f.lead(mapAddressed), f.lead(mapPorts)...)...)
	// Services come first, whatever leads to them: they are at the usual priority.
	after := *nftables.ChainPriorityNATDest + 1
	for name, hook := range map[string]*nftables.ChainHook{"nat-prerouting": nftables.ChainHookPrerouting, "nat-output": nftables.ChainHookOutput} {
		add(&nftables.Chain{Name: name, Type: nftables.ChainTypeNAT, Hooknum: hook, Priority: &after}, f.toHost())
	}
	add(&nftables.Chain{Name: "nat-postrouting", Type: nftables.ChainTypeNAT, Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource},
		// The mark is cleared, lest it is masqueraded again on its way.
		slices.Concat([]expr.Any{
			&expr.Meta{Key: expr.MetaKeyMARK, Register: f.address()},
			&expr.Bitwise{SourceRegister: f.address(), DestRegister: f.address(), Len: 4, Mask: binaryutil.NativeEndian.PutUint32(returnMark), Xor: make([]byte, 4)},
			&expr.Cmp{Op: expr.CmpOpNeq, Register: f.address(), Data: make([]byte, 4)},
		}, mark(0), []expr.Any{&expr.Masq{FullyRandom: true}}))
	if f == ipv4 {
		// The bridge takes packets to loopback addresses now, for the sake of
		// answers, which are not to such an address when they come in. What is
		// comes from somebody who tries to get at what listens there only.
		add(&nftables.Chain{Name: "guard", Type: nftables.ChainTypeFilter, Hooknum: nftables.ChainHookPrerouting, Priority: nftables.ChainPriorityRaw},
			slices.Concat(from("lo", expr.CmpOpNeq), f.within(f.destination(), loopback[f]), []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}}))
	}
}

var loopback = map[family]netip.Prefix{ipv4: netip.MustParsePrefix("127.0.0.0/8"), ipv6: netip.MustParsePrefix("::1/128")}

// toHost leads packets to addresses of the host on. IPv6's loopback address is
// none: nothing can leave the host that comes from there.
func (f family) toHost() []expr.Any {
	exprs := []expr.Any{
		&expr.Fib{Register: f.address(), ResultADDRTYPE: true, FlagDADDR: true},
		&expr.Cmp{Op: expr.CmpOpEq, Register: f.address(), Data: binaryutil.NativeEndian.PutUint32(unix.RTN_LOCAL)},
	}
	if f == ipv6 {
		exprs = append(exprs, f.load(f.destination(), f.address()),
			&expr.Cmp{Op: expr.CmpOpNeq, Register: f.address(), Data: loopback[f].Addr().AsSlice()})
	}
	return append(exprs, &expr.Verdict{Kind: expr.VerdictJump, Chain: chainHostPorts})
}

// lead returns the rules that take packets where a map says. Those of pods of this
// node, and of the host's loopback address, have to come back through here: a pod
// that reaches itself would answer itself directly.
func (f family) lead(name string) [][]expr.Any {
	first := f.protocol()
	look := []expr.Any{
		&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: f.protocol()},
		&expr.Payload{DestRegister: f.port(), Base: expr.PayloadBaseTransportHeader, Offset: 2, Len: 2},
	}
	if name == mapAddressed {
		first = f.address()
		look = append(look, f.load(f.destination(), f.address()))
	}
	look = append(look, &expr.Lookup{SourceRegister: first, DestRegister: f.target(), IsDestRegSet: true, SetName: name})
	rules := [][]expr.Any{slices.Concat(from(BridgeLink, expr.CmpOpEq), look, mark(returnMark))}
	if f == ipv4 {
		rules = append(rules, slices.Concat(f.within(f.source(), loopback[f]), look, mark(returnMark)))
	}
	number := uint32(unix.NFPROTO_IPV4)
	if f == ipv6 {
		number = unix.NFPROTO_IPV6
	}
	return append(rules, append(slices.Clone(look),
		&expr.NAT{Type: expr.NATTypeDestNAT, Family: number, RegAddrMin: f.target(), RegProtoMin: f.targetPort()}))
}

// key is the map that a front stands in, and how it is written there: each part
// is as wide as registers are.
func (at front) key() (name string, key []byte) {
	name = mapPorts
	if at.address.IsValid() {
		name, key = mapAddressed, at.address.AsSlice()
	}
	return name, append(append(key, ProtocolNumber(at.protocol), 0, 0, 0), portKey(at.port)...)
}

func portKey(n uint16) []byte { return []byte{byte(n >> 8), byte(n), 0, 0} }

// ProtocolNumber is what a protocol of ports is in packets.
func ProtocolNumber(p corev1.Protocol) byte {
	switch p {
	case corev1.ProtocolUDP:
		return unix.IPPROTO_UDP
	case corev1.ProtocolSCTP:
		return unix.IPPROTO_SCTP
	}
	return unix.IPPROTO_TCP
}

// staleFlows matches UDP flows that do not go where host ports lead now: a client
// that keeps its port keeps its flow. It implements netlink.CustomConntrackFilter.
type staleFlows struct {
	old, want map[front]netip.AddrPort
	own       map[netip.Addr]bool // the host's addresses
	family    family
}

var _ netlink.CustomConntrackFilter = (*staleFlows)(nil)

// MatchConntrackFlow tells whether a flow is to be forgotten: it leads to what has
// gone, or past what has come.
func (s *staleFlows) MatchConntrackFlow(flow *netlink.ConntrackFlow) bool {
	to, ok1 := netip.AddrFromSlice(flow.Forward.DstIP)
	at, ok2 := netip.AddrFromSlice(flow.Reverse.SrcIP)
	if flow.Forward.Protocol != unix.IPPROTO_UDP || !ok1 || !ok2 || !s.own[to.Unmap()] {
		return false
	}
	leads := netip.AddrPortFrom(at.Unmap(), flow.Reverse.SrcPort)
	for _, address := range []netip.Addr{to.Unmap(), {}} {
		f := front{s.family, corev1.ProtocolUDP, address, flow.Forward.DstPort}
		before, had := s.old[f]
		now, has := s.want[f]
		switch {
		case has:
			return leads != now && (!had || before != now)
		case had:
			return leads == before
		}
	}
	return false
}

// forgetFlows makes the kernel forget UDP flows that a change made stale.
func forgetFlows(f family, old, want map[front]netip.AddrPort) error {
	stale := &staleFlows{old: old, want: want, own: map[netip.Addr]bool{}, family: f}
	changed := func(from, to map[front]netip.AddrPort) bool {
		for at, target := range from {
			if at.protocol == corev1.ProtocolUDP && to[at] != target {
				return true
			}
		}
		return false
	}
	if !changed(old, want) && !changed(want, old) {
		return nil
	}
	networks, err := net.InterfaceAddrs()
	if err != nil {
		return fmt.Errorf("list the host's addresses: %w", err)
	}
	for _, network := range networks {
		if prefix, err := netip.ParsePrefix(network.String()); err == nil {
			stale.own[prefix.Addr()] = true
		}
	}
	if _, err := netlink.ConntrackDeleteFilters(netlink.ConntrackTable, netlink.InetFamily(f), stale); err != nil {
		return fmt.Errorf("forget UDP flows: %w", err)
	}
	return nil
}
