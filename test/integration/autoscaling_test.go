package integration

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"
	"testing"
	"time"

	autoscalingv2 "k8s.io/api/autoscaling/v2"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/client/clientset/versioned/typed/metrics/v1beta1"
)

// hungry answers as the agent of a node whose pods, those of one namespace,
// each use half a processor and 200 MiB.
func hungry(t *testing.T, c *Cluster, namespace string) http.Handler {
	began := time.Now()
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path != "/stats/summary" {
			http.NotFound(w, r)
			return
		}
		pods, err := c.Client.CoreV1().Pods(namespace).List(r.Context(), metav1.ListOptions{})
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		now := time.Now()
		used, memory := uint64(now.Sub(began))/2, uint64(200<<20)
		cpu := &stats.CPUStats{Time: metav1.NewTime(now), UsageCoreNanoSeconds: &used}
		working := &stats.MemoryStats{Time: cpu.Time, WorkingSetBytes: &memory}
		summary := stats.Summary{Node: stats.NodeStats{NodeName: "play", CPU: cpu, Memory: working}}
		for _, pod := range pods.Items {
			summary.Pods = append(summary.Pods, stats.PodStats{
				PodRef:     stats.PodReference{Name: pod.Name, Namespace: pod.Namespace, UID: string(pod.UID)},
				Containers: []stats.ContainerStats{{Name: "web", CPU: cpu, Memory: working}},
			})
		}
		if err := json.NewEncoder(w).Encode(summary); err != nil {
			t.Logf("answer: %v", err)
		}
	})
}

// keepAlive has the node heard of until the test ends.
func keepAlive(t *testing.T, c *Cluster, node string) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	beat := func() {
		raw, _ := json.Marshal(map[string]any{"status": map[string]any{"conditions": []corev1.NodeCondition{
			{Type: corev1.NodeReady, Status: corev1.ConditionTrue, LastHeartbeatTime: metav1.Now()}}}})
		_, _ = c.Client.CoreV1().Nodes().Patch(ctx, node, types.StrategicMergePatchType, raw, metav1.PatchOptions{}, "status") // again in five seconds
	}
	beat()
	go func() {
		defer close(done)
		for ticks := time.NewTicker(5 * time.Second); ; {
			select {
			case <-ctx.Done():
				ticks.Stop()
				return
			case <-ticks.C:
				beat()
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

// TestAutoscaling follows what pods use from their node's agent through
// metrics.k8s.io into the size of their deployment.
func TestAutoscaling(t *testing.T) {
	c := Start(t)
	c.startControllers(t)
	ns := freshNamespace(t, c.Client, "autoscaling")
	serveAgent(t, c, "play", hungry(t, c, ns))
	keepAlive(t, c, "play")
	playNode(t, c.Client, ns)
	must(c.Client.AppsV1().Deployments(ns).Create(t.Context(), webDeployment(1), metav1.CreateOptions{}))(t)
	metrics := must(metricsv1beta1.NewForConfig(c.Admin))(t)

	eventually(t, "metrics of the pod", func(ctx context.Context) (bool, error) {
		list, err := metrics.PodMetricses(ns).List(ctx, metav1.ListOptions{LabelSelector: "app=web"})
		if err != nil || len(list.Items) != 1 {
			return false, fmt.Errorf("got %v, %w", list, err)
		}
		pod := list.Items[0]
		if len(pod.Containers) != 1 || pod.Containers[0].Name != "web" || pod.Window.Duration <= 0 || pod.Labels["app"] != "web" {
			t.Fatalf("metrics of the pod: %+v", pod)
		}
		if cpu := pod.Containers[0].Usage.Cpu().MilliValue(); cpu < 50 || cpu > 5000 { // a busy machine answers late
			t.Errorf("the pod uses %d thousandths of a processor, want about 500", cpu)
		}
		if memory := pod.Containers[0].Usage.Memory().String(); memory != "200Mi" {
			t.Errorf("the pod uses %s, want 200Mi", memory)
		}
		_, err = metrics.PodMetricses(ns).Get(ctx, pod.Name, metav1.GetOptions{})
		return err == nil, err
	})
	node := must(metrics.NodeMetricses().Get(t.Context(), "play", metav1.GetOptions{}))(t)
	if memory := node.Usage.Memory().String(); memory != "200Mi" {
		t.Errorf("the node uses %s, want 200Mi", memory)
	}
	if list := must(metrics.PodMetricses(ns).List(t.Context(), metav1.ListOptions{LabelSelector: "app=other"}))(t); len(list.Items) != 0 {
		t.Errorf("a selector of nothing finds %v", list.Items)
	}
	if _, err := metrics.PodMetricses(ns).Get(t.Context(), "nobody", metav1.GetOptions{}); !apierrors.IsNotFound(err) ||
		!strings.Contains(err.Error(), `pods.metrics.k8s.io "nobody" not found`) {
		t.Errorf("metrics of nobody: %v", err)
	}

	target := resource.MustParse("100Mi")
	must(c.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Create(t.Context(), &autoscalingv2.HorizontalPodAutoscaler{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: autoscalingv2.HorizontalPodAutoscalerSpec{
			ScaleTargetRef: autoscalingv2.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "web"},
			MaxReplicas:    2,
			Metrics: []autoscalingv2.MetricSpec{{Type: autoscalingv2.ResourceMetricSourceType, Resource: &autoscalingv2.ResourceMetricSource{
				Name: corev1.ResourceMemory, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &target}}}},
		},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "two pods", func(ctx context.Context) (bool, error) {
		d, err := c.Client.AppsV1().Deployments(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		a, err := c.Client.AutoscalingV2().HorizontalPodAutoscalers(ns).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return *d.Spec.Replicas == 2 && a.Status.DesiredReplicas == 2 && a.Status.LastScaleTime != nil && a.Status.CurrentMetrics[0].Resource.Current.AverageValue.String() == "200Mi",
			fmt.Errorf("%d replicas, status %+v", *d.Spec.Replicas, a.Status)
	})
}
