package execute

import (
	"context"
	"fmt"
	"sync"
	"testing"

	"pgregory.net/rapid"

	"clusterctl/bootstrap/plan"
	"clusterctl/hostop"
)

// Whatever the graph: a step begins after everything it needs is done, a hand
// does one thing at a time, an exclusive lock has one holder, failures reach
// exactly the host's later steps and what needs them, and every step is
// accounted for once.
func TestAnyGraph(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		count := rapid.IntRange(1, 30).Draw(t, "steps")
		hostCount := rapid.IntRange(1, 5).Draw(t, "hosts")
		w := &watch{t: t, done: map[string]bool{}, holders: map[string]int{}, fails: map[string]bool{}}
		p := &plan.Plan{}
		for i := range count {
			name := fmt.Sprintf("s%d", i)
			var needs []string
			for range rapid.IntRange(0, min(i, 3)).Draw(t, "needs") {
				needs = append(needs, fmt.Sprintf("s%d", rapid.IntRange(0, i-1).Draw(t, "need")))
			}
			exclusive := rapid.SampledFrom([]string{"", "", "etcd", "api"}).Draw(t, "exclusive")
			s := step(fmt.Sprintf("h%d", rapid.IntRange(0, hostCount-1).Draw(t, "host")), name, exclusive, needs...)
			if rapid.Bool().Draw(t, "elsewhere") {
				s.Via = fmt.Sprintf("h%d", rapid.IntRange(0, hostCount-1).Draw(t, "via"))
			}
			w.fails[name] = rapid.IntRange(0, 9).Draw(t, "fails") == 0
			p.Steps = append(p.Steps, s)
		}
		w.plan = p
		hands := Hands{}
		for i := range hostCount {
			h := newHost(fmt.Sprintf("h%d", i))
			h.pause = w.see
			hands[h.name] = h
		}
		summary, err := Run(context.Background(), p, hands, Options{Parallel: rapid.IntRange(1, 8).Draw(t, "parallel")})
		for name, hand := range hands {
			if hand.(*host).overlap {
				t.Fatalf("%s had two requests at once", name)
			}
		}
		if got := summary.Changed + summary.InPlace + len(summary.Failed) + len(summary.Skipped); got != count {
			t.Fatalf("%d steps accounted for, of %d", got, count)
		}
		if (err == nil) != (len(summary.Failed) == 0) {
			t.Fatalf("%d failures and the error %v", len(summary.Failed), err)
		}
		bad := map[string]bool{}
		for _, f := range append(summary.Failed, summary.Skipped...) {
			bad[f.Step] = true
		}
		failedHosts := map[string]bool{}
		for _, f := range summary.Failed {
			failedHosts[f.Host] = true
		}
		for _, f := range summary.Skipped {
			s, _ := p.Step(f.Step)
			because := failedHosts[s.Host]
			for _, need := range s.Needs {
				because = because || bad[need]
			}
			if !because {
				t.Fatalf("%s was skipped for nothing: %s", f.Step, f.Error)
			}
		}
	})
}

// watch sees steps being applied.
type watch struct {
	t    *rapid.T
	plan *plan.Plan

	mu      sync.Mutex
	done    map[string]bool
	holders map[string]int
	fails   map[string]bool
}

func (w *watch) see(_ context.Context, ops hostop.Ops) error {
	name := ops[0].(*hostop.Directory).Path[1:]
	s, _ := w.plan.Step(name)
	w.mu.Lock()
	for _, need := range s.Needs {
		if !w.done[need] {
			w.t.Errorf("%s began before %s was done", name, need)
		}
	}
	if w.holders[s.Exclusive]++; s.Exclusive != "" && w.holders[s.Exclusive] > 1 {
		w.t.Errorf("%s began while another step held %s", name, s.Exclusive)
	}
	w.mu.Unlock()
	defer func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		w.holders[s.Exclusive]--
		w.done[name] = !w.fails[name]
	}()
	if w.fails[name] {
		return fmt.Errorf("%s fails", name)
	}
	return nil
}
