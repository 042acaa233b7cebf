package serviceproxy

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/nftables"
	"github.com/google/nftables/expr"
	"github.com/mdlayher/netlink"
	"golang.org/x/sys/unix"

	"clusterctl/hostconfig"
)

const (
	// perMessage is how many elements go into one message, which holds 64 KiB
	// of them at most.
	perMessage = 300
	// perTransaction is how many services are written at once. Each
	// transaction waits until no packet is under way with the rules before.
	perTransaction = 20000
	// socketBuffer has room for a transaction and for what it is answered.
	socketBuffer = 32 << 20
)

// nftablesBackend is the back end that speaks to the kernel's nftables over
// netlink. Hosts need no program for it.
type nftablesBackend struct {
	layout layout
	ledger *ledger // nil: the table has to be read first
}

func newNftables(l layout) *nftablesBackend { return &nftablesBackend{layout: l} }

func openNftables() (*nftables.Conn, error) {
	conn, err := nftables.New(nftables.WithSockOptions(func(c *netlink.Conn) error {
		return errors.Join(c.SetReadBuffer(socketBuffer), c.SetWriteBuffer(socketBuffer))
	}))
	if err != nil {
		return nil, fmt.Errorf("reach the kernel's nftables: %w", err)
	}
	return conn, nil
}

// probe tells whether the kernel has all that the layout needs: it lets it
// make a table with each kind of chain, and take that back, in one go.
func (n *nftablesBackend) probe() error {
	conn, err := openNftables()
	if err != nil {
		return err
	}
	t := &transaction{conn: conn, layout: n.layout, table: n.layout.table()}
	t.table.Name += "-probe"
	t.lay()
	t.chain("probe", n.layout.entry(entry{front: atNodePort, keep: true, all: 1, local: 1, sticky: 1e9}))
	conn.DelTable(t.table)
	return t.flush()
}

// apply implements backend.
func (n *nftablesBackend) apply(all map[string][]servicePort, changes map[string]change) (changed bool, err error) {
	books := n.ledger
	n.ledger = nil // until it is certain
	fresh, create := books == nil, false
	if fresh {
		if books, err = n.read(); err != nil {
			return false, err
		}
		if create = books == nil; create {
			books = newLedger(n.layout)
		}
		changes = make(map[string]change, len(all))
		for name, ports := range all {
			changes[name] = change{new: ports}
		}
	}
	names := slices.Sorted(maps.Keys(changes))
	for first := 0; first < len(names) || first == 0; first += perTransaction {
		part := map[string]change{}
		for _, name := range names[first:min(first+perTransaction, len(names))] {
			part[name] = changes[name]
		}
		done, err := n.change(books, books.enter(part, fresh && first+perTransaction >= len(names)), create)
		if err != nil {
			return changed, err
		}
		changed, create = changed || done, false
	}
	n.ledger = books
	return changed, nil
}

// change gives the kernel a delta in one transaction: no packet ever meets half of
// it. If create, the table is laid out anew first, whatever it held.
func (n *nftablesBackend) change(books *ledger, d delta, create bool) (bool, error) {
	if d.empty() && !create {
		return false, nil
	}
	conn, err := openNftables()
	if err != nil {
		return false, err
	}
	t := &transaction{conn: conn, layout: n.layout, table: n.layout.table()}
	if create {
		conn.AddTable(t.table) // so that it can be removed in any case
		conn.DelTable(t.table)
		t.lay()
	}
	for _, name := range d.newChains {
		c, known := books.chains[name]
		if !known {
			return false, fmt.Errorf("change nftables: no rules for chain %s", name)
		}
		if c.ranges != nil {
			t.chain(name, n.layout.guard(c.ranges))
		} else {
			t.chain(name, n.layout.entry(c.entry))
		}
	}
	sets := n.layout.sets()
	for _, set := range slices.Sorted(maps.Keys(d.remove)) {
		t.elements(sets[set], d.remove[set], conn.SetDeleteElements)
	}
	for _, set := range slices.Sorted(maps.Keys(d.add)) {
		t.elements(sets[set], d.add[set], conn.SetAddElements)
	}
	for _, name := range d.oldChains {
		c := &nftables.Chain{Table: t.table, Name: name}
		conn.FlushChain(c)
		conn.DelChain(c)
	}
	return true, t.flush()
}

// exists tells whether the table is there and, if it is, which chains it has.
func (n *nftablesBackend) exists(conn *nftables.Conn) (chains []string, exists bool, err error) {
	table := n.layout.table()
	tables, err := conn.ListTablesOfFamily(table.Family)
	if err != nil {
		return nil, false, fmt.Errorf("list nftables' tables: %w", err)
	}
	if !slices.ContainsFunc(tables, func(t *nftables.Table) bool { return t.Name == table.Name }) {
		return nil, false, nil
	}
	list, err := conn.ListChainsOfTableFamily(table.Family)
	if err != nil {
		return nil, false, fmt.Errorf("list nftables' chains: %w", err)
	}
	for _, c := range list {
		if c.Table.Name == table.Name {
			chains = append(chains, c.Name)
		}
	}
	return chains, true, nil
}

// read finds out what stands in the table. It returns nil if there is none, or
// one of another layout.
func (n *nftablesBackend) read() (*ledger, error) {
	conn, err := openNftables()
	if err != nil {
		return nil, err
	}
	chains, exists, err := n.exists(conn)
	if err != nil || !exists || !slices.Contains(chains, n.layout.fingerprint()) {
		return nil, err
	}
	books := newLedger(n.layout)
	for name, set := range n.layout.sets() {
		if set.Dynamic {
			continue
		}
		elements, err := conn.GetSetElements(set)
		if err != nil {
			return nil, fmt.Errorf("read set %s: %w", name, err)
		}
		for _, e := range elements {
			value := string(e.Val)
			if set.DataType.Name == nftables.TypeVerdict.Name {
				if value, err = verdictName(e.Val); err != nil {
					return nil, fmt.Errorf("read map %s: %w", name, err)
				}
			}
			books.find(element{place{name, string(e.Key)}, value})
		}
	}
	return books, nil
}

// verdictName decodes a verdict the kernel tells us of.
func verdictName(raw []byte) (string, error) {
	attributes, err := netlink.UnmarshalAttributes(raw)
	if err != nil {
		return "", fmt.Errorf("decode verdict: %w", err)
	}
	for _, a := range attributes {
		if a.Type == unix.NFTA_VERDICT_CHAIN {
			return strings.TrimRight(string(a.Data), "\x00"), nil
		}
	}
	return verdictDrop, nil // the only one of ours without a chain
}

// intact implements backend.
func (n *nftablesBackend) intact() (bool, error) {
	conn, err := openNftables()
	if err != nil {
		return false, err
	}
	chains, _, err := n.exists(conn)
	return slices.Contains(chains, n.layout.fingerprint()), err
}

// mode implements backend.
func (n *nftablesBackend) mode() string { return hostconfig.ProxyNftables }

// relay implements backend. The table is made anew in one go: its layout has another
// fingerprint.
func (n *nftablesBackend) relay(l layout) { n.layout, n.ledger = l, nil }

// forget implements backend.
func (n *nftablesBackend) forget() { n.ledger = nil }

// remove implements backend.
func (n *nftablesBackend) remove() error {
	n.forget()
	conn, err := openNftables()
	if err != nil {
		return err
	}
	if _, exists, err := n.exists(conn); err != nil || !exists {
		return err
	}
	conn.DelTable(n.layout.table())
	if err := conn.Flush(); err != nil {
		return fmt.Errorf("remove nftables' table: %w", err)
	}
	return nil
}

// transaction collects changes.
type transaction struct {
	conn   *nftables.Conn
	layout layout
	table  *nftables.Table
	err    error
}

// lay adds the table and what is always in it.
func (t *transaction) lay() {
	t.conn.AddTable(t.table)
	sets := t.layout.sets()
	for _, name := range slices.Sorted(maps.Keys(sets)) {
		sets[name].Table = t.table
		t.must(t.conn.AddSet(sets[name], nil))
	}
	for _, c := range t.layout.chains() {
		chain := &nftables.Chain{Table: t.table, Name: c.name, Type: c.kind, Hooknum: c.hook, Priority: c.priority}
		t.conn.AddChain(chain)
		t.rules(chain, c.rules)
	}
	t.conn.AddChain(&nftables.Chain{Table: t.table, Name: t.layout.fingerprint()})
}

func (t *transaction) chain(name string, rules [][]expr.Any) {
	t.rules(t.conn.AddChain(&nftables.Chain{Table: t.table, Name: name}), rules)
}

func (t *transaction) rules(chain *nftables.Chain, rules [][]expr.Any) {
	for _, exprs := range rules {
		t.conn.AddRule(&nftables.Rule{Table: t.table, Chain: chain, Exprs: exprs})
	}
}

func (t *transaction) elements(set *nftables.Set, elements []element, do func(*nftables.Set, []nftables.SetElement) error) {
	for part := range slices.Chunk(elements, perMessage) {
		encoded := make([]nftables.SetElement, 0, len(part))
		for _, e := range part {
			encoded = append(encoded, encode(set, e))
		}
		t.must(do(set, encoded))
	}
}

func encode(set *nftables.Set, e element) nftables.SetElement {
	encoded := nftables.SetElement{Key: []byte(e.key)}
	switch {
	case set.DataType.Name != nftables.TypeVerdict.Name:
		encoded.Val = []byte(e.value)
	case e.value == verdictDrop:
		encoded.VerdictData = &expr.Verdict{Kind: expr.VerdictDrop}
	case e.set == setGuards:
		encoded.VerdictData = &expr.Verdict{Kind: expr.VerdictJump, Chain: e.value}
	default:
		encoded.VerdictData = &expr.Verdict{Kind: expr.VerdictGoto, Chain: e.value}
	}
	return encoded
}

func (t *transaction) must(err error) {
	if t.err == nil && err != nil {
		t.err = fmt.Errorf("encode change of nftables: %w", err)
	}
}

func (t *transaction) flush() error {
	if t.err != nil {
		return t.err
	}
	if err := t.conn.Flush(); err != nil {
		return fmt.Errorf("change nftables: %w", err)
	}
	return nil
}
