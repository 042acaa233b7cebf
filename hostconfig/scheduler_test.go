package hostconfig

import (
	"strings"
	"testing"
)

func TestSchedulerProfileCheck(t *testing.T) {
	good := SchedulerProfile{
		Name: "a", Strategy: RequestedToCapacityRatio, Shape: []SchedulerShape{{0, 10}, {100, 0}},
		Resources: map[string]int{"cpu": 3}, Weights: map[string]int{"ImageLocality": 9}, Disable: []string{"NodePorts"},
	}
	if err := good.Check(); err != nil {
		t.Errorf("a good profile: %v", err)
	}
	for want, change := range map[string]func(*SchedulerProfile){
		"has no name":                               func(p *SchedulerProfile) { p.Name = "" },
		`strategy "Best" is none of`:                func(p *SchedulerProfile) { p.Strategy = "Best" },
		"shape is for the strategy":                 func(p *SchedulerProfile) { p.Strategy = MostAllocated },
		"has no shape":                              func(p *SchedulerProfile) { p.Shape = nil },
		"score 11 at 0 percent is not in":           func(p *SchedulerProfile) { p.Shape = []SchedulerShape{{0, 11}} },
		"50 percent does not come after 50":         func(p *SchedulerProfile) { p.Shape = []SchedulerShape{{50, 1}, {50, 2}} },
		"weight 0 of resource cpu is not in":        func(p *SchedulerProfile) { p.Resources["cpu"] = 0 },
		"no plugin NodePorts scores":                func(p *SchedulerProfile) { p.Weights["NodePorts"] = 2 },
		"weight 200000 of ImageLocality is not in":  func(p *SchedulerProfile) { p.Weights["ImageLocality"] = 200_000 },
		"there is no plugin Nothing":                func(p *SchedulerProfile) { p.Disable[0] = "Nothing" },
		"nodes would be overcommitted":              func(p *SchedulerProfile) { p.Disable[0] = "NodeResourcesFit" },
		"weight -1 of preferAvoidPods is not in 0.": func(p *SchedulerProfile) { p.PreferAvoidPods = -1 },
	} {
		bad := good
		bad.Resources, bad.Weights, bad.Disable = map[string]int{"cpu": 3}, map[string]int{"ImageLocality": 9}, []string{"NodePorts"}
		change(&bad)
		if err := bad.Check(); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("got %v, want %q", err, want)
		}
	}
}
