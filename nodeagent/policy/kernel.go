package policy

import (
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"clusterctl/nodeagent/network"
)

// tableName is the table of ours; nobody else writes to it.
const tableName = "clusterctl-policy"

// Where the destination's port stands in a packet, after the network's header.
const portOffset, portLen = 2, 2

// Types of ICMPv6 by which neighbours find each other.
const neighbourSolicitation, neighbourAdvertisement = 135, 136

const (
	// perMessage is how many members of a set go into one message.
	perMessage = 400
	// socketBuffer has room for a transaction and for what it is answered.
	socketBuffer = 16 << 20
)

// kernel holds what we know our table of a family to hold.
type kernel struct {
	family family
	// applied is nil if there is no table; known tells whether that is certain.
	applied *picture
	known   bool
	netns   int // for tests; zero: the thread's
}

func (k *kernel) table() *nftables.Table {
	return &nftables.Table{Name: tableName, Family: nftables.TableFamily(k.family)}
}

func (k *kernel) open() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithNetNSFd(k.netns), nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("reach the kernel's nftables: %w", err)
	}
	return conn, nil
}

// exists tells whether the table is there.
func (k *kernel) exists() (bool, error) {
	conn, err := k.open()
	if err != nil {
		return false, err
	}
	tables, err := conn.ListTablesOfFamily(nftables.TableFamily(k.family))
	if err != nil {
		return false, fmt.Errorf("list nftables' tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == tableName }), nil
}

// forget makes the next apply write everything.
func (k *kernel) forget() { k.applied, k.known = nil, false }

// apply gives the kernel what differs from what it has, in one transaction:
// no packet ever meets half of it. A nil picture wants no table. It reports
// whether there was anything to change.
func (k *kernel) apply(want *picture) (changed bool, err error) {
	if want == nil {
		return k.remove()
	}
	conn, err := k.open()
	if err != nil {
		return false, err
	}
	t := &transaction{conn: conn, family: k.family, table: k.table()}
	if k.known && k.applied != nil {
		t.change(k.applied, want)
	} else {
		t.write(want)
	}
	if t.err != nil {
		return false, t.err
	}
	if t.empty {
		return false, nil
	}
	k.forget() // until it is certain
	if err := conn.Flush(); err != nil {
		return false, fmt.Errorf("change nftables: %w", err)
	}
	k.applied, k.known = want, true
	return true, nil
}

// remove removes the table if it is there.
func (k *kernel) remove() (changed bool, err error) {
	if k.known && k.applied == nil {
		return false, nil
	}
	exists, err := k.exists()
	if err != nil {
		return false, err
	}
	if exists {
		conn, err := k.open()
		if err != nil {
			return false, err
		}
		conn.DelTable(k.table())
		if err := conn.Flush(); err != nil {
			return false, fmt.Errorf("remove nftables' table: %w", err)
		}
	}
	k.applied, k.known = nil, true
	return exists, nil
}

// transaction collects changes.
type transaction struct {
	conn   *nftables.Conn
	family family
	table  *nftables.Table
	empty  bool
	err    error
}

// write replaces whatever the table held.
func (t *transaction) write(want *picture) {
	t.conn.AddTable(t.table) // so that it can be removed in any case
	t.conn.DelTable(t.table)
	t.conn.AddTable(t.table)
	t.change(&picture{}, want)
	t.hook()
}

// change turns one picture into another. What is led to exists before what
// leads there, and goes after it.
func (t *transaction) change(old, want *picture) {
	t.empty = true
	var gone []string
	for _, name := range slices.Sorted(maps.Keys(want.chains)) {
		if _, there := old.chains[name]; !there {
			t.touch()
			t.conn.AddChain(t.chain(name))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(want.sets)) {
		s := want.sets[name]
		before, there := old.sets[name]
		if !there {
			t.touch()
			t.must(t.conn.AddSet(t.set(name, s.kind), nil))
		}
		t.members(name, s.kind, before.members, s.members)
	}
	for _, name := range slices.Sorted(maps.Keys(want.chains)) {
		c := want.chains[name]
		before, there := old.chains[name]
		if there && slices.Equal(before.rules, c.rules) {
			continue
		}
		t.touch()
		if there {
			t.conn.FlushChain(t.chain(name))
		}
		for _, r := range c.rules {
			t.rule(name, t.match(c.egress, r))
		}
		t.rule(name, []expr.Any{&expr.Verdict{Kind: expr.VerdictDrop}})
	}
	for _, name := range slices.Sorted(maps.Keys(old.chains)) {
		if _, kept := want.chains[name]; !kept {
			t.touch()
			t.conn.FlushChain(t.chain(name))
			gone = append(gone, name)
		}
	}
	for _, name := range gone {
		t.conn.DelChain(t.chain(name))
	}
	for _, name := range slices.Sorted(maps.Keys(old.sets)) {
		if _, kept := want.sets[name]; !kept {
			t.touch()
			t.conn.DelSet(t.set(name, old.sets[name].kind))
		}
	}
}

func (t *transaction) touch() { t.empty = false }

func (t *transaction) must(err error) {
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("encode change of nftables: %w", err)
	}
}

func (t *transaction) chain(name string) *nftables.Chain {
	return &nftables.Chain{Table: t.table, Name: name}
}

func (t *transaction) set(name string, k kind) *nftables.Set {
	address := t.family.addressType()
	s := &nftables.Set{Table: t.table, Name: name, KeyType: address}
	switch k {
	case pairs:
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(address, address), true
	case sockets:
		s.KeyType, s.Concatenation = nftables.MustConcatSetType(address, nftables.TypeInetService), true
	case blocks:
		s.Interval = true
	case verdicts:
		s.IsMap, s.DataType = true, nftables.TypeVerdict
	}
	return s
}

// members removes from a set what it should not have and adds what it lacks.
func (t *transaction) members(name string, k kind, old, want map[member]struct{}) {
	s := t.set(name, k)
	each := func(from, except map[member]struct{}, do func(*nftables.Set, []nftables.SetElement) error) {
		var elements []nftables.SetElement
		for m := range from {
			if _, both := except[m]; !both {
				elements = append(elements, element(k, m)...)
			}
		}
		for part := range slices.Chunk(elements, perMessage) {
			t.touch()
			t.must(do(s, part))
		}
	}
	each(old, want, t.conn.SetDeleteElements)
	each(want, old, t.conn.SetAddElements)
}

func element(k kind, m member) []nftables.SetElement {
	key := m.addr.AsSlice()
	switch k {
	case pairs:
		return []nftables.SetElement{{Key: append(key, key...)}}
	case sockets:
		// Each part is as wide as a register.
		return []nftables.SetElement{{Key: append(key, byte(m.port>>8), byte(m.port), 0, 0)}}
	case blocks:
		elements := []nftables.SetElement{{Key: key}}
		if end := m.last.Next(); end.IsValid() {
			elements = append(elements, nftables.SetElement{Key: end.AsSlice(), IntervalEnd: true})
		}
		return elements
	case verdicts:
		return []nftables.SetElement{{Key: key, VerdictData: &expr.Verdict{Kind: expr.VerdictJump, Chain: m.chain}}}
	}
	return []nftables.SetElement{{Key: key}}
}

func (t *transaction) rule(chain string, exprs []expr.Any) {
	t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: t.chain(chain), Exprs: exprs})
}

// hook adds the chain that all forwarded packets pass. Answers, and what
// belongs to a connection, pass with it.
func (t *transaction) hook() {
	accept := nftables.ChainPolicyAccept
	base := t.conn.AddChain(&nftables.Chain{
		Table: t.table, Name: "forward", Type: nftables.ChainTypeFilter,
		Hooknum: nftables.ChainHookForward, Priority: nftables.ChainPriorityFilter, Policy: &accept,
	})
	part := expr.CtStateBitESTABLISHED | expr.CtStateBitRELATED
	t.rule(base.Name, []expr.Any{
		&expr.Ct{Key: expr.CtKeySTATE, Register: 1},
		&expr.Bitwise{SourceRegister: 1, DestRegister: 1, Len: 4, Mask: binaryutil.NativeEndian.PutUint32(part), Xor: make([]byte, 4)},
		&expr.Cmp{Op: expr.CmpOpNeq, Register: 1, Data: make([]byte, 4)},
		&expr.Verdict{Kind: expr.VerdictAccept},
	})
	if t.family == ipv6 {
		// Neighbours on one bridge find each other's hardware addresses, whoever they
		// may talk to. These packets belong to no connection.
		t.rule(base.Name, []expr.Any{
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{unix.IPPROTO_ICMPV6}},
			&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: 0, Len: 1},
			&expr.Range{Op: expr.CmpOpEq, Register: 1, FromData: []byte{neighbourSolicitation}, ToData: []byte{neighbourAdvertisement}},
			&expr.Verdict{Kind: expr.VerdictAccept},
		})
	}
	t.rule(base.Name, []expr.Any{
		&expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: t.family.sourceOffset(), Len: 2 * t.family.addressLen()},
		&expr.Lookup{SourceRegister: 1, SetName: setSelf},
		&expr.Verdict{Kind: expr.VerdictAccept},
	})
	for _, way := range []struct {
		set    string
		offset uint32
	}{{setEgress, t.family.sourceOffset()}, {setIngress, t.family.destinationOffset()}} {
		t.rule(base.Name, []expr.Any{
			t.load(way.offset),
			&expr.Lookup{SourceRegister: 1, SetName: way.set, DestRegister: 0, IsDestRegSet: true},
		})
	}
}

// load puts an address of the packet into register 1.
func (t *transaction) load(offset uint32) expr.Any {
	return &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: t.family.addressLen()}
}

// match lets a packet pass the chain if it matches the rule.
func (t *transaction) match(egress bool, r rule) []expr.Any {
	var exprs []expr.Any
	if r.peers != "" {
		offset := t.family.sourceOffset()
		if egress {
			offset = t.family.destinationOffset()
		}
		exprs = append(exprs, t.load(offset), &expr.Lookup{SourceRegister: 1, SetName: r.peers})
	}
	if r.protocol != "" {
		exprs = append(exprs,
			&expr.Meta{Key: expr.MetaKeyL4PROTO, Register: 1},
			&expr.Cmp{Op: expr.CmpOpEq, Register: 1, Data: []byte{network.ProtocolNumber(r.protocol)}})
	}
	port := &expr.Payload{DestRegister: 1, Base: expr.PayloadBaseTransportHeader, Offset: portOffset, Len: portLen}
	if r.from != 0 {
		exprs = append(exprs, port, &expr.Range{
			Op: expr.CmpOpEq, Register: 1,
			FromData: binaryutil.BigEndian.PutUint16(r.from), ToData: binaryutil.BigEndian.PutUint16(r.to),
		})
	}
	if r.sockets != "" {
		// What the set's members are made of.
		address, next := t.family.registers()
		port.DestRegister = next
		exprs = append(exprs,
			&expr.Payload{DestRegister: address, Base: expr.PayloadBaseNetworkHeader, Offset: t.family.destinationOffset(), Len: t.family.addressLen()},
			port, &expr.Lookup{SourceRegister: address, SetName: r.sockets})
	}
	return append(exprs, &expr.Verdict{Kind: expr.VerdictReturn})
}
