package horizontalpodautoscaler

import (
	"context"
	"fmt"
	"slices"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func (p *pass) warn(reason string, err error) {
	p.recorder.Event(p.autoscaler, corev1.EventTypeWarning, reason, err.Error())
}

// set sets a condition.
func (p *pass) set(kind autoscalingv2.HorizontalPodAutoscalerConditionType, why reason) {
	status := corev1.ConditionFalse
	if why.holds {
		status = corev1.ConditionTrue
	}
	list := &p.autoscaler.Status.Conditions
	i := slices.IndexFunc(*list, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == kind })
	if i < 0 {
		i = len(*list)
		*list = append(*list, autoscalingv2.HorizontalPodAutoscalerCondition{Type: kind})
	}
	c := &(*list)[i]
	if c.Status != status {
		c.LastTransitionTime = metav1.Time{Time: p.now}
	}
	c.Status, c.Reason, c.Message = status, why.reason, why.message
}

// unset removes a condition.
func (p *pass) unset(kind autoscalingv2.HorizontalPodAutoscalerConditionType) {
	p.autoscaler.Status.Conditions = slices.DeleteFunc(p.autoscaler.Status.Conditions, func(c autoscalingv2.HorizontalPodAutoscalerCondition) bool { return c.Type == kind })
}

// fill fills in the status but for conditions and the time of the last change.
func (p *pass) fill(current, desired int32, metrics []autoscalingv2.MetricStatus) {
	s := &p.autoscaler.Status
	s.ObservedGeneration, s.CurrentReplicas, s.DesiredReplicas, s.CurrentMetrics = nil, current, desired, metrics
}

// write writes the status if it is not former.
func (p *pass) write(ctx context.Context, former *autoscalingv2.HorizontalPodAutoscalerStatus) error {
	if equality.Semantic.DeepEqual(*former, p.autoscaler.Status) {
		return nil
	}
	_, err := p.client.AutoscalingV2().HorizontalPodAutoscalers(p.autoscaler.Namespace).UpdateStatus(ctx, p.autoscaler, metav1.UpdateOptions{})
	if err != nil {
		p.warn("FailedUpdateStatus", err)
		return fmt.Errorf("write status: %w", err)
	}
	return nil
}
