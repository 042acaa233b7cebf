package plugins

import (
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
)

func TestParseProfiles(t *testing.T) {
	profiles, err := ParseProfiles([]byte(`
profiles:
- name: packing
  strategy: MostAllocated
  disable: [ImageLocality, DefaultPreemption]
  weights: {InterPodAffinity: 5}
  nodeLabel: {absent: [example.com/retired]}
  preferAvoidPods: 10000
`), nil)
	if err != nil {
		t.Fatal(err)
	}
	if len(profiles) != 2 || profiles[0].Name != "packing" || profiles[1].Name != v1.DefaultSchedulerName {
		t.Fatalf("profiles %v, want packing and the default", profiles)
	}
	packing := profiles[0]
	if err := packing.Check(); err != nil {
		t.Fatal(err)
	}
	weights := map[string]int64{}
	for _, w := range packing.Scores {
		weights[w.Name()] = w.Weight
		if fit, ok := w.ScorePlugin.(NodeResourcesFit); ok && !fit.MostAllocated {
			t.Error("the strategy is not MostAllocated")
		}
	}
	if weights["InterPodAffinity"] != 5 || weights["ImageLocality"] != 0 || weights["NodePreferAvoidPods"] != 10000 {
		t.Errorf("weights %v", weights)
	}
	if len(packing.PostFilters) != 1 || packing.PostFilters[0].Name() != "DynamicResources" || packing.Filters[0].Name() != "NodeLabel" {
		t.Errorf("filters %v, post-filters %v", packing.Filters, packing.PostFilters)
	}
	if n := len(profiles[1].PostFilters); n != 2 {
		t.Errorf("the default profile has %d post-filters, want 2", n)
	}
}

func TestParseProfilesRefuses(t *testing.T) {
	for text, want := range map[string]string{
		"profiles: [{}]":                                              "scheduler profile 1 has no name",
		"profiles: [{name: a}, {name: a}]":                            "there are two scheduler profiles a",
		"profiles: [{name: a, strategy: Best}]":                       `strategy "Best" is neither`,
		"profiles: [{name: a, disable: [Nothing]}]":                   "there is no plugin Nothing",
		"profiles: [{name: a, disable: [NodeResourcesFit]}]":          "overcommitted",
		"profiles: [{name: a, weights: {ImageLocality: 0}}]":          "weight 0 of ImageLocality is not in",
		"profiles: [{name: a, weights: {NodePorts: 2}}]":              "no plugin NodePorts scores",
		"profiles: [{name: a, colour: red}]":                          "parse scheduler profiles",
		"profiles: [{name: a, preferAvoidPods: 1000000000000000000}]": "weight 1000000000000000000 of NodePreferAvoidPods is not in",
	} {
		if _, err := ParseProfiles([]byte(text), nil); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %q", text, err, want)
		}
	}
}
