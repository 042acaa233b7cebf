package plan

import (
	"strings"
	"testing"

	"sigs.k8s.io/yaml"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// TestNodeSettings: they reach the agent's configuration, and its unit gives
// pods the time that the settings promise.
func TestNodeSettings(t *testing.T) {
	const node = "defaults: {node: {podPIDs: 99, shutdown: [{priority: 0, seconds: 100}]}}\n"
	for text, want := range map[string]struct {
		pids int64
		stop string
	}{stacked: {0, "TimeoutStopSec=45\n"}, node + stacked: {99, "TimeoutStopSec=115\n"}} {
		inv := parse(t, text)
		seen := 0
		for _, step := range build(t, inv, fresh(inv)).Steps {
			for _, op := range step.Ops {
				switch op := op.(type) {
				case *hostop.File:
					var config hostconfig.NodeAgent
					if op.Path != hostconfig.NodeConf {
						continue
					}
					if err := yaml.UnmarshalStrict(op.Content, &config); err != nil {
						t.Fatal(err)
					}
					if config.PodPIDs != want.pids {
						t.Errorf("%s: podPIDs %d, want %d", config.NodeName, config.PodPIDs, want.pids)
					}
				case *hostop.Unit:
					if op.Name != hostconfig.UnitNodeAgent {
						continue
					}
					seen++
					if !strings.Contains(string(op.Content), want.stop) {
						t.Errorf("no %s in:\n%s", want.stop, op.Content)
					}
				}
			}
		}
		if seen != len(inv.Nodes()) {
			t.Errorf("%d units for %d nodes", seen, len(inv.Nodes()))
		}
	}
}

// TestHostsOwnCRIO: a host that uses its own gets neither programs nor unit of
// containerd, and everything of the runtime's is about CRI-O.
func TestHostsOwnCRIO(t *testing.T) {
	inv := parse(t, "groups: {own: {runtime: crio}}\n"+strings.Replace(stacked, "name: w2,", "name: w2, groups: [own],", 1))
	plan := build(t, inv, fresh(inv))
	if _, ok := plan.Step("w1/containerd"); !ok {
		t.Error("w1 has no containerd")
	}
	for _, name := range []string{"w2/containerd", "w2/runtime"} {
		if _, ok := plan.Step(name); ok {
			t.Errorf("there is a step %s", name)
		}
	}
	for _, step := range plan.Steps {
		for _, op := range step.Ops {
			if image, ok := op.(*hostop.Image); ok && (step.Host == "w2") != (image.Runtime == hostconfig.RuntimeCRIO) {
				t.Errorf("%s: %s goes to %q", step.ID, image.Name, image.Runtime)
			}
			if step.Host != "w2" {
				continue
			}
			switch op := op.(type) {
			case *hostop.File:
				if op.Path == hostconfig.NodeConf && !strings.Contains(string(op.Content), "criSocket: unix:///run/crio/crio.sock\n") {
					t.Errorf("the node agent is told:\n%s", op.Content)
				}
			case *hostop.Unit:
				if strings.Contains(string(op.Content), "containerd") || !strings.Contains(string(op.Content), "After=network-online.target crio.service\n") {
					t.Errorf("unit %s:\n%s", op.Name, op.Content)
				}
			}
		}
	}
	upgraded := running(inv)
	if _, err := Build(inv, upgraded, manifest("v2")); err != nil {
		t.Errorf("upgrade: %v", err)
	}

	// A runtime does not change below a node's pods.
	facts := upgraded["w2"]
	facts.Runtime = hostconfig.RuntimeContainerd
	upgraded["w2"] = facts
	if _, err := Build(inv, upgraded, manifest("v2")); err == nil || !strings.Contains(err.Error(), "host w2 runs its pods with containerd, and the inventory says crio") {
		t.Errorf("got %v", err)
	}
}
