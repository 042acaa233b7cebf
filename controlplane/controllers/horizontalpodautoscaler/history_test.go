package horizontalpodautoscaler

import (
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"pgregory.net/rapid"
)

// step is a proposal, some time after the one before, and what becomes of it.
type step struct {
	after    time.Duration
	proposal int32
	want     int32
	able     string
	limited  string
}

func TestDecide(t *testing.T) {
	rule := func(seconds *int32, choice *autoscalingv2.ScalingPolicySelect, policies ...autoscalingv2.HPAScalingPolicy) *autoscalingv2.HPAScalingRules {
		return &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: seconds, SelectPolicy: choice, Policies: policies}
	}
	pods := func(n, seconds int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: n, PeriodSeconds: seconds}
	}
	percent := func(n, seconds int32) autoscalingv2.HPAScalingPolicy {
		return autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: n, PeriodSeconds: seconds}
	}
	zero, minute := new(int32(0)), new(int32(60))
	least, none := new(autoscalingv2.MinChangePolicySelect), new(autoscalingv2.DisabledPolicySelect)
	const ready, down, up, within = "ReadyForNewScale", "ScaleDownStabilized", "ScaleUpStabilized", "DesiredWithinRange"
	for name, test := range map[string]struct {
		up, down *autoscalingv2.HPAScalingRules // none of both: no behaviour
		begin    int32
		steps    []step
	}{
		"without behaviour, up at most doubles": {begin: 5, steps: []step{
			{0, 30, 10, ready, "ScaleUpLimit"}, {pace, 30, 20, ready, "ScaleUpLimit"}, {pace, 200, 40, ready, "ScaleUpLimit"}}},
		"a few pods may become four": {begin: 1, steps: []step{{0, 9, 4, ready, "ScaleUpLimit"}}},
		"bounds are kept": {begin: 60, steps: []step{
			{0, 200, 100, ready, "TooManyReplicas"}, {6 * time.Minute, 0, 2, ready, "TooFewReplicas"}}},
		"down waits for five minutes": {begin: 10, steps: []step{
			{0, 10, 10, ready, within}, {time.Minute, 3, 10, down, within}, {3 * time.Minute, 4, 10, down, within}, {90 * time.Second, 3, 4, down, within}, {5 * time.Minute, 3, 3, ready, within}}},
		"behaviour without rules has defaults": {up: rule(nil, nil), begin: 3, steps: []step{
			{0, 90, 7, ready, "ScaleUpLimit"}, {pace + 1, 90, 14, ready, "ScaleUpLimit"}}},
		"policies count what has been done in their period": {up: rule(zero, nil, pods(4, 60)), begin: 10, steps: []step{
			{0, 50, 14, ready, "ScaleUpLimit"}, {pace, 50, 14, ready, "ScaleUpLimit"}, {time.Minute, 50, 18, ready, "ScaleUpLimit"}}},
		"the policy that changes least": {up: rule(zero, least, pods(4, 60), percent(10, 60)), begin: 10, steps: []step{
			{0, 50, 11, ready, "ScaleUpLimit"}}},
		"percents round up on the way up": {up: rule(zero, nil, percent(1, 60)), begin: 10, steps: []step{{0, 50, 11, ready, "ScaleUpLimit"}}},
		"and down on the way down":        {down: rule(zero, nil, percent(25, 60)), begin: 10, steps: []step{{0, 2, 7, ready, "ScaleDownLimit"}, {pace, 2, 7, ready, "ScaleDownLimit"}}},
		"down is off":                     {down: rule(zero, none), begin: 10, steps: []step{{0, 2, 10, ready, "ScaleDownLimit"}, {0, 12, 12, ready, within}}},
		"up waits, too": {up: rule(minute, nil), begin: 5, steps: []step{
			{0, 9, 5, up, within}, {30 * time.Second, 8, 5, up, within}, {31 * time.Second, 8, 8, ready, within}}},
	} {
		t.Run(name, func(t *testing.T) {
			var behavior *autoscalingv2.HorizontalPodAutoscalerBehavior
			if test.up != nil || test.down != nil {
				behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: test.up, ScaleDown: test.down}
			}
			h, now, current := &history{}, noon, test.begin
			if name == "up waits, too" {
				h.begin(current, now)
			}
			for i, s := range test.steps {
				now = now.Add(s.after)
				size, able, limited := h.decide(behavior, sizes{current, 2, 100}, s.proposal, now)
				if size != s.want || able.reason != s.able || limited.reason != s.limited {
					t.Fatalf("step %d: %d (%s, %s), want %d (%s, %s)", i, size, able.reason, limited.reason, s.want, s.able, s.limited)
				}
				if size != current {
					h.changed(behavior, current, size, now)
				}
				current = size
			}
		})
	}
}

// Whatever is proposed, bounds hold, a policy's number of pods in its period is
// not exceeded, and nothing shrinks below the highest proposal of its window.
func TestDecideKeepsItsRules(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		limit := rapid.Int32Range(1, 10).Draw(t, "limit")
		seconds := rapid.Int32Range(15, 120).Draw(t, "period")
		wait := rapid.Int32Range(0, 300).Draw(t, "window")
		policy := []autoscalingv2.HPAScalingPolicy{{Type: autoscalingv2.PodsScalingPolicy, Value: limit, PeriodSeconds: seconds}}
		behavior := &autoscalingv2.HorizontalPodAutoscalerBehavior{
			ScaleUp:   &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: new(int32(0)), Policies: policy},
			ScaleDown: &autoscalingv2.HPAScalingRules{StabilizationWindowSeconds: &wait, Policies: policy},
		}
		h, now, current := &history{}, noon, rapid.Int32Range(2, 100).Draw(t, "begin")
		h.begin(current, now)
		sized := []moment{{current, now}}
		proposed := []moment{{current, now}}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			now = now.Add(time.Duration(rapid.IntRange(1, 60).Draw(t, "seconds")) * time.Second)
			proposal := rapid.Int32Range(0, 200).Draw(t, "proposal")
			size, _, _ := h.decide(behavior, sizes{current, 2, 100}, proposal, now)
			if size < 2 || size > 100 {
				t.Fatalf("size %d is out of bounds", size)
			}
			proposed = append(proposed, moment{proposal, now})
			if size < current {
				for _, p := range since(proposed, now.Add(-time.Duration(wait)*time.Second)) {
					if p.pods > size && p.pods < current {
						t.Fatalf("%d becomes %d, and %d was proposed %v ago", current, size, p.pods, now.Sub(p.at))
					}
				}
			}
			if size != current {
				h.changed(behavior, current, size, now)
			}
			current = size
			sized = append(sized, moment{size, now})
			// The size at the period's start is the last one before it.
			begin := now.Add(-time.Duration(seconds) * time.Second)
			start := sized[0].pods
			for _, s := range sized {
				if !s.at.After(begin) {
					start = s.pods
				}
			}
			if size > start+limit && size > sized[len(sized)-2].pods {
				t.Fatalf("%d became %d within %ds, of at most %d", start, size, seconds, limit)
			}
		}
	})
}
