package plugins

import (
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/client-go/kubernetes"
	"sigs.k8s.io/yaml"

	"clusterctl/controlplane/scheduler/framework"
)

// profileFile is profiles as an operator writes them:
//
//	profiles:
//	- name: default-scheduler
//	- name: bin-packing
//	  strategy: MostAllocated
//	  disable: [ImageLocality]
//	  weights: {InterPodAffinity: 5}
//	  nodeLabel: {absent: [example.com/retired]}
//	  preferAvoidPods: 10000
//
// Each starts from the default profile.
type profileFile struct {
	Profiles []profileChange `json:"profiles"`
}

type profileChange struct {
	Name string `json:"name"` // spec.schedulerName
	// Strategy of NodeResourcesFit: LeastAllocated (default), MostAllocated.
	Strategy string `json:"strategy,omitempty"`
	// Disable takes plugins out, by name, wherever they take part.
	Disable []string `json:"disable,omitempty"`
	// Weights of score plugins that are not the default.
	Weights map[string]int64 `json:"weights,omitempty"`
	// NodeLabel adds the plugin of that name.
	NodeLabel *labelPresences `json:"nodeLabel,omitempty"`
	// PreferAvoidPods is the weight of that plugin; 0: not part of it.
	PreferAvoidPods int64 `json:"preferAvoidPods,omitempty"`
}

type labelPresences struct {
	Present          []string `json:"present,omitempty"`
	Absent           []string `json:"absent,omitempty"`
	PreferredPresent []string `json:"preferredPresent,omitempty"`
	PreferredAbsent  []string `json:"preferredAbsent,omitempty"`
}

// weightLimit keeps sums of scores far from overflowing.
const weightLimit = 100_000

// ParseProfiles reads profiles from YAML. The default profile is among them
// even if it is not named.
func ParseProfiles(data []byte, client kubernetes.Interface) ([]*framework.Profile, error) {
	var file profileFile
	if err := yaml.UnmarshalStrict(data, &file); err != nil {
		return nil, fmt.Errorf("parse scheduler profiles: %w", err)
	}
	var profiles []*framework.Profile
	for i := range file.Profiles {
		change := &file.Profiles[i]
		if change.Name == "" {
			return nil, fmt.Errorf("scheduler profile %d has no name", i+1)
		}
		if slices.ContainsFunc(profiles, func(p *framework.Profile) bool { return p.Name == change.Name }) {
			return nil, fmt.Errorf("there are two scheduler profiles %s", change.Name)
		}
		profile := Default(client)
		if err := change.apply(profile); err != nil {
			return nil, fmt.Errorf("scheduler profile %s: %w", change.Name, err)
		}
		profiles = append(profiles, profile)
	}
	if !slices.ContainsFunc(profiles, func(p *framework.Profile) bool { return p.Name == v1.DefaultSchedulerName }) {
		profiles = append(profiles, Default(client))
	}
	return profiles, nil
}

func (c *profileChange) apply(p *framework.Profile) error {
	p.Name = c.Name
	if l := c.NodeLabel; l != nil {
		plugin := NodeLabel(*l)
		p.Filters = slices.Insert(p.Filters, 0, framework.FilterPlugin(plugin))
		p.Scores = append(p.Scores, framework.Weighted{ScorePlugin: plugin, Weight: 1})
	}
	if c.PreferAvoidPods > 0 {
		p.Scores = append(p.Scores, framework.Weighted{ScorePlugin: NodePreferAvoidPods{}, Weight: c.PreferAvoidPods})
	}
	switch c.Strategy {
	case "", "LeastAllocated":
	case "MostAllocated":
		for i := range p.Scores {
			if p.Scores[i].Name() == (NodeResourcesFit{}).Name() {
				p.Scores[i].ScorePlugin = NodeResourcesFit{MostAllocated: true}
			}
		}
	default:
		return fmt.Errorf("strategy %q is neither LeastAllocated nor MostAllocated", c.Strategy)
	}
	for name, weight := range c.Weights {
		i := slices.IndexFunc(p.Scores, func(w framework.Weighted) bool { return w.Name() == name })
		if i < 0 {
			return fmt.Errorf("weights: no plugin %s scores", name)
		}
		p.Scores[i].Weight = weight
	}
	for _, w := range p.Scores {
		if w.Weight < 1 || w.Weight > weightLimit {
			return fmt.Errorf("weight %d of %s is not in 1..%d", w.Weight, w.Name(), weightLimit)
		}
	}
	for _, name := range c.Disable {
		if name == (NodeResourcesFit{}).Name() {
			return fmt.Errorf("%s cannot be disabled: nodes would be overcommitted", name)
		}
		before := len(p.Filters) + len(p.Scores) + len(p.PostFilters)
		p.Filters = slices.DeleteFunc(p.Filters, func(f framework.FilterPlugin) bool { return f.Name() == name })
		p.Scores = slices.DeleteFunc(p.Scores, func(w framework.Weighted) bool { return w.Name() == name })
		p.PostFilters = slices.DeleteFunc(p.PostFilters, func(f framework.PostFilterPlugin) bool { return f.Name() == name })
		if len(p.Filters)+len(p.Scores)+len(p.PostFilters) == before {
			return fmt.Errorf("disable: there is no plugin %s", name)
		}
	}
	return nil
}
