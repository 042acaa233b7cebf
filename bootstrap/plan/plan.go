package plan

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"clusterctl/hostop"
)

// Phases, in the order in which they mostly happen.
const (
	PhasePrepare      = "prepare"
	PhaseEtcd         = "etcd"
	PhaseControlPlane = "control plane"
	PhaseRuntime      = "runtime"
	PhaseNode         = "node"
	PhaseReady        = "ready"
	PhaseAddons       = "add-ons"
	PhaseLeave        = "leave"
)

// Phases lists every phase in order.
func Phases() []string {
	return []string{PhasePrepare, PhaseEtcd, PhaseControlPlane, PhaseRuntime, PhaseNode, PhaseReady, PhaseAddons, PhaseLeave}
}

// Step is a list of operations that one hand carries out in one go.
type Step struct {
	ID    string `json:"id"`
	Host  string `json:"host"`          // whose step it is: a failure stops the later steps of this host
	Via   string `json:"via,omitempty"` // the host whose hand carries it out; empty: Host's own
	Phase string `json:"phase"`
	Title string `json:"title"`
	// Needs are earlier steps of the plan that have to be done before.
	Needs []string `json:"needs,omitempty"`
	// Exclusive names a lock: of the steps that name the same, one runs at a
	// time.
	Exclusive string     `json:"exclusive,omitempty"`
	Ops       hostop.Ops `json:"ops"`
}

// Hand is the host whose hand carries the step out.
func (s Step) Hand() string {
	if s.Via != "" {
		return s.Via
	}
	return s.Host
}

// Plan is a graph of steps. The order of Steps is one in which they can be
// done, and says which to prefer when several could be.
type Plan struct {
	Cluster string `json:"cluster"`
	Version string `json:"version"` // of clusterctl
	Steps   []Step `json:"steps"`
}

// Step finds a step by its ID.
func (p *Plan) Step(id string) (Step, bool) {
	i := slices.IndexFunc(p.Steps, func(s Step) bool { return s.ID == id })
	if i < 0 {
		return Step{}, false
	}
	return p.Steps[i], true
}

// Hosts are the hosts whose hands the plan uses, in the order of their first
// step.
func (p *Plan) Hosts() []string {
	var hosts []string
	for _, s := range p.Steps {
		if !slices.Contains(hosts, s.Hand()) {
			hosts = append(hosts, s.Hand())
		}
	}
	return hosts
}

// Prune drops the steps whose operations are all in place. results has, by step
// ID, the state of each operation as the hands checked it; a step without
// results stays whole. Needs reach through dropped steps. Of a step that stays,
// payload files that are in place are dropped too, so that they need not travel
// again.
func (p *Plan) Prune(results map[string][]hostop.State) *Plan {
	pruned := &Plan{Cluster: p.Cluster, Version: p.Version}
	through := map[string][]string{} // a dropped step's needs
	for _, step := range p.Steps {
		var needs []string
		for _, need := range step.Needs {
			if above, dropped := through[need]; dropped {
				needs = append(needs, above...)
			} else {
				needs = append(needs, need)
			}
		}
		step.Needs = dedupe(needs)
		states := results[step.ID]
		if len(states) == len(step.Ops) && !slices.ContainsFunc(states, func(s hostop.State) bool { return s != hostop.StateInPlace }) {
			through[step.ID] = step.Needs
			continue
		}
		if len(states) == len(step.Ops) {
			step.Ops = withoutPayloadInPlace(step.Ops, states)
		}
		pruned.Steps = append(pruned.Steps, step)
	}
	return pruned
}

func withoutPayloadInPlace(ops hostop.Ops, states []hostop.State) hostop.Ops {
	var kept hostop.Ops
	for i, op := range ops {
		switch op.(type) {
		case *hostop.Blob, *hostop.Image:
			if states[i] == hostop.StateInPlace {
				continue
			}
		}
		kept = append(kept, op)
	}
	return kept
}

func dedupe(words []string) []string {
	var kept []string
	for _, word := range words {
		if !slices.Contains(kept, word) {
			kept = append(kept, word)
		}
	}
	return kept
}

// Validate checks that IDs are unique, that every step has a host and
// operations, and that each comes after what it needs, which also rules out
// cycles.
func (p *Plan) Validate() error {
	seen := map[string]bool{}
	var faults []error
	for _, step := range p.Steps {
		switch {
		case seen[step.ID]:
			faults = append(faults, fmt.Errorf("step %s appears twice", step.ID))
		case step.Host == "" || len(step.Ops) == 0:
			faults = append(faults, fmt.Errorf("step %s has no host or does nothing", step.ID))
		}
		for _, need := range step.Needs {
			if !seen[need] {
				faults = append(faults, fmt.Errorf("step %s needs %s, which does not come before it", step.ID, need))
			}
		}
		seen[step.ID] = true
	}
	return errors.Join(faults...)
}

// Print prints the plan for people: the steps by phase, with what each
// makes true.
func (p *Plan) Print(w io.Writer) error {
	var b strings.Builder
	if len(p.Steps) == 0 {
		fmt.Fprintf(&b, "Cluster %s is as the inventory says. Nothing to do.\n", p.Cluster)
	} else {
		fmt.Fprintf(&b, "Cluster %s, clusterctl %s: %d steps on %d hosts.\n", p.Cluster, p.Version, len(p.Steps), len(p.Hosts()))
	}
	for _, phase := range Phases() {
		heading := false
		for _, step := range p.Steps {
			if step.Phase != phase {
				continue
			}
			if !heading {
				fmt.Fprintf(&b, "\n%s\n", phase)
				heading = true
			}
			fmt.Fprintf(&b, "  %s: %s", step.Host, step.Title)
			if step.Via != "" && step.Via != step.Host {
				fmt.Fprintf(&b, " (seen from %s)", step.Via)
			}
			b.WriteByte('\n')
			for _, op := range step.Ops {
				fmt.Fprintf(&b, "      %s\n", op.Describe())
			}
		}
	}
	_, err := io.WriteString(w, b.String())
	return err
}
