package horizontalpodautoscaler

import (
	"context"
	"errors"
	"fmt"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
	podmetrics "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
	"k8s.io/metrics/pkg/client/custom_metrics"
	"k8s.io/metrics/pkg/client/external_metrics"
)

// customWindow is what a custom metric was measured over that does not say.
const customWindow = time.Minute

// source is where samples come from. Values are in thousandths.
type source interface {
	// resource is what pods use, or the container of that name in each of them.
	resource(ctx context.Context, resource corev1.ResourceName, namespace string, selector labels.Selector, container string) (samples, error)
	// pods is a custom metric of pods.
	pods(metric, namespace string, selector, metricSelector labels.Selector) (samples, error)
	// object is a custom metric of one object.
	object(metric, namespace string, ref autoscalingv2.CrossVersionObjectReference, metricSelector labels.Selector) (int64, error)
	// external is every value of a metric from outside.
	external(metric, namespace string, metricSelector labels.Selector) ([]int64, error)
}

// apis is the source of a cluster: what extension API servers offer.
type apis struct {
	resources podmetrics.PodMetricsesGetter
	versions  custom_metrics.AvailableAPIsGetter
	custom    custom_metrics.CustomMetricsClient
	outside   external_metrics.ExternalMetricsClient
}

func newAPIs(config *rest.Config, found discovery.DiscoveryInterface, kinds meta.RESTMapper) (*apis, error) {
	a := &apis{versions: custom_metrics.NewAvailableAPIsGetter(found)}
	a.custom = custom_metrics.NewForConfig(config, kinds, a.versions)
	var err error
	if a.resources, err = podmetrics.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client of metrics.k8s.io: %w", err)
	}
	if a.outside, err = external_metrics.NewForConfig(config); err != nil {
		return nil, fmt.Errorf("make client of external.metrics.k8s.io: %w", err)
	}
	return a, nil
}

func (a *apis) resource(ctx context.Context, resource corev1.ResourceName, namespace string, selector labels.Selector, container string) (samples, error) {
	list, err := a.resources.PodMetricses(namespace).List(ctx, metav1.ListOptions{LabelSelector: selector.String()})
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from resource metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from resource metrics API")
	}
	found := make(samples, len(list.Items))
	for i := range list.Items {
		pod := &list.Items[i]
		if used, ok := usage(pod, resource, container); ok {
			found[pod.Name] = sample{value: used, at: pod.Timestamp.Time, window: pod.Window.Duration}
		}
	}
	return found, nil
}

// usage is that of one container, or of all if all have been measured.
func usage(pod *metricsv1beta1.PodMetrics, resource corev1.ResourceName, container string) (total int64, ok bool) {
	for _, c := range pod.Containers {
		if container != "" && c.Name != container {
			continue
		}
		q, known := c.Usage[resource]
		if !known {
			return 0, false
		}
		total, ok = total+q.MilliValue(), true
	}
	return total, ok
}

func (a *apis) pods(metric, namespace string, selector, metricSelector labels.Selector) (samples, error) {
	list, err := a.custom.NamespacedMetrics(namespace).GetForObjects(schema.GroupKind{Kind: "Pod"}, selector, metric, metricSelector)
	if err != nil {
		return nil, a.customFailed(err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from custom metrics API")
	}
	found := make(samples, len(list.Items))
	for _, m := range list.Items {
		window := customWindow
		if m.WindowSeconds != nil {
			window = time.Duration(*m.WindowSeconds) * time.Second
		}
		found[m.DescribedObject.Name] = sample{value: m.Value.MilliValue(), at: m.Timestamp.Time, window: window}
	}
	return found, nil
}

func (a *apis) object(metric, namespace string, ref autoscalingv2.CrossVersionObjectReference, metricSelector labels.Selector) (int64, error) {
	kind := schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).GroupKind()
	metrics, name := custom_metrics.MetricsInterface(a.custom.NamespacedMetrics(namespace)), ref.Name
	if kind == (schema.GroupKind{Kind: "Namespace"}) {
		// An autoscaler may look at no namespace but its own.
		metrics, name = a.custom.RootScopedMetrics(), namespace
	}
	value, err := metrics.GetForObject(kind, name, metric, metricSelector)
	if err != nil {
		return 0, a.customFailed(err)
	}
	return value.Value.MilliValue(), nil
}

// customFailed looks again, the next time, for the versions that the API has.
func (a *apis) customFailed(err error) error {
	a.versions.Invalidate()
	return fmt.Errorf("unable to fetch metrics from custom metrics API: %w", err)
}

func (a *apis) external(metric, namespace string, metricSelector labels.Selector) ([]int64, error) {
	list, err := a.outside.NamespacedMetrics(namespace).List(metric, metricSelector)
	if err != nil {
		return nil, fmt.Errorf("unable to fetch metrics from external metrics API: %w", err)
	}
	if len(list.Items) == 0 {
		return nil, errors.New("no metrics returned from external metrics API")
	}
	var values []int64
	for _, m := range list.Items {
		values = append(values, m.Value.MilliValue())
	}
	return values, nil
}
