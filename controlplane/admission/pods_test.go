package admission

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

func TestPriority(t *testing.T) {
	never := corev1.PreemptNever
	class := func(name string, value int32, byDefault bool) *schedulingv1.PriorityClass {
		return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, GlobalDefault: byDefault, PreemptionPolicy: &never}
	}
	ctx := context.Background()
	for _, test := range []struct {
		name     string
		classes  []*schedulingv1.PriorityClass
		spec     corev1.PodSpec
		err      string
		class    string
		priority int32
		policy   corev1.PreemptionPolicy
	}{
		{name: "none", policy: corev1.PreemptLowerPriority},
		{name: "default", classes: []*schedulingv1.PriorityClass{class("usual", 5, true), class("other", 3, true)}, class: "other", priority: 3, policy: never},
		{name: "named", classes: []*schedulingv1.PriorityClass{class("high", 10, false), class("usual", 5, true)},
			spec: corev1.PodSpec{PriorityClassName: "high"}, class: "high", priority: 10, policy: never},
		{name: "node critical", spec: corev1.PodSpec{PriorityClassName: "system-node-critical"},
			class: "system-node-critical", priority: 2000001000, policy: corev1.PreemptLowerPriority},
		{name: "cluster critical", spec: corev1.PodSpec{PriorityClassName: "system-cluster-critical"},
			class: "system-cluster-critical", priority: 2000000000, policy: corev1.PreemptLowerPriority},
		{name: "unknown", spec: corev1.PodSpec{PriorityClassName: "gone"}, err: "no PriorityClass with name gone was found"},
		{name: "own number", spec: corev1.PodSpec{Priority: ptr.To[int32](7)},
			err: "the integer value of priority (7) must not be provided in pod spec; priority admission controller computed 0 from the given PriorityClass name"},
		{name: "the right number", spec: corev1.PodSpec{Priority: ptr.To[int32](0)}, policy: corev1.PreemptLowerPriority},
		{name: "own policy", spec: corev1.PodSpec{PreemptionPolicy: &never},
			err: "the string value of PreemptionPolicy (Never) must not be provided in pod spec; priority admission controller computed PreemptLowerPriority"},
	} {
		t.Run(test.name, func(t *testing.T) {
			var objs []runtime.Object
			for _, c := range test.classes {
				objs = append(objs, c)
			}
			p := configure(t, newPriority, allow(), objs...).(*priority)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: test.spec}
			err := p.Admit(ctx, write(admission.Create, anna, "/pods", pod, nil), nil)
			wantError(t, err, test.err)
			if err != nil {
				return
			}
			if pod.Spec.PriorityClassName != test.class || *pod.Spec.Priority != test.priority || *pod.Spec.PreemptionPolicy != test.policy {
				t.Errorf("class %q, priority %d, policy %s", pod.Spec.PriorityClassName, *pod.Spec.Priority, *pod.Spec.PreemptionPolicy)
			}
			bare := &corev1.Pod{ObjectMeta: pod.ObjectMeta}
			if err := p.Admit(ctx, write(admission.Update, anna, "/pods", bare, pod), nil); err != nil || bare.Spec.Priority == nil || *bare.Spec.Priority != test.priority {
				t.Errorf("update lost the priority: %v, %v", bare.Spec.Priority, err)
			}
		})
	}
}

func TestOneDefaultPriorityClass(t *testing.T) {
	usual := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "usual"}, GlobalDefault: true}
	other := &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: "other"}, GlobalDefault: true}
	p := configure(t, newPriority, allow(), usual).(*priority)
	ctx := context.Background()
	const resource = "scheduling.k8s.io/priorityclasses"
	message := "PriorityClass usual is already marked as default. Only one default can exist"
	wantError(t, p.Validate(ctx, write(admission.Create, anna, resource, other, nil), nil), message)
	wantError(t, p.Validate(ctx, write(admission.Update, anna, resource, other, other), nil), message)
	wantError(t, p.Validate(ctx, write(admission.Update, anna, resource, usual, usual), nil), "")
	other.GlobalDefault = false
	wantError(t, p.Validate(ctx, write(admission.Create, anna, resource, other, nil), nil), "")
}

func TestDefaultTolerations(t *testing.T) {
	tolerate := func(key string, effect corev1.TaintEffect) corev1.Toleration {
		return corev1.Toleration{Key: key, Operator: corev1.TolerationOpExists, Effect: effect}
	}
	p := configure(t, newDefaultTolerations, allow()).(defaultTolerations)
	for _, test := range []struct {
		name  string
		given []corev1.Toleration
		added int
	}{
		{"none", nil, 2},
		{"not ready", []corev1.Toleration{tolerate(corev1.TaintNodeNotReady, corev1.TaintEffectNoExecute)}, 1},
		{"not ready, all effects", []corev1.Toleration{tolerate(corev1.TaintNodeNotReady, "")}, 1},
		{"not ready, scheduling only", []corev1.Toleration{tolerate(corev1.TaintNodeNotReady, corev1.TaintEffectNoSchedule)}, 2},
		{"everything", []corev1.Toleration{tolerate("", "")}, 0},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{Tolerations: test.given}}
			if err := p.Admit(context.Background(), write(admission.Create, anna, "/pods", pod, nil), nil); err != nil {
				t.Fatal(err)
			}
			added := pod.Spec.Tolerations[len(test.given):]
			if len(added) != test.added {
				t.Errorf("added %v, want %d", added, test.added)
			}
			for _, toleration := range added {
				if *toleration.TolerationSeconds != 300 || toleration.Effect != corev1.TaintEffectNoExecute {
					t.Errorf("added %v", toleration)
				}
			}
		})
	}
}

func TestNodeTaint(t *testing.T) {
	p := configure(t, newNodeTaint, allow()).(nodeTaint)
	notReady := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	other := corev1.Taint{Key: "other", Effect: corev1.TaintEffectNoSchedule}
	for _, test := range []struct {
		name  string
		given []corev1.Taint
		want  int
	}{
		{"none", nil, 1},
		{"other", []corev1.Taint{other}, 2},
		{"already", []corev1.Taint{notReady, other}, 2},
	} {
		node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one"}, Spec: corev1.NodeSpec{Taints: test.given}}
		if err := p.Admit(context.Background(), write(admission.Create, nodeOne, "/nodes", node, nil), nil); err != nil {
			t.Fatal(err)
		}
		found := false
		for _, taint := range node.Spec.Taints {
			found = found || taint.MatchTaint(&notReady)
		}
		if len(node.Spec.Taints) != test.want || !found {
			t.Errorf("%s: taints %v", test.name, node.Spec.Taints)
		}
	}
}
