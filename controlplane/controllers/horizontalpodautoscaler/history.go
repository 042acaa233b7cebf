package horizontalpodautoscaler

import (
	"math"
	"slices"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
)

// downWindow is how long a lower proposal has to last before it is followed,
// unless an autoscaler says otherwise.
const downWindow = 5 * time.Minute

// moment is a number of pods at a time: proposed, added or removed.
type moment struct {
	pods int32
	at   time.Time
}

// history is what is remembered of one autoscaler. It is not safe for
// concurrent use.
type history struct {
	proposed       []moment
	added, removed []moment // changes made, all positive
}

// reason explains a condition of an autoscaler.
type reason struct {
	holds           bool // the condition is true
	reason, message string
}

var (
	wanted = reason{false, "DesiredWithinRange", "the desired count is within the acceptable range"}
	rushes = reason{true, "ScaleUpLimit", "the desired replica count is increasing faster than the maximum scale rate"}
	drops  = reason{true, "ScaleDownLimit", "the desired replica count is decreasing faster than the maximum scale rate"}
	above  = reason{true, "TooManyReplicas", "the desired replica count is more than the maximum replica count"}
	below  = reason{true, "TooFewReplicas", "the desired replica count is less than the minimum replica count"}

	recommended = reason{true, "ReadyForNewScale", "recommended size matches current size"}
	keepsUp     = reason{true, "ScaleDownStabilized", "recent recommendations were higher than current one, applying the highest recent recommendation"}
	keepsDown   = reason{true, "ScaleUpStabilized", "recent recommendations were lower than current one, applying the lowest recent recommendation"}
)

// sizes are what bounds a decision.
type sizes struct{ current, least, most int32 }

// decide remembers proposal and returns the size to go to at now, why the
// autoscaler is able to scale, and whether and why it is limited.
func (h *history) decide(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, n sizes, proposal int32, now time.Time) (size int32, able, limited reason) {
	if behavior == nil {
		stable := h.stabilize(proposal, 0, downWindow, func(_, highest int32) int32 { return highest }, now)
		able = recommended
		if stable != proposal {
			able = keepsUp
		}
		size, limited = clamp(n, stable)
		return size, able, limited
	}
	up, down := rules(behavior)
	stable := h.stabilize(proposal, window(up, 0), window(down, downWindow), func(lowest, highest int32) int32 {
		return min(max(n.current, lowest), highest)
	}, now)
	switch {
	case stable == proposal:
		able = recommended
	case proposal >= n.current:
		able = keepsDown
	default:
		able = keepsUp
	}
	size, limited = h.limit(up, down, n, stable, now)
	return size, able, limited
}

// stabilize lets pick choose between the lowest proposal of the last up and the
// highest of the last down, and then remembers proposal.
func (h *history) stabilize(proposal int32, up, down time.Duration, pick func(lowest, highest int32) int32, now time.Time) int32 {
	lowest, highest := proposal, proposal
	for _, p := range h.proposed {
		if p.at.After(now.Add(-up)) {
			lowest = min(lowest, p.pods)
		}
		if p.at.After(now.Add(-down)) {
			highest = max(highest, p.pods)
		}
	}
	h.proposed = append(since(h.proposed, now.Add(-max(up, down))), moment{proposal, now})
	return pick(lowest, highest)
}

// begin makes the size that an autoscaler finds its first proposal: a controller
// that has just started knows of no other, and must not scale down at once.
func (h *history) begin(current int32, now time.Time) {
	if h.proposed == nil {
		h.proposed = []moment{{current, now}}
	}
}

// changed remembers a change of size that has been made.
func (h *history) changed(behavior *autoscalingv2.HorizontalPodAutoscalerBehavior, before, after int32, now time.Time) {
	if behavior == nil {
		return // no rule asks for it
	}
	up, down := rules(behavior)
	longest := time.Duration(0)
	for _, p := range slices.Concat(up.Policies, down.Policies) {
		longest = max(longest, period(p))
	}
	h.added, h.removed = since(h.added, now.Add(-longest)), since(h.removed, now.Add(-longest))
	if after > before {
		h.added = append(h.added, moment{after - before, now})
	} else {
		h.removed = append(h.removed, moment{before - after, now})
	}
}

// clamp is what limits autoscalers without a behaviour.
func clamp(n sizes, desired int32) (int32, reason) {
	most, why := n.most, above
	if fastest := ceil(max(2*float64(n.current), 4)); fastest < most {
		most, why = fastest, rushes
	}
	switch {
	case desired < n.least:
		return n.least, below
	case desired > most:
		return most, why
	}
	return desired, wanted
}

// limit is what limits autoscalers with one.
func (h *history) limit(up, down autoscalingv2.HPAScalingRules, n sizes, desired int32, now time.Time) (int32, reason) {
	switch {
	case desired > n.current:
		most, why := n.most, above
		if fastest := max(h.allowed(up, n.current, true, now), n.current); fastest < most {
			most, why = fastest, rushes
		}
		if desired > most {
			return most, why
		}
	case desired < n.current:
		least, why := n.least, below
		if fastest := min(h.allowed(down, n.current, false, now), n.current); fastest > least {
			least, why = fastest, drops
		}
		if desired < least {
			return least, why
		}
	}
	return desired, wanted
}

// allowed is the size that the rules' policies let an autoscaler go to: of all
// policies, the one that changes most, or least, as the rules select.
func (h *history) allowed(r autoscalingv2.HPAScalingRules, current int32, up bool, now time.Time) int32 {
	choice := *r.SelectPolicy
	if choice == autoscalingv2.DisabledPolicySelect || len(r.Policies) == 0 {
		return current
	}
	var allowed []int32
	for _, p := range r.Policies {
		begin := current - total(since(h.added, now.Add(-period(p)))) + total(since(h.removed, now.Add(-period(p))))
		size := float64(begin)
		switch {
		case p.Type == autoscalingv2.PodsScalingPolicy && up:
			size += float64(p.Value)
		case p.Type == autoscalingv2.PodsScalingPolicy:
			size -= float64(p.Value)
		case up:
			size = math.Ceil(size * (1 + float64(p.Value)/100))
		default:
			size *= 1 - float64(p.Value)/100
		}
		allowed = append(allowed, int32(max(math.MinInt32, min(size, math.MaxInt32))))
	}
	if up == (choice == autoscalingv2.MinChangePolicySelect) {
		return slices.Min(allowed)
	}
	return slices.Max(allowed)
}

// rules are those of a behaviour, with Kubernetes' defaults for what it leaves
// out.
func rules(b *autoscalingv2.HorizontalPodAutoscalerBehavior) (up, down autoscalingv2.HPAScalingRules) {
	double := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	four := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15}
	fill := func(from *autoscalingv2.HPAScalingRules, policies ...autoscalingv2.HPAScalingPolicy) (r autoscalingv2.HPAScalingRules) {
		if from != nil {
			r = *from
		}
		if r.SelectPolicy == nil {
			r.SelectPolicy = new(autoscalingv2.MaxChangePolicySelect)
		}
		if r.Policies == nil {
			r.Policies = policies
		}
		return r
	}
	return fill(b.ScaleUp, four, double), fill(b.ScaleDown, double)
}

func window(r autoscalingv2.HPAScalingRules, otherwise time.Duration) time.Duration {
	if r.StabilizationWindowSeconds == nil {
		return otherwise
	}
	return time.Duration(*r.StabilizationWindowSeconds) * time.Second
}

func period(p autoscalingv2.HPAScalingPolicy) time.Duration {
	return time.Duration(p.PeriodSeconds) * time.Second
}

// since is the part of moments after a time; they are in order.
func since(moments []moment, begin time.Time) []moment {
	for i, m := range moments {
		if m.at.After(begin) {
			return moments[i:]
		}
	}
	return nil
}

func total(moments []moment) (pods int32) {
	for _, m := range moments {
		pods += m.pods
	}
	return pods
}
