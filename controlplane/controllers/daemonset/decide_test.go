package daemonset

import (
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// worldOf has nodes a, b, …; those of reserved keep the pods they have, and get
// no new ones.
func worldOf(surge int32, nodes, reserved int) *world {
	ds := testSet()
	if surge > 0 {
		ds.Spec.UpdateStrategy.RollingUpdate.MaxSurge = ptr.To(intstr.FromInt32(surge))
		ds.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable = ptr.To(intstr.FromInt32(0))
	}
	w := &world{v: view{ds: ds, hash: "old", byNode: map[string][]*corev1.Pod{}, now: time.Now(), backoff: func(string) bool { return false }}}
	for i := range nodes {
		node := testNode(string(rune('a' + i)))
		if i >= nodes-reserved {
			node.Spec.Taints = []corev1.Taint{{Key: "reserved", Effect: corev1.TaintEffectNoSchedule}}
		}
		w.v.nodes = append(w.v.nodes, node)
	}
	return w
}

func removed(d decision) (names string) {
	for _, pod := range d.remove {
		names += target(pod)
	}
	return names
}

func TestOldPodsGoFromNodesThatGetNoNewOnes(t *testing.T) {
	pending := corev1.PodStatus{Phase: corev1.PodPending}
	for name, test := range map[string]struct {
		surge      int32
		new, b     corev1.PodStatus // of the wanted node's new pod, and of the old one on the other node
		wantRemove string
	}{
		"without surge":                  {0, readyStatus(), readyStatus(), "b"},
		"without surge, nothing to lose": {0, pending, readyStatus(), ""},
		"with surge":                     {1, readyStatus(), readyStatus(), "b"},
		"with surge, still needed":       {1, pending, readyStatus(), ""},
		"with surge, of no use":          {1, pending, pending, "b"},
	} {
		t.Run(name, func(t *testing.T) {
			w := worldOf(test.surge, 2, 1)
			w.add("b", test.b)
			w.v.hash = "new"
			w.add("a", test.new)
			if d := w.v.decide(); removed(d) != test.wantRemove || len(d.create) != 0 || d.desired != 1 {
				t.Errorf("decided %+v", d)
			}
		})
	}
}

func TestASurgeKeepsWhatWorks(t *testing.T) {
	pending := corev1.PodStatus{Phase: corev1.PodPending}
	for name, test := range map[string]struct {
		old, new corev1.PodStatus
		want     int
	}{
		"old works":   {readyStatus(), pending, 0},
		"new works":   {readyStatus(), readyStatus(), 1},
		"neither":     {pending, pending, 1},
		"the new one": {pending, readyStatus(), 1},
	} {
		t.Run(name, func(t *testing.T) {
			w := worldOf(1, 1, 0)
			w.add("a", test.old)
			w.v.hash = "new"
			w.add("a", test.new)
			if d := w.v.decide(); len(d.remove) != test.want || test.want == 1 && w.v.current(d.remove[0]) {
				t.Errorf("decided %+v", d)
			}
		})
	}
	w := worldOf(1, 1, 0)
	w.add("a", readyStatus())
	w.v.byNode["a"][0].DeletionTimestamp = &metav1.Time{Time: w.v.now}
	if d := w.v.decide(); len(d.create) != 1 {
		t.Errorf("a pod that leaves keeps the next one away: %+v", d)
	}
}

func TestTheSeniorPodCounts(t *testing.T) {
	w := worldOf(1, 3, 1)
	w.v.ds.Spec.MinReadySeconds = 60
	for _, node := range []string{"a", "b", "c"} {
		w.add(node, readyStatus())
		pod := w.v.byNode[node][0]
		pod.Status.Conditions[0].LastTransitionTime = metav1.NewTime(w.v.now.Add(map[string]time.Duration{"a": -time.Hour, "b": -20 * time.Second}[node]))
	}
	w.v.hash = "new"
	w.add("a", readyStatus())
	w.v.byNode["a"][1].CreationTimestamp = metav1.NewTime(w.v.now)
	var d decision
	s := newStatus(w.v, nil, &d)
	if s.DesiredNumberScheduled != 2 || s.CurrentNumberScheduled != 2 || s.NumberMisscheduled != 1 || s.UpdatedNumberScheduled != 0 ||
		s.NumberReady != 2 || s.NumberAvailable != 1 || s.NumberUnavailable != 1 || d.wait != 40*time.Second {
		t.Errorf("status %+v, wait %s", s, d.wait)
	}
}

func TestPodsOfThePresentTemplate(t *testing.T) {
	ds := testSet()
	pod := func(hash, generation string) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{appsv1.ControllerRevisionHashLabelKey: hash, generationLabel: generation}}}
	}
	for _, c := range []struct {
		annotation, hash, generation string
		want                         bool
	}{
		{"", "new", "", true}, {"", "old", "", false}, {"", "old", "2", false},
		{"2", "new", "1", true}, {"2", "old", "2", true}, {"2", "old", "1", false}, {"2", "", "2", true},
	} {
		ds.Annotations = map[string]string{appsv1.DeprecatedTemplateGeneration: c.annotation}
		if got := (view{ds: ds, hash: "new"}).current(pod(c.hash, c.generation)); got != c.want {
			t.Errorf("%+v: %v", c, got)
		}
	}
}
