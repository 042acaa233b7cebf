package daemonset

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
)

func testSet() *appsv1.DaemonSet {
	labels := map[string]string{"app": "agent"}
	return &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "agent", Namespace: "ns", UID: "set", Generation: 1},
		Spec: appsv1.DaemonSetSpec{
			RevisionHistoryLimit: ptr.To[int32](10),
			UpdateStrategy: appsv1.DaemonSetUpdateStrategy{
				Type: appsv1.RollingUpdateDaemonSetStrategyType,
				RollingUpdate: &appsv1.RollingUpdateDaemonSet{
					MaxUnavailable: ptr.To(intstr.FromInt32(1)), MaxSurge: ptr.To(intstr.FromInt32(0))},
			},
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{
				ObjectMeta: metav1.ObjectMeta{Labels: labels},
				Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "agent", Image: "agent:1"}}},
			},
		},
	}
}

func testNode(name string, taints ...corev1.Taint) *corev1.Node {
	return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"disk": "ssd"}}, Spec: corev1.NodeSpec{Taints: taints}}
}

func readyStatus() corev1.PodStatus {
	return corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}
}

func TestPlacement(t *testing.T) {
	taint := func(effect corev1.TaintEffect) corev1.Taint { return corev1.Taint{Key: "own", Effect: effect} }
	for name, test := range map[string]struct {
		node      *corev1.Node
		change    func(*corev1.PodSpec)
		run, stay bool
	}{
		"plain":               {testNode("a"), nil, true, true},
		"cordoned":            {testNode("a", corev1.Taint{Key: corev1.TaintNodeUnschedulable, Effect: corev1.TaintEffectNoSchedule}), nil, true, true},
		"unreachable":         {testNode("a", corev1.Taint{Key: corev1.TaintNodeUnreachable, Effect: corev1.TaintEffectNoExecute}), nil, true, true},
		"reserved":            {testNode("a", taint(corev1.TaintEffectNoSchedule)), nil, false, true},
		"evicting":            {testNode("a", taint(corev1.TaintEffectNoExecute)), nil, false, false},
		"preferably not":      {testNode("a", taint(corev1.TaintEffectPreferNoSchedule)), nil, true, true},
		"tolerated":           {testNode("a", taint(corev1.TaintEffectNoExecute)), func(s *corev1.PodSpec) { s.Tolerations = []corev1.Toleration{{Operator: corev1.TolerationOpExists}} }, true, true},
		"selected":            {testNode("a"), func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "ssd"} }, true, true},
		"not selected":        {testNode("a"), func(s *corev1.PodSpec) { s.NodeSelector = map[string]string{"disk": "hdd"} }, false, false},
		"another is named":    {testNode("a"), func(s *corev1.PodSpec) { s.NodeName = "b" }, false, false},
		"without network":     {testNode("a", corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}), nil, false, true},
		"host network, ditto": {testNode("a", corev1.Taint{Key: corev1.TaintNodeNetworkUnavailable, Effect: corev1.TaintEffectNoSchedule}), func(s *corev1.PodSpec) { s.HostNetwork = true }, true, true},
	} {
		t.Run(name, func(t *testing.T) {
			ds := testSet()
			if test.change != nil {
				test.change(&ds.Spec.Template.Spec)
			}
			if run, stay := newPlacement(ds).on(test.node); run != test.run || stay != test.stay {
				t.Errorf("run %v, stay %v", run, stay)
			}
			if pod := newPod(ds, "a", "x"); pod.Spec.NodeName == "" && target(pod) != "a" {
				t.Errorf("the pod is made for %q", target(pod))
			}
		})
	}
}

// world plays scheduler and nodes for the pure decisions.
type world struct {
	v    view
	made int
}

func (w *world) add(node string, status corev1.PodStatus) {
	w.made++
	pod := newPod(w.v.ds, node, w.v.hash)
	pod.Name = fmt.Sprint("pod-", w.made)
	pod.UID = types.UID(pod.Name)
	pod.Spec.NodeName = node
	pod.Status = status
	w.v.byNode[node] = append(w.v.byNode[node], pod)
}

// The limits of a rolling update hold at every instant, whenever pods become
// ready, and it ends with one new pod on every node.
func TestRollingUpdateKeepsItsLimits(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		n := rapid.IntRange(1, 8).Draw(t, "nodes")
		limit := rapid.IntRange(1, 4).Draw(t, "limit")
		surging := rapid.Bool().Draw(t, "surge")
		ds := testSet()
		rolling := ds.Spec.UpdateStrategy.RollingUpdate
		if surging {
			rolling.MaxSurge, rolling.MaxUnavailable = ptr.To(intstr.FromInt32(int32(limit))), ptr.To(intstr.FromInt32(0))
		} else {
			rolling.MaxUnavailable = ptr.To(intstr.FromInt32(int32(limit)))
		}
		w := &world{v: view{ds: ds, hash: "old", byNode: map[string][]*corev1.Pod{}, now: time.Now(), backoff: func(string) bool { return false }}}
		for i := range n {
			node := testNode(fmt.Sprint("node-", i))
			w.v.nodes = append(w.v.nodes, node)
			w.add(node.Name, readyStatus())
		}
		w.v.hash = "new"
		for round := range 150 {
			d := w.v.decide()
			for _, node := range d.create {
				w.add(node, corev1.PodStatus{Phase: corev1.PodPending})
			}
			for node, pods := range w.v.byNode {
				for i, pod := range pods {
					if slices.Contains(d.remove, pod) {
						pods[i] = pod.DeepCopy()
						pods[i].DeletionTimestamp = &metav1.Time{Time: w.v.now}
					}
				}
				w.v.byNode[node] = pods
			}
			away, surplus := 0, 0
			for _, node := range w.v.nodes {
				available, alive := 0, 0
				for _, pod := range w.v.byNode[node.Name] {
					if pod.DeletionTimestamp == nil {
						alive++
					}
					if w.v.available(&decision{}, pod) {
						available++
					}
				}
				if available == 0 {
					away++
				}
				if alive > 1 {
					surplus++
				}
			}
			if surging && (away > 0 || surplus > limit) || !surging && (away > limit || surplus > 0) {
				t.Fatalf("%d away, %d too many; surging %v, limit %d", away, surplus, surging, limit)
			}
			for _, node := range w.v.nodes {
				var left []*corev1.Pod
				for _, pod := range w.v.byNode[node.Name] {
					move := round > 75 || rapid.Bool().Draw(t, "moves")
					if move && pod.DeletionTimestamp != nil {
						continue
					}
					if move {
						pod = pod.DeepCopy()
						pod.Status = readyStatus()
					}
					left = append(left, pod)
				}
				w.v.byNode[node.Name] = left
			}
		}
		for _, node := range w.v.nodes {
			if pods := w.v.byNode[node.Name]; len(pods) != 1 || !w.v.current(pods[0]) {
				t.Fatalf("%d pods are on %s", len(pods), node.Name)
			}
		}
	})
}

func TestEndedPodsAreReplaced(t *testing.T) {
	for name, test := range map[string]struct {
		phase corev1.PodPhase
		held  bool
		want  int
	}{"failed": {corev1.PodFailed, false, 1}, "failed again": {corev1.PodFailed, true, 0}, "succeeded": {corev1.PodSucceeded, true, 1}} {
		t.Run(name, func(t *testing.T) {
			w := &world{v: view{ds: testSet(), hash: "new", nodes: []*corev1.Node{testNode("a")}, byNode: map[string][]*corev1.Pod{},
				backoff: func(string) bool { return test.held }}}
			w.add("a", corev1.PodStatus{Phase: test.phase})
			if d := w.v.decide(); len(d.remove) != test.want || len(d.create) != 0 {
				t.Errorf("decided %+v", d)
			}
		})
	}
}

func TestFollowsNodes(t *testing.T) {
	f := controllertest.New(t, testSet(), testNode("a"), testNode("b", corev1.Taint{Key: "own", Effect: corev1.TaintEffectNoSchedule}))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	on := func(want ...string) func() bool {
		return func() bool {
			pods, err := f.Client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var nodes []string
			for i := range pods.Items {
				nodes = append(nodes, target(&pods.Items[i]))
			}
			slices.Sort(nodes)
			ds, err := f.Client.AppsV1().DaemonSets("ns").Get(ctx, "agent", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return slices.Equal(nodes, want) && ds.Status.DesiredNumberScheduled == int32(len(want)) && ds.Status.UpdatedNumberScheduled == int32(len(want))
		}
	}
	controllertest.Eventually(t, "a pod on a", on("a"))
	if _, err := f.Client.CoreV1().Nodes().Create(ctx, testNode("c"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "a pod on c", on("a", "c"))
	if err := f.Client.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the pod of a to go", on("c"))
}
