package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
)

// usualTolerance is that of autoscalers that say nothing.
const usualTolerance = 0.1

// question is what a proposal for one autoscaler is made of.
type question struct {
	source    source
	namespace string
	selector  labels.Selector
	pods      []*corev1.Pod // of the selector
	current   int32         // size as the target's scale wants it
	observed  int32         // size as the target's scale has it
	tolerance tolerance
	now       time.Time
}

// proposal is what one metric asks for.
type proposal struct {
	size   int32
	metric string // as users are told
	status autoscalingv2.MetricStatus
}

// failure is why a metric proposes nothing.
type failure struct {
	reason string // of the condition
	cause  error  // what its message tells
	err    error  // the same with the metric
}

func toleranceOf(b *autoscalingv2.HorizontalPodAutoscalerBehavior) tolerance {
	t := tolerance{usualTolerance, usualTolerance}
	if b == nil {
		return t
	}
	if b.ScaleDown != nil && b.ScaleDown.Tolerance != nil {
		t.down = b.ScaleDown.Tolerance.AsApproximateFloat64()
	}
	if b.ScaleUp != nil && b.ScaleUp.Tolerance != nil {
		t.up = b.ScaleUp.Tolerance.AsApproximateFloat64()
	}
	return t
}

// propose works out one metric.
func (q *question) propose(ctx context.Context, spec autoscalingv2.MetricSpec) (proposal, *failure) {
	var p proposal
	var err error
	var reason, about string
	switch {
	case spec.Type == autoscalingv2.ResourceMetricSourceType && spec.Resource != nil:
		reason, about = "FailedGetResourceMetric", fmt.Sprintf("%s resource metric", spec.Resource.Name)
		var value autoscalingv2.MetricValueStatus
		p.size, value, err = q.resource(ctx, spec.Resource.Name, "", spec.Resource.Target)
		p.metric = resourceMetric(spec.Resource.Name, spec.Resource.Target, "resource")
		p.status.Resource = &autoscalingv2.ResourceMetricStatus{Name: spec.Resource.Name, Current: value}
	case spec.Type == autoscalingv2.ContainerResourceMetricSourceType && spec.ContainerResource != nil:
		c := spec.ContainerResource
		reason, about = "FailedGetContainerResourceMetric", fmt.Sprintf("%s container metric", c.Container)
		var value autoscalingv2.MetricValueStatus
		p.size, value, err = q.resource(ctx, c.Name, c.Container, c.Target)
		p.metric = resourceMetric(c.Name, c.Target, "container resource")
		p.status.ContainerResource = &autoscalingv2.ContainerResourceMetricStatus{Name: c.Name, Container: c.Container, Current: value}
	case spec.Type == autoscalingv2.PodsMetricSourceType && spec.Pods != nil:
		reason, about = "FailedGetPodsMetric", "pods metric"
		var value autoscalingv2.MetricValueStatus
		p.size, value, err = q.ofPods(*spec.Pods)
		p.metric = "pods metric " + spec.Pods.Metric.Name
		p.status.Pods = &autoscalingv2.PodsMetricStatus{Metric: spec.Pods.Metric, Current: value}
	case spec.Type == autoscalingv2.ObjectMetricSourceType && spec.Object != nil:
		reason, about = "FailedGetObjectMetric", "object metric"
		var value autoscalingv2.MetricValueStatus
		p.size, value, err = q.ofObject(*spec.Object)
		p.metric = fmt.Sprintf("%s metric %s", spec.Object.DescribedObject.Kind, spec.Object.Metric.Name)
		if value.AverageValue != nil {
			p.metric = externalMetric(spec.Object.Metric)
		}
		p.status.Object = &autoscalingv2.ObjectMetricStatus{DescribedObject: spec.Object.DescribedObject, Metric: spec.Object.Metric, Current: value}
	case spec.Type == autoscalingv2.ExternalMetricSourceType && spec.External != nil:
		reason, about = "FailedGetExternalMetric", fmt.Sprintf("%s external metric", spec.External.Metric.Name)
		var value autoscalingv2.MetricValueStatus
		p.size, value, err = q.ofOutside(*spec.External)
		p.metric = externalMetric(spec.External.Metric)
		p.status.External = &autoscalingv2.ExternalMetricStatus{Metric: spec.External.Metric, Current: value}
	default:
		err = fmt.Errorf("unknown metric source type %q", spec.Type)
		return proposal{}, &failure{"InvalidMetricSourceType", err, err}
	}
	if err != nil {
		return proposal{}, &failure{reason, err, fmt.Errorf("failed to get %s value: %w", about, err)}
	}
	p.status.Type = spec.Type
	return p, nil
}

func resourceMetric(name corev1.ResourceName, target autoscalingv2.MetricTarget, what string) string {
	if target.AverageValue != nil {
		return fmt.Sprintf("%s resource", name)
	}
	return fmt.Sprintf("%s %s utilization (percentage of request)", name, what)
}

func externalMetric(m autoscalingv2.MetricIdentifier) string {
	return fmt.Sprintf("external metric %s(%+v)", m.Name, m.Selector)
}

func (q *question) resource(ctx context.Context, name corev1.ResourceName, container string, target autoscalingv2.MetricTarget) (int32, autoscalingv2.MetricValueStatus, error) {
	var status autoscalingv2.MetricValueStatus
	if target.AverageValue == nil && target.AverageUtilization == nil {
		return 0, status, errors.New("invalid resource metric source: neither an average utilization target nor an average value (usage) target was set")
	}
	fetch := func() (samples, error) {
		all, err := q.source.resource(ctx, name, q.namespace, q.selector, container)
		if err != nil {
			return nil, fmt.Errorf("unable to get metrics for resource %s: %w", name, err)
		}
		return all, nil
	}
	format := resource.DecimalSI
	if name == corev1.ResourceMemory {
		format = resource.BinarySI
	}
	if target.AverageValue != nil {
		size, value, err := q.byAverage(fetch, name, target.AverageValue.MilliValue())
		if err != nil {
			return 0, status, fmt.Errorf("failed to get %s usage: %w", name, err)
		}
		status.AverageValue = resource.NewMilliQuantity(value, format)
		return size, status, nil
	}
	size, percent, value, err := q.byUtilization(fetch, name, container, *target.AverageUtilization)
	if err != nil {
		return 0, status, fmt.Errorf("failed to get %s utilization: %w", name, err)
	}
	status.AverageUtilization, status.AverageValue = &percent, resource.NewMilliQuantity(value, format)
	return size, status, nil
}

func (q *question) byUtilization(fetch func() (samples, error), name corev1.ResourceName, container string, target int32) (size, percent int32, value int64, err error) {
	all, err := fetch()
	if err != nil {
		return 0, 0, 0, err
	}
	s, err := sortPods(q.pods, all, name, q.now)
	if err != nil {
		return 0, 0, 0, err
	}
	requests, err := requestsOf(q.pods, container, name)
	if err != nil {
		return 0, 0, 0, err
	}
	if _, percent, value, err = utilization(s.usable, requests, target); err != nil {
		return 0, 0, 0, err
	}
	size, err = s.size(q.current, q.tolerance, func(s samples) (float64, error) {
		ratio, _, _, err := utilization(s, requests, target)
		return ratio, err
	}, func(pod string) int64 { return requests[pod] * int64(max(100, target)) / 100 })
	return size, percent, value, err
}

// byAverage is for targets in absolute numbers; name is empty if they are those
// of no resource.
func (q *question) byAverage(fetch func() (samples, error), name corev1.ResourceName, target int64) (size int32, value int64, err error) {
	all, err := fetch()
	if err != nil {
		return 0, 0, err
	}
	s, err := sortPods(q.pods, all, name, q.now)
	if err != nil {
		return 0, 0, err
	}
	_, value = average(s.usable, target)
	size, err = s.size(q.current, q.tolerance, func(s samples) (float64, error) {
		ratio, _ := average(s, target)
		return ratio, nil
	}, func(string) int64 { return target })
	return size, value, err
}

func (q *question) ofPods(m autoscalingv2.PodsMetricSource) (int32, autoscalingv2.MetricValueStatus, error) {
	var status autoscalingv2.MetricValueStatus
	selector, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return 0, status, err
	}
	if m.Target.AverageValue == nil {
		return 0, status, errors.New("invalid pods metric source: no average value target was set")
	}
	size, value, err := q.byAverage(func() (samples, error) {
		all, err := q.source.pods(m.Metric.Name, q.namespace, q.selector, selector)
		if err != nil {
			return nil, fmt.Errorf("unable to get metric %s: %w", m.Metric.Name, err)
		}
		return all, nil
	}, "", m.Target.AverageValue.MilliValue())
	status.AverageValue = resource.NewMilliQuantity(value, resource.DecimalSI)
	return size, status, err
}

func (q *question) ofObject(m autoscalingv2.ObjectMetricSource) (int32, autoscalingv2.MetricValueStatus, error) {
	var status autoscalingv2.MetricValueStatus
	selector, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return 0, status, err
	}
	byValue := m.Target.Type == autoscalingv2.ValueMetricType && m.Target.Value != nil
	byShare := m.Target.Type == autoscalingv2.AverageValueMetricType && m.Target.AverageValue != nil
	if !byValue && !byShare {
		return 0, status, errors.New("invalid object metric source: neither a value target nor an average value target was set")
	}
	value, err := q.source.object(m.Metric.Name, q.namespace, m.DescribedObject, selector)
	if err != nil {
		err = fmt.Errorf("unable to get metric %s: %w on %s %s/%s", m.Metric.Name, err, m.DescribedObject.Kind, q.namespace, m.DescribedObject.Name)
		if byShare {
			err = fmt.Errorf("failed to get %s object metric: %w", m.Metric.Name, err)
		}
		return 0, status, err
	}
	size, err := q.byOne(value, m.Target, byShare, &status)
	return size, status, err
}

func (q *question) ofOutside(m autoscalingv2.ExternalMetricSource) (int32, autoscalingv2.MetricValueStatus, error) {
	var status autoscalingv2.MetricValueStatus
	if m.Target.AverageValue == nil && m.Target.Value == nil {
		return 0, status, errors.New("invalid external metric source: neither a value target nor an average value target was set")
	}
	selector, err := metav1.LabelSelectorAsSelector(m.Metric.Selector)
	if err != nil {
		return 0, status, err
	}
	values, err := q.source.external(m.Metric.Name, q.namespace, selector)
	if err != nil {
		return 0, status, fmt.Errorf("unable to get external metric %s/%s/%+v: %w", q.namespace, m.Metric.Name, m.Metric.Selector, err)
	}
	size, err := q.byOne(sum(values), m.Target, m.Target.AverageValue != nil, &status)
	return size, status, err
}

// byOne is for metrics that are one value for all pods, which the target bounds
// as it is, or each pod's share of it.
func (q *question) byOne(value int64, target autoscalingv2.MetricTarget, share bool, status *autoscalingv2.MetricValueStatus) (int32, error) {
	if share {
		size, each := sizeByShare(q.observed, value, target.AverageValue.MilliValue(), q.tolerance)
		status.AverageValue = resource.NewMilliQuantity(each, resource.DecimalSI)
		return size, nil
	}
	status.Value = resource.NewMilliQuantity(value, resource.DecimalSI)
	return sizeByRatio(q.current, float64(value)/float64(target.Value.MilliValue()), q.tolerance, q.pods)
}
