package autoscaling

import (
	"context"
	"strings"
	"testing"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/utils/ptr"
)

func newAutoscaler(change func(*autoscalingv2.HorizontalPodAutoscalerSpec)) *autoscalingv2.HorizontalPodAutoscaler {
	a := &autoscalingv2.HorizontalPodAutoscaler{}
	a.Spec.MaxReplicas = 3
	a.Spec.ScaleTargetRef = autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}
	change(&a.Spec)
	defaultAutoscaler(a)
	return a
}

func TestInvalidAutoscalers(t *testing.T) {
	ctx := context.Background()
	type spec = autoscalingv2.HorizontalPodAutoscalerSpec
	for name, test := range map[string]struct {
		change func(*spec)
		want   []string
	}{
		"plain":       {func(*spec) {}, nil},
		"behavior":    {func(s *spec) { s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{} }, nil},
		"no replicas": {func(s *spec) { s.MaxReplicas, s.MinReplicas = 0, ptr.To[int32](1) }, []string{"spec.maxReplicas: Required value: must be set and greater than 0", "spec.maxReplicas: Invalid value: 0: must be greater than or equal to `minReplicas`"}},
		"zero":        {func(s *spec) { s.MinReplicas = ptr.To[int32](0) }, []string{"spec.minReplicas: Invalid value: 0: must be greater than or equal to 1", "spec.metrics: Forbidden: must specify at least one Object or External metric"}},
		"no group":    {func(s *spec) { s.ScaleTargetRef.APIVersion = "v1" }, []string{`spec.scaleTargetRef.apiVersion: Invalid value: "v1": apiVersion must specify API group`}},
		"no target":   {func(s *spec) { s.ScaleTargetRef.Kind, s.ScaleTargetRef.Name = "", "a/b" }, []string{"spec.scaleTargetRef.kind: Required value", `spec.scaleTargetRef.name: Invalid value: "a/b": may not contain '/'`}},
		"metric": {func(s *spec) { s.Metrics = []autoscalingv2.MetricSpec{{Type: "Odd"}} }, []string{
			`spec.metrics[0].type: Unsupported value: "Odd": supported values: "ContainerResource", "External", "Object", "Pods", "Resource"`}},
		"no source": {func(s *spec) {
			s.Metrics = []autoscalingv2.MetricSpec{{Type: autoscalingv2.PodsMetricSourceType, Resource: utilization(0).Resource}}
		}, []string{"spec.metrics[0].resource.target.averageUtilization: Invalid value: 0: must be greater than 0", "spec.metrics[0].pods: Required value: must populate information for the given metric source"}},
		"rules": {func(s *spec) {
			s.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{ScaleUp: &autoscalingv2.HPAScalingRules{
				StabilizationWindowSeconds: ptr.To[int32](3601), SelectPolicy: ptr.To(autoscalingv2.ScalingPolicySelect("Odd")),
				Policies: []autoscalingv2.HPAScalingPolicy{{Type: "Odd", PeriodSeconds: 1801}}, Tolerance: ptr.To(resource.MustParse("-1"))}}
		}, []string{"spec.behavior.scaleUp.stabilizationWindowSeconds: Invalid value: 3601: must be less than or equal to 3600",
			`spec.behavior.scaleUp.selectPolicy: Unsupported value: "Odd": supported values: "Disabled", "Max", "Min"`,
			`spec.behavior.scaleUp.policies[0].type: Unsupported value: "Odd": supported values: "Percent", "Pods"`,
			"spec.behavior.scaleUp.policies[0].value: Invalid value: 0: must be greater than zero",
			"spec.behavior.scaleUp.policies[0].periodSeconds: Invalid value: 1801: must be less than or equal to 1800",
			`spec.behavior.scaleUp.tolerance: Invalid value: "-1": must be greater than or equal to 0`}},
	} {
		errs := autoscaler.Validate(ctx, newAutoscaler(test.change))
		ok := len(errs) == len(test.want)
		for i := range errs {
			ok = ok && strings.HasPrefix(errs[i].Error(), test.want[i])
		}
		if !ok {
			t.Errorf("%s: got %q, want %q", name, errs, test.want)
		}
	}
	old := newAutoscaler(func(s *spec) { s.ScaleTargetRef.APIVersion = "v1" })
	if errs := autoscaler.ValidateUpdate(ctx, old, old); len(errs) > 0 {
		t.Errorf("update of what got in once: %v", errs)
	}
	row := autoscaler.Row(old)
	if len(row) != len(autoscaler.Columns) || row[1] != "Deployment/d" || row[2] != "cpu: <unknown>/80%" || row[3] != "1" {
		t.Errorf("row %v", row)
	}
}
