package inventory

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"clusterctl/hostconfig"
)

func TestNodeSettingsOfHostsTakeThePlaceOfSharedOnes(t *testing.T) {
	inv, err := Parse("i.yaml", []byte(`apiVersion: clusterctl/v1
cluster: {name: c}
defaults:
  node:
    podPIDs: 1000
    reserved: {cpu: 100m, memory: 1Gi}
    eviction: {hard: {memory.available: 10%}, soft: {memory.available: 20%}, softGraceSeconds: {memory.available: 60}, transitionSeconds: 30}
    images: {collectAbovePercent: 70, collectBelowPercent: 60, maxUnusedSeconds: 86400}
    shutdown: [{priority: 0, seconds: 60}, {priority: 1000, seconds: 30}]
groups:
  small: {node: {reserved: {memory: 128Mi}}}
hosts:
- {name: a, address: 10.0.0.1, roles: [control-plane]}
- {name: b, address: 10.0.0.2, roles: [worker], groups: [small], node: {eviction: {soft: {}, transitionSeconds: 5}, images: {collectBelowPercent: 50, minAgeSeconds: 600}, shutdown: []}}
`))
	if err != nil {
		t.Fatal(err)
	}
	want := []hostconfig.NodeAgent{{
		PodPIDs: 1000, Reserved: map[string]string{"cpu": "100m", "memory": "1Gi"},
		Eviction: hostconfig.Eviction{Hard: map[string]string{"memory.available": "10%"}, Soft: map[string]string{"memory.available": "20%"},
			SoftGraceSeconds: map[string]int{"memory.available": 60}, TransitionSeconds: 30},
		Images:   hostconfig.Images{CollectAbovePercent: 70, CollectBelowPercent: 60, MaxUnusedSeconds: 86400},
		Shutdown: []hostconfig.ShutdownGrace{{Seconds: 60}, {Priority: 1000, Seconds: 30}},
	}, {
		PodPIDs: 1000, Reserved: map[string]string{"memory": "128Mi"},
		Eviction: hostconfig.Eviction{Hard: map[string]string{"memory.available": "10%"}, Soft: map[string]string{},
			SoftGraceSeconds: map[string]int{"memory.available": 60}, TransitionSeconds: 5},
		Images: hostconfig.Images{CollectAbovePercent: 70, CollectBelowPercent: 50, MinAgeSeconds: 600, MaxUnusedSeconds: 86400},
	}}
	for i, h := range inv.Hosts {
		var got hostconfig.NodeAgent
		h.Node.Apply(&got)
		if diff := cmp.Diff(want[i], got); diff != "" {
			t.Errorf("%s: %s", h.Name, diff)
		}
	}
}
