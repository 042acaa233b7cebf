package nodelifecycle

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/reconcile"
)

func node(name string, ready corev1.ConditionStatus, taints ...string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if ready != "" {
		n.Status.Conditions = []corev1.NodeCondition{{Type: corev1.NodeReady, Status: ready}}
	}
	for _, t := range taints {
		key, effect := cut(t)
		n.Spec.Taints = append(n.Spec.Taints, corev1.Taint{Key: key, Effect: corev1.TaintEffect(effect)})
	}
	return n
}

func cut(taint string) (key, effect string) {
	i := slices.Index([]byte(taint), ':')
	return taint[:i], taint[i+1:]
}

func TestWantedTaints(t *testing.T) {
	const (
		notReady    = corev1.TaintNodeNotReady
		unreachable = corev1.TaintNodeUnreachable
	)
	cordoned := node("n", corev1.ConditionTrue)
	cordoned.Spec.Unschedulable = true
	pressed := node("n", corev1.ConditionTrue)
	pressed.Status.Conditions = append(pressed.Status.Conditions, corev1.NodeCondition{Type: corev1.NodeMemoryPressure, Status: corev1.ConditionTrue})
	for name, test := range map[string]struct {
		node  *corev1.Node
		evict bool
		want  []string
	}{
		"ready":                      {node("n", corev1.ConditionTrue), false, nil},
		"ready even if evict":        {node("n", corev1.ConditionTrue), true, nil},
		"not ready":                  {node("n", corev1.ConditionFalse), false, []string{notReady + ":NoSchedule"}},
		"not ready, evict":           {node("n", corev1.ConditionFalse), true, []string{notReady + ":NoSchedule", notReady + ":NoExecute"}},
		"unknown":                    {node("n", corev1.ConditionUnknown), false, []string{unreachable + ":NoSchedule"}},
		"recovered":                  {node("n", corev1.ConditionTrue, unreachable+":NoSchedule", unreachable+":NoExecute"), false, nil},
		"from unknown to false":      {node("n", corev1.ConditionFalse, unreachable+":NoSchedule", unreachable+":NoExecute"), true, []string{notReady + ":NoSchedule", notReady + ":NoExecute"}},
		"eviction under way is kept": {node("n", corev1.ConditionUnknown, unreachable+":NoExecute"), false, []string{unreachable + ":NoExecute", unreachable + ":NoSchedule"}},
		"others' taints are kept":    {node("n", corev1.ConditionTrue, "mine:NoExecute", "dedicated:NoSchedule"), false, []string{"mine:NoExecute", "dedicated:NoSchedule"}},
		"cordoned":                   {cordoned, false, []string{corev1.TaintNodeUnschedulable + ":NoSchedule"}},
		"uncordoned":                 {node("n", corev1.ConditionTrue, corev1.TaintNodeUnschedulable+":NoSchedule"), false, nil},
		"pressure":                   {pressed, false, []string{corev1.TaintNodeMemoryPressure + ":NoSchedule"}},
		"never reported":             {node("n", "", notReady+":NoSchedule"), false, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			for _, taint := range wantedTaints(test.node, &test.node.Status, test.evict, metav1.Now()) {
				got = append(got, fmt.Sprintf("%s:%s", taint.Key, taint.Effect))
			}
			if !slices.Equal(got, test.want) {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestPulse(t *testing.T) {
	start := time.Unix(1e9, 0)
	at := func(s int) time.Time { return start.Add(time.Duration(s) * time.Second) }
	lease := func(s int) *coordinationv1.Lease {
		renewed := metav1.NewMicroTime(at(s))
		return &coordinationv1.Lease{Spec: coordinationv1.LeaseSpec{RenewTime: &renewed}}
	}
	ready := node("n", corev1.ConditionTrue)
	var p pulse
	silent := func(s int, n *corev1.Node, l *coordinationv1.Lease) bool {
		p.observe(n, l, at(s))
		_, silent := p.judge(n, at(s))
		return silent
	}
	if silent(0, ready, lease(-3600)) {
		t.Error("silent at first sight, whatever its clock says")
	}
	if silent(49, ready, lease(-3600)) {
		t.Error("silent before the grace period is over")
	}
	if silent(60, ready, lease(-3590)) {
		t.Error("silent right after a renewal")
	}
	if !silent(111, ready, lease(-3590)) {
		t.Error("not silent after the grace period")
	}
	status, _ := p.judge(ready, at(111))
	for _, kind := range watched {
		if c := nodeCondition(&status, kind); c == nil || c.Status != corev1.ConditionUnknown {
			t.Errorf("%s is %+v", kind, c)
		}
	}
	if !changed(ready, &status) || readiness(&ready.Status) != corev1.ConditionTrue {
		t.Error("judge changed the node itself, or nothing")
	}
	gone := ready.DeepCopy()
	gone.Status = status
	if again, _ := p.judge(gone, at(120)); changed(gone, &again) {
		t.Error("a silent node is written again and again")
	}
	p = pulse{}
	fresh := node("new", "")
	fresh.CreationTimestamp = metav1.NewTime(start)
	if silent(5, fresh, nil) || silent(60, fresh, nil) || !silent(61, fresh, nil) {
		t.Error("a node that has never reported does not get its start-up grace, or gets more")
	}
}

func TestPace(t *testing.T) {
	for _, test := range []struct {
		ready, notReady int
		want            time.Duration
	}{
		{9, 1, normalPace}, {1, 2, normalPace}, {1, 3, 0}, {5, 5, normalPace}, {30, 70, slowPace}, {20, 30, 0}, {0, 3, normalPace}, {0, 70, normalPace},
	} {
		if got := pace(test.ready, test.notReady); got != test.want {
			t.Errorf("%d ready, %d not: got %s, want %s", test.ready, test.notReady, got, test.want)
		}
	}
	var p pacer
	now := time.Unix(1e9, 0)
	if !p.allow("a", normalPace, now) || p.allow("a", normalPace, now.Add(time.Second)) || !p.allow("b", normalPace, now) ||
		!p.allow("a", normalPace, now.Add(normalPace)) || p.allow("c", 0, now) {
		t.Error("the pacer does not keep its pace")
	}
}

// world is a controller whose clock the test turns.
type world struct {
	*controllertest.Fixture
	*controller
	t   *testing.T
	now time.Time
}

func newWorld(t *testing.T, objects ...runtime.Object) *world {
	f := controllertest.New(t, objects...)
	w := &world{Fixture: f, controller: newController(f.Env), t: t, now: time.Unix(1e9, 0)}
	w.controller.now = func() time.Time { return w.now }
	f.Start(t)
	return w
}

// pass lets time pass, in steps of the period, with a beat of the nodes named.
func (w *world) pass(d time.Duration, alive ...string) {
	w.t.Helper()
	for end := w.now.Add(d); w.now.Before(end); w.now = w.now.Add(period) {
		for _, name := range alive {
			n := w.get(name)
			n.Status.Conditions[0].LastHeartbeatTime = metav1.NewTime(w.now)
			if _, err := w.Client.CoreV1().Nodes().UpdateStatus(context.Background(), n, metav1.UpdateOptions{}); err != nil {
				w.t.Fatal(err)
			}
		}
		controllertest.Eventually(w.t, "the cache", func() bool {
			nodes, err := w.Client.CoreV1().Nodes().List(context.Background(), metav1.ListOptions{})
			if err != nil {
				w.t.Fatal(err)
			}
			for _, n := range nodes.Items {
				if cached, err := w.nodes.Get(n.Name); err != nil || cached.ResourceVersion != n.ResourceVersion {
					return false
				}
			}
			return true
		})
		if err := w.monitor(context.Background()); err != nil {
			w.t.Fatal(err)
		}
	}
}

func (w *world) get(name string) *corev1.Node {
	n, err := w.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	return n
}

func TestSilentNode(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: "dies"},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	w := newWorld(t, node("lives", corev1.ConditionTrue), node("dies", corev1.ConditionTrue), pod)
	w.pass(30*time.Second, "lives")
	if len(w.get("dies").Spec.Taints) != 0 {
		t.Fatal("tainted too early")
	}
	w.pass(40*time.Second, "lives")
	dead := w.get("dies")
	if readiness(&dead.Status) != corev1.ConditionUnknown || !marked(dead, corev1.ConditionUnknown) {
		t.Errorf("silent node has %+v, %+v", dead.Status.Conditions, dead.Spec.Taints)
	}
	if alive := w.get("lives"); readiness(&alive.Status) != corev1.ConditionTrue || len(alive.Spec.Taints) != 0 {
		t.Errorf("live node has %+v, %+v", alive.Status.Conditions, alive.Spec.Taints)
	}
	got, err := w.Client.CoreV1().Pods("ns").Get(context.Background(), "p", metav1.GetOptions{})
	if err != nil || reconcile.PodReady(got) {
		t.Errorf("the dead node's pod is still ready (%v)", err)
	}
	// It comes back.
	dead.Status.Conditions[0].Status = corev1.ConditionTrue
	if _, err := w.Client.CoreV1().Nodes().UpdateStatus(context.Background(), dead, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the cache", func() bool {
		n, err := w.nodes.Get("dies")
		return err == nil && readiness(&n.Status) == corev1.ConditionTrue
	})
	if err := w.follow(context.Background(), "dies"); err != nil {
		t.Fatal(err)
	}
	if taints := w.get("dies").Spec.Taints; len(taints) != 0 {
		t.Errorf("a node that came back keeps %v", taints)
	}
}

func TestNoEvictionWhereNobodyIsReady(t *testing.T) {
	w := newWorld(t, node("a", corev1.ConditionTrue), node("b", corev1.ConditionTrue))
	w.pass(2 * time.Minute)
	for _, name := range []string{"a", "b"} {
		n := w.get(name)
		if readiness(&n.Status) != corev1.ConditionUnknown || marked(n, corev1.ConditionUnknown) {
			t.Errorf("%s: %+v, %+v", name, n.Status.Conditions, n.Spec.Taints)
		}
	}
}

// events are the messages recorded for what is called name.
func (w *world) events(name string) (messages []string) {
	w.t.Helper()
	list, err := w.Client.CoreV1().Events("").List(context.Background(), metav1.ListOptions{})
	if err != nil {
		w.t.Fatal(err)
	}
	for _, e := range list.Items {
		if e.InvolvedObject.Name == name {
			messages = append(messages, e.Reason+": "+e.Message)
		}
	}
	return messages
}

func TestEvictionEndsWhenTheLastNodeFails(t *testing.T) {
	w := newWorld(t, node("first", corev1.ConditionTrue), node("last", corev1.ConditionTrue))
	w.pass(2*time.Minute, "last")
	if !marked(w.get("first"), corev1.ConditionUnknown) {
		t.Fatal("the first node to fail is not emptied")
	}
	w.pass(2 * time.Minute)
	for _, name := range []string{"first", "last"} {
		if marked(w.get(name), corev1.ConditionUnknown) {
			t.Errorf("%s is emptied", name)
		}
	}
	back := w.get("last")
	back.Status.Conditions[0].Status = corev1.ConditionTrue
	if _, err := w.Client.CoreV1().Nodes().UpdateStatus(context.Background(), back, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.pass(30*time.Second, "last")
	if !marked(w.get("first"), corev1.ConditionUnknown) {
		t.Error("the first node is not emptied once the last is back")
	}
}

// A zone without a ready node is emptied as long as there is another; a node
// that does not count does not hold that up, and one that never reported takes
// no other's turn.
func TestLostZone(t *testing.T) {
	zoned := func(n *corev1.Node, zone string, labels ...string) *corev1.Node {
		n.Labels = map[string]string{corev1.LabelTopologyZone: zone}
		for _, l := range labels {
			n.Labels[l] = ""
		}
		return n
	}
	w := newWorld(t, node("far", corev1.ConditionTrue),
		zoned(node("a", corev1.ConditionTrue), "z"), zoned(node("b", corev1.ConditionTrue), "z"), zoned(node("c", corev1.ConditionTrue), "z"),
		zoned(node("apart", corev1.ConditionTrue), "z", labelExcluded), zoned(node("blank", ""), "z"))
	beat := w.get("blank")
	beat.CreationTimestamp = metav1.NewTime(w.now.Add(time.Hour))
	if _, err := w.Client.CoreV1().Nodes().Update(context.Background(), beat, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	w.pass(2*time.Minute, "far", "apart")
	for _, name := range []string{"a", "b", "c"} {
		if !marked(w.get(name), corev1.ConditionUnknown) {
			t.Errorf("%s is not emptied", name)
		}
	}
	if n := w.get("apart"); len(n.Spec.Taints) != 0 {
		t.Errorf("the live node of the zone has %v", n.Spec.Taints)
	}
}

func TestFollowsLabelsAndNodes(t *testing.T) {
	n := node("n", corev1.ConditionTrue)
	n.Labels = map[string]string{corev1.LabelOSStable: "linux", corev1.LabelArchStable: "arm64", "beta.kubernetes.io/arch": "amd64"}
	w := newWorld(t, n)
	if err := w.follow(context.Background(), "n"); err != nil {
		t.Fatal(err)
	}
	if got := w.get("n").Labels; got["beta.kubernetes.io/os"] != "linux" || got["beta.kubernetes.io/arch"] != "arm64" {
		t.Errorf("labels are %v", got)
	}
	w.pass(period, "n")
	if err := w.Client.CoreV1().Nodes().Delete(context.Background(), "n", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the cache", func() bool {
		_, err := w.nodes.Get("n")
		return apierrors.IsNotFound(err)
	})
	w.pass(period)
	want := []string{"RegisteredNode: Node n event: Registered Node n in Controller", "RemovingNode: Node n event: Removing Node n from Controller"}
	controllertest.Eventually(t, "events", func() bool {
		got := w.events("n")
		slices.Sort(got)
		return slices.Equal(got, want)
	})
}

// What a node says itself is no reason to take its pods out of service.
func TestPodsOfNodesThatReport(t *testing.T) {
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: "n"},
		Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}}}
	w := newWorld(t, node("n", corev1.ConditionFalse), pod)
	if err := w.follow(context.Background(), "n"); err != nil {
		t.Fatal(err)
	}
	got, err := w.Client.CoreV1().Pods("ns").Get(context.Background(), "p", metav1.GetOptions{})
	if err != nil || !reconcile.PodReady(got) {
		t.Errorf("the pod is not ready any more (%v)", err)
	}
}
