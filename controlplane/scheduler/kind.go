package scheduler

import (
	"encoding/binary"
	"fmt"
	"maps"
	"slices"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
)

// These bound how many kinds are remembered: in all, and by the verdicts on
// nodes that they hold (24 bytes each).
const (
	kindsKept    = 256
	verdictsKept = 1 << 19
)

// kind is pods that no plugin can tell apart, with what local plugins said of
// each node for one of them: it holds for the next until the node changes.
type kind struct {
	shape   uint64 // of the picture when it was made
	used    uint64
	filters []localFilter
	sums    []weighted // scores that need no normalization
	raws    []rawScore // scores that do
	nodes   []verdict  // in the order of the picture's nodes
	crowds  []verdict  // the same, with the pods for which a node has room kept; empty until there are any

	refusedAt uint64 // version of the picture at which no node was feasible
	refusals  *framework.Refusals
	remedy    framework.Remedy
	memo      map[string]any // of post-filter plugins
}

type localFilter struct {
	index  int // in the profile's filters
	filter framework.Filter
}

type weighted struct {
	weight int64
	score  framework.Score
}

type rawScore struct {
	weighted
	plugin framework.Normalizer
	values []int64 // by node
}

// verdict is what local plugins say of a node in one version.
type verdict struct {
	version uint64
	refusal *framework.Refusal
	score   int32 // weighted sum
	by      uint8 // index of the filter that refused
}

// kindOf finds or makes what is known of pods like this one.
func (s *scheduler) kindOf(profile *framework.Profile, pod *picture.Pod) *kind {
	key := signature(profile, pod, s.picture)
	k := s.kinds[key]
	if k == nil || k.shape != s.picture.Shape() {
		for k == nil && len(s.kinds) >= max(1, min(kindsKept, verdictsKept/max(1, len(s.picture.Nodes())))) {
			var oldest string
			for key, other := range s.kinds {
				if oldest == "" || other.used < s.kinds[oldest].used {
					oldest = key
				}
			}
			delete(s.kinds, oldest)
		}
		k = newKind(profile, pod, s.picture)
		s.kinds[key] = k
	}
	s.uses++
	k.used = s.uses
	return k
}

func newKind(profile *framework.Profile, pod *picture.Pod, cluster *picture.Picture) *kind {
	k := &kind{shape: cluster.Shape(), memo: map[string]any{}}
	for i, plugin := range profile.Filters {
		if !plugin.Local() {
			continue
		}
		if filter := plugin.PreFilter(pod, cluster); filter != nil {
			k.filters = append(k.filters, localFilter{index: i, filter: filter})
		}
	}
	for _, plugin := range profile.Scores {
		if !plugin.Local() {
			continue
		}
		score := plugin.PreScore(pod, cluster, nil)
		if score == nil {
			continue
		}
		w := weighted{weight: plugin.Weight, score: score}
		if normalizer, ok := plugin.ScorePlugin.(framework.Normalizer); ok {
			k.raws = append(k.raws, rawScore{weighted: w, plugin: normalizer})
		} else {
			k.sums = append(k.sums, w)
		}
	}
	return k
}

// fit makes the kind's slices as long as there are nodes.
func (k *kind) fit(nodes int) {
	k.nodes = resize(k.nodes, nodes)
	for i := range k.raws {
		k.raws[i].values = resize(k.raws[i].values, nodes)
	}
}

func resize[T any](list []T, length int) []T {
	if missing := length - len(list); missing > 0 {
		return append(list, make([]T, missing)...)
	}
	return list[:length]
}

// judge asks the local plugins about a node that has changed.
func (k *kind) judge(i int, n *picture.Node, version uint64) {
	v := &k.nodes[i]
	*v = verdict{version: version}
	for _, f := range k.filters {
		if v.refusal = f.filter(n); v.refusal != nil {
			v.by = uint8(f.index)
			return
		}
	}
	for _, w := range k.sums {
		v.score += int32(w.weight * w.score(n))
	}
	for j := range k.raws {
		k.raws[j].values[i] = k.raws[j].score(n)
	}
}

// crowded says why a pod that fits on a node does not beside those for which the
// node has room kept; alone: that depends on nothing but the node.
func (k *kind) crowded(i int, n *picture.Node, version uint64, trial *framework.Trial, alone bool) *framework.Refusal {
	if !alone || !trial.Shared(n) {
		return trial.Fits(n)
	}
	k.crowds = resize(k.crowds, len(k.nodes))
	v := &k.crowds[i]
	if v.version != version {
		*v = verdict{version: version, refusal: trial.Fits(n)}
	}
	return v.refusal
}

// signature is equal for pods that no plugin can tell apart.
func signature(profile *framework.Profile, pod *picture.Pod, cluster *picture.Picture) string {
	object := pod.Object
	b := make([]byte, 0, 512)
	text := func(parts ...string) {
		for _, part := range parts {
			b = binary.AppendUvarint(b, uint64(len(part)))
			b = append(b, part...)
		}
	}
	number := func(n int64) { b = binary.AppendVarint(b, n) }
	set := func(m map[string]string) {
		number(int64(len(m)))
		for _, key := range slices.Sorted(maps.Keys(m)) {
			text(key, m[key])
		}
	}
	message := func(m interface{ Marshal() ([]byte, error) }) {
		data, err := m.Marshal()
		if err != nil {
			data = fmt.Appendf(nil, "%s %v", object.UID, err) // a kind of its own
		}
		text(string(data))
	}
	text(profile.Name, object.Namespace, object.Spec.NodeName, string(pod.Owner))
	if object.Spec.PreemptionPolicy != nil {
		text(string(*object.Spec.PreemptionPolicy))
	}
	number(int64(pod.Priority))
	for _, r := range []*picture.Resources{&pod.Requests, &pod.ScoredRequests} {
		number(r.MilliCPU)
		number(r.Memory)
		number(r.Ephemeral)
		number(int64(len(r.Other)))
		for _, name := range slices.Sorted(maps.Keys(r.Other)) {
			text(string(name))
			number(r.Other[name])
		}
	}
	set(object.Labels)
	set(object.Spec.NodeSelector)
	number(int64(len(pod.Ports)))
	for _, port := range pod.Ports {
		text(port.HostIP, string(port.Protocol))
		number(int64(port.Port))
	}
	number(int64(len(object.Spec.InitContainers)))
	for i := range object.Spec.InitContainers {
		text(object.Spec.InitContainers[i].Image)
	}
	number(int64(len(object.Spec.Containers)))
	for i := range object.Spec.Containers {
		text(object.Spec.Containers[i].Image)
	}
	number(int64(len(object.Spec.Tolerations)))
	for i := range object.Spec.Tolerations {
		message(&object.Spec.Tolerations[i])
	}
	number(int64(len(object.Spec.TopologySpreadConstraints)))
	for i := range object.Spec.TopologySpreadConstraints {
		message(&object.Spec.TopologySpreadConstraints[i])
	}
	if object.Spec.Affinity != nil {
		message(object.Spec.Affinity)
	}
	number(int64(len(pod.Claims)))
	for i := range pod.Claims {
		text(pod.Claims[i].Key)
		if pod.Claims[i].Ephemeral {
			text(string(object.UID)) // the claim has to be this pod's
		}
	}
	for i := range object.Spec.Volumes {
		if image := object.Spec.Volumes[i].Image; image != nil {
			text(image.Reference)
		}
		if plugins.Exclusive(&object.Spec.Volumes[i]) {
			message(&object.Spec.Volumes[i])
		}
	}
	if len(object.Spec.ResourceClaims) > 0 || len(cluster.Devices().Backed(pod)) > 0 {
		text(string(object.UID)) // devices are each claim's own
	}
	if asked, err := plugins.FeaturesAsked(object); err == nil && !asked.IsEmpty() {
		text(asked.String())
	}
	return string(b)
}
