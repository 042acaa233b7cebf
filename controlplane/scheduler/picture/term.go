package picture

import (
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// TermKind is what a term of a pod's affinity does.
type TermKind int

// Kinds of terms.
const (
	RequiredAffinity TermKind = iota
	RequiredAntiAffinity
	PreferredAffinity
	PreferredAntiAffinity
)

// Term is an affinity or anti-affinity term that pods in the picture have.
// Equal terms of many pods are one, so that a workload with a thousand pods
// costs as much to look at as one pod.
type Term struct {
	Matcher Matcher
	Kind    TermKind
	Weight  int32   // of preferred terms
	Counts  *Counts // the pods that have the term
	key     string
	users   int
}

// TermSpec is a term as a pod states it.
type TermSpec struct {
	Matcher     Matcher
	TopologyKey string
	Kind        TermKind
	Weight      int32
}

// TermsOf lists the terms of a pod's affinity and anti-affinity. Terms whose
// selector does not parse, which the API server refuses, are left out.
func TermsOf(pod *v1.Pod) []TermSpec {
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.PodAffinity == nil && affinity.PodAntiAffinity == nil {
		return nil
	}
	var specs []TermSpec
	add := func(t *v1.PodAffinityTerm, kind TermKind, weight int32) {
		selector, err := metav1.LabelSelectorAsSelector(t.LabelSelector)
		if err != nil {
			return
		}
		m := Matcher{Namespaces: t.Namespaces, Selector: selector}
		if t.NamespaceSelector != nil {
			if m.NamespaceSelector, err = metav1.LabelSelectorAsSelector(t.NamespaceSelector); err != nil {
				return
			}
		} else if len(t.Namespaces) == 0 {
			m.Namespaces = []string{pod.Namespace}
		}
		specs = append(specs, TermSpec{Matcher: m, TopologyKey: t.TopologyKey, Kind: kind, Weight: weight})
	}
	if a := affinity.PodAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&a.RequiredDuringSchedulingIgnoredDuringExecution[i], RequiredAffinity, 0)
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&t.PodAffinityTerm, PreferredAffinity, t.Weight)
		}
	}
	if a := affinity.PodAntiAffinity; a != nil {
		for i := range a.RequiredDuringSchedulingIgnoredDuringExecution {
			add(&a.RequiredDuringSchedulingIgnoredDuringExecution[i], RequiredAntiAffinity, 0)
		}
		for i := range a.PreferredDuringSchedulingIgnoredDuringExecution {
			t := &a.PreferredDuringSchedulingIgnoredDuringExecution[i]
			add(&t.PodAffinityTerm, PreferredAntiAffinity, t.Weight)
		}
	}
	return specs
}

// TermsFor calls visit for every term in the picture that chooses the pod.
func (p *Picture) TermsFor(pod *v1.Pod, visit func(*Term)) {
	if len(p.terms) == 0 {
		return
	}
	for _, namespace := range []string{"", pod.Namespace} {
		for _, t := range p.termsIn[namespace] {
			if t.Counts.Sum > 0 && p.Matches(&t.Matcher, pod.Namespace, pod.Labels) {
				visit(t)
			}
		}
	}
}

func (p *Picture) addTerms(pod *Pod) {
	for _, spec := range pod.Terms {
		var b strings.Builder
		spec.Matcher.write(&b)
		fmt.Fprint(&b, spec.TopologyKey, "\n", spec.Kind, " ", spec.Weight)
		key := b.String()
		t := p.terms[key]
		if t == nil {
			t = &Term{Matcher: spec.Matcher, Kind: spec.Kind, Weight: spec.Weight, Counts: &Counts{Topology: p.Topology(spec.TopologyKey)}, key: key}
			p.terms[key] = t
			for _, namespace := range t.namespaces() {
				p.termsIn[namespace] = append(p.termsIn[namespace], t)
			}
		}
		t.users++
		pod.terms = append(pod.terms, t)
	}
}

func (p *Picture) removeTerms(pod *Pod) {
	for _, t := range pod.terms {
		if t.users--; t.users > 0 {
			continue
		}
		delete(p.terms, t.key)
		for _, namespace := range t.namespaces() {
			list := slices.DeleteFunc(p.termsIn[namespace], func(o *Term) bool { return o == t })
			if p.termsIn[namespace] = list; len(list) == 0 {
				delete(p.termsIn, namespace)
			}
		}
	}
	pod.terms = nil
}

// namespaces is where the term is found in termsIn: exactly once for a pod.
func (t *Term) namespaces() []string {
	if t.Matcher.NamespaceSelector != nil {
		return []string{""}
	}
	return slices.Compact(slices.Sorted(slices.Values(t.Matcher.Namespaces)))
}
