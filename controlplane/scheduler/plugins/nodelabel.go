package plugins

import (
	v1 "k8s.io/api/core/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodeLabel judges nodes by which labels they have at all, whatever the pod:
// as a filter by Present and Absent, as a score by the preferred ones. It is
// not part of the default profile.
type NodeLabel struct {
	Present          []string
	Absent           []string
	PreferredPresent []string
	PreferredAbsent  []string
}

func (NodeLabel) Name() string { return "NodeLabel" }
func (NodeLabel) Local() bool  { return true }

func (NodeLabel) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeLabelsChanged
}

var labelPresence = framework.RefuseFinally("node(s) didn't have the requested labels")

func (p NodeLabel) PreFilter(*picture.Pod, *picture.Picture) framework.Filter {
	if len(p.Present)+len(p.Absent) == 0 {
		return nil
	}
	return func(n *picture.Node) *framework.Refusal {
		if held(n.Object, p.Present) < len(p.Present) || held(n.Object, p.Absent) > 0 {
			return labelPresence
		}
		return nil
	}
}

func (p NodeLabel) Helps(event framework.Event, _ *v1.Pod) bool {
	return event.Node == nil || held(event.Node, p.Present) == len(p.Present) && held(event.Node, p.Absent) == 0
}

func (p NodeLabel) PreScore(*picture.Pod, *picture.Picture, []*picture.Node) framework.Score {
	all := len(p.PreferredPresent) + len(p.PreferredAbsent)
	if all == 0 {
		return nil
	}
	return func(n *picture.Node) int64 {
		kept := held(n.Object, p.PreferredPresent) + len(p.PreferredAbsent) - held(n.Object, p.PreferredAbsent)
		return int64(kept) * framework.MaxScore / int64(all)
	}
}

// held counts the keys that a node has as labels.
func held(n *v1.Node, keys []string) (count int) {
	for _, key := range keys {
		if _, ok := n.Labels[key]; ok {
			count++
		}
	}
	return count
}
