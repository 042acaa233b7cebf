package scheduler

import (
	"fmt"
	"maps"
	"slices"
	"testing"

	v1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"pgregory.net/rapid"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
)

// world is a cluster as an independent checker sees it: plain lists, walked
// over in full for every question.
type world struct {
	nodes  map[string]*v1.Node
	bound  map[string]*v1.Pod
	places map[string]int // for volumes, of nodes that have few
}

func (w *world) on(node string) (pods []*v1.Pod) {
	for _, name := range slices.Sorted(maps.Keys(w.bound)) {
		if w.bound[name].Spec.NodeName == node {
			pods = append(pods, w.bound[name])
		}
	}
	return pods
}

func selects(s *metav1.LabelSelector, pod *v1.Pod) bool {
	selector, err := metav1.LabelSelectorAsSelector(s)
	return err == nil && selector.Matches(labels.Set(pod.Labels))
}

// wrong says why a pod may not run on a node; empty: it may.
func (w *world) wrong(pod *v1.Pod, node *v1.Node) string {
	cpu := pod.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
	pods := int64(1)
	for _, other := range w.on(node.Name) {
		cpu += other.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
		pods++
	}
	if cpu > node.Status.Allocatable.Cpu().MilliValue() || pods > node.Status.Allocatable.Pods().Value() {
		return "overcommitted"
	}
	if node.Spec.Unschedulable {
		return "cordoned"
	}
	for key, value := range pod.Spec.NodeSelector {
		if node.Labels[key] != value {
			return "node selector"
		}
	}
	if what := w.occupied(pod, node); what != "" {
		return what
	}
	together := func(other *v1.Pod, key string) bool {
		value, ok := node.Labels[key]
		otherValue, otherOK := w.nodes[other.Spec.NodeName].Labels[key]
		return ok && otherOK && value == otherValue
	}
	anti := func(p *v1.Pod) []v1.PodAffinityTerm {
		if p.Spec.Affinity == nil || p.Spec.Affinity.PodAntiAffinity == nil {
			return nil
		}
		return p.Spec.Affinity.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution
	}
	for _, other := range w.bound {
		for _, term := range anti(pod) {
			if selects(term.LabelSelector, other) && together(other, term.TopologyKey) {
				return "its anti-affinity to " + other.Name
			}
		}
		for _, term := range anti(other) {
			if selects(term.LabelSelector, pod) && together(other, term.TopologyKey) {
				return "anti-affinity of " + other.Name
			}
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		for _, term := range a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution {
			near, any := false, false
			for _, other := range w.bound {
				if selects(term.LabelSelector, other) && w.nodes[other.Spec.NodeName].Labels[term.TopologyKey] != "" {
					any = true
					near = near || together(other, term.TopologyKey)
				}
			}
			first := !any && selects(term.LabelSelector, pod) && node.Labels[term.TopologyKey] != ""
			if !near && !first {
				return "its affinity"
			}
		}
	}
	return w.unbalanced(pod, node)
}

func (w *world) unbalanced(pod *v1.Pod, node *v1.Node) string {
	for _, c := range pod.Spec.TopologySpreadConstraints {
		domains := map[string]int{}
		for _, n := range w.nodes {
			value, ok := n.Labels[c.TopologyKey]
			if !ok || !labels.SelectorFromSet(pod.Spec.NodeSelector).Matches(labels.Set(n.Labels)) {
				continue
			}
			domains[value] += 0
			for _, other := range w.on(n.Name) {
				if selects(c.LabelSelector, other) {
					domains[value]++
				}
			}
		}
		value, ok := node.Labels[c.TopologyKey]
		if !ok {
			return "no label to spread by"
		}
		least := slices.Min(slices.Collect(maps.Values(domains)))
		if domains[value]+1-least > int(c.MaxSkew) {
			return fmt.Sprintf("skew over %s", c.TopologyKey)
		}
	}
	return ""
}

const zone = v1.LabelTopologyZone

func drawNode(t *rapid.T, name string) *v1.Node {
	return node(name, func(n *v1.Node) {
		if z := rapid.SampledFrom([]string{"", "x", "y", "z"}).Draw(t, "zone"); z != "" {
			n.Labels[zone] = z
		}
		n.Spec.Unschedulable = rapid.IntRange(0, 9).Draw(t, "cordon") == 0
		n.Spec.Taints = drawTaints(t)
	})
}

func drawPod(t *rapid.T, name string) *v1.Pod {
	app := rapid.SampledFrom([]string{"a", "b", "c"})
	selector := func(what string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{"app": app.Draw(t, what)}}
	}
	key := rapid.SampledFrom([]string{v1.LabelHostname, zone})
	cpu := fmt.Sprint(rapid.IntRange(1, 10).Draw(t, "cpu")*100, "m")
	return newPod(name, requests(cpu, "1Mi"), func(p *v1.Pod) {
		p.Labels = map[string]string{"app": app.Draw(t, "app")}
		p.Spec.Priority = new(rapid.Int32Range(0, 3).Draw(t, "priority"))
		drawOccupation(t, p)
		switch rapid.IntRange(0, 9).Draw(t, "wish") {
		case 0, 1:
			p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
				{LabelSelector: selector("not near"), TopologyKey: key.Draw(t, "key")},
			}}}
		case 2, 3:
			p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{
				{LabelSelector: selector("near"), TopologyKey: key.Draw(t, "key")},
			}}}
		case 4, 5:
			p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
				MaxSkew: 1, TopologyKey: key.Draw(t, "key"), WhenUnsatisfiable: v1.DoNotSchedule,
				LabelSelector: &metav1.LabelSelector{MatchLabels: p.Labels},
			}}
		case 6:
			p.Spec.NodeSelector = map[string]string{zone: rapid.SampledFrom([]string{"x", "y"}).Draw(t, "selected")}
		}
	})
}

// TestEveryDecisionIsRight lets random pods come and go on random nodes that
// change, and has an independent checker judge each decision: the node chosen
// is feasible, every node refused is not, and victims are needed, every one.
func TestEveryDecisionIsRight(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(plugins.Default(nil))
		profile := s.profiles[v1.DefaultSchedulerName]
		w := &world{nodes: map[string]*v1.Node{}, bound: map[string]*v1.Pod{}}
		nodes := rapid.IntRange(1, 5).Draw(t, "nodes")
		w.places = setVolumes(t, s, nodes)
		for i := range nodes {
			n := drawNode(t, fmt.Sprint("n", i))
			w.nodes[n.Name] = n
			s.picture.SetNode(n)
		}
		for i := range rapid.IntRange(1, 40).Draw(t, "steps") {
			switch rapid.IntRange(0, 9).Draw(t, "step") {
			case 0:
				n := drawNode(t, rapid.SampledFrom(slices.Sorted(maps.Keys(w.nodes))).Draw(t, "changed"))
				w.nodes[n.Name] = n
				s.picture.SetNode(n)
			case 1:
				if len(w.bound) > 0 {
					gone := rapid.SampledFrom(slices.Sorted(maps.Keys(w.bound))).Draw(t, "gone")
					s.picture.RemovePod(w.bound[gone].UID)
					delete(w.bound, gone)
				}
			default:
				pod := drawPod(t, fmt.Sprint("p", i))
				chosen, refusals, remedy := s.decide(profile, picture.NewPod(pod))
				if chosen == nil {
					for _, n := range w.nodes {
						if w.wrong(pod, n) == "" {
							t.Fatalf("%s fits on %s: %s", pod.Name, n.Name, explain(refusals, remedy))
						}
					}
					checkPreemption(t, s, w, pod, remedy)
					continue
				}
				if wrong := w.wrong(pod, chosen.Object); wrong != "" {
					t.Fatalf("%s on %s: %s", pod.Name, chosen.Name(), wrong)
				}
				pod.Spec.NodeName = chosen.Name()
				s.picture.SetPod(pod)
				w.bound[pod.Name] = pod
			}
		}
	})
}

// checkPreemption looks at who would have to go: without them the pod fits,
// with any single one of them it does not, and all are less important.
func checkPreemption(t *rapid.T, s *scheduler, w *world, pod *v1.Pod, remedy framework.Remedy) {
	for _, n := range s.picture.Nodes() {
		if got, want := len(n.Pods), len(w.on(n.Name())); got != want {
			t.Fatalf("%d pods on %s after looking for victims, want %d", got, n.Name(), want)
		}
	}
	if remedy.Node == "" {
		return
	}
	victims := remedy.Victims
	if len(victims) == 0 {
		t.Fatalf("a node is nominated without victims")
	}
	for _, victim := range victims {
		if *victim.Spec.Priority >= *pod.Spec.Priority {
			t.Fatalf("%s of priority %d preempts %s of %d", pod.Name, *pod.Spec.Priority, victim.Name, *victim.Spec.Priority)
		}
		delete(w.bound, victim.Name)
	}
	target := w.nodes[remedy.Node]
	if wrong := w.wrong(pod, target); wrong != "" {
		t.Fatalf("%s on %s once its victims are gone: %s", pod.Name, target.Name, wrong)
	}
	for _, victim := range victims {
		w.bound[victim.Name] = victim
		// A pod alone is affine to itself, and a victim's return may fill up
		// the emptiest domain: then the pod fits with either of the two, but
		// not with both, and the order decides.
		if wrong := w.wrong(pod, target); wrong == "" && pod.Spec.Affinity == nil && pod.Spec.TopologySpreadConstraints == nil {
			t.Fatalf("%s did not have to go from %s for %s", victim.Name, target.Name, pod.Name)
		}
		delete(w.bound, victim.Name)
	}
	for _, victim := range victims {
		w.bound[victim.Name] = victim
	}
}

// TestPreemptionSparesBudgets: where a node can be cleared without violating a
// budget, it is.
func TestPreemptionSparesBudgets(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		s := newScheduler(plugins.Default(nil))
		profile := s.profiles[v1.DefaultSchedulerName]
		allowed := rapid.IntRange(0, 2).Draw(t, "allowed")
		s.picture.SetBudget(&policyv1.PodDisruptionBudget{
			ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "b"},
			Spec:       policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "kept"}}},
			Status:     policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: int32(allowed)},
		})
		most := 0 // unprotected CPU on a node
		for i := range rapid.IntRange(1, 4).Draw(t, "nodes") {
			s.picture.SetNode(node(fmt.Sprint("n", i)))
			free := 0
			for j := range 4 { // 500m each: the node is full
				app := rapid.SampledFrom([]string{"kept", "free"}).Draw(t, "app")
				if app == "free" {
					free++
				}
				s.picture.SetPod(newPod(fmt.Sprint("p", i, j), requests("500m", "1Mi"), func(p *v1.Pod) {
					p.Labels = map[string]string{"app": app}
					p.Spec.NodeName, p.Spec.Priority = fmt.Sprint("n", i), new(int32(0))
				}))
			}
			most = max(most, min(4, free+allowed))
		}
		need := rapid.IntRange(1, 4).Draw(t, "need")
		preemptor := newPod("preemptor", requests(fmt.Sprint(need*500, "m"), "1Mi"), func(p *v1.Pod) { p.Spec.Priority = new(int32(9)) })
		_, _, remedy := s.decide(profile, picture.NewPod(preemptor))
		if remedy.Node == "" {
			t.Fatal("no node nominated")
		}
		kept := 0
		for _, victim := range remedy.Victims {
			if victim.Labels["app"] == "kept" {
				kept++
			}
		}
		if need <= most && kept > allowed {
			t.Fatalf("%d victims of a budget that allows %d, though a node can be cleared of %d without", kept, allowed, most)
		}
		if len(remedy.Victims) != need {
			t.Fatalf("%d victims, want %d", len(remedy.Victims), need)
		}
	})
}
