package horizontalpodautoscaler

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/discovery/cached/memory"
	scalefake "k8s.io/client-go/scale/fake"
	clienttesting "k8s.io/client-go/testing"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/scales"
)

// fakeSource has one value of every kind.
type fakeSource struct {
	used  samples
	value int64
	err   error
}

func (f *fakeSource) resource(context.Context, corev1.ResourceName, string, labels.Selector, string) (samples, error) {
	return f.used, f.err
}
func (f *fakeSource) pods(string, string, labels.Selector, labels.Selector) (samples, error) {
	return f.used, f.err
}
func (f *fakeSource) object(string, string, autoscalingv2.CrossVersionObjectReference, labels.Selector) (int64, error) {
	return f.value, f.err
}
func (f *fakeSource) external(string, string, labels.Selector) ([]int64, error) {
	return []int64{f.value}, f.err
}

func autoscaler(name string, metrics ...autoscalingv2.MetricSpec) *autoscalingv2.HorizontalPodAutoscaler {
	return &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "test", UID: "1"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    10, Metrics: metrics,
		},
	}
}

func TestController(t *testing.T) {
	half, one := int32(50), resource.MustParse("1")
	cpu := autoscalingv2.MetricSpec{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
		Name: corev1.ResourceCPU, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.UtilizationMetricType, AverageUtilization: &half}}}
	jobs := autoscalingv2.MetricSpec{Type: autoscalingv2.ExternalMetricSourceType, External: &autoscalingv2.ExternalMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "jobs"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &one}}}
	queue := autoscalingv2.MetricSpec{Type: autoscalingv2.ObjectMetricSourceType, Object: &autoscalingv2.ObjectMetricSource{
		DescribedObject: autoscalingv2.CrossVersionObjectReference{Kind: "Service", Name: "q"},
		Metric:          autoscalingv2.MetricIdentifier{Name: "length"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.ValueMetricType, Value: &one}}}
	used := samples{"a": {value: 1000, at: noon}, "b": {value: 1000, at: noon}}
	for name, test := range map[string]struct {
		autoscaler *autoscalingv2.HorizontalPodAutoscaler
		other      bool // a second autoscaler of the same pods
		size       int32
		source     fakeSource
		want       int32
		conditions string
		event      string
	}{
		"load": {autoscaler: autoscaler("web", cpu), size: 2, source: fakeSource{used: used}, want: 4,
			conditions: "AbleToScale=SucceededRescale ScalingActive=ValidMetricFound ScalingLimited=DesiredWithinRange",
			event:      "New size: 4; reason: cpu resource utilization (percentage of request) above target"},
		"a metric from outside": {autoscaler: autoscaler("web", jobs), size: 2, source: fakeSource{value: 3000}, want: 3,
			conditions: "AbleToScale=SucceededRescale ScalingActive=ValidMetricFound ScalingLimited=DesiredWithinRange",
			event:      "New size: 3; reason: external metric jobs(nil) above target"},
		"a metric of an object": {autoscaler: autoscaler("web", queue), size: 2, source: fakeSource{value: 2000}, want: 4,
			conditions: "AbleToScale=SucceededRescale ScalingActive=ValidMetricFound ScalingLimited=DesiredWithinRange",
			event:      "New size: 4; reason: Service metric length above target"},
		"no metrics": {autoscaler: autoscaler("web", cpu), size: 2, source: fakeSource{err: errors.New("nobody there")}, want: 2,
			conditions: "AbleToScale=SucceededGetScale ScalingActive=FailedGetResourceMetric",
			event:      "invalid metrics (1 invalid out of 1), first error is: failed to get cpu resource metric value: failed to get cpu utilization: unable to get metrics for resource cpu: nobody there"},
		"too many": {autoscaler: autoscaler("web", cpu), size: 20, want: 10, conditions: "AbleToScale=SucceededRescale",
			event: "New size: 10; reason: Current number of replicas above Spec.MaxReplicas"},
		"none": {autoscaler: autoscaler("web", cpu), size: 0, want: 0, conditions: "AbleToScale=SucceededGetScale ScalingActive=ScalingDisabled"},
		"two of the same pods": {autoscaler: autoscaler("web", cpu), other: true, size: 2, source: fakeSource{used: used}, want: 2,
			conditions: "AbleToScale=SucceededGetScale ScalingActive=AmbiguousSelector",
			event:      "pods by selector app=web are controlled by multiple HPAs: [{test other} {test web}]"},
	} {
		t.Run(name, func(t *testing.T) {
			f := controllertest.New(t, test.autoscaler, aPod("a"), aPod("b"))
			f.Client.Resources = []*metav1.APIResourceList{{GroupVersion: "apps/v1", APIResources: []metav1.APIResource{{Name: "deployments", Kind: "Deployment", Namespaced: true}}}}
			getter := &scalefake.FakeScaleClient{}
			size := test.size
			got := make(chan int32, 10)
			getter.AddReactor("get", "deployments", func(clienttesting.Action) (bool, runtime.Object, error) {
				return true, &autoscalingv1.Scale{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "test"}, Spec: autoscalingv1.ScaleSpec{Replicas: size}, Status: autoscalingv1.ScaleStatus{Replicas: size, Selector: "app=web"}}, nil
			})
			getter.AddReactor("update", "deployments", func(action clienttesting.Action) (bool, runtime.Object, error) {
				scale := action.(clienttesting.UpdateAction).GetObject().(*autoscalingv1.Scale)
				got <- scale.Spec.Replicas
				return true, scale, nil
			})
			c := newController(f.Env)
			c.source, c.now = &test.source, func() time.Time { return noon }
			c.scales = scales.NewWith(memory.NewMemCacheClient(f.Client.Discovery()), getter)
			if test.other {
				c.selectors[identity{"test", "other"}] = labels.Everything()
				c.selectors[identity{"elsewhere", "other"}] = labels.Everything()
			}
			if err := c.watch(f.Env); err != nil {
				t.Fatal(err)
			}
			f.Start(t, c.loop)
			var last *autoscalingv2.HorizontalPodAutoscaler
			controllertest.Eventually(t, "a status", func() bool {
				a, err := f.Client.AutoscalingV2().HorizontalPodAutoscalers("test").Get(t.Context(), "web", metav1.GetOptions{})
				last = a
				return err == nil && len(a.Status.Conditions) > 0
			})
			if test.want != test.size {
				if set := <-got; set != test.want {
					t.Errorf("size %d, want %d", set, test.want)
				}
				if last.Status.LastScaleTime == nil {
					t.Error("the status has no time of the change")
				}
			} else if len(got) > 0 {
				t.Errorf("size became %d", <-got)
			}
			if test.conditions != conditions(last) {
				t.Errorf("conditions %s, want %s", conditions(last), test.conditions)
			}
			if test.event != "" {
				controllertest.Eventually(t, "event "+test.event, func() bool {
					events, err := f.Client.CoreV1().Events("test").List(t.Context(), metav1.ListOptions{})
					return err == nil && slices.ContainsFunc(events.Items, func(e corev1.Event) bool { return e.Message == test.event })
				})
			}
		})
	}
}

func conditions(a *autoscalingv2.HorizontalPodAutoscaler) string {
	var all []string
	for _, c := range a.Status.Conditions {
		all = append(all, string(c.Type)+"="+c.Reason)
	}
	slices.Sort(all)
	return strings.Join(all, " ")
}
