package framework

import (
	"slices"

	"clusterctl/controlplane/scheduler/picture"
)

// Trial judges single nodes for one pod while the picture is being changed to
// see what would be if: pods lifted off a node, or put on one.
type Trial struct {
	pod     *picture.Pod
	cluster *picture.Picture
	local   []Filter       // see the node as it is when asked
	others  []FilterPlugin // have to look at the cluster anew
}

// NewTrial prepares the profile's filters.
func NewTrial(profile *Profile, pod *picture.Pod, cluster *picture.Picture) *Trial {
	t := &Trial{pod: pod, cluster: cluster}
	for _, plugin := range profile.Filters {
		if !plugin.Local() {
			t.others = append(t.others, plugin)
		} else if filter := plugin.PreFilter(pod, cluster); filter != nil {
			t.local = append(t.local, filter)
		}
	}
	return t
}

// Alone says that no verdict depends on anything but the node, with what runs
// there and what it has room kept for: it holds until the node changes.
func (t *Trial) Alone() bool {
	if len(t.pod.Claims) > 0 || len(t.pod.Object.Spec.ResourceClaims) > 0 {
		return false
	}
	return !slices.ContainsFunc(t.others, func(plugin FilterPlugin) bool { return plugin.PreFilter(t.pod, t.cluster) != nil })
}

// Shared says, where the trial is alone, that a verdict on this node is that of
// every identical pod: neither is room kept there for this very pod, nor for one
// that may keep others away.
func (t *Trial) Shared(n *picture.Node) bool {
	return !slices.ContainsFunc(n.Nominated, func(other *picture.Pod) bool {
		return other.Object.UID == t.pod.Object.UID || len(other.Terms) > 0
	})
}

// Fits returns nil where the pod fits on the node, both with and without the
// pods for which room is kept there and which are not less important: they may
// come, once those that go are gone, and they may go elsewhere.
func (t *Trial) Fits(n *picture.Node) *Refusal {
	if refusal := t.judge(n); refusal != nil {
		return refusal
	}
	expected := Expected(t.pod, n)
	if len(expected) == 0 {
		return nil
	}
	var going []*picture.Pod
	for _, other := range n.Pods {
		if other.Going() {
			going = append(going, other)
		}
	}
	for _, other := range going {
		t.cluster.Lift(other)
	}
	for _, pod := range expected {
		t.cluster.Put(pod, n)
	}
	defer func() {
		for _, pod := range expected {
			t.cluster.Lift(pod)
		}
		for _, other := range going {
			t.cluster.Put(other, n)
		}
	}()
	return t.judge(n)
}

func (t *Trial) judge(n *picture.Node) *Refusal {
	for _, filter := range t.local {
		if refusal := filter(n); refusal != nil {
			return refusal
		}
	}
	for _, plugin := range t.others {
		if filter := plugin.PreFilter(t.pod, t.cluster); filter != nil {
			if refusal := filter(n); refusal != nil {
				return refusal
			}
		}
	}
	return nil
}

// Expected is the pods that a node has room kept for, as far as they are not
// less important than the pod.
func Expected(pod *picture.Pod, n *picture.Node) (expected []*picture.Pod) {
	for _, other := range n.Nominated {
		if other.Object.UID != pod.Object.UID && other.Priority >= pod.Priority {
			expected = append(expected, other)
		}
	}
	return expected
}
