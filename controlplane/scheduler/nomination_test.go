package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
)

// harm is what a remedy does, in the order in which less is better.
func harm(w *world, budget *policyv1.PodDisruptionBudget, remedy framework.Remedy) string {
	var top int32
	var sum, protected int
	for i, victim := range remedy.Victims {
		priority := *victim.Spec.Priority
		if i == 0 || priority > top {
			top = priority
		}
		sum += int(priority)
		if budget != nil && selects(budget.Spec.Selector, victim) {
			protected++
		}
	}
	allowed := 0
	if budget != nil {
		allowed = int(budget.Status.DisruptionsAllowed)
	}
	return fmt.Sprintf("violations %d, top %d, sum %d, victims %d", max(0, protected-allowed), top, sum, len(remedy.Victims))
}

// TestRoomKeptForPreemptorsStaysTheirs lets pods of few sorts come to a small
// cluster, preempt each other, and get their room at some time. A checker of its
// own looks at each step: nobody takes the room that is kept for a pod at least as
// important, and what is remembered for identical pods is what would be found anew.
func TestRoomKeptForPreemptorsStaysTheirs(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(plugins.Default(nil))
		profile := s.profiles[v1.DefaultSchedulerName]
		w := &world{nodes: map[string]*v1.Node{}, bound: map[string]*v1.Pod{}}
		kept := map[string]*v1.Pod{} // pods for which room is kept, by name
		at := map[string]string{}    // and where
		var budget *policyv1.PodDisruptionBudget
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			n := node(fmt.Sprint("n", i))
			w.nodes[n.Name] = n
			s.picture.SetNode(n)
		}
		bind := func(pod *v1.Pod, target string) {
			s.picture.Unnominate(pod.UID)
			delete(kept, pod.Name)
			pod.Spec.NodeName = target
			s.picture.SetPod(pod)
			w.bound[pod.Name] = pod
			if wrong := w.wrong(withoutNode(pod), w.nodes[target]); wrong != "" && wrong != "overcommitted" {
				t.Fatalf("%s on %s: %s", pod.Name, target, wrong)
			}
			used := int64(0)
			for _, other := range w.on(target) {
				used += other.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
			}
			for name, other := range kept {
				if at[name] == target && *other.Spec.Priority >= *pod.Spec.Priority {
					used += other.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
				}
			}
			if most := w.nodes[target].Status.Allocatable.Cpu().MilliValue(); used > most {
				t.Fatalf("%s takes room on %s that is kept for others: %d of %d", pod.Name, target, used, most)
			}
		}
		try := func(pod *v1.Pod) {
			chosen, refusals, remedy := s.decide(profile, picture.NewPod(pod))
			warm := s.kinds
			s.kinds = map[string]*kind{}
			coldChosen, coldRefusals, coldRemedy := s.decide(profile, picture.NewPod(pod))
			s.kinds = warm
			if (chosen == nil) != (coldChosen == nil) {
				t.Fatalf("%s: remembered %v, found anew %v", pod.Name, chosen, coldChosen)
			}
			if chosen != nil {
				bind(pod, chosen.Name())
				return
			}
			if got, want := explain(refusals, remedy), explain(coldRefusals, coldRemedy); got != want {
				t.Fatalf("%s: remembered %q, found anew %q", pod.Name, got, want)
			}
			if got, want := harm(w, budget, remedy), harm(w, budget, coldRemedy); got != want {
				t.Fatalf("%s: remembered %s, found anew %s", pod.Name, got, want)
			}
			s.nominate(picture.NewPod(pod), remedy)
			for _, other := range remedy.Cleared {
				delete(kept, other.Name)
			}
			if remedy.Node != "" {
				kept[pod.Name], at[pod.Name] = pod, remedy.Node
				for _, victim := range remedy.Victims { // some go at once, some later
					if rapid.Bool().Draw(t, "gone at once") {
						s.picture.RemovePod(victim.UID)
						delete(w.bound, victim.Name)
					}
				}
			} else if !remedy.Keep {
				delete(kept, pod.Name)
			}
		}
		for i := range rapid.IntRange(10, 60).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				if len(w.bound) > 0 {
					gone := rapid.SampledFrom(slices.Sorted(maps.Keys(w.bound))).Draw(t, "gone")
					s.picture.RemovePod(w.bound[gone].UID)
					delete(w.bound, gone)
				}
			case 1, 2:
				if len(kept) > 0 {
					try(kept[rapid.SampledFrom(slices.Sorted(maps.Keys(kept))).Draw(t, "again")])
				}
			case 3:
				budget = &policyv1.PodDisruptionBudget{
					ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
					Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}}},
					Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: rapid.Int32Range(0, 3).Draw(t, "allowed")},
				}
				s.picture.SetBudget(budget)
			default:
				try(newPod(fmt.Sprint("p", i), requests(rapid.SampledFrom([]string{"500m", "1"}).Draw(t, "cpu"), "1Mi"), func(p *v1.Pod) {
					p.Labels = map[string]string{"app": rapid.SampledFrom([]string{"a", "b"}).Draw(t, "app")}
					p.Spec.Priority = new(rapid.Int32Range(0, 2).Draw(t, "priority"))
				}))
			}
		}
	})
}

// withoutNode is a pod as it was before it was bound.
func withoutNode(pod *v1.Pod) *v1.Pod {
	before := *pod
	before.Spec.NodeName = ""
	return &before
}
