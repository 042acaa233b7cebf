package policy

import (
	"context"
	"strings"
	"testing"

	policyv1 "k8s.io/api/policy/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

func TestInvalidBudgets(t *testing.T) {
	ctx := context.Background()
	number := func(n int32) *intstr.IntOrString { return ptr.To(intstr.FromInt32(n)) }
	text := func(s string) *intstr.IntOrString { return ptr.To(intstr.FromString(s)) }
	for _, test := range []struct {
		spec policyv1.PodDisruptionBudgetSpec
		want string
	}{
		{policyv1.PodDisruptionBudgetSpec{MinAvailable: text("50%")}, ""},
		{policyv1.PodDisruptionBudgetSpec{MaxUnavailable: number(0)}, ""},
		{policyv1.PodDisruptionBudgetSpec{MinAvailable: number(1), MaxUnavailable: number(1)}, "spec: Invalid value: "},
		{policyv1.PodDisruptionBudgetSpec{MinAvailable: number(-1)}, "spec.minAvailable: Invalid value: -1: must be greater than or equal to 0"},
		{policyv1.PodDisruptionBudgetSpec{MaxUnavailable: text("101%")}, `spec.maxUnavailable: Invalid value: "101%": must not be greater than 100%`},
		{policyv1.PodDisruptionBudgetSpec{MaxUnavailable: text("half")}, `spec.maxUnavailable: Invalid value: "half": a valid percent string must be`},
		{policyv1.PodDisruptionBudgetSpec{Selector: &metav1.LabelSelector{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "a", Operator: "In", Values: []string{"no good"}}}}},
			`spec.selector.matchExpressions[0].values[0]: Invalid value: "no good"`},
		{policyv1.PodDisruptionBudgetSpec{UnhealthyPodEvictionPolicy: ptr.To(policyv1.UnhealthyPodEvictionPolicyType("Never"))},
			`spec.unhealthyPodEvictionPolicy: Unsupported value: "Never": supported values: "AlwaysAllow", "IfHealthyBudget"`},
	} {
		b := &policyv1.PodDisruptionBudget{Spec: test.spec}
		errs := podDisruptionBudget.Validate(ctx, b)
		if test.want == "" && len(errs) > 0 || test.want != "" && (len(errs) != 1 || !strings.HasPrefix(errs[0].Error(), test.want)) {
			t.Errorf("%+v: %v, want %q", test.spec, errs, test.want)
		}
		// A selector that got in once does not block later updates.
		if errs := podDisruptionBudget.ValidateUpdate(ctx, b, b); len(errs) > 0 && test.spec.Selector != nil {
			t.Errorf("update of %+v: %v", test.spec, errs)
		}
	}
	status := &policyv1.PodDisruptionBudget{Status: policyv1.PodDisruptionBudgetStatus{DisruptionsAllowed: -1, ExpectedPods: -2}}
	if errs := podDisruptionBudget.Status.Validate(ctx, status, status); len(errs) != 2 {
		t.Errorf("status: %v", errs)
	}
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}, Spec: policyv1.PodDisruptionBudgetSpec{MinAvailable: text("50%")}}
	if row := podDisruptionBudget.Row(b); row[1] != "50%" || row[2] != "N/A" || len(row) != len(podDisruptionBudget.Columns) {
		t.Errorf("row %v", row)
	}
}
