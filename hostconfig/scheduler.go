package hostconfig

import (
	_ "embed" // this file itself
	"errors"
	"fmt"
	"slices"
)

// SchedulerSource is this file: the comments of its types explain the inventory's
// keys to editors.
//
//go:embed scheduler.go
var SchedulerSource string

// SchedulerProfile is how pods are scheduled that name it. It says what differs
// from the default profile.
type SchedulerProfile struct {
	// What pods have in spec.schedulerName; default-scheduler is what they have that say nothing.
	Name string `json:"name"`
	// How the room that is left ranks nodes: LeastAllocated, MostAllocated or RequestedToCapacityRatio. Default: LeastAllocated.
	Strategy string `json:"strategy,omitempty" jsonschema:"default=LeastAllocated,enum=LeastAllocated,enum=MostAllocated,enum=RequestedToCapacityRatio"`
	// Weights, 1 to 100, of the resources that the strategy looks at. Default: cpu and memory alike.
	Resources map[string]int `json:"resources,omitempty"`
	// For RequestedToCapacityRatio, the scores of nodes by how much of them is in use; in between lie straight lines.
	Shape []SchedulerShape `json:"shape,omitempty"`
	// Plugins that take no part, by name.
	Disable []string `json:"disable,omitempty"`
	// Weights, 1 to 100000, of plugins that score, by name. Default: upstream's.
	Weights map[string]int `json:"weights,omitempty"`
	// Labels that nodes have to have or to lack, whatever their values.
	NodeLabel SchedulerLabels `json:"nodeLabel,omitempty,omitzero"`
	// Labels of nodes, such as a zone's: the pods of a service all go to nodes with one value.
	ServiceAffinity []string `json:"serviceAffinity,omitempty"`
	// Labels of nodes over whose values the pods of a service spread.
	ServiceAntiAffinity []string `json:"serviceAntiAffinity,omitempty"`
	// Weight of the annotation scheduler.alpha.kubernetes.io/preferAvoidPods of nodes, by which they keep pods of some controllers away. Default: 0, it means nothing.
	PreferAvoidPods int `json:"preferAvoidPods,omitempty"`
}

// SchedulerShape is a point of a curve.
type SchedulerShape struct {
	// Percent of the node in use, 0 to 100.
	Utilization int `json:"utilization"`
	// How good that is, 0 to 10.
	Score int `json:"score"`
}

// SchedulerLabels are labels' keys.
type SchedulerLabels struct {
	// Pods only go to nodes with all of these.
	Present []string `json:"present,omitempty"`
	// Pods go to no node with any of these.
	Absent []string `json:"absent,omitempty"`
	// Pods rather go to nodes with these.
	PreferredPresent []string `json:"preferredPresent,omitempty"`
	// Pods rather go to nodes without these.
	PreferredAbsent []string `json:"preferredAbsent,omitempty"`
}

// Strategies of a SchedulerProfile.
const (
	LeastAllocated           = "LeastAllocated"
	MostAllocated            = "MostAllocated"
	RequestedToCapacityRatio = "RequestedToCapacityRatio"
)

// Plugins of the default profile, and whether they score. What keeps nodes from
// being overcommitted cannot be left out.
var schedulerPlugins = map[string]bool{
	"NodeUnschedulable": false, "NodeName": false, "TaintToleration": true, "NodeAffinity": true, "NodePorts": false, "NodeResourcesFit": true,
	"VolumeRestrictions": false, "NodeVolumeLimits": false, "VolumeBinding": false, "VolumeZone": false, "PodTopologySpread": true,
	"InterPodAffinity": true, "DynamicResources": true, "NodeDeclaredFeatures": false, "DefaultPreemption": false, "NodeResourcesBalancedAllocation": true, "ImageLocality": true,
}

// SchedulerPlugins are the names of the default profile's plugins, or of those
// that score.
func SchedulerPlugins(scoring bool) []string {
	var names []string
	for name, scores := range schedulerPlugins {
		if scores || !scoring {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return names
}

// Bounds of weights; sums of scores stay far from overflowing.
const (
	maxResourceWeight = 100
	maxPluginWeight   = 100_000
)

// Check says what is wrong with the profile.
func (p *SchedulerProfile) Check() error {
	var errs []error
	fault := func(format string, args ...any) { errs = append(errs, fmt.Errorf(format, args...)) }
	if p.Name == "" {
		fault("a scheduler profile has no name")
	}
	switch p.Strategy {
	case "", LeastAllocated, MostAllocated:
		if len(p.Shape) > 0 {
			fault("shape is for the strategy %s", RequestedToCapacityRatio)
		}
	case RequestedToCapacityRatio:
		if len(p.Shape) == 0 {
			fault("the strategy %s has no shape", p.Strategy)
		}
	default:
		fault("strategy %q is none of %s, %s, %s", p.Strategy, LeastAllocated, MostAllocated, RequestedToCapacityRatio)
	}
	for i, point := range p.Shape {
		if point.Utilization < 0 || point.Utilization > 100 || point.Score < 0 || point.Score > 10 {
			fault("shape: score %d at %d percent is not in 0..10 at 0..100", point.Score, point.Utilization)
		}
		if i > 0 && point.Utilization <= p.Shape[i-1].Utilization {
			fault("shape: %d percent does not come after %d", point.Utilization, p.Shape[i-1].Utilization)
		}
	}
	for name, weight := range p.Resources {
		if weight < 1 || weight > maxResourceWeight {
			fault("weight %d of resource %s is not in 1..%d", weight, name, maxResourceWeight)
		}
	}
	for name, weight := range p.Weights {
		if !schedulerPlugins[name] {
			fault("weights: no plugin %s scores", name)
		}
		if weight < 1 || weight > maxPluginWeight {
			fault("weight %d of %s is not in 1..%d", weight, name, maxPluginWeight)
		}
	}
	for _, name := range p.Disable {
		if _, known := schedulerPlugins[name]; !known {
			fault("disable: there is no plugin %s", name)
		}
		if name == "NodeResourcesFit" {
			fault("disable: without %s, nodes would be overcommitted", name)
		}
	}
	if p.PreferAvoidPods < 0 || p.PreferAvoidPods > maxPluginWeight {
		fault("weight %d of preferAvoidPods is not in 0..%d", p.PreferAvoidPods, maxPluginWeight)
	}
	return errors.Join(errs...)
}
