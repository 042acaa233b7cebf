package tainteviction

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func taint(key string, added time.Time) corev1.Taint {
	at := metav1.NewTime(added)
	return corev1.Taint{Key: key, Effect: corev1.TaintEffectNoExecute, TimeAdded: &at}
}

func tolerate(key string, seconds int64) corev1.Toleration {
	t := corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute}
	if seconds >= 0 {
		t.TolerationSeconds = &seconds
	}
	return t
}

func TestDeadline(t *testing.T) {
	now := time.Unix(1e9, 0)
	added := now.Add(-time.Minute)
	a, b := taint("a", added), taint("b", added.Add(30*time.Second))
	for name, test := range map[string]struct {
		taints      []corev1.Taint
		tolerations []corev1.Toleration
		at          time.Time
		evict       bool
	}{
		"no taint":              {nil, nil, time.Time{}, false},
		"not tolerated":         {[]corev1.Taint{a}, nil, now, true},
		"for ever":              {[]corev1.Taint{a}, []corev1.Toleration{tolerate("a", -1)}, time.Time{}, false},
		"everything":            {[]corev1.Taint{a, b}, []corev1.Toleration{{Operator: corev1.TolerationOpExists}}, time.Time{}, false},
		"for a while":           {[]corev1.Taint{a}, []corev1.Toleration{tolerate("a", 300)}, added.Add(5 * time.Minute), true},
		"not at all":            {[]corev1.Taint{a}, []corev1.Toleration{tolerate("a", 0)}, now, true},
		"the shorter":           {[]corev1.Taint{a, b}, []corev1.Toleration{tolerate("a", 300), tolerate("b", 20)}, added.Add(50 * time.Second), true},
		"one of two for ever":   {[]corev1.Taint{a, b}, []corev1.Toleration{tolerate("a", -1), tolerate("b", 60)}, added.Add(90 * time.Second), true},
		"one of two not":        {[]corev1.Taint{a, b}, []corev1.Toleration{tolerate("a", -1)}, now, true},
		"first match counts":    {[]corev1.Taint{a}, []corev1.Toleration{tolerate("a", 10), tolerate("a", 300)}, added.Add(10 * time.Second), true},
		"another value":         {[]corev1.Taint{a}, []corev1.Toleration{{Key: "a", Value: "x"}}, now, true},
		"another effect":        {[]corev1.Taint{a}, []corev1.Toleration{{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoSchedule}}, now, true},
		"time of taint unknown": {[]corev1.Taint{{Key: "a", Effect: corev1.TaintEffectNoExecute}}, []corev1.Toleration{tolerate("a", 60)}, now.Add(time.Minute), true},
	} {
		t.Run(name, func(t *testing.T) {
			pod := &corev1.Pod{Spec: corev1.PodSpec{Tolerations: test.tolerations}}
			at, evict := deadline(pod, test.taints, now)
			if evict != test.evict || !at.Equal(test.at) {
				t.Errorf("got %s, %v; want %s, %v", at, evict, test.at, test.evict)
			}
		})
	}
}

func TestEvictsWhatIsNotTolerated(t *testing.T) {
	pod := func(name string, tolerations ...corev1.Toleration) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: "node", Tolerations: tolerations}}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"}, Spec: corev1.NodeSpec{Taints: []corev1.Taint{taint("gone", time.Now())}}}
	f := controllertest.New(t, node, pod("plain"), pod("patient", tolerate("gone", 1)), pod("stubborn", tolerate("gone", -1)))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	gone := func(name string) bool {
		_, err := f.Client.CoreV1().Pods("ns").Get(context.Background(), name, metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	}
	controllertest.Eventually(t, "the plain pod to go", func() bool { return gone("plain") })
	controllertest.Eventually(t, "the patient pod to go", func() bool { return gone("patient") })
	if gone("stubborn") {
		t.Error("a pod that tolerates the taint for ever was evicted")
	}
}

func TestDeadlineOfLatePods(t *testing.T) {
	now := time.Unix(1e9, 0)
	old := []corev1.Taint{taint("a", now.Add(-time.Hour))}
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.NewTime(now.Add(-time.Minute))},
		Spec: corev1.PodSpec{Tolerations: []corev1.Toleration{tolerate("a", 300)}}}
	if at, evict := deadline(pod, old, now); !evict || !at.Equal(now.Add(4*time.Minute)) {
		t.Errorf("a pod that was made after the taint leaves at %s, %v", at, evict)
	}
	pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodScheduled, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now)}}
	if at, evict := deadline(pod, old, now); !evict || !at.Equal(now.Add(5*time.Minute)) {
		t.Errorf("a pod that was bound after the taint leaves at %s, %v", at, evict)
	}
}

// What users taint has no time of its own: the pod's time must run out all the
// same, and ends when the taint goes.
func TestTaintsWithoutTime(t *testing.T) {
	pod := func(name string, seconds int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"},
			Spec: corev1.PodSpec{NodeName: "node", Tolerations: []corev1.Toleration{tolerate("gone", seconds)}}}
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node"},
		Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: "gone", Effect: corev1.TaintEffectNoExecute}}}}
	f := controllertest.New(t, node, pod("hasty", 1), pod("patient", 3600))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	controllertest.Eventually(t, "the hasty pod to go", func() bool {
		_, err := f.Client.CoreV1().Pods("ns").Get(ctx, "hasty", metav1.GetOptions{})
		return apierrors.IsNotFound(err)
	})
	if _, err := f.Client.CoreV1().Pods("ns").Get(ctx, "patient", metav1.GetOptions{}); err != nil {
		t.Fatal(err)
	}
	free := node.DeepCopy()
	free.Spec.Taints, free.ResourceVersion = nil, ""
	if _, err := f.Client.CoreV1().Nodes().Update(ctx, free, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the event", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "patient" && e.Message == "Cancelling deletion of Pod ns/patient"
		})
	})
}
