package autoscaling

import (
	"context"
	"fmt"
	"strings"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

// defaultUtilization of CPU, in percent, is aimed at where nothing else is.
const defaultUtilization = 80

var autoscaler = api.Definition[*autoscalingv2.HorizontalPodAutoscaler]{
	GroupVersion: autoscalingv2.SchemeGroupVersion,
	Kind:         "HorizontalPodAutoscaler",
	Resource:     "horizontalpodautoscalers",
	Singular:     "horizontalpodautoscaler",
	ShortNames:   []string{"hpa"},
	Categories:   []string{"all"},
	New:          func() *autoscalingv2.HorizontalPodAutoscaler { return &autoscalingv2.HorizontalPodAutoscaler{} },
	NewList:      func() runtime.Object { return &autoscalingv2.HorizontalPodAutoscalerList{} },

	Default: defaultAutoscaler,
	Validate: func(_ context.Context, a *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
		return checkSpec(&a.Spec, rulesFor(a, nil), field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, a, old *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
		return checkSpec(&a.Spec, rulesFor(a, old), field.NewPath("spec"))
	},
	Status: &api.Status[*autoscalingv2.HorizontalPodAutoscaler]{
		Copy:         func(to, from *autoscalingv2.HorizontalPodAutoscaler) { to.Status = from.Status },
		KeepMetadata: true,
		Validate: func(_ context.Context, a, _ *autoscalingv2.HorizontalPodAutoscaler) field.ErrorList {
			path := field.NewPath("status")
			return append(apivalidation.ValidateNonnegativeField(int64(a.Status.CurrentReplicas), path.Child("currentReplicas")),
				apivalidation.ValidateNonnegativeField(int64(a.Status.DesiredReplicas), path.Child("desiredReplicas"))...)
		},
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Reference", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["scaleTargetRef"]),
		columns.Text("Targets", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["metrics"]),
		columns.Text("MinPods", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["minReplicas"]),
		columns.Text("MaxPods", autoscalingv2.HorizontalPodAutoscalerSpec{}.SwaggerDoc()["maxReplicas"]),
		columns.Text("Replicas", autoscalingv2.HorizontalPodAutoscalerStatus{}.SwaggerDoc()["currentReplicas"]),
		columns.Age(),
	},
	Row: func(a *autoscalingv2.HorizontalPodAutoscaler) []any {
		least := "<unset>"
		if a.Spec.MinReplicas != nil {
			least = fmt.Sprint(*a.Spec.MinReplicas)
		}
		return []any{a.Name, a.Spec.ScaleTargetRef.Kind + "/" + a.Spec.ScaleTargetRef.Name, targetsCell(a), least,
			int64(a.Spec.MaxReplicas), int64(a.Status.CurrentReplicas), columns.Since(a.CreationTimestamp.Time)}
	},
}

func defaultAutoscaler(a *autoscalingv2.HorizontalPodAutoscaler) {
	setDefault(&a.Spec.MinReplicas, 1)
	if len(a.Spec.Metrics) == 0 {
		a.Spec.Metrics = []autoscalingv2.MetricSpec{utilization(defaultUtilization)}
	}
	behavior := a.Spec.Behavior
	if behavior == nil {
		return
	}
	percent := autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PercentScalingPolicy, Value: 100, PeriodSeconds: 15}
	setDefault(&behavior.ScaleUp, autoscalingv2.HPAScalingRules{})
	setDefault(&behavior.ScaleUp.StabilizationWindowSeconds, 0)
	setDefault(&behavior.ScaleDown, autoscalingv2.HPAScalingRules{})
	for _, rules := range []*autoscalingv2.HPAScalingRules{behavior.ScaleUp, behavior.ScaleDown} {
		setDefault(&rules.SelectPolicy, autoscalingv2.MaxChangePolicySelect)
		if rules.Policies != nil {
			continue
		}
		if rules == behavior.ScaleUp {
			rules.Policies = append(rules.Policies, autoscalingv2.HPAScalingPolicy{Type: autoscalingv2.PodsScalingPolicy, Value: 4, PeriodSeconds: 15})
		}
		rules.Policies = append(rules.Policies, percent)
	}
}

// setDefault fills in a field that was left out.
func setDefault[V any](field **V, value V) {
	if *field == nil {
		*field = &value
	}
}

// utilization is a metric that aims at a percentage of the CPU requested.
func utilization(percent int32) autoscalingv2.MetricSpec {
	return autoscalingv2.MetricSpec{
		Type: autoscalingv2.ResourceMetricSourceType,
		Resource: &autoscalingv2.ResourceMetricSource{
			Name:   corev1.ResourceCPU,
			Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &percent},
		},
	}
}

// targetsCell tells the first two metrics, what is and what ought to be.
func targetsCell(a *autoscalingv2.HorizontalPodAutoscaler) string {
	const most = 2
	metrics := a.Spec.Metrics
	if len(metrics) == 0 {
		return "<none>"
	}
	var list []string
	for i := range metrics[:min(len(metrics), most)] {
		var status autoscalingv2.MetricStatus
		if i < len(a.Status.CurrentMetrics) {
			status = a.Status.CurrentMetrics[i]
		}
		list = append(list, targetCell(&metrics[i], &status))
	}
	text := strings.Join(list, ", ")
	if more := len(metrics) - most; more > 0 {
		return fmt.Sprintf("%s + %d more...", text, more)
	}
	return text
}

func targetCell(metric *autoscalingv2.MetricSpec, status *autoscalingv2.MetricStatus) string {
	var now autoscalingv2.MetricValueStatus
	switch {
	case metric.Type == autoscalingv2.ExternalMetricSourceType && metric.External != nil:
		if status.External != nil {
			now = status.External.Current
		}
		return valueCell(&metric.External.Target, now)
	case metric.Type == autoscalingv2.ObjectMetricSourceType && metric.Object != nil:
		if status.Object != nil {
			now = status.Object.Current
		}
		return valueCell(&metric.Object.Target, now)
	case metric.Type == autoscalingv2.PodsMetricSourceType && metric.Pods != nil:
		if status.Pods != nil {
			now = status.Pods.Current
		}
		return quantityCell(now.AverageValue) + "/" + quantityCell(metric.Pods.Target.AverageValue)
	case metric.Type == autoscalingv2.ResourceMetricSourceType && metric.Resource != nil:
		if status.Resource != nil {
			now = status.Resource.Current
		}
		return resourceCell(metric.Resource.Name, &metric.Resource.Target, now)
	case metric.Type == autoscalingv2.ContainerResourceMetricSourceType && metric.ContainerResource != nil:
		if status.ContainerResource != nil {
			now = status.ContainerResource.Current
		}
		return resourceCell(metric.ContainerResource.Name, &metric.ContainerResource.Target, now)
	}
	return "<unknown type>"
}

func quantityCell(q *resource.Quantity) string {
	if q == nil {
		return "<unknown>"
	}
	return q.String()
}

func valueCell(target *autoscalingv2.MetricTarget, now autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s/%s (avg)", quantityCell(now.AverageValue), target.AverageValue)
	}
	return quantityCell(now.Value) + "/" + quantityCell(target.Value)
}

func resourceCell(name corev1.ResourceName, target *autoscalingv2.MetricTarget, now autoscalingv2.MetricValueStatus) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s: %s/%s", name, quantityCell(now.AverageValue), target.AverageValue)
	}
	percent := func(n *int32, otherwise string) string {
		if n == nil {
			return otherwise
		}
		return fmt.Sprintf("%d%%", ptr.Deref(n, 0))
	}
	return fmt.Sprintf("%s: %s/%s", name, percent(now.AverageUtilization, "<unknown>"), percent(target.AverageUtilization, "<auto>"))
}
