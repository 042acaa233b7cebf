package plugins

import (
	"cmp"
	"math"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// candidate is a node with the pods that have to go from it.
type candidate struct {
	node       *picture.Node
	victims    []*picture.Pod
	violations int // victims that a disruption budget does not spare

	// What candidates are compared by.
	top      int32     // priority of the most important victim
	sum      int64     // of all victims' priorities
	earliest time.Time // when the first of the most important victims started
}

// weigh fills in what a candidate is compared by.
func (c *candidate) weigh() {
	for i, victim := range c.victims {
		c.sum += int64(victim.Priority) - math.MinInt32 // more of them are never less
		started := startOf(victim.Object)
		switch {
		case i == 0 || victim.Priority > c.top:
			c.top, c.earliest = victim.Priority, started
		case victim.Priority == c.top && started.Before(c.earliest):
			c.earliest = started
		}
	}
}

// compare is negative where c does less harm than o: by budgets violated, by
// the most important victim, by the sum of their priorities, by their number,
// and by how short the most important of them have run.
func (c *candidate) compare(o *candidate) int {
	return cmp.Or(
		cmp.Compare(c.violations, o.violations),
		cmp.Compare(c.top, o.top),
		cmp.Compare(c.sum, o.sum),
		cmp.Compare(len(c.victims), len(o.victims)),
		o.earliest.Compare(c.earliest),
	)
}

// victims says which less important pods have to go from a node to let the
// pod in: none of them could stay. The picture is as before afterwards.
func victims(trial *framework.Trial, pod *picture.Pod, cluster *picture.Picture, n *picture.Node, budgets budgets) (*candidate, *framework.Refusal) {
	lower := make([]*picture.Pod, 0, len(n.Pods))
	for _, other := range n.Pods {
		if other.Priority < pod.Priority {
			lower = append(lower, other)
		}
	}
	if len(lower) == 0 {
		return nil, noVictims
	}
	for _, other := range lower {
		cluster.Lift(other)
	}
	if refusal := trial.Fits(n); refusal != nil {
		for _, other := range lower {
			cluster.Put(other, n)
		}
		return nil, refusal
	}
	slices.SortFunc(lower, moreImportant)
	c := &candidate{node: n}
	spare := func(list []*picture.Pod) (gone int) {
		for _, other := range list {
			cluster.Put(other, n)
			if trial.Fits(n) != nil {
				cluster.Lift(other)
				c.victims = append(c.victims, other)
				gone++
			}
		}
		return gone
	}
	violating, others := budgets.split(cluster, lower)
	c.violations = spare(violating) // those first, so that as few as possible go
	spare(others)
	for _, victim := range c.victims {
		cluster.Put(victim, n)
	}
	if len(c.victims) == 0 {
		return nil, noVictims // room came meanwhile; nobody has to go
	}
	c.weigh()
	return c, nil
}

// moreImportant sorts by priority, highest first, and then by age.
func moreImportant(a, b *picture.Pod) int {
	return cmp.Or(
		cmp.Compare(b.Priority, a.Priority),
		startOf(a.Object).Compare(startOf(b.Object)),
		cmp.Compare(a.Object.UID, b.Object.UID),
	)
}

// startOf is when a pod started; one that did not yet counts as starting now.
func startOf(pod *v1.Pod) time.Time {
	if pod.Status.StartTime != nil {
		return pod.Status.StartTime.Time
	}
	return time.Unix(1<<40, 0)
}

// budgets are selectors of disruption budgets, parsed once.
type budgets map[*policyv1.PodDisruptionBudget]labels.Selector

// split tells apart the pods that budgets allow to go, taken in this order,
// and those beyond.
func (b budgets) split(cluster *picture.Picture, pods []*picture.Pod) (violating, others []*picture.Pod) {
	others = make([]*picture.Pod, 0, len(pods))
	allowed := map[*policyv1.PodDisruptionBudget]int32{}
	for _, pod := range pods {
		violates := false
		for _, budget := range cluster.Budgets(pod.Object.Namespace) {
			if !b.covers(budget, pod.Object) {
				continue
			}
			if _, going := budget.Status.DisruptedPods[pod.Object.Name]; going {
				continue // counted already
			}
			if _, known := allowed[budget]; !known {
				allowed[budget] = budget.Status.DisruptionsAllowed
			}
			if allowed[budget]--; allowed[budget] < 0 {
				violates = true
			}
		}
		if violates {
			violating = append(violating, pod)
		} else {
			others = append(others, pod)
		}
	}
	return violating, others
}

func (b budgets) covers(budget *policyv1.PodDisruptionBudget, pod *v1.Pod) bool {
	selector, known := b[budget]
	if !known {
		var err error
		if selector, err = metav1.LabelSelectorAsSelector(budget.Spec.Selector); err != nil {
			selector = labels.Nothing() // the API server refuses it
		}
		b[budget] = selector
	}
	return len(pod.Labels) > 0 && !selector.Empty() && selector.Matches(labels.Set(pod.Labels))
}
