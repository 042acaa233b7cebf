package plugins

import (
	"math"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// InterPodAffinity is spec.affinity.podAffinity and podAntiAffinity, required
// and preferred, of the pod towards those in the cluster and of those towards
// it. (matchLabelKeys are part of a term's selector since the pod's creation.)
type InterPodAffinity struct{}

// hardWeight is how much a required affinity of a pod in the cluster counts as
// a preference for the pods that it chooses.
const hardWeight = 1

func (InterPodAffinity) Name() string { return "InterPodAffinity" }
func (InterPodAffinity) Local() bool  { return false }

var (
	noAffinity      = framework.RefuseFinally("node(s) didn't match pod affinity rules")
	antiAffinity    = framework.Refuse("node(s) didn't match pod anti-affinity rules")
	existingRefuses = framework.Refuse("node(s) didn't satisfy existing pods anti-affinity rules")
)

func (InterPodAffinity) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged | framework.PodAdded | framework.PodRemoved | framework.Surroundings
}

// Helps: a pod that comes helps only those that want to be near it.
func (InterPodAffinity) Helps(event framework.Event, pod *v1.Pod) bool {
	if event.Kind != framework.PodAdded || event.Pod == nil {
		return true
	}
	for _, term := range picture.TermsOf(pod) {
		if term.Kind == picture.RequiredAffinity && term.Matcher.Selector.Matches(labels.Set(event.Pod.Labels)) {
			return true
		}
	}
	return false
}

func (InterPodAffinity) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	object := pod.Object
	var existing, against, near []*picture.Counts
	cluster.TermsFor(object, func(t *picture.Term) {
		if t.Kind == picture.RequiredAntiAffinity {
			existing = append(existing, t.Counts)
		}
	})
	var wanted picture.Query // pods that every affinity term chooses
	var keys []string
	self := true
	for i := range pod.Terms {
		t := &pod.Terms[i]
		switch t.Kind {
		case picture.RequiredAntiAffinity:
			query := picture.Query{Terms: []picture.Matcher{t.Matcher}}
			if counts := cluster.Select(query, cluster.Topology(t.TopologyKey)); counts.Sum > 0 {
				against = append(against, counts)
			}
		case picture.RequiredAffinity:
			wanted.Terms = append(wanted.Terms, t.Matcher)
			keys = append(keys, t.TopologyKey)
			self = self && cluster.Matches(&t.Matcher, object.Namespace, object.Labels)
		}
	}
	alone := self // the first of a group that wants to be together
	for _, key := range keys {
		counts := cluster.Select(wanted, cluster.Topology(key))
		near = append(near, counts)
		alone = alone && counts.Sum == 0
	}
	if len(existing)+len(against)+len(near) == 0 {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		for _, counts := range near {
			if domain, ok := counts.Topology.Domain(n); !ok || !alone && counts.At(domain) == 0 {
				return noAffinity
			}
		}
		for _, counts := range against {
			if domain, ok := counts.Topology.Domain(n); ok && counts.At(domain) > 0 {
				return antiAffinity
			}
		}
		for _, counts := range existing {
			if domain, ok := counts.Topology.Domain(n); ok && counts.At(domain) > 0 {
				return existingRefuses
			}
		}
		return nil
	}
}

func (InterPodAffinity) PreScore(pod *picture.Pod, cluster *picture.Picture, _ []*picture.Node) framework.Score {
	type weighted struct {
		counts *picture.Counts
		weight int64
	}
	var list []weighted
	for i := range pod.Terms {
		t := &pod.Terms[i]
		weight := int64(t.Weight)
		switch t.Kind {
		case picture.PreferredAntiAffinity:
			weight = -weight
		case picture.PreferredAffinity:
		default:
			continue
		}
		query := picture.Query{Terms: []picture.Matcher{t.Matcher}}
		if counts := cluster.Select(query, cluster.Topology(t.TopologyKey)); counts.Sum > 0 {
			list = append(list, weighted{counts: counts, weight: weight})
		}
	}
	cluster.TermsFor(pod.Object, func(t *picture.Term) {
		switch t.Kind {
		case picture.RequiredAffinity:
			list = append(list, weighted{counts: t.Counts, weight: hardWeight})
		case picture.PreferredAffinity:
			list = append(list, weighted{counts: t.Counts, weight: int64(t.Weight)})
		case picture.PreferredAntiAffinity:
			list = append(list, weighted{counts: t.Counts, weight: -int64(t.Weight)})
		}
	})
	if len(list) == 0 {
		return nil
	}
	return func(n *picture.Node) int64 {
		var sum int64
		for _, w := range list {
			if domain, ok := w.counts.Topology.Domain(n); ok {
				sum += w.weight * int64(w.counts.At(domain))
			}
		}
		return sum
	}
}

func (InterPodAffinity) Normalize(scores []int64) {
	least, most := int64(math.MaxInt64), int64(math.MinInt64)
	for _, s := range scores {
		least, most = min(least, s), max(most, s)
	}
	for i, s := range scores {
		scores[i] = 0
		if most > least {
			scores[i] = framework.MaxScore * (s - least) / (most - least)
		}
	}
}

// matcher chooses the pods of one namespace.
func matcher(namespace string, selector *metav1.LabelSelector) (picture.Matcher, error) {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return picture.Matcher{Namespaces: []string{namespace}, Selector: s}, err
}
