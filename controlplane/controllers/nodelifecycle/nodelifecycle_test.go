package nodelifecycle

import (
	"context"
	"fmt"
	"slices"
	"testing"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
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
	if silent(0, node("new", ""), nil) || silent(55, node("new", ""), nil) || !silent(61, node("new", ""), nil) {
		t.Error("a node that has never reported does not get its start-up grace, or gets more")
	}
}

func TestPace(t *testing.T) {
	for _, test := range []struct {
		ready, notReady int
		want            time.Duration
	}{
		{9, 1, normalPace}, {1, 2, normalPace}, {1, 3, 0}, {5, 5, normalPace}, {30, 70, slowPace}, {20, 30, 0},
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
