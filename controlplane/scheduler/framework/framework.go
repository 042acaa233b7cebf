package framework

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/events"

	"clusterctl/controlplane/scheduler/picture"
)

// Plugin is anything with a name; it implements any of the interfaces below.
type Plugin interface {
	// Name is what profiles and messages call it.
	Name() string
}

// Refusal says why a pod does not fit on a node. Plugins make few of them and
// return the same one again and again; they are compared by address.
type Refusal struct {
	// Reasons are the words that users see: "Insufficient cpu".
	Reasons []string
	// Final says that no preemption makes the node fit.
	Final bool
	// Whole says that it is the pod itself which cannot be placed now, whatever
	// the node: users are told once, not for each node.
	Whole bool
}

// Refuse makes a refusal that preemption may lift.
func Refuse(reasons ...string) *Refusal { return &Refusal{Reasons: reasons} }

// RefuseFinally makes one that preemption cannot lift.
func RefuseFinally(reasons ...string) *Refusal { return &Refusal{Reasons: reasons, Final: true} }

// RefuseWhole makes one for a pod that fits nowhere, whatever the node.
func RefuseWhole(reason string) *Refusal {
	return &Refusal{Reasons: []string{reason}, Final: true, Whole: true}
}

// Filter judges one node for one pod; nil means that it fits. It is called
// with the picture locked, and sees the picture as it is then.
type Filter func(*picture.Node) *Refusal

// FilterPlugin is pre-filter and filter.
type FilterPlugin interface {
	Plugin
	// PreFilter looks at the pod once and returns what judges each node; nil
	// where the plugin has nothing to say about this pod.
	PreFilter(pod *picture.Pod, cluster *picture.Picture) Filter
	// Local says that the verdict on a node depends on nothing but the pod and
	// that node: it holds, for every identical pod, until the node changes.
	Local() bool
	// Events are the kinds of events that could ever help.
	Events() EventKind
	// Helps says whether an event of these kinds could make a pod fit that the
	// plugin refused: such pods are tried again, others are not.
	Helps(event Event, pod *v1.Pod) bool
}

// Score rates one node for one pod.
type Score func(*picture.Node) int64

// MaxScore is the best score that a plugin gives, once normalized.
const MaxScore = 100

// ScorePlugin is pre-score and score.
type ScorePlugin interface {
	Plugin
	// PreScore looks at the pod and the feasible nodes once and returns what
	// rates each; nil where every node is alike. A local plugin is given no
	// feasible nodes.
	PreScore(pod *picture.Pod, cluster *picture.Picture, feasible []*picture.Node) Score
	// Local says that a node's score depends on nothing but the pod and that
	// node, as FilterPlugin's.
	Local() bool
}

// Normalizer is a score plugin whose scores are not in 0..MaxScore yet.
type Normalizer interface {
	// Normalize brings the scores of a pod's feasible nodes there, in place.
	Normalize(scores []int64)
}

// PostFilterPlugin is asked when no node fits (preemption).
type PostFilterPlugin interface {
	Plugin
	// PostFilter is called with the picture locked, which it leaves as it was.
	PostFilter(profile *Profile, pod *picture.Pod, cluster *picture.Picture, refusals *Refusals) Remedy
}

// Remedy is what a post-filter plugin proposes.
type Remedy struct {
	// Node to nominate; empty: none.
	Node string
	// Keep says that an earlier nomination stays as it is.
	Keep bool
	// Message explains, where there is no node.
	Message string
	// Act carries it out, once the picture is unlocked; nil: nothing to do.
	Act func(ctx context.Context, hands Hands) error
	// Victims are the pods that Act deletes.
	Victims []*v1.Pod
	// Cleared are less important pods which were nominated to the node before.
	Cleared []*v1.Pod
}

// Hands are what a remedy is carried out with.
type Hands struct {
	Recorder events.EventRecorder
	// Withdraw has a pod wait again that has a node but is not bound yet, and may
	// not be for long; false: the pod is no such one.
	Withdraw func(pod types.UID, why error) bool
}

// ReservePlugin takes and gives back what a pod needs on a node beside the
// resources in the picture. Both are called with the picture locked: Reserve as
// soon as the node is chosen, so that the next pod finds taken what this one
// takes; Unreserve where the pod is not bound after all, whether or not it was
// reserved. They must not wait for anything.
type ReservePlugin interface {
	Plugin
	Reserve(pod *picture.Pod, cluster *picture.Picture, node *picture.Node) error
	Unreserve(pod *v1.Pod, cluster *picture.Picture, node string)
}

// PermitPlugin can hold a pod back, off the critical path, before it is bound.
type PermitPlugin interface {
	Plugin
	Permit(ctx context.Context, pod *v1.Pod, node string) error
}

// PreBindPlugin does what has to be done before a pod is bound.
type PreBindPlugin interface {
	Plugin
	// Needed says whether there is anything to do for a pod that was reserved.
	// It is called with the picture locked.
	Needed(pod *v1.Pod) bool
	// PreBind may take long, and keeps no other pod waiting.
	PreBind(ctx context.Context, pod *v1.Pod, node string) error
}

// BindPlugin binds; the profile has exactly one.
type BindPlugin interface {
	Plugin
	Bind(ctx context.Context, pod *v1.Pod, node string) error
}

// PostBindPlugin is told once a pod is bound.
type PostBindPlugin interface {
	Plugin
	PostBind(pod *v1.Pod, node string)
}

// QueueSortPlugin orders the pods that wait; the profile has exactly one.
type QueueSortPlugin interface {
	Plugin
	// Less says whether a goes before b; the queue breaks ties by arrival.
	Less(a, b *v1.Pod) bool
}

// Refusals is why a pod fits on no node.
type Refusals struct {
	ByNode  []*Refusal // in the order of the picture's nodes
	Plugins []FilterPlugin
	// Memo is what a post-filter plugin, by its name, knows of nodes for pods that
	// no plugin can tell from this one. It is lost when nodes come, go or are
	// relabelled; what else it depends on is for the plugin to check.
	Memo map[string]any
}

// Explain says it in the words that users of Kubernetes know:
// "0/5 nodes are available: 2 Insufficient cpu, 3 node(s) were unschedulable."
func Explain(nodes []*Refusal) string {
	reasons := map[string]int{}
	counts := map[*Refusal]int{}
	for _, refusal := range nodes {
		counts[refusal]++
	}
	for refusal, count := range counts {
		if refusal != nil && refusal.Whole {
			return fmt.Sprintf("0/%d nodes are available: %s.", len(nodes), strings.Join(refusal.Reasons, ", "))
		}
		for _, reason := range refusal.Reasons {
			reasons[reason] += count
		}
	}
	parts := make([]string, 0, len(reasons))
	for reason, count := range reasons {
		parts = append(parts, fmt.Sprintf("%d %s", count, reason))
	}
	slices.Sort(parts)
	return fmt.Sprintf("0/%d nodes are available: %s.", len(nodes), strings.Join(parts, ", "))
}
