package plugins

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/hostconfig"
)

// Profiles makes profiles of what an operator says of them. The default profile is
// among them even if it is not named.
func Profiles(changes []hostconfig.SchedulerProfile, client kubernetes.Interface) ([]*framework.Profile, error) {
	var profiles []*framework.Profile
	for i := range changes {
		change := &changes[i]
		if err := change.Check(); err != nil {
			return nil, fmt.Errorf("scheduler profile %q: %w", change.Name, err)
		}
		if slices.ContainsFunc(profiles, func(p *framework.Profile) bool { return p.Name == change.Name }) {
			return nil, fmt.Errorf("there are two scheduler profiles %s", change.Name)
		}
		profile := Default(client)
		apply(change, profile)
		profiles = append(profiles, profile)
	}
	if !slices.ContainsFunc(profiles, func(p *framework.Profile) bool { return p.Name == v1.DefaultSchedulerName }) {
		profiles = append(profiles, Default(client))
	}
	return profiles, nil
}

// apply makes the default profile p what c, which is checked, says.
func apply(c *hostconfig.SchedulerProfile, p *framework.Profile) {
	p.Name = c.Name
	fit := newFit(c)
	for i := range p.Scores {
		if p.Scores[i].Name() == fit.Name() {
			p.Scores[i].ScorePlugin = fit
		}
		if weight := c.Weights[p.Scores[i].Name()]; weight != 0 {
			p.Scores[i].Weight = int64(weight)
		}
	}
	left := func(plugin framework.Plugin) bool { return slices.Contains(c.Disable, plugin.Name()) }
	p.Filters = slices.DeleteFunc(p.Filters, func(f framework.FilterPlugin) bool { return left(f) })
	p.Scores = slices.DeleteFunc(p.Scores, func(w framework.Weighted) bool { return left(w) })
	p.PostFilters = slices.DeleteFunc(p.PostFilters, func(f framework.PostFilterPlugin) bool { return left(f) })
	score := func(plugin framework.ScorePlugin, weight int) {
		p.Scores = append(p.Scores, framework.Weighted{ScorePlugin: plugin, Weight: int64(weight)})
	}
	if l := c.NodeLabel; len(l.Present)+len(l.Absent)+len(l.PreferredPresent)+len(l.PreferredAbsent) > 0 {
		plugin := NodeLabel(l)
		p.Filters = slices.Insert(p.Filters, 0, framework.FilterPlugin(plugin)) // with the local ones
		score(plugin, 1)
	}
	if len(c.ServiceAffinity)+len(c.ServiceAntiAffinity) > 0 {
		plugin := ServiceAffinity{Together: c.ServiceAffinity, Apart: c.ServiceAntiAffinity}
		p.Filters = append(p.Filters, plugin)
		score(plugin, 1)
	}
	if c.PreferAvoidPods > 0 {
		score(NodePreferAvoidPods{}, c.PreferAvoidPods)
	}
}

// newFit is the strategy that c chooses.
func newFit(c *hostconfig.SchedulerProfile) NodeResourcesFit {
	fit := NodeResourcesFit{MostAllocated: c.Strategy == hostconfig.MostAllocated}
	for name, weight := range c.Resources {
		fit.Resources = append(fit.Resources, WeightedResource{Name: v1.ResourceName(name), Weight: int64(weight)})
	}
	if len(c.Shape) > 0 && len(c.Resources) == 0 {
		fit.Resources = []WeightedResource{{Name: v1.ResourceCPU, Weight: 1}, {Name: v1.ResourceMemory, Weight: 1}}
	}
	for _, point := range c.Shape {
		// Operators count to ten, plugins to a hundred.
		fit.Shape = append(fit.Shape, ShapePoint{Utilization: int64(point.Utilization), Score: int64(point.Score) * framework.MaxScore / 10})
	}
	return fit
}
