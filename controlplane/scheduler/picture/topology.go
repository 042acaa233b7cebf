package picture

import "slices"

// none is the domain of a node that lacks a topology's label.
const none = -1

// ByNode is the key of the topology in which every node is a domain of its
// own, whatever its labels.
const ByNode = ""

// Topology divides the nodes into domains by the value of one label. Domains
// are small numbers; those that lost their last node are used again.
type Topology struct {
	Key     string
	number  int // in Node.domains
	ids     map[string]int32
	nodes   []int32 // by domain: how many nodes it has
	free    []int32 // domains without nodes
	missing int     // nodes without the label
}

// Domain is the node's, and whether it has one.
func (t *Topology) Domain(n *Node) (int32, bool) {
	d := n.domains[t.number]
	return d, d != none
}

// Domains is how many there are with nodes.
func (t *Topology) Domains() int { return len(t.ids) }

// Size is more than any domain's number.
func (t *Topology) Size() int { return len(t.nodes) }

// Whole says that every node has the label.
func (t *Topology) Whole() bool { return t.missing == 0 }

// Topology returns the division by a label, which is kept from then on.
func (p *Picture) Topology(key string) *Topology {
	t := p.topologies[key]
	if t == nil {
		t = &Topology{Key: key, number: len(p.topologies), ids: map[string]int32{}}
		p.topologies[key] = t
		for _, n := range p.nodes {
			t.place(n)
		}
	}
	return t
}

// place finds the node's domain in every topology.
func (p *Picture) place(n *Node) {
	for _, t := range p.topologies {
		t.place(n)
	}
}

func (t *Topology) place(n *Node) {
	if missing := t.number + 1 - len(n.domains); missing > 0 {
		n.domains = append(n.domains, slices.Repeat([]int32{none}, missing)...)
	}
	value, ok := n.Object.Labels[t.Key]
	if t.Key == ByNode {
		value, ok = n.Name(), true
	}
	if !ok {
		n.domains[t.number] = none
		t.missing++
		return
	}
	id, ok := t.ids[value]
	switch {
	case ok:
	case len(t.free) > 0:
		id = t.free[len(t.free)-1]
		t.free = t.free[:len(t.free)-1]
		t.ids[value] = id
	default:
		id = int32(len(t.nodes))
		t.nodes = append(t.nodes, 0)
		t.ids[value] = id
	}
	t.nodes[id]++
	n.domains[t.number] = id
}

// displace takes the node, which has no counted pods any more, out of every
// topology. Its labels are still those that it was placed by.
func (p *Picture) displace(n *Node) {
	for _, t := range p.topologies {
		id := n.domains[t.number]
		n.domains[t.number] = none
		if id == none {
			t.missing--
			continue
		}
		if t.nodes[id]--; t.nodes[id] == 0 {
			value := n.Object.Labels[t.Key]
			if t.Key == ByNode {
				value = n.Name()
			}
			delete(t.ids, value)
			t.free = append(t.free, id)
		}
	}
}

// Counts is a number of pods for each domain of a topology.
type Counts struct {
	Topology *Topology
	Sum      int     // over all domains
	by       []int32 // may be shorter than there are domains
}

// At is the count of a domain.
func (c *Counts) At(domain int32) int32 {
	if int(domain) >= len(c.by) {
		return 0
	}
	return c.by[domain]
}

// Least is the smallest count of any domain that has nodes; zero where there
// is none.
func (c *Counts) Least() int32 {
	least := int32(-1)
	for id, nodes := range c.Topology.nodes {
		if nodes == 0 {
			continue
		}
		count := c.At(int32(id))
		if count == 0 {
			return 0
		}
		if least < 0 || count < least {
			least = count
		}
	}
	return max(least, 0)
}

func (c *Counts) add(n *Node, change int32) {
	domain, ok := c.Topology.Domain(n)
	if !ok {
		return
	}
	if missing := int(domain) + 1 - len(c.by); missing > 0 {
		c.by = append(c.by, make([]int32, max(missing, c.Topology.Size()-len(c.by)))...)
	}
	c.by[domain] += change
	c.Sum += int(change)
}
