package picture

import (
	"maps"
	"slices"

	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
)

// SetNamespace takes note of a namespace's labels.
func (p *Picture) SetNamespace(name string, set labels.Set) {
	if old, known := p.namespaces[name]; known && maps.Equal(old, set) {
		return
	}
	p.namespaces[name] = set
	p.namespacesChanged()
}

// RemoveNamespace forgets a namespace.
func (p *Picture) RemoveNamespace(name string) {
	delete(p.namespaces, name)
	p.namespacesChanged()
}

func (p *Picture) namespacesChanged() {
	p.drop(func(s *Selection) bool { return s.query.namespaced })
	p.reshaped()
}

// SetService takes note of a service's selector; an empty one selects nothing.
func (p *Picture) SetService(namespace, name string, selector labels.Set) {
	if len(selector) == 0 {
		p.RemoveService(namespace, name)
		return
	}
	if p.services[namespace] == nil {
		p.services[namespace] = map[string]labels.Set{}
	}
	if !maps.Equal(p.services[namespace][name], selector) {
		p.services[namespace][name] = selector
		p.reshaped()
	}
}

// RemoveService forgets a service.
func (p *Picture) RemoveService(namespace, name string) {
	if _, known := p.services[namespace][name]; !known {
		return
	}
	if delete(p.services[namespace], name); len(p.services[namespace]) == 0 {
		delete(p.services, namespace)
	}
	p.reshaped()
}

// ServicesOf is the labels by which any service selects a pod with these
// labels, all together; nil: no service does.
func (p *Picture) ServicesOf(namespace string, set labels.Set) labels.Set {
	var all labels.Set
	for _, selector := range p.services[namespace] {
		if labels.SelectorFromSet(selector).Matches(set) {
			all = labels.Merge(all, selector)
		}
	}
	return all
}

// SetBudget takes note of a disruption budget.
func (p *Picture) SetBudget(budget *policyv1.PodDisruptionBudget) {
	if p.budgets[budget.Namespace] == nil {
		p.budgets[budget.Namespace] = map[string]*policyv1.PodDisruptionBudget{}
	}
	p.budgets[budget.Namespace][budget.Name] = budget
	p.version++
	p.budgeted = p.version
}

// RemoveBudget forgets a disruption budget.
func (p *Picture) RemoveBudget(namespace, name string) {
	delete(p.budgets[namespace], name)
	p.version++
	p.budgeted = p.version
}

// BudgetsVersion changes with any disruption budget.
func (p *Picture) BudgetsVersion() uint64 { return p.budgeted }

// Budgets is a namespace's disruption budgets by name; do not change it.
func (p *Picture) Budgets(namespace string) map[string]*policyv1.PodDisruptionBudget {
	return p.budgets[namespace]
}

// Nominate keeps room for a pod on a node that preemption clears for it.
func (p *Picture) Nominate(pod *Pod, node string) {
	p.Unnominate(pod.Object.UID)
	nominated := *pod
	nominated.nominatedTo, nominated.node, nominated.terms = node, nil, nil
	p.register(&nominated)
	p.nominated[pod.Object.UID] = &nominated
	p.nominations[node] = append(p.nominations[node], &nominated)
	p.renominated(node)
}

// Unnominate gives such room up.
func (p *Picture) Unnominate(uid types.UID) {
	pod := p.nominated[uid]
	if pod == nil {
		return
	}
	delete(p.nominated, uid)
	node := pod.nominatedTo
	p.nominations[node] = slices.DeleteFunc(p.nominations[node], func(o *Pod) bool { return o == pod })
	if len(p.nominations[node]) == 0 {
		delete(p.nominations, node)
	}
	p.unregister(pod)
	p.renominated(node)
}

func (p *Picture) renominated(node string) {
	if n := p.byName[node]; n != nil {
		n.Nominated = p.nominations[node]
		p.changed(n)
		return
	}
	p.version++
}

// NominatedTo is where room is kept for a pod; empty: nowhere.
func (p *Picture) NominatedTo(uid types.UID) string {
	if pod := p.nominated[uid]; pod != nil {
		return pod.nominatedTo
	}
	return ""
}

// Nominations is how many nodes have room kept for pods.
func (p *Picture) Nominations() int { return len(p.nominations) }
