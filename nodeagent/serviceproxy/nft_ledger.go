package serviceproxy

import (
	"maps"
	"slices"
)

// ledger knows which elements and chains the table holds, and for whom. Two
// services may ask for the same place: the same endpoint on this node, or, in
// error, the same external address. The first one has it until it no longer
// asks for it.
type ledger struct {
	layout  layout
	held    map[place]claim
	waiting map[place][]claim
	uses    map[string]int // chains that services lead to: by how many elements
	chains  map[string]chainRules
}

// claim is what a service wants to stand in a place.
type claim struct {
	service string // empty: nobody; it was found there
	value   string
}

func newLedger(l layout) *ledger {
	return &ledger{layout: l, held: map[place]claim{}, waiting: map[place][]claim{}, uses: map[string]int{}, chains: map[string]chainRules{}}
}

// find enters what stands in the table already.
func (l *ledger) find(e element) {
	l.held[e.place] = claim{value: e.value}
	l.use(e, 1)
}

// use counts that an element leads to a chain of a service's, or no longer.
func (l *ledger) use(e element, n int) {
	if leads(e.set) {
		l.uses[e.value] += n
	}
}

func leads(set string) bool { return set == setServices || set == setNodePorts || set == setGuards }

// delta is what has to change in the table, in this order.
type delta struct {
	newChains []string
	remove    map[string][]element // by set
	add       map[string][]element
	oldChains []string
}

func (d delta) empty() bool {
	return len(d.newChains)+len(d.remove)+len(d.add)+len(d.oldChains) == 0
}

// enter changes the ledger as services do, and returns what changes in the
// table by that. If last, what nobody asks for goes as well.
func (l *ledger) enter(changes map[string]change, last bool) delta {
	before := make(map[place]stood, 4*len(changes))
	touch := func(at place) {
		if _, done := before[at]; !done {
			c, there := l.held[at]
			before[at] = stood{c, there}
		}
	}
	for _, service := range slices.Sorted(maps.Keys(changes)) {
		old, new := l.elements(changes[service].old), l.elements(changes[service].new)
		for at := range old {
			if _, kept := new[at]; !kept {
				touch(at)
				l.release(at, service)
			}
		}
		for at, value := range new {
			if have, there := l.held[at]; there && have == (claim{service, value}) {
				continue
			}
			touch(at)
			l.claim(at, claim{service, value})
		}
	}
	if last {
		for at, c := range l.held {
			if c.service == "" {
				touch(at)
				delete(l.held, at)
			}
		}
	}
	return l.compare(before)
}

// stood is what stood in a place, if anything did.
type stood struct {
	claim
	there bool
}

// elements returns what the ports of a service ask for.
func (l *ledger) elements(ports []servicePort) map[place]string {
	v := picture{layout: l.layout, chains: l.chains}
	v.paint(ports)
	all := make(map[place]string, len(v.elements))
	for _, e := range v.elements {
		if _, twice := all[e.place]; !twice {
			all[e.place] = e.value
		}
	}
	return all
}

// release takes a service's claim away, and gives the place to who waits.
func (l *ledger) release(at place, service string) {
	waiting := l.waiting[at]
	if l.held[at].service != service {
		waiting = slices.DeleteFunc(waiting, func(c claim) bool { return c.service == service })
	} else if len(waiting) > 0 {
		l.held[at], waiting = waiting[0], waiting[1:]
	} else {
		delete(l.held, at)
	}
	if len(waiting) == 0 {
		delete(l.waiting, at)
	} else {
		l.waiting[at] = waiting
	}
}

// claim gives a service the place or, if another has it, lets it wait.
func (l *ledger) claim(at place, want claim) {
	if have, there := l.held[at]; !there || have.service == "" || have.service == want.service {
		l.held[at] = want
		return
	}
	waiting := slices.DeleteFunc(l.waiting[at], func(c claim) bool { return c.service == want.service })
	l.waiting[at] = append(waiting, want)
}

// compare returns what has changed in the places that were touched.
func (l *ledger) compare(before map[place]stood) delta {
	d := delta{remove: map[string][]element{}, add: map[string][]element{}}
	used := map[string]int{} // chains, and how many led there before
	use := func(e element, n int) {
		if _, seen := used[e.value]; !seen && leads(e.set) {
			used[e.value] = l.uses[e.value]
		}
		l.use(e, n)
	}
	for at, old := range before {
		now, there := l.held[at]
		if old.there && there && old.value == now.value {
			continue
		}
		if old.there {
			e := element{at, old.value}
			d.remove[at.set] = append(d.remove[at.set], e)
			use(e, -1)
		}
		if there {
			e := element{at, now.value}
			d.add[at.set] = append(d.add[at.set], e)
			use(e, 1)
		}
	}
	for name, n := range used {
		switch now := l.uses[name]; {
		case n == 0 && now > 0:
			d.newChains = append(d.newChains, name)
		case n > 0 && now == 0:
			d.oldChains = append(d.oldChains, name)
			delete(l.uses, name)
		}
	}
	slices.Sort(d.newChains)
	slices.Sort(d.oldChains)
	return d
}
