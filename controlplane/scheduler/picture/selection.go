package picture

import (
	"maps"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// selectionsKept bounds how many selections are kept up to date; the ones not
// used for longest give way.
const selectionsKept = 512

// class is the pods that no selector can tell apart.
type class struct {
	key        classKey
	labels     labels.Set
	pods       []*Pod
	selections []*Selection // that the class is part of
}

type classKey struct {
	namespace   string
	labels      string
	owner       types.UID
	terminating bool
}

// Query says which pods a selection counts.
type Query struct {
	Terms      []Matcher // a pod must match every one
	Owner      types.UID // not empty: and have this controller
	Living     bool      // and not be terminating
	namespaced bool      // depends on labels of namespaces
}

// Matcher chooses pods by namespace and labels.
type Matcher struct {
	Namespaces        []string        // by name
	NamespaceSelector labels.Selector // and by label; nil: none
	Selector          labels.Selector
}

// Matches says whether a pod with these labels is chosen.
func (p *Picture) Matches(m *Matcher, namespace string, set labels.Set) bool {
	if !slices.Contains(m.Namespaces, namespace) && (m.NamespaceSelector == nil || !m.NamespaceSelector.Matches(p.namespaces[namespace])) {
		return false
	}
	return m.Selector.Matches(set)
}

func (m *Matcher) write(b *strings.Builder) {
	for _, namespace := range m.Namespaces {
		b.WriteString(namespace)
		b.WriteByte(',')
	}
	b.WriteByte('|')
	if m.NamespaceSelector != nil {
		b.WriteByte('*')
		b.WriteString(m.NamespaceSelector.String())
	}
	b.WriteByte('|')
	if m.Selector.String() == "" && !m.Selector.Empty() {
		b.WriteByte('-') // matches nothing
	}
	b.WriteString(m.Selector.String())
	b.WriteByte('\n')
}

// Selection counts the pods of a query, and is kept up to date with them.
type Selection struct {
	query  Query
	counts []*Counts
	used   uint64
}

// Select returns the counts of a query's pods by domain of a topology. They
// are the picture's own: do not keep them.
func (p *Picture) Select(q Query, topology *Topology) *Counts {
	var b strings.Builder
	for i := range q.Terms {
		q.Terms[i].write(&b)
		q.namespaced = q.namespaced || q.Terms[i].NamespaceSelector != nil
	}
	b.WriteString(string(q.Owner))
	if q.Living {
		b.WriteString("\nliving")
	}
	key := b.String()
	s := p.selections[key]
	if s == nil {
		p.evict()
		s = &Selection{query: q}
		p.selections[key] = s
		for _, c := range p.classes {
			if p.selects(&q, c) {
				c.selections = append(c.selections, s)
			}
		}
	}
	p.uses++
	s.used = p.uses
	for _, c := range s.counts {
		if c.Topology == topology {
			return c
		}
	}
	counts := &Counts{Topology: topology}
	s.counts = append(s.counts, counts)
	for _, c := range p.classes {
		if !slices.Contains(c.selections, s) {
			continue
		}
		for _, pod := range c.pods {
			if pod.node != nil {
				counts.add(pod.node, 1)
			}
		}
	}
	return counts
}

// evict makes room for a selection.
func (p *Picture) evict() {
	if len(p.selections) < selectionsKept {
		return
	}
	uses := make([]uint64, 0, len(p.selections))
	for _, s := range p.selections {
		uses = append(uses, s.used)
	}
	slices.Sort(uses)
	middle := uses[len(uses)/2]
	p.drop(func(s *Selection) bool { return s.used <= middle })
}

func (p *Picture) drop(unwanted func(*Selection) bool) {
	maps.DeleteFunc(p.selections, func(_ string, s *Selection) bool { return unwanted(s) })
	for _, c := range p.classes {
		c.selections = slices.DeleteFunc(c.selections, unwanted)
	}
}

func (p *Picture) selects(q *Query, c *class) bool {
	if q.Owner != "" && q.Owner != c.key.owner || q.Living && c.key.terminating {
		return false
	}
	for i := range q.Terms {
		if !p.Matches(&q.Terms[i], c.key.namespace, c.labels) {
			return false
		}
	}
	return true
}

// register makes the pod known to what counts pods; it counts once it is
// attached to a node.
func (p *Picture) register(pod *Pod) {
	object := pod.Object
	key := classKey{namespace: object.Namespace, labels: text(object.Labels), owner: pod.Owner, terminating: object.DeletionTimestamp != nil}
	c := p.classes[key]
	if c == nil {
		c = &class{key: key, labels: object.Labels}
		for _, s := range p.selections {
			if p.selects(&s.query, c) {
				c.selections = append(c.selections, s)
			}
		}
		p.classes[key] = c
	}
	pod.class, pod.place = c, len(c.pods)
	c.pods = append(c.pods, pod)
	p.addTerms(pod)
}

func (p *Picture) unregister(pod *Pod) {
	c := pod.class
	last := len(c.pods) - 1
	c.pods[pod.place] = c.pods[last]
	c.pods[pod.place].place = pod.place
	c.pods[last] = nil
	if c.pods = c.pods[:last]; last == 0 {
		delete(p.classes, c.key)
	}
	p.removeTerms(pod)
}

// count changes every count that the pod is part of.
func (p *Picture) count(pod *Pod, n *Node, change int32) {
	for _, s := range pod.class.selections {
		for _, c := range s.counts {
			c.add(n, change)
		}
	}
	for _, t := range pod.terms {
		t.Counts.add(n, change)
	}
}

func text(set map[string]string) string {
	if len(set) == 0 {
		return ""
	}
	keys := make([]string, 0, len(set))
	size := 0
	for key, value := range set {
		keys = append(keys, key)
		size += len(key) + len(value) + 2
	}
	slices.Sort(keys)
	var b strings.Builder
	b.Grow(size)
	for _, key := range keys {
		b.WriteString(key)
		b.WriteByte('=')
		b.WriteString(set[key])
		b.WriteByte(',')
	}
	return b.String()
}
