package scheduling

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	schedulingv1 "k8s.io/api/scheduling/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/utils/ptr"
)

func class(name string, value int32) *schedulingv1.PriorityClass {
	return &schedulingv1.PriorityClass{ObjectMeta: metav1.ObjectMeta{Name: name}, Value: value, PreemptionPolicy: ptr.To(corev1.PreemptLowerPriority)}
}

func TestInvalidPriorityClasses(t *testing.T) {
	ctx := context.Background()
	reserved := "metadata.name: Forbidden: priority class names with 'system-' prefix are reserved for system use only. error: "
	odd := class("c", 1)
	odd.PreemptionPolicy = ptr.To(corev1.PreemptionPolicy("Sometimes"))
	eager := class("system-node-critical", 2000001000)
	eager.GlobalDefault = true
	for _, test := range []struct {
		class *schedulingv1.PriorityClass
		want  string
	}{
		{class("c", 1000000000), ""},
		{class("c", -5), ""},
		{class("c", 1000000001), "value: Forbidden: maximum allowed value of a user defined priority is 1000000000"},
		{class("system-mine", 1), reserved + "system-mine is not a known system priority class"},
		{class("system-node-critical", 1), reserved + "value of system-node-critical PriorityClass must be 2000001000"},
		{eager, reserved + "globalDefault of system-node-critical PriorityClass must be false"},
		{class("system-cluster-critical", 2000000000), ""},
		{odd, `preemptionPolicy: Unsupported value: "Sometimes": supported values: "PreemptLowerPriority", "Never"`},
	} {
		errs := priorityClass.Validate(ctx, test.class)
		if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || errs[0].Error() != test.want) {
			t.Errorf("%s: %v, want %q", test.class.Name, errs, test.want)
		}
	}
	errs := priorityClass.ValidateUpdate(ctx, odd, class("c", 2))
	if len(errs) != 2 || errs[0].Error() != "value: Forbidden: may not be changed in an update." {
		t.Errorf("changed value and policy: %v", errs)
	}
	for _, known := range SystemClasses() {
		if errs := priorityClass.Validate(ctx, known); len(errs) > 0 {
			t.Errorf("%s: %v", known.Name, errs)
		}
	}
	if row := priorityClass.Row(class("c", 3)); len(row) != len(priorityClass.Columns) || row[1] != int64(3) {
		t.Errorf("row %v", row)
	}
}

func TestEnsureSystemClasses(t *testing.T) {
	ctx := context.Background()
	changed := class("system-node-critical", 2000001000)
	changed.Labels = map[string]string{"mine": "x"}
	client := fake.NewClientset(changed)
	for range 2 {
		if err := EnsureSystemClasses(ctx, client); err != nil {
			t.Fatal(err)
		}
	}
	list, err := client.SchedulingV1().PriorityClasses().List(ctx, metav1.ListOptions{})
	if err != nil || len(list.Items) != 2 {
		t.Fatalf("classes %v, %v", list, err)
	}
	kept, err := client.SchedulingV1().PriorityClasses().Get(ctx, changed.Name, metav1.GetOptions{})
	if err != nil || kept.Labels["mine"] != "x" {
		t.Errorf("an administrator's label is gone: %v, %v", kept, err)
	}
}
