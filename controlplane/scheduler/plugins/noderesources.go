package plugins

import (
	"maps"
	"math"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
)

// NodeResourcesFit keeps a node's pods within its allocatable resources, and
// prefers by what would be left.
type NodeResourcesFit struct {
	// MostAllocated fills nodes up one by one; the default is to prefer the
	// node that is left with the largest free share.
	MostAllocated bool
	// Shape, if there is one, is what decides instead.
	Shape []ShapePoint
	// Resources that are looked at; none: CPU and memory alike.
	Resources []WeightedResource
}

// WeightedResource is a resource with its weight in the score.
type WeightedResource struct {
	Name   v1.ResourceName
	Weight int64
}

// ShapePoint is a point of the line that gives a score for each percent in use.
type ShapePoint struct {
	Utilization int64 // percent, growing from point to point
	Score       int64 // 0..framework.MaxScore
}

func (NodeResourcesFit) Name() string { return "NodeResourcesFit" }
func (NodeResourcesFit) Local() bool  { return true }

func (NodeResourcesFit) Events() framework.EventKind {
	return framework.NodeAdded | framework.NodeAllocatableChanged | framework.PodRemoved | framework.ResourceBacked
}

// What can be short: a bit each, so that every combination has its refusal.
const (
	shortPods = 1 << iota
	shortCPU
	shortMemory
	shortEphemeral
	tooLarge // for the node even if it were empty
	combinations
)

var short = func() (all [combinations]*framework.Refusal) {
	names := []string{"Too many pods", "Insufficient cpu", "Insufficient memory", "Insufficient ephemeral-storage"}
	for set := range all {
		all[set] = &framework.Refusal{Final: set&tooLarge != 0}
		for bit, name := range names {
			if set&(1<<bit) != 0 {
				all[set].Reasons = append(all[set].Reasons, name)
			}
		}
	}
	return all
}()

func (NodeResourcesFit) PreFilter(pod *picture.Pod, cluster *picture.Picture) framework.Filter {
	return fit(pod, cluster.Devices().ClassOf)
}

// fit judges by the resources of nodes. Which resources are devices of a class is
// asked at once: it holds as long as the shape of the picture.
func fit(pod *picture.Pod, classOf func(v1.ResourceName) *resourcev1.DeviceClass) framework.Filter {
	want := pod.Requests
	var backed map[v1.ResourceName]bool
	for name := range want.Other {
		if classOf(name) != nil {
			if backed == nil {
				backed = map[v1.ResourceName]bool{}
			}
			backed[name] = true
		}
	}
	return func(n *picture.Node) *framework.Refusal {
		has, used := &n.Allocatable, &n.Requested
		set := 0
		if used.Pods+want.Pods > has.Pods {
			set |= shortPods
		}
		check := func(want, has, used int64, bit int) {
			if want > 0 && want > has-used {
				if set |= bit; want > has {
					set |= tooLarge
				}
			}
		}
		check(want.MilliCPU, has.MilliCPU, used.MilliCPU, shortCPU)
		check(want.Memory, has.Memory, used.Memory, shortMemory)
		check(want.Ephemeral, has.Ephemeral, used.Ephemeral, shortEphemeral)
		if len(want.Other) > 0 {
			if refusal := shortOther(want.Other, has.Other, used.Other, backed, short[set]); refusal != nil {
				return refusal
			}
		}
		if set == 0 {
			return nil
		}
		return short[set]
	}
}

// shortOther adds what is short of hugepages and devices to a refusal; nil:
// nothing is. What a class has and the node has not is for DynamicResources to
// find.
func shortOther(want, has, used map[v1.ResourceName]int64, backed map[v1.ResourceName]bool, others *framework.Refusal) *framework.Refusal {
	refusal := &framework.Refusal{Reasons: slices.Clone(others.Reasons), Final: others.Final}
	for _, name := range slices.Sorted(maps.Keys(want)) {
		if backed[name] && has[name] == 0 {
			continue
		}
		if amount := want[name]; amount > 0 && amount > has[name]-used[name] {
			refusal.Reasons = append(refusal.Reasons, "Insufficient "+string(name))
			refusal.Final = refusal.Final || amount > has[name]
		}
	}
	if len(refusal.Reasons) == 0 {
		return nil
	}
	return refusal
}

// Helps: a node that is too small even when empty does not, nor does a class for
// what the pod does not ask for.
func (p NodeResourcesFit) Helps(event framework.Event, pod *v1.Pod) bool {
	if class := event.DeviceClass; class != nil {
		want := picture.NewPod(pod).Requests
		return want.Of(v1.ResourceName(resourcev1.ResourceDeviceClassPrefix+class.Name)) > 0 ||
			class.Spec.ExtendedResourceName != nil && want.Of(v1.ResourceName(*class.Spec.ExtendedResourceName)) > 0
	}
	if event.Node == nil || event.ClassOf == nil {
		return true
	}
	alone := picture.Node{Object: event.Node, Allocatable: picture.FromList(event.Node.Status.Allocatable)}
	return fit(picture.NewPod(pod), event.ClassOf)(&alone) == nil
}

func (p NodeResourcesFit) PreScore(pod *picture.Pod, _ *picture.Picture, _ []*picture.Node) framework.Score {
	want := pod.ScoredRequests
	if len(p.Resources) > 0 {
		return func(n *picture.Node) int64 { return p.weighted(&want, n) }
	}
	return func(n *picture.Node) int64 {
		sum := p.share(n.Allocatable.MilliCPU, n.Scored.MilliCPU+want.MilliCPU) + p.share(n.Allocatable.Memory, n.Scored.Memory+want.Memory)
		return sum / 2
	}
}

// share is how good it is that so much of a resource is in use.
func (p NodeResourcesFit) share(has, used int64) int64 {
	switch {
	case len(p.Shape) > 0 && (has <= 0 || used > has):
		return p.onLine(100)
	case len(p.Shape) > 0:
		return p.onLine(used * 100 / has)
	case has <= 0 || used > has:
		return 0
	case p.MostAllocated:
		return used * framework.MaxScore / has
	}
	return (has - used) * framework.MaxScore / has
}

// onLine is the shape's score of a percentage.
func (p NodeResourcesFit) onLine(percent int64) int64 {
	i := slices.IndexFunc(p.Shape, func(point ShapePoint) bool { return percent <= point.Utilization })
	switch i {
	case -1:
		return p.Shape[len(p.Shape)-1].Score
	case 0:
		return p.Shape[0].Score
	}
	from, to := p.Shape[i-1], p.Shape[i]
	return from.Score + (to.Score-from.Score)*(percent-from.Utilization)/(to.Utilization-from.Utilization)
}

// weighted is the mean over the resources, of those that the node has and, where
// they are devices, the pod asks for.
func (p NodeResourcesFit) weighted(want *picture.Resources, n *picture.Node) int64 {
	var sum, weights int64
	for _, r := range p.Resources {
		has, asked := n.Allocatable.Of(r.Name), want.Of(r.Name)
		if _, device := want.Other[r.Name]; has == 0 || !device && !common(r.Name) {
			continue
		}
		share := p.share(has, n.Scored.Of(r.Name)+asked)
		if share == 0 && len(p.Shape) > 0 {
			continue // as upstream's does
		}
		sum += r.Weight * share
		weights += r.Weight
	}
	switch {
	case weights == 0:
		return 0
	case len(p.Shape) > 0:
		return (sum + weights/2) / weights
	}
	return sum / weights
}

// common resources are those that every pod takes some of.
func common(name v1.ResourceName) bool {
	return name == v1.ResourceCPU || name == v1.ResourceMemory || name == v1.ResourceEphemeralStorage
}

// NodeResourcesBalanced prefers nodes where the pod brings the used shares of
// CPU and memory closer to each other, so that neither is left over without
// the other.
type NodeResourcesBalanced struct{}

func (NodeResourcesBalanced) Name() string { return "NodeResourcesBalancedAllocation" }
func (NodeResourcesBalanced) Local() bool  { return true }

func (NodeResourcesBalanced) PreScore(pod *picture.Pod, _ *picture.Picture, _ []*picture.Node) framework.Score {
	if pod.Requests.MilliCPU == 0 && pod.Requests.Memory == 0 {
		return nil
	}
	balance := func(n *picture.Node, cpu, memory int64) int64 {
		if n.Allocatable.MilliCPU <= 0 || n.Allocatable.Memory <= 0 {
			return framework.MaxScore
		}
		c := math.Min(1, float64(cpu)/float64(n.Allocatable.MilliCPU))
		m := math.Min(1, float64(memory)/float64(n.Allocatable.Memory))
		// With two shares the standard deviation is half their distance.
		return int64((1 - math.Abs(c-m)/2) * framework.MaxScore)
	}
	want := pod.Requests
	return func(n *picture.Node) int64 {
		without := balance(n, n.Requested.MilliCPU, n.Requested.Memory)
		with := balance(n, n.Requested.MilliCPU+want.MilliCPU, n.Requested.Memory+want.Memory)
		return framework.MaxScore/2 + (framework.MaxScore/2+with-without)/2
	}
}
