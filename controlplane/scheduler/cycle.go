package scheduler

import (
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/metrics"
	"clusterctl/controlplane/scheduler/picture"
)

// decide finds the best node for a pod; nil: none is feasible, and refusals
// and remedy say why and what to do. The picture is locked.
func (s *scheduler) decide(profile *framework.Profile, pod *picture.Pod) (*picture.Node, *framework.Refusals, framework.Remedy) {
	cluster := s.picture
	nominated := cluster.NominatedTo(pod.Object.UID)
	var trial *framework.Trial
	if cluster.Nominations() > 0 {
		trial = framework.NewTrial(profile, pod, cluster)
		if n := cluster.Node(nominated); n != nil && trial.Fits(n) == nil {
			return n, nil, framework.Remedy{}
		}
	}
	if n := cluster.Node(pinnedTo(pod.Object)); n != nil && framework.NewTrial(profile, pod, cluster).Fits(n) == nil {
		return n, nil, framework.Remedy{}
	}
	k := s.kindOf(profile, pod)
	if k.refusals != nil && k.refusedAt == cluster.VersionFor(pod) && nominated == "" {
		return nil, k.refusals, k.remedy
	}
	observed, begun := s.metrics[profile.Name], time.Now()
	s.filter(profile, pod, k, trial)
	if len(s.feasible) > 0 {
		observed.Point(metrics.Filter, metrics.Scheduled, begun)
		begun = time.Now()
		best := s.best(profile, pod, k)
		observed.Point(metrics.Score, metrics.Scheduled, begun)
		return cluster.Nodes()[best], nil, framework.Remedy{}
	}
	observed.Point(metrics.Filter, metrics.Unschedulable, begun)
	refusals := &framework.Refusals{ByNode: append([]*framework.Refusal(nil), s.refused...), Memo: k.memo}
	for i, plugin := range profile.Filters {
		if s.refusers&(1<<i) != 0 || len(s.refused) == 0 { // no node at all: whatever comes may help
			refusals.Plugins = append(refusals.Plugins, plugin)
		}
	}
	var remedy framework.Remedy
	begun = time.Now()
	result := metrics.Unschedulable
	for _, plugin := range profile.PostFilters {
		if remedy = plugin.PostFilter(profile, pod, cluster, refusals); remedy.Node != "" || remedy.Act != nil {
			result = metrics.Scheduled
			break
		}
	}
	observed.Point(metrics.PostFilter, result, begun)
	if remedy.Node == "" && nominated == "" {
		k.refusedAt, k.refusals, k.remedy = cluster.VersionFor(pod), refusals, remedy
	}
	return nil, refusals, remedy
}

// pinnedTo is the only node that a pod's affinity allows, as that of a daemon
// set's pods; empty: it does not name just one.
func pinnedTo(pod *v1.Pod) string {
	affinity := pod.Spec.Affinity
	if affinity == nil || affinity.NodeAffinity == nil {
		return ""
	}
	required := affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	if required == nil || len(required.NodeSelectorTerms) != 1 {
		return ""
	}
	for _, field := range required.NodeSelectorTerms[0].MatchFields {
		if field.Key == metav1.ObjectNameField && field.Operator == v1.NodeSelectorOpIn && len(field.Values) == 1 {
			return field.Values[0]
		}
	}
	return ""
}

// otherFilter is what a filter that looks at the whole cluster made of it.
type otherFilter struct {
	index  int
	filter framework.Filter
}

// filter finds the nodes where every plugin lets the pod run, as s.feasible;
// s.refused and s.refusers are why the others are not.
func (s *scheduler) filter(profile *framework.Profile, pod *picture.Pod, k *kind, trial *framework.Trial) {
	nodes, versions := s.picture.Nodes(), s.picture.Versions()
	k.fit(len(nodes))
	s.refused = resize(s.refused, len(nodes))
	s.feasible, s.refusers = s.feasible[:0], 0
	var others []otherFilter
	for i, plugin := range profile.Filters {
		if !plugin.Local() {
			if filter := plugin.PreFilter(pod, s.picture); filter != nil {
				others = append(others, otherFilter{index: i, filter: filter})
			}
		}
	}
	alone := trial != nil && trial.Alone()
	for i, version := range versions {
		v := &k.nodes[i]
		if v.version != version {
			k.judge(i, nodes[i], version)
		}
		refusal, by := v.refusal, int(v.by)
		for j := 0; j < len(others) && refusal == nil; j++ {
			refusal, by = others[j].filter(nodes[i]), others[j].index
		}
		if refusal == nil && trial != nil && len(nodes[i].Nominated) > 0 {
			// Which plugin speaks for those that are to come is not told, so any
			// event may help.
			if refusal = k.crowded(i, nodes[i], version, trial, alone); refusal != nil {
				s.refusers = ^uint64(0)
			}
		}
		if s.refused[i] = refusal; refusal == nil {
			s.feasible = append(s.feasible, int32(i))
		} else if refusal.Whole {
			// No node will do, whatever the others say: it may have come out on this one
			// alone that something is wrong with the pod.
			for j := range s.refused {
				s.refused[j] = refusal
			}
			s.feasible, s.refusers = s.feasible[:0], 1<<by
			return
		} else {
			s.refusers |= 1 << by
		}
	}
}

// best is the index of the feasible node with the highest sum of weighted
// scores; ties are broken at random, so that equal nodes fill evenly.
func (s *scheduler) best(profile *framework.Profile, pod *picture.Pod, k *kind) int32 {
	if len(s.feasible) == 1 {
		return s.feasible[0]
	}
	s.totals = resize(s.totals, len(s.feasible))
	s.scores = resize(s.scores, len(s.feasible))
	for j, i := range s.feasible {
		s.totals[j] = int64(k.nodes[i].score)
	}
	for _, raw := range k.raws {
		for j, i := range s.feasible {
			s.scores[j] = raw.values[i]
		}
		raw.plugin.Normalize(s.scores)
		s.addScores(raw.weight)
	}
	s.nodes = s.nodes[:0]
	for _, plugin := range profile.Scores {
		if plugin.Local() {
			continue
		}
		if len(s.nodes) == 0 {
			for _, i := range s.feasible {
				s.nodes = append(s.nodes, s.picture.Nodes()[i])
			}
		}
		score := plugin.PreScore(pod, s.picture, s.nodes)
		if score == nil {
			continue
		}
		for j, n := range s.nodes {
			s.scores[j] = score(n)
		}
		if normalizer, ok := plugin.ScorePlugin.(framework.Normalizer); ok {
			normalizer.Normalize(s.scores)
		}
		s.addScores(plugin.Weight)
	}
	top, equals := s.totals[0], 0
	for _, total := range s.totals {
		switch {
		case total > top:
			top, equals = total, 1
		case total == top:
			equals++
		}
	}
	skip := s.random.IntN(equals)
	j := 0
	for ; s.totals[j] != top || skip > 0; j++ {
		if s.totals[j] == top {
			skip--
		}
	}
	return s.feasible[j]
}

func (s *scheduler) addScores(weight int64) {
	for j, score := range s.scores {
		s.totals[j] += weight * score
	}
}
