package plugins

import (
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/hostconfig"
)

func TestProfiles(t *testing.T) {
	profiles, err := Profiles([]hostconfig.SchedulerProfile{{
		Name: "packing", Strategy: hostconfig.MostAllocated,
		Disable: []string{"ImageLocality", "DefaultPreemption"}, Weights: map[string]int{"InterPodAffinity": 5},
		NodeLabel:       hostconfig.SchedulerLabels{Absent: []string{"example.com/retired"}},
		ServiceAffinity: []string{"zone"}, PreferAvoidPods: 10000,
	}}, nil)
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
	if weights["InterPodAffinity"] != 5 || weights["ImageLocality"] != 0 || weights["NodePreferAvoidPods"] != 10000 || weights["TaintToleration"] != 3 {
		t.Errorf("weights %v", weights)
	}
	if len(packing.PostFilters) != 1 || packing.PostFilters[0].Name() != "DynamicResources" || packing.Filters[0].Name() != "NodeLabel" {
		t.Errorf("filters %v, post-filters %v", packing.Filters, packing.PostFilters)
	}
	if last := packing.Filters[len(packing.Filters)-1].Name(); last != "ServiceAffinity" {
		t.Errorf("the last filter is %s", last)
	}
	if n := len(profiles[1].PostFilters); n != 2 {
		t.Errorf("the default profile has %d post-filters, want 2", n)
	}
}

func TestProfilesRefuses(t *testing.T) {
	if _, err := Profiles([]hostconfig.SchedulerProfile{{Name: "a"}, {Name: "a"}}, nil); err == nil {
		t.Error("two profiles have one name")
	}
	if _, err := Profiles([]hostconfig.SchedulerProfile{{Name: "a", Strategy: "Best"}}, nil); err == nil {
		t.Error("a strategy that is none was taken")
	}
}

// What inventories are checked by is what there is.
func TestPluginsAreThoseThatOperatorsKnow(t *testing.T) {
	all, scoring := map[string]bool{}, map[string]bool{}
	profile := Default(nil)
	for _, f := range profile.Filters {
		all[f.Name()] = true
	}
	for _, f := range profile.PostFilters {
		all[f.Name()] = true
	}
	for _, w := range profile.Scores {
		all[w.Name()], scoring[w.Name()] = true, true
	}
	for _, c := range []struct {
		scoring bool
		have    map[string]bool
	}{{false, all}, {true, scoring}} {
		var names []string
		for name := range c.have {
			names = append(names, name)
		}
		slices.Sort(names)
		if diff := cmp.Diff(names, hostconfig.SchedulerPlugins(c.scoring)); diff != "" {
			t.Errorf("scoring %t: the profile has -, operators know +:\n%s", c.scoring, diff)
		}
	}
}

func TestFitStrategies(t *testing.T) {
	cluster := pictureOf(
		machine("empty", nil, "4", "8Gi"),
		machine("half", nil, "4", "8Gi"),
	)
	cluster.SetPod(consumer("there", "half", nil, "2", "6Gi"))
	pod := picture.NewPod(consumer("p", "", nil, "1", "1Gi"))
	line := []hostconfig.SchedulerShape{{Utilization: 0, Score: 0}, {Utilization: 50, Score: 10}, {Utilization: 100, Score: 0}}
	for _, c := range []struct {
		name        string
		profile     hostconfig.SchedulerProfile
		empty, half int64
	}{
		// In use with the pod: 25 % and 12 %, and 75 % and 87 %.
		{"default", hostconfig.SchedulerProfile{}, (75 + 87) / 2, (25 + 12) / 2},
		{"most", hostconfig.SchedulerProfile{Strategy: hostconfig.MostAllocated}, (25 + 12) / 2, (75 + 87) / 2},
		{"most, memory counts thrice", hostconfig.SchedulerProfile{Strategy: hostconfig.MostAllocated, Resources: map[string]int{"cpu": 1, "memory": 3}}, (25 + 3*12) / 4, (75 + 3*87) / 4},
		{"one that the pod does not ask for", hostconfig.SchedulerProfile{Resources: map[string]int{"cpu": 1, "example.org/gpu": 9}}, 75, 25},
		{"half full is best", hostconfig.SchedulerProfile{Strategy: hostconfig.RequestedToCapacityRatio, Shape: line}, (50 + 24) / 2, (50 + 26) / 2},
	} {
		score := newFit(&c.profile).PreScore(pod, cluster, nil)
		for node, want := range map[string]int64{"empty": c.empty, "half": c.half} {
			if got := score(cluster.Node(node)); got != want {
				t.Errorf("%s: score of %s is %d, want %d", c.name, node, got, want)
			}
		}
	}
}

func TestServiceAffinity(t *testing.T) {
	cluster := pictureOf(
		machine("a1", map[string]string{"region": "a", "zone": "a1"}, "4", "8Gi"),
		machine("a2", map[string]string{"region": "a", "zone": "a2"}, "4", "8Gi"),
		machine("b1", map[string]string{"region": "b", "zone": "b1"}, "4", "8Gi"),
		machine("bare", nil, "4", "8Gi"),
	)
	plugin := ServiceAffinity{Together: []string{"region"}, Apart: []string{"zone"}}
	served := map[string]string{"app": "web"}
	pod := picture.NewPod(consumer("p", "", served, "1", "1Gi"))
	if plugin.PreFilter(pod, cluster) != nil || plugin.PreScore(pod, cluster, nil) != nil {
		t.Error("a pod of no service is kept together with others")
	}
	cluster.SetService("ns", "web", served)
	if plugin.PreFilter(pod, cluster) != nil {
		t.Error("the first pod of a service is kept together with others")
	}
	cluster.SetPod(consumer("first", "a1", served, "1", "1Gi"))
	cluster.SetPod(consumer("stranger", "b1", map[string]string{"app": "db"}, "1", "1Gi"))
	filter, score := plugin.PreFilter(pod, cluster), plugin.PreScore(pod, cluster, nil)
	for node, want := range map[string]struct {
		refusal *framework.Refusal
		score   int64
	}{"a1": {nil, 0}, "a2": {nil, 100}, "b1": {serviceElsewhere, 100}, "bare": {serviceElsewhere, 0}} {
		n := cluster.Node(node)
		if got := filter(n); got != want.refusal {
			t.Errorf("%s: refused for %v, want %v", node, got, want.refusal)
		}
		if got := score(n); got != want.score {
			t.Errorf("%s: score %d, want %d", node, got, want.score)
		}
	}
	chosen := consumer("chosen", "", served, "1", "1Gi")
	chosen.Spec.NodeSelector = map[string]string{"region": "b"}
	if plugin.PreFilter(picture.NewPod(chosen), cluster) != nil {
		t.Error("a pod that says where it goes is kept elsewhere")
	}
}

// machine is a node of a size.
func machine(name string, labels map[string]string, cpu, memory string) *v1.Node {
	return &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: labels},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory), v1.ResourcePods: resource.MustParse("10"),
		}},
	}
}

// consumer is a pod that asks for something.
func consumer(name, node string, labels map[string]string, cpu, memory string) *v1.Pod {
	pod := testPod(name, node)
	pod.UID, pod.Labels = types.UID(name), labels
	pod.Spec.Containers = []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Requests: v1.ResourceList{
		v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory),
	}}}}
	return pod
}
