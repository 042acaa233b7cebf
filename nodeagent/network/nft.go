package network

import (
	"crypto/sha256"
	"encoding/base32"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"

	"github.com/google/nftables"
	"github.com/google/nftables/binaryutil"
	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

// Tables of ours in nftables, one of each family that pods have; nobody else
// writes to them.
const (
	tableNetwork   = "clusterctl-network"   // masquerading
	tableHostPorts = "clusterctl-hostports" // only while a pod has such ports
)

func (f family) table(name string) *nftables.Table {
	if f == ipv6 {
		return &nftables.Table{Name: name, Family: nftables.TableFamilyIPv6}
	}
	return &nftables.Table{Name: name, Family: nftables.TableFamilyIPv4}
}

// chainsOf lists the chains of a table; none if it is not there. There may be a
// table without chains, which is not one of ours as we write them.
func chainsOf(conn *nftables.Conn, table *nftables.Table) ([]string, error) {
	all, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, fmt.Errorf("list nftables' chains: %w", err)
	}
	var names []string
	for _, c := range all {
		if c.Table.Name == table.Name {
			names = append(names, c.Name)
		}
	}
	return names, nil
}

// tableExists tells whether a table is there.
func tableExists(table *nftables.Table) (bool, error) {
	conn, err := nftables.New()
	if err != nil {
		return false, fmt.Errorf("reach the kernel's nftables: %w", err)
	}
	tables, err := conn.ListTablesOfFamily(table.Family)
	if err != nil {
		return false, fmt.Errorf("list nftables' tables: %w", err)
	}
	return slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name }), nil
}

// removeTable removes a table if it is there.
func removeTable(table *nftables.Table) error {
	if exists, err := tableExists(table); err != nil || !exists {
		return err
	}
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the kernel's nftables: %w", err)
	}
	conn.DelTable(table)
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove table %s: %w", table.Name, err)
	}
	return nil
}

// removeTables removes all tables of the pod network.
func removeTables(log *slog.Logger) error {
	var errs []error
	for _, f := range families {
		for _, name := range []string{tableNetwork, tableHostPorts} {
			if _, err := tableExists(f.table(name)); err != nil {
				log.Debug("no nftables, no rules", "table", name, "err", err)
				continue
			}
			errs = append(errs, removeTable(f.table(name)))
		}
	}
	return errors.Join(errs...)
}

// multicast is what is never masqueraded.
var multicast = map[family]netip.Prefix{ipv4: netip.MustParsePrefix("224.0.0.0/4"), ipv6: netip.MustParsePrefix("ff00::/8")}

// masquerade makes the table that has what the node's pods send out of the
// cluster come back to the node: packets to the cluster's pods keep their source.
// It changes nothing if the table is as it has to be.
func masquerade(f family, cluster, own netip.Prefix) error {
	conn, err := nftables.New()
	if err != nil {
		return fmt.Errorf("reach the kernel's nftables: %w", err)
	}
	table := f.table(tableNetwork)
	back := &expr.Verdict{Kind: expr.VerdictReturn}
	rules := [][]expr.Any{
		append(f.within(f.destination(), cluster), back),
		append(f.within(f.destination(), multicast[f]), back),
		append(f.within(f.source(), own), &expr.Masq{FullyRandom: true}),
	}
	name := "postrouting-" + digest(rules)
	have, err := chainsOf(conn, table)
	if err != nil {
		return err
	}
	if slices.Equal(have, []string{name}) {
		return nil
	}
	replaceTable(conn, table)
	chain := conn.AddChain(&nftables.Chain{Table: table, Name: name, Type: nftables.ChainTypeNAT,
		Hooknum: nftables.ChainHookPostrouting, Priority: nftables.ChainPriorityNATSource})
	for _, exprs := range rules {
		conn.AddRule(&nftables.Rule{Table: table, Chain: chain, Exprs: exprs})
	}
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("masquerade with nftables: %w", err)
	}
	return nil
}

// replaceTable adds an empty table in the place of what there may be. No packet
// meets what is between.
func replaceTable(conn *nftables.Conn, table *nftables.Table) {
	conn.AddTable(table) // so that it can be removed in any case
	conn.DelTable(table)
	conn.AddTable(table)
}

// digest is short, and another for other rules.
func digest(rules [][]expr.Any) string {
	sum := sha256.New()
	for _, rule := range rules {
		for _, e := range rule {
			fmt.Fprintf(sum, "%T%+v ", e, e)
		}
		fmt.Fprintln(sum)
	}
	return base32.StdEncoding.EncodeToString(sum.Sum(nil))[:12]
}

// Where addresses stand in a packet, in bytes.
func (f family) source() uint32 {
	if f == ipv6 {
		return 8
	}
	return 12
}

func (f family) destination() uint32 { return f.source() + f.bytes() }

func (f family) bytes() uint32 {
	if f == ipv6 {
		return 16
	}
	return 4
}

// load puts an address of the packet into a register.
func (f family) load(offset, register uint32) expr.Any {
	return &expr.Payload{DestRegister: register, Base: expr.PayloadBaseNetworkHeader, Offset: offset, Len: f.bytes()}
}

// within matches packets with an address of a network.
func (f family) within(offset uint32, network netip.Prefix) []expr.Any {
	const r = unix.NFT_REG32_00
	return []expr.Any{
		f.load(offset, r),
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: f.bytes(), Mask: ipNet(network).Mask, Xor: make([]byte, f.bytes())},
		&expr.Cmp{Op: expr.CmpOpEq, Register: r, Data: network.Masked().Addr().AsSlice()},
	}
}

// from matches packets that came in over a link, or over any other.
func from(link string, op expr.CmpOp) []expr.Any {
	name := make([]byte, unix.IFNAMSIZ)
	copy(name, link)
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyIIFNAME, Register: unix.NFT_REG_1},
		&expr.Cmp{Op: op, Register: unix.NFT_REG_1, Data: name},
	}
}

// mark sets the bit of returnMark, or clears it.
func mark(bit uint32) []expr.Any {
	const r = unix.NFT_REG32_00
	return []expr.Any{
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r},
		&expr.Bitwise{SourceRegister: r, DestRegister: r, Len: 4,
			Mask: binaryutil.NativeEndian.PutUint32(^uint32(returnMark)), Xor: binaryutil.NativeEndian.PutUint32(bit)},
		&expr.Meta{Key: expr.MetaKeyMARK, Register: r, SourceRegister: true},
	}
}
