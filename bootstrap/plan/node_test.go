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
