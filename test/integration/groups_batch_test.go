package integration

import (
	"reflect"
	"strings"
	"sync"
	"testing"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/utils/ptr"
)

// Jobs select their pods by themselves, and their finish is final.
func TestJobs(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.BatchV1().Jobs(c.namespace(t))
	j := &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: "j"}}
	j.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	j = must(all.Create(ctx, j, metav1.CreateOptions{}))(t)
	uid := string(j.UID)
	if j.Spec.Selector.MatchLabels[batchv1.ControllerUidLabel] != uid || j.Spec.Template.Labels[batchv1.JobNameLabel] != "j" ||
		j.Spec.Template.Labels["controller-uid"] != uid || j.Labels["job-name"] != "j" || *j.Spec.BackoffLimit != 6 {
		t.Errorf("created %+v", j)
	}
	odd := j.DeepCopy()
	odd.Spec.Completions, odd.Spec.Template.Spec.Containers[0].Image = ptr.To[int32](2), "x"
	_, err := all.Update(ctx, odd, metav1.UpdateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.completions: Invalid value: 2: field is immutable") || !strings.Contains(err.Error(), "spec.template: Invalid value") {
		t.Errorf("other completions and template: %v", err)
	}
	if j = must(all.Patch(ctx, "j", types.StrategicMergePatchType, []byte(`{"spec":{"suspend":true}}`), metav1.PatchOptions{}))(t); !*j.Spec.Suspend || j.Generation != 2 {
		t.Errorf("suspended: %+v", j)
	}
	now := metav1.Now()
	j.Status = batchv1.JobStatus{StartTime: &now, CompletionTime: &now, Succeeded: 1, Conditions: []batchv1.JobCondition{
		{Type: batchv1.JobSuccessCriteriaMet, Status: corev1.ConditionTrue}, {Type: batchv1.JobComplete, Status: corev1.ConditionTrue}}}
	j = must(all.UpdateStatus(ctx, j, metav1.UpdateOptions{}))(t)
	if list := must(all.List(ctx, metav1.ListOptions{FieldSelector: "status.successful=1"}))(t); len(list.Items) != 1 {
		t.Errorf("%d successful jobs", len(list.Items))
	}
	j.Status.Conditions = nil
	if _, err := all.UpdateStatus(ctx, j, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "cannot disable the terminal Complete=True condition") {
		t.Errorf("a finished job goes on: %v", err)
	}
	// Without being told, its pods stay.
	if err := all.Delete(ctx, "j", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if got, err := all.Get(ctx, "j", metav1.GetOptions{}); err != nil || len(got.Finalizers) != 1 || got.Finalizers[0] != "orphan" {
		t.Errorf("deleted: %+v, %v", got, err)
	}
	must(all.Patch(ctx, "j", types.MergePatchType, []byte(`{"metadata":{"finalizers":null}}`), metav1.PatchOptions{}))(t)
}

func TestCronJobSchedules(t *testing.T) {
	c, ctx := Start(t), t.Context()
	all := c.Client.BatchV1().CronJobs(c.namespace(t))
	cj := &batchv1.CronJob{ObjectMeta: metav1.ObjectMeta{Name: "c"}, Spec: batchv1.CronJobSpec{Schedule: "61 * * * *", TimeZone: ptr.To("Moon/Sea")}}
	cj.Spec.JobTemplate.Spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyOnFailure, Containers: []corev1.Container{{Name: "c", Image: "i"}}}
	_, err := all.Create(ctx, cj, metav1.CreateOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "end of range (61) above maximum (59)") || !strings.Contains(err.Error(), "unknown time zone Moon/Sea") {
		t.Errorf("odd schedule: %v", err)
	}
	cj.Spec.Schedule, cj.Spec.TimeZone = "@daily", ptr.To("Asia/Tokyo")
	if cj = must(all.Create(ctx, cj, metav1.CreateOptions{}))(t); *cj.Spec.FailedJobsHistoryLimit != 1 || cj.Generation != 1 {
		t.Errorf("created %+v", cj)
	}
}

// evictable makes running pods, ready or not, that a budget guards.
func evictable(t *testing.T, c *Cluster, ns string, ready corev1.ConditionStatus, names ...string) {
	t.Helper()
	for _, name := range names {
		pod := simplePod(name)
		pod.Labels = map[string]string{"app": "x"}
		pod.Spec.TerminationGracePeriodSeconds = ptr.To[int64](0)
		pod = must(c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}))(t)
		pod.Status.Phase = corev1.PodRunning
		pod.Status.Conditions = []corev1.PodCondition{{Type: corev1.PodReady, Status: ready}}
		must(c.Client.CoreV1().Pods(ns).UpdateStatus(t.Context(), pod, metav1.UpdateOptions{}))(t)
	}
}

func budget(t *testing.T, c *Cluster, ns string, change func(*policyv1.PodDisruptionBudget)) *policyv1.PodDisruptionBudget {
	t.Helper()
	b := &policyv1.PodDisruptionBudget{ObjectMeta: metav1.ObjectMeta{Name: "b"}}
	b.Spec.Selector = &metav1.LabelSelector{MatchLabels: map[string]string{"app": "x"}}
	b.Spec.MinAvailable = ptr.To(intstr.FromInt32(1))
	change(b)
	status := b.Status
	b = must(c.Client.PolicyV1().PodDisruptionBudgets(ns).Create(t.Context(), b, metav1.CreateOptions{}))(t)
	b.Status = status
	return must(c.Client.PolicyV1().PodDisruptionBudgets(ns).UpdateStatus(t.Context(), b, metav1.UpdateOptions{}))(t)
}

// Of many evictions at once, as many succeed as the budget allows.
func TestEvictionsSpendTheBudget(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	names := []string{"p0", "p1", "p2", "p3", "p4"}
	evictable(t, c, ns, corev1.ConditionTrue, names...)
	budget(t, c, ns, func(b *policyv1.PodDisruptionBudget) {
		b.Status = policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, DisruptionsAllowed: 2, CurrentHealthy: 5, DesiredHealthy: 3, ExpectedPods: 5}
	})
	evict := func(name string, options *metav1.DeleteOptions) error {
		return c.Client.CoreV1().Pods(ns).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: name}, DeleteOptions: options})
	}
	if err := evict("p0", &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}); err != nil {
		t.Errorf("dry run: %v", err)
	}
	if b := must(c.Client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "b", metav1.GetOptions{}))(t); b.Status.DisruptionsAllowed != 2 || len(b.Status.DisruptedPods) != 0 {
		t.Errorf("a dry run spent: %+v", b.Status)
	}
	errs := make([]error, len(names))
	var all sync.WaitGroup
	for i, name := range names {
		all.Go(func() { errs[i] = evict(name, nil) })
	}
	all.Wait()
	refused := 0
	for _, err := range errs {
		if err == nil {
			continue
		}
		refused++
		status, ok := err.(apierrors.APIStatus)
		if !apierrors.IsTooManyRequests(err) || !ok || len(status.Status().Details.Causes) != 1 {
			t.Fatalf("refused with %v", err)
		}
		// The counts are the controller's, and it does not run here.
		cause := status.Status().Details.Causes[0]
		if cause.Type != policyv1.DisruptionBudgetCause || !strings.HasPrefix(cause.Message, "The disruption budget b does not allow evicting pods currently") {
			t.Errorf("cause %+v", cause)
		}
	}
	b := must(c.Client.PolicyV1().PodDisruptionBudgets(ns).Get(ctx, "b", metav1.GetOptions{}))(t)
	if refused != 3 || b.Status.DisruptionsAllowed != 0 || len(b.Status.DisruptedPods) != 2 {
		t.Errorf("%d refused, budget %+v", refused, b.Status)
	}
	if len(b.Status.Conditions) != 1 || b.Status.Conditions[0].Status != metav1.ConditionFalse || b.Status.Conditions[0].Reason != policyv1.InsufficientPodsReason {
		t.Errorf("conditions %+v", b.Status.Conditions)
	}
}

func TestEvictionsThatBudgetsJudge(t *testing.T) {
	status := policyv1.PodDisruptionBudgetStatus{ObservedGeneration: 1, CurrentHealthy: 1, DesiredHealthy: 2, ExpectedPods: 2}
	healthy := status
	healthy.CurrentHealthy = 2
	for name, test := range map[string]struct {
		ready  corev1.ConditionStatus
		change func(*policyv1.PodDisruptionBudget)
		want   string // "" for an eviction
	}{
		"none left":          {corev1.ConditionTrue, func(b *policyv1.PodDisruptionBudget) { b.Status = status }, "The disruption budget b needs 2 healthy pods and has 1 currently"},
		"not looked at":      {corev1.ConditionTrue, func(*policyv1.PodDisruptionBudget) {}, "The disruption budget b is still being processed by the server."},
		"unready, unhealthy": {corev1.ConditionFalse, func(b *policyv1.PodDisruptionBudget) { b.Status = status }, "The disruption budget b needs 2 healthy pods and has 1 currently"},
		"unready, healthy":   {corev1.ConditionFalse, func(b *policyv1.PodDisruptionBudget) { b.Status = healthy }, ""},
		"unready, always allowed": {corev1.ConditionFalse, func(b *policyv1.PodDisruptionBudget) {
			b.Status, b.Spec.UnhealthyPodEvictionPolicy = status, ptr.To(policyv1.AlwaysAllow)
		}, ""},
		"of other pods": {corev1.ConditionTrue, func(b *policyv1.PodDisruptionBudget) { b.Status, b.Spec.Selector.MatchLabels["app"] = status, "y" }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			c, ctx := Start(t), t.Context()
			ns := must(c.Client.CoreV1().Namespaces().Create(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{GenerateName: "evictions-"}}, metav1.CreateOptions{}))(t).Name
			must(c.Client.CoreV1().ServiceAccounts(ns).Create(ctx, &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "default"}}, metav1.CreateOptions{}))(t)
			evictable(t, c, ns, test.ready, "p")
			budget(t, c, ns, test.change)
			// A client would come back by itself, ten seconds later.
			err := c.Client.CoreV1().RESTClient().Post().Namespace(ns).Resource("pods").Name("p").SubResource("eviction").MaxRetries(0).
				Body(&policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}}).Do(ctx).Error()
			_, gone := c.Client.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{})
			if test.want == "" {
				if err != nil || !apierrors.IsNotFound(gone) {
					t.Errorf("evicted with %v, pod: %v", err, gone)
				}
				return
			}
			refusal, ok := err.(apierrors.APIStatus)
			if !apierrors.IsTooManyRequests(err) || !ok || refusal.Status().Details.Causes[0].Message != test.want || gone != nil {
				t.Errorf("refused with %+v, pod: %v", err, gone)
			}
		})
	}
}

// What v1 has no fields for goes through its annotations and back.
func TestAutoscalersInBothVersions(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	newer, older := c.Client.AutoscalingV2().HorizontalPodAutoscalers(ns), c.Client.AutoscalingV1().HorizontalPodAutoscalers(ns)
	one := must(older.Create(ctx, &autoscalingv1.HorizontalPodAutoscaler{ObjectMeta: metav1.ObjectMeta{Name: "a"}, Spec: autoscalingv1.HorizontalPodAutoscalerSpec{
		ScaleTargetRef: autoscalingv1.CrossVersionObjectReference{APIVersion: "apps/v1", Kind: "Deployment", Name: "d"}, MaxReplicas: 5}}, metav1.CreateOptions{}))(t)
	if *one.Spec.TargetCPUUtilizationPercentage != 80 || *one.Spec.MinReplicas != 1 {
		t.Errorf("v1 made %+v", one.Spec)
	}
	two := must(newer.Get(ctx, "a", metav1.GetOptions{}))(t)
	if len(two.Spec.Metrics) != 1 || *two.Spec.Metrics[0].Resource.Target.AverageUtilization != 80 {
		t.Errorf("v2 reads %+v", two.Spec)
	}
	value := resource.MustParse("5")
	two.Spec.Metrics = append(two.Spec.Metrics, autoscalingv2.MetricSpec{Type: autoscalingv2.PodsMetricSourceType, Pods: &autoscalingv2.PodsMetricSource{
		Metric: autoscalingv2.MetricIdentifier{Name: "m"}, Target: autoscalingv2.MetricTarget{Type: autoscalingv2.AverageValueMetricType, AverageValue: &value}}})
	two.Spec.Behavior = &autoscalingv2.HorizontalPodAutoscalerBehavior{}
	two = must(newer.Update(ctx, two, metav1.UpdateOptions{}))(t)
	one = must(older.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"targetCPUUtilizationPercentage":50}}`), metav1.PatchOptions{}))(t)
	if !strings.Contains(one.Annotations["autoscaling.alpha.kubernetes.io/metrics"], `"metricName":"m"`) || !strings.Contains(one.Annotations["autoscaling.alpha.kubernetes.io/behavior"], `"ScaleUp":{"StabilizationWindowSeconds":0,`) {
		t.Errorf("v1's annotations are %v", one.Annotations)
	}
	got := must(newer.Get(ctx, "a", metav1.GetOptions{}))(t)
	if len(got.Spec.Metrics) != 2 || got.Spec.Metrics[0].Pods == nil || *got.Spec.Metrics[1].Resource.Target.AverageUtilization != 50 || len(got.Annotations) != 0 {
		t.Errorf("v2 reads %+v, annotations %v", got.Spec.Metrics, got.Annotations)
	}
	if !reflect.DeepEqual(got.Spec.Behavior, two.Spec.Behavior) || len(got.Spec.Behavior.ScaleUp.Policies) != 2 {
		t.Errorf("behavior %+v became %+v", two.Spec.Behavior, got.Spec.Behavior)
	}
	if list := must(older.List(ctx, metav1.ListOptions{}))(t); len(list.Items) != 1 || *list.Items[0].Spec.TargetCPUUtilizationPercentage != 50 {
		t.Errorf("v1 lists %+v", list.Items)
	}
	_, err := older.Patch(ctx, "a", types.MergePatchType, []byte(`{"spec":{"maxReplicas":0}}`), metav1.PatchOptions{})
	if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), "spec.maxReplicas: Required value: must be set and greater than 0") {
		t.Errorf("no replicas: %v", err)
	}
}
