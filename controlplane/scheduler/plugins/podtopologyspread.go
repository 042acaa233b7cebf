package plugins

import (
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/component-helpers/scheduling/corev1"
	"k8s.io/component-helpers/scheduling/corev1/nodeaffinity"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// PodTopologySpread is spec.topologySpreadConstraints: DoNotSchedule as a
// filter, ScheduleAnyway as a score. A pod without constraints of its own is
// spread, as a score, with the pods of its services and its controller over
// hosts and, more loosely, over zones. (matchLabelKeys are part of a
// constraint's selector since the pod's creation.)
type PodTopologySpread struct{}

func (PodTopologySpread) Name() string { return "PodTopologySpread" }
func (PodTopologySpread) Local() bool  { return false }

func (PodTopologySpread) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged | framework.NodeTaintsChanged | framework.PodAdded | framework.PodRemoved
}

// Helps: of pods, only those count that a constraint chooses. One that comes
// helps too: it may raise the smallest count.
func (PodTopologySpread) Helps(event framework.Event, pod *v1.Pod) bool {
	if event.Pod == nil {
		return true
	}
	if event.Pod.Namespace != pod.Namespace {
		return false
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		selector, err := metav1.LabelSelectorAsSelector(pod.Spec.TopologySpreadConstraints[i].LabelSelector)
		if err != nil || selector.Matches(labels.Set(event.Pod.Labels)) {
			return true
		}
	}
	return false
}

// spread is one constraint with what the cluster looks like under it.
type spread struct {
	topology *picture.Topology
	skew     int32
	domains  int // that count
	least    int32
	self     int32 // 1 where the pod matches its own selector
	at       func(domain int32) int32
}

var (
	skewed    = framework.Refuse("node(s) didn't match pod topology spread constraints")
	unlabeled = framework.RefuseFinally("node(s) didn't match pod topology spread constraints (missing required label)")
)

func (PodTopologySpread) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	constraints := spreads(pod, cluster, v1.DoNotSchedule)
	if len(constraints) == 0 {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		for i := range constraints {
			c := &constraints[i]
			domain, ok := c.topology.Domain(n)
			if !ok {
				return unlabeled
			}
			if c.at(domain)+c.self-c.least > c.skew {
				return skewed
			}
		}
		return nil
	}
}

func (PodTopologySpread) PreScore(pod *picture.Pod, cluster *picture.Picture, feasible []*picture.Node) framework.Score {
	own := len(pod.Object.Spec.TopologySpreadConstraints) > 0
	var constraints []spread
	if own {
		constraints = spreads(pod, cluster, v1.ScheduleAnyway)
	} else {
		constraints = defaultSpreads(pod, cluster)
	}
	if len(constraints) == 0 {
		return nil
	}
	// A constraint over many domains weighs more: a skew is less visible there.
	weights := make([]float64, len(constraints))
	for i := range constraints {
		t := constraints[i].topology
		if t.Whole() && len(feasible) == len(cluster.Nodes()) {
			weights[i] = math.Log(float64(t.Domains() + 2))
			continue
		}
		seen := make([]bool, t.Size())
		domains := 0
		for _, n := range feasible {
			if domain, ok := t.Domain(n); ok && !seen[domain] {
				seen[domain] = true
				domains++
			}
		}
		weights[i] = math.Log(float64(domains + 2))
	}
	return func(n *picture.Node) int64 {
		var sum float64
		for i := range constraints {
			c := &constraints[i]
			domain, ok := c.topology.Domain(n)
			if !ok {
				if own {
					return -1 // Normalize makes it the worst
				}
				continue
			}
			sum += float64(c.at(domain))*weights[i] + float64(c.skew-1)
		}
		return int64(math.Round(sum * 16)) // keep fractions of a pod apart
	}
}

func (PodTopologySpread) Normalize(scores []int64) {
	least, most := int64(math.MaxInt64), int64(0)
	for _, s := range scores {
		if s >= 0 {
			least, most = min(least, s), max(most, s)
		}
	}
	for i, s := range scores {
		switch {
		case s < 0:
			scores[i] = 0
		case most == 0:
			scores[i] = framework.MaxScore
		default:
			scores[i] = framework.MaxScore * (most + least - s) / most
		}
	}
}

// spreads counts, for each of the pod's constraints of one kind, the matching
// pods in each domain.
func spreads(pod *picture.Pod, cluster *picture.Picture, kind v1.UnsatisfiableConstraintAction) []spread {
	all := pod.Object.Spec.TopologySpreadConstraints
	if len(all) == 0 {
		return nil
	}
	var topologies []*picture.Topology // nodes count that have the labels of all constraints of the kind
	whole := true
	for i := range all {
		if all[i].WhenUnsatisfiable == kind {
			t := cluster.Topology(all[i].TopologyKey)
			topologies = append(topologies, t)
			whole = whole && t.Whole()
		}
	}
	var list []spread
	for i := range all {
		constraint := &all[i]
		if constraint.WhenUnsatisfiable != kind {
			continue
		}
		m, err := matcher(pod.Object.Namespace, constraint.LabelSelector)
		if err != nil {
			continue // the API server refuses such a selector
		}
		s := spread{topology: cluster.Topology(constraint.TopologyKey), skew: constraint.MaxSkew}
		if m.Selector.Matches(labels.Set(pod.Object.Labels)) {
			s.self = 1
		}
		if m.Selector.Empty() {
			m.Selector = labels.Nothing() // of others, an empty one counts none in Kubernetes
		}
		query := picture.Query{Terms: []picture.Matcher{m}, Living: true}
		if eligible := eligibility(pod.Object, constraint); whole && eligible == nil {
			counts := cluster.Select(query, s.topology)
			s.at, s.least, s.domains = counts.At, counts.Least(), s.topology.Domains()
		} else {
			s.count(cluster, cluster.Select(query, cluster.Topology(picture.ByNode)), topologies, eligible)
		}
		if constraint.MinDomains != nil && s.domains < int(*constraint.MinDomains) {
			s.least = 0
		}
		list = append(list, s)
	}
	return list
}

// count adds up the pods of those nodes that count.
func (s *spread) count(cluster *picture.Picture, pods *picture.Counts, topologies []*picture.Topology, eligible func(*picture.Node) bool) {
	const none = -1 // no node of the domain counts
	counts := make([]int32, s.topology.Size())
	for i := range counts {
		counts[i] = none
	}
nodes:
	for _, n := range cluster.Nodes() {
		for _, t := range topologies {
			if _, ok := t.Domain(n); !ok {
				continue nodes
			}
		}
		if eligible != nil && !eligible(n) {
			continue
		}
		domain, _ := s.topology.Domain(n)
		itself, _ := pods.Topology.Domain(n)
		counts[domain] = max(counts[domain], 0) + pods.At(itself)
	}
	s.least = math.MaxInt32
	for _, count := range counts {
		if count != none {
			s.domains++
			s.least = min(s.least, count)
		}
	}
	if s.domains == 0 {
		s.least = 0
	}
	s.at = func(domain int32) int32 { return max(counts[domain], 0) }
}

// defaultSpreads spreads the pods of the same services and controller.
func defaultSpreads(pod *picture.Pod, cluster *picture.Picture) []spread {
	object := pod.Object
	services := cluster.ServicesOf(object.Namespace, object.Labels)
	owner := metav1.GetControllerOfNoCopy(object)
	query := picture.Query{Living: true}
	if owner != nil {
		switch owner.Kind {
		case "ReplicaSet", "ReplicationController", "StatefulSet":
			query.Owner = owner.UID
		}
	}
	if query.Owner == "" && services == nil {
		return nil
	}
	query.Terms = []picture.Matcher{{Namespaces: []string{object.Namespace}, Selector: labels.SelectorFromSet(services)}}
	var list []spread
	for _, c := range []struct {
		key  string
		skew int32
	}{{v1.LabelHostname, 3}, {v1.LabelTopologyZone, 5}} {
		t := cluster.Topology(c.key)
		if t.Domains() == 0 {
			continue
		}
		counts := cluster.Select(query, t)
		list = append(list, spread{topology: t, skew: c.skew, at: counts.At})
	}
	return list
}

// eligibility says which nodes count under a constraint, by its policies on
// node affinity (honoured unless told otherwise) and taints (ignored unless
// told otherwise); nil: every node does.
func eligibility(pod *v1.Pod, constraint *v1.TopologySpreadConstraint) func(*picture.Node) bool {
	honourAffinity := constraint.NodeAffinityPolicy == nil || *constraint.NodeAffinityPolicy == v1.NodeInclusionPolicyHonor
	if len(pod.Spec.NodeSelector) == 0 && (pod.Spec.Affinity == nil || pod.Spec.Affinity.NodeAffinity == nil) {
		honourAffinity = false // there is none
	}
	honourTaints := constraint.NodeTaintsPolicy != nil && *constraint.NodeTaintsPolicy == v1.NodeInclusionPolicyHonor
	if !honourAffinity && !honourTaints {
		return nil
	}
	affinity := nodeaffinity.GetRequiredNodeAffinity(pod)
	return func(n *picture.Node) bool {
		if honourAffinity {
			if match, err := affinity.Match(n.Object); err != nil || !match {
				return false
			}
		}
		if honourTaints {
			if _, found := corev1.FindMatchingUntoleratedTaint(klog.Background(), n.Object.Spec.Taints, pod.Spec.Tolerations, binding, false); found {
				return false
			}
		}
		return true
	}
}
