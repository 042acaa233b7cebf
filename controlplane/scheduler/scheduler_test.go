package scheduler

import (
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	kubetesting "k8s.io/client-go/testing"
	"pgregory.net/rapid"

	"clusterctl/controlplane/scheduler/framework"
	"clusterctl/controlplane/scheduler/picture"
	"clusterctl/controlplane/scheduler/plugins"
	"clusterctl/hostconfig"
)

func node(name string, change ...func(*v1.Node)) *v1.Node {
	n := &v1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{v1.LabelHostname: name}},
		Status: v1.NodeStatus{Allocatable: v1.ResourceList{
			v1.ResourceCPU: resource.MustParse("2"), v1.ResourceMemory: resource.MustParse("4Gi"), v1.ResourcePods: resource.MustParse("10"),
		}},
	}
	for _, c := range change {
		c(n)
	}
	return n
}

func newPod(name string, change ...func(*v1.Pod)) *v1.Pod {
	p := &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "default", UID: types.UID(name), ResourceVersion: "1"},
		Spec:       v1.PodSpec{SchedulerName: v1.DefaultSchedulerName, Containers: []v1.Container{{Name: "c", Image: "i"}}},
	}
	for _, c := range change {
		c(p)
	}
	return p
}

func requests(cpu, memory string) func(*v1.Pod) {
	return func(p *v1.Pod) {
		p.Spec.Containers[0].Resources.Requests = v1.ResourceList{v1.ResourceCPU: resource.MustParse(cpu), v1.ResourceMemory: resource.MustParse(memory)}
	}
}

func TestFilter(t *testing.T) {
	tainted := func(n *v1.Node) {
		n.Spec.Taints = []v1.Taint{{Key: "node-role.kubernetes.io/control-plane", Effect: v1.TaintEffectNoSchedule}}
	}
	port := func(p *v1.Pod) { p.Spec.Containers[0].Ports = []v1.ContainerPort{{HostPort: 80, ContainerPort: 80}} }
	on := func(node string) func(*v1.Pod) { return func(p *v1.Pod) { p.Spec.NodeName = node } }
	spreadOver := func(p *v1.Pod) {
		p.Labels = map[string]string{"app": "a"}
		p.Spec.TopologySpreadConstraints = []v1.TopologySpreadConstraint{{
			MaxSkew: 1, TopologyKey: v1.LabelHostname, WhenUnsatisfiable: v1.DoNotSchedule,
			LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "a"}},
		}}
	}
	tests := []struct {
		name  string
		nodes []*v1.Node
		bound []*v1.Pod
		pod   *v1.Pod
		fits  string // names of nodes
		says  string
	}{
		{name: "no nodes", pod: newPod("p"), says: "no nodes available to schedule pods"},
		{name: "resources", nodes: []*v1.Node{node("a")}, pod: newPod("p", requests("3", "1Gi")), says: "0/1 nodes are available: 1 Insufficient cpu. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{
			name: "resources of bound pods", nodes: []*v1.Node{node("a"), node("b")},
			bound: []*v1.Pod{newPod("x", requests("1500m", "1Gi"), on("a"))}, pod: newPod("p", requests("1", "1Gi")), fits: "b",
		},
		{name: "taints", nodes: []*v1.Node{node("a", tainted)}, pod: newPod("p"), says: "0/1 nodes are available: 1 node(s) had untolerated taint(s). preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."},
		{
			name: "toleration", nodes: []*v1.Node{node("a", tainted)}, fits: "a",
			pod: newPod("p", func(p *v1.Pod) {
				p.Spec.Tolerations = []v1.Toleration{{Key: "node-role.kubernetes.io/control-plane", Operator: v1.TolerationOpExists}}
			}),
		},
		{name: "cordoned", nodes: []*v1.Node{node("a", func(n *v1.Node) { n.Spec.Unschedulable = true }), node("b")}, pod: newPod("p"), fits: "b"},
		{
			name: "selector", nodes: []*v1.Node{node("a"), node("b", func(n *v1.Node) { n.Labels["disk"] = "ssd" })}, fits: "b",
			pod: newPod("p", func(p *v1.Pod) { p.Spec.NodeSelector = map[string]string{"disk": "ssd"} }),
		},
		{name: "ports", nodes: []*v1.Node{node("a"), node("b")}, bound: []*v1.Pod{newPod("x", port, on("a"))}, pod: newPod("p", port), fits: "b"},
		{
			name: "spread", nodes: []*v1.Node{node("a"), node("b")}, bound: []*v1.Pod{newPod("x", spreadOver, on("a"))}, pod: newPod("p", spreadOver), fits: "b",
		},
		{
			name: "spread among all", nodes: []*v1.Node{node("a"), node("b")}, bound: []*v1.Pod{newPod("x", on("a"))}, fits: "a b",
			pod: newPod("p", spreadOver, func(p *v1.Pod) { p.Spec.TopologySpreadConstraints[0].LabelSelector = &metav1.LabelSelector{} }),
		},
		{
			name: "declared features", fits: "b",
			nodes: []*v1.Node{node("a"), node("b", func(n *v1.Node) { n.Status.DeclaredFeatures = []string{"RestartAllContainersOnContainerExits"} })},
			pod:   newPod("p", restartsAll),
		},
		{
			name: "missing features", nodes: []*v1.Node{node("a")}, pod: newPod("p", restartsAll),
			says: "0/1 nodes are available: 1 node(s) didn't match Pod's required features. preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling.",
		},
		{
			name: "all reasons", nodes: []*v1.Node{node("a", tainted), node("b", tainted), node("c")}, pod: newPod("p", requests("1", "5Gi")),
			says: "0/3 nodes are available: 1 Insufficient memory, 2 node(s) had untolerated taint(s). preemption: 0/3 nodes are available: 3 Preemption is not helpful for scheduling.",
		},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			s := newScheduler(plugins.Default(nil))
			for _, n := range test.nodes {
				s.picture.SetNode(n)
			}
			for _, p := range test.bound {
				s.picture.SetPod(p)
			}
			profile := s.profiles[v1.DefaultSchedulerName]
			_, refusals, remedy := s.decide(profile, picture.NewPod(test.pod))
			var names []string
			for _, i := range s.feasible {
				names = append(names, s.picture.Nodes()[i].Name())
			}
			if got := strings.Join(names, " "); got != test.fits {
				t.Errorf("fits on %q, want %q", got, test.fits)
			}
			if refusals != nil && explain(refusals, remedy) != test.says {
				t.Errorf("says %q, want %q", explain(refusals, remedy), test.says)
			}
		})
	}
}

// restartsAll makes a pod ask for a feature that nodes have to declare.
func restartsAll(p *v1.Pod) {
	p.Spec.Containers[0].RestartPolicyRules = []v1.ContainerRestartRule{{Action: v1.ContainerRestartRuleActionRestartAllContainers}}
}

// fakeCluster is a fake clientset that carries out bindings.
func fakeCluster(objects ...runtime.Object) *fake.Clientset {
	client := fake.NewClientset(objects...)
	client.PrependReactor("create", "pods", func(action kubetesting.Action) (bool, runtime.Object, error) {
		create := action.(kubetesting.CreateAction)
		if create.GetSubresource() != "binding" {
			return false, nil, nil
		}
		binding := create.GetObject().(*v1.Binding)
		gvr := v1.SchemeGroupVersion.WithResource("pods")
		object, err := client.Tracker().Get(gvr, binding.Namespace, binding.Name)
		if err != nil {
			return true, nil, err
		}
		bound := object.(*v1.Pod).DeepCopy()
		bound.Spec.NodeName = binding.Target.Name
		return true, binding, client.Tracker().Update(gvr, bound, binding.Namespace)
	})
	return client
}

func runScheduler(t *testing.T, client *fake.Clientset) {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- Run(ctx, Config{Client: client, Logger: slog.New(slog.DiscardHandler)}) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); time.Now().Before(deadline); time.Sleep(5 * time.Millisecond) {
		if ok() {
			return
		}
	}
	t.Fatalf("waited in vain for %s", what)
}

func TestRunSpreadsPodsOfAController(t *testing.T) {
	owner := func(p *v1.Pod) {
		yes := true
		p.OwnerReferences = []metav1.OwnerReference{{Kind: "ReplicaSet", Name: "rs", UID: "rs", Controller: &yes}}
	}
	objects := []runtime.Object{node("a"), node("b"), node("c")}
	for i := range 6 {
		objects = append(objects, newPod(fmt.Sprint("p", i), owner, requests("10m", "16Mi")))
	}
	client := fakeCluster(objects...)
	runScheduler(t, client)
	count := map[string]int{}
	eventually(t, "all bound", func() bool {
		list, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		clear(count)
		for _, p := range list.Items {
			count[p.Spec.NodeName]++
		}
		return count[""] == 0
	})
	if count["a"] != 2 || count["b"] != 2 || count["c"] != 2 {
		t.Errorf("pods by node: %v, want two on each", count)
	}
}

func TestRunTriesAgainWhenANodeComes(t *testing.T) {
	client := fakeCluster(newPod("p"))
	runScheduler(t, client)
	get := func() *v1.Pod {
		p, err := client.CoreV1().Pods("default").Get(t.Context(), "p", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	eventually(t, "condition says why", func() bool {
		p := get()
		return len(p.Status.Conditions) == 1 && p.Status.Conditions[0].Reason == v1.PodReasonUnschedulable &&
			p.Status.Conditions[0].Message == "no nodes available to schedule pods"
	})
	if _, err := client.CoreV1().Nodes().Create(t.Context(), node("a"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bound", func() bool { return get().Spec.NodeName == "a" })
}

// A pod that is refused for what another is called is tried again when that one is
// called something else.
func TestRunTriesAgainWhenLabelsChange(t *testing.T) {
	there := newPod("there", func(p *v1.Pod) { p.Spec.NodeName, p.Labels = "a", map[string]string{"app": "loud"} })
	client := fakeCluster(node("a"), there, newPod("p", func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{{
			TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "loud"}},
		}}}}
	}))
	runScheduler(t, client)
	eventually(t, "refused", func() bool { return len(podOf(t, client, "p").Status.Conditions) == 1 })
	quiet := podOf(t, client, "there").DeepCopy()
	quiet.Labels["app"] = "quiet"
	if _, err := client.CoreV1().Pods("default").Update(t.Context(), quiet, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "bound", func() bool { return podOf(t, client, "p").Spec.NodeName == "a" })
}

// TestPictureAdds checks that whatever order events come in, a node's sums are
// those of its pods.
func TestPictureAdds(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		cluster := picture.New()
		bound := map[string]*v1.Pod{}
		present := map[string]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			name := rapid.SampledFrom([]string{"a", "b", "c"}).Draw(t, "node")
			id := fmt.Sprint("p", rapid.IntRange(0, 9).Draw(t, "pod"))
			switch rapid.IntRange(0, 4).Draw(t, "event") {
			case 0:
				cluster.SetNode(node(name))
				present[name] = true
			case 1:
				cluster.RemoveNode(name)
				present[name] = false
			case 2:
				cluster.RemovePod(types.UID(id))
				delete(bound, id)
			default:
				p := newPod(id, requests(fmt.Sprint(rapid.IntRange(1, 9).Draw(t, "cpu")*100, "m"), "1Mi"), func(p *v1.Pod) { p.Spec.NodeName = name })
				cluster.SetPod(p)
				bound[id] = p
			}
		}
		for name, there := range present {
			n := cluster.Node(name)
			if (n != nil) != there {
				t.Fatalf("node %s: in the picture %t, want %t", name, n != nil, there)
			}
			if n == nil {
				continue
			}
			var cpu, pods int64
			for _, p := range bound {
				if p.Spec.NodeName == name {
					cpu += p.Spec.Containers[0].Resources.Requests.Cpu().MilliValue()
					pods++
				}
			}
			if n.Requested.MilliCPU != cpu || n.Requested.Pods != pods {
				t.Fatalf("node %s: %d m of %d pods, want %d m of %d", name, n.Requested.MilliCPU, n.Requested.Pods, cpu, pods)
			}
		}
	})
}

func TestRunPreempts(t *testing.T) {
	low := newPod("low", requests("2", "1Gi"), func(p *v1.Pod) { p.Spec.NodeName, p.Spec.Priority = "a", new(int32(1)) })
	high := newPod("high", requests("2", "1Gi"), func(p *v1.Pod) { p.Spec.Priority = new(int32(5)) })
	never := v1.PreemptNever
	polite := newPod("polite", requests("2", "1Gi"), func(p *v1.Pod) {
		p.Spec.Priority, p.Spec.PreemptionPolicy = new(int32(3)), &never
	})
	client := fakeCluster(node("a"), low, high, polite)
	var told atomic.Bool
	client.PrependReactor("patch", "pods", func(action kubetesting.Action) (bool, runtime.Object, error) {
		patch := action.(kubetesting.PatchAction)
		if patch.GetName() == "low" && strings.Contains(string(patch.GetPatch()), `"PreemptionByScheduler"`) {
			told.Store(true)
		}
		return false, nil, nil
	})
	runScheduler(t, client)
	var last *v1.Pod
	eventually(t, "a victim makes room", func() bool {
		p, err := client.CoreV1().Pods("default").Get(t.Context(), "high", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		last = p
		return p.Spec.NodeName == "a"
	})
	if last.Status.NominatedNodeName != "a" {
		t.Errorf("nominated to %q, want a", last.Status.NominatedNodeName)
	}
	if !told.Load() {
		t.Error("the victim was not told why it goes")
	}
	p, err := client.CoreV1().Pods("default").Get(t.Context(), "polite", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	want := "0/1 nodes are available: 1 Insufficient cpu. preemption: not eligible due to preemptionPolicy=Never."
	if len(p.Status.Conditions) != 1 || p.Status.Conditions[0].Message != want {
		t.Errorf("conditions of the polite pod: %v, want %q", p.Status.Conditions, want)
	}
}

func TestRoomIsKeptForNominatedPods(t *testing.T) {
	s := newScheduler(plugins.Default(nil))
	profile := s.profiles[v1.DefaultSchedulerName]
	s.picture.SetNode(node("a"))
	expected := newPod("expected", requests("2", "1Gi"), func(p *v1.Pod) { p.Spec.Priority = new(int32(5)) })
	s.picture.Nominate(picture.NewPod(expected), "a")
	for priority, want := range map[int32]string{4: "", 5: "", 6: "a"} {
		pod := newPod("p", requests("1", "1Gi"), func(p *v1.Pod) { p.Spec.Priority = &priority })
		got := ""
		if n, _, _ := s.decide(profile, picture.NewPod(pod)); n != nil {
			got = n.Name()
		}
		if got != want {
			t.Errorf("a pod of priority %d runs on %q, want %q", priority, got, want)
		}
	}
	if n, _, _ := s.decide(profile, picture.NewPod(expected)); n == nil || n.Name() != "a" {
		t.Error("the nominated pod does not get the room kept for it")
	}
}

func TestAffinityChoosesNamespaces(t *testing.T) {
	near := func(term v1.PodAffinityTerm) func(*v1.Pod) {
		return func(p *v1.Pod) {
			term.TopologyKey = v1.LabelHostname
			term.LabelSelector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}}
			p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []v1.PodAffinityTerm{term}}}
		}
	}
	byLabel := &metav1.LabelSelector{MatchLabels: map[string]string{"team": "x"}}
	for _, test := range []struct {
		name string
		term v1.PodAffinityTerm
		want string
	}{
		{"own namespace", v1.PodAffinityTerm{}, ""},
		{"by name", v1.PodAffinityTerm{Namespaces: []string{"other"}}, "b"},
		{"by label", v1.PodAffinityTerm{NamespaceSelector: byLabel}, "b"},
		{"by other label", v1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"team": "y"}}}, ""},
		{"all", v1.PodAffinityTerm{NamespaceSelector: &metav1.LabelSelector{}}, "b"},
	} {
		s := newScheduler(plugins.Default(nil))
		s.picture.SetNode(node("a"))
		s.picture.SetNode(node("b"))
		pod := newPod("p", near(test.term))
		profile := s.profiles[v1.DefaultSchedulerName]
		s.decide(profile, picture.NewPod(pod)) // what is remembered of this is outdated next
		s.picture.SetNamespace("other", map[string]string{"team": "x"})
		s.picture.SetPod(newPod("db", func(p *v1.Pod) {
			p.Namespace, p.Labels, p.Spec.NodeName = "other", map[string]string{"app": "db"}, "b"
		}))
		got := ""
		if n, _, _ := s.decide(profile, picture.NewPod(pod)); n != nil {
			got = n.Name()
		}
		if got != test.want {
			t.Errorf("%s: on %q, want %q", test.name, got, test.want)
		}
	}
}

func TestPreferencesPull(t *testing.T) {
	app := func(p *v1.Pod) { p.Labels = map[string]string{"app": "x"} }
	term := v1.WeightedPodAffinityTerm{Weight: 50, PodAffinityTerm: v1.PodAffinityTerm{
		TopologyKey: v1.LabelHostname, LabelSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}},
	}}
	towards := func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAffinity: &v1.PodAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{term}}}
	}
	away := func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{PodAntiAffinity: &v1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []v1.WeightedPodAffinityTerm{term}}}
	}
	onB := func(p *v1.Pod) { p.Spec.NodeName = "b" }
	for _, test := range []struct {
		name       string
		bound, pod *v1.Pod
		want       string
	}{
		{"towards one in the cluster", newPod("x", app, onB), newPod("p", towards), "b"},
		{"away from one in the cluster", newPod("x", app, onB), newPod("p", away), "a"},
		{"one in the cluster pulls", newPod("x", towards, onB), newPod("p", app), "b"},
		{"one in the cluster pushes", newPod("x", away, onB), newPod("p", app), "a"},
	} {
		s := newScheduler(plugins.Default(nil))
		s.picture.SetNode(node("a"))
		s.picture.SetNode(node("b"))
		s.picture.SetPod(test.bound)
		if n, _, _ := s.decide(s.profiles[v1.DefaultSchedulerName], picture.NewPod(test.pod)); n == nil || n.Name() != test.want {
			t.Errorf("%s: not on %s", test.name, test.want)
		}
	}
}

func TestRunRefusesBadProfiles(t *testing.T) {
	err := Run(t.Context(), Config{Client: fakeCluster(), Logger: slog.New(slog.DiscardHandler), Profiles: []hostconfig.SchedulerProfile{{}}})
	if err == nil || !strings.Contains(err.Error(), "has no name") {
		t.Errorf("error %v, want one about the profile's name", err)
	}
}

func TestImagesOfVolumesPull(t *testing.T) {
	s := newScheduler(plugins.Default(nil))
	s.picture.SetNode(node("a"))
	s.picture.SetNode(node("b", func(n *v1.Node) {
		n.Status.Images = []v1.ContainerImage{{Names: []string{"example.com/model:1"}, SizeBytes: 3 << 30}}
	}))
	pod := newPod("p", func(p *v1.Pod) {
		p.Spec.Volumes = []v1.Volume{{Name: "v", VolumeSource: v1.VolumeSource{Image: &v1.ImageVolumeSource{Reference: "example.com/model:1"}}}}
	})
	for range 20 {
		if n, _, _ := s.decide(s.profiles[v1.DefaultSchedulerName], picture.NewPod(pod)); n == nil || n.Name() != "b" {
			t.Fatal("the node that has the volume's image is not preferred")
		}
	}
}

func TestPinnedPod(t *testing.T) {
	s := newScheduler(plugins.Default(nil))
	for _, name := range []string{"a", "b", "c"} {
		s.picture.SetNode(node(name))
	}
	pinned := newPod("p", requests("1500m", "1Gi"), func(p *v1.Pod) {
		p.Spec.Affinity = &v1.Affinity{NodeAffinity: &v1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &v1.NodeSelector{
			NodeSelectorTerms: []v1.NodeSelectorTerm{{MatchFields: []v1.NodeSelectorRequirement{{
				Key: metav1.ObjectNameField, Operator: v1.NodeSelectorOpIn, Values: []string{"b"},
			}}}},
		}}}
	})
	profile := s.profiles[v1.DefaultSchedulerName]
	n, _, _ := s.decide(profile, picture.NewPod(pinned))
	if n == nil || n.Name() != "b" {
		t.Fatal("not on the node that it names")
	}
	s.picture.SetPod(newPod("x", requests("1", "1Gi"), func(p *v1.Pod) { p.Spec.NodeName = "b" }))
	n, refusals, _ := s.decide(profile, picture.NewPod(pinned))
	if n != nil {
		t.Fatalf("on %s, want nowhere: its node is full", n.Name())
	}
	want := "0/3 nodes are available: 1 Insufficient cpu, 2 node(s) didn't match Pod's node affinity/selector."
	if got := framework.Explain(refusals.ByNode); got != want {
		t.Errorf("says %q, want %q", got, want)
	}
}
