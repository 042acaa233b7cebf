package integration

import (
	"context"
	"fmt"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"
	"k8s.io/utils/ptr"
)

// TestWorkloads runs the controllers of pods that are more than replicas.
func TestWorkloads(t *testing.T) {
	c := Start(t)
	c.startControllers(t)
	client := c.Client
	must(client.CoreV1().Nodes().Create(t.Context(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "play", Labels: map[string]string{"plays": "here"}}}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		if err := client.CoreV1().Nodes().Delete(context.Background(), "play", metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	t.Run("stateful set", func(t *testing.T) { testStatefulSet(t, client) })
	t.Run("daemon set", func(t *testing.T) { testDaemonSet(t, client) })
	t.Run("job", func(t *testing.T) { testJob(t, client) })
	t.Run("cron job", func(t *testing.T) { testCronJob(t, client) })
	t.Run("disruption budget", func(t *testing.T) { testDisruptionBudget(t, client) })
	t.Run("replication controller and quota", func(t *testing.T) { testReplicationController(t, client) })
}

func testStatefulSet(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "stateful")
	playNode(t, client, namespace)
	template := webDeployment(3).Spec
	sets := client.AppsV1().StatefulSets(namespace)
	must(sets.Create(t.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.StatefulSetSpec{Replicas: template.Replicas, Selector: template.Selector, Template: template.Template, ServiceName: "web"},
	}, metav1.CreateOptions{}))(t)
	settled := func(image string, replicas int32) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d pods of %s", replicas, image), func(ctx context.Context) (bool, error) {
			set, err := sets.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			s := set.Status
			if s.ReadyReplicas != replicas || s.Replicas != replicas || s.UpdatedReplicas != replicas || s.CurrentRevision != s.UpdateRevision || s.ObservedGeneration != set.Generation {
				return false, fmt.Errorf("status %+v", s)
			}
			for i := range replicas {
				pod, err := client.CoreV1().Pods(namespace).Get(ctx, fmt.Sprintf("web-%d", i), metav1.GetOptions{})
				if err != nil {
					return false, err
				}
				if pod.Spec.Containers[0].Image != image || pod.Spec.Hostname != pod.Name || pod.Spec.Subdomain != "web" {
					return false, fmt.Errorf("%s is not as wanted", pod.Name)
				}
			}
			return true, nil
		})
	}
	settled("web:1", 3)
	must(sets.Patch(t.Context(), "web", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}`), metav1.PatchOptions{}))(t)
	settled("web:2", 3)
	must(sets.Patch(t.Context(), "web", "application/merge-patch+json", []byte(`{"spec":{"replicas":1}}`), metav1.PatchOptions{}))(t)
	settled("web:2", 1)
}

func testDaemonSet(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "daemon")
	playNode(t, client, namespace)
	template := webDeployment(1).Spec
	// Other tests have nodes in this cluster too.
	template.Template.Spec.NodeSelector = map[string]string{"plays": "here"}
	sets := client.AppsV1().DaemonSets(namespace)
	must(sets.Create(t.Context(), &appsv1.DaemonSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       appsv1.DaemonSetSpec{Selector: template.Selector, Template: template.Template},
	}, metav1.CreateOptions{}))(t)
	settled := func(image string) {
		t.Helper()
		eventually(t, "a pod of "+image, func(ctx context.Context) (bool, error) {
			set, err := sets.Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			if s := set.Status; s.NumberAvailable != 1 || s.UpdatedNumberScheduled != 1 || s.DesiredNumberScheduled != 1 || s.ObservedGeneration != set.Generation {
				return false, fmt.Errorf("status %+v", s)
			}
			pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil || len(pods.Items) != 1 {
				return false, err
			}
			return pods.Items[0].Spec.Containers[0].Image == image, nil
		})
	}
	settled("web:1")
	must(sets.Patch(t.Context(), "web", "application/strategic-merge-patch+json",
		[]byte(`{"spec":{"template":{"spec":{"containers":[{"name":"web","image":"web:2"}]}}}}`), metav1.PatchOptions{}))(t)
	settled("web:2")
	revisions := must(client.AppsV1().ControllerRevisions(namespace).List(t.Context(), metav1.ListOptions{}))(t)
	if len(revisions.Items) != 2 {
		t.Errorf("%d revisions", len(revisions.Items))
	}
}

// playWork lets every pod of a namespace end as its job's name says.
func playWork(t *testing.T, client kubernetes.Interface, namespace string) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ; ctx.Err() == nil; time.Sleep(20 * time.Millisecond) {
			list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				continue
			}
			for i := range list.Items {
				pod := &list.Items[i]
				if pod.Status.Phase == corev1.PodPending {
					pod.Status.Phase = corev1.PodSucceeded
					if pod.Labels[batchv1.JobNameLabel] == "fails" {
						pod.Status.Phase = corev1.PodFailed
					}
					_, _ = client.CoreV1().Pods(namespace).UpdateStatus(ctx, pod, metav1.UpdateOptions{})
				}
			}
		}
	}()
	t.Cleanup(func() { cancel(); <-done })
}

func testJob(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "job")
	playWork(t, client, namespace)
	for name, spec := range map[string]batchv1.JobSpec{
		"plain":   {Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](2)},
		"indexed": {Completions: ptr.To[int32](3), Parallelism: ptr.To[int32](3), CompletionMode: ptr.To(batchv1.IndexedCompletion)},
		"fails":   {BackoffLimit: ptr.To[int32](0)},
	} {
		t.Run(name, func(t *testing.T) {
			spec.Template.Spec = corev1.PodSpec{RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work", Image: "work"}}}
			must(client.BatchV1().Jobs(namespace).Create(t.Context(), &batchv1.Job{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{}))(t)
			eventually(t, "the end", func(ctx context.Context) (bool, error) {
				job, err := client.BatchV1().Jobs(namespace).Get(ctx, name, metav1.GetOptions{})
				if err != nil {
					return false, err
				}
				for _, c := range job.Status.Conditions {
					switch c.Type {
					case batchv1.JobComplete:
						return name != "fails" && job.Status.Succeeded == 3 && job.Status.Active == 0, fmt.Errorf("status %+v", job.Status)
					case batchv1.JobFailed:
						return name == "fails" && job.Status.Failed == 1 && c.Reason == batchv1.JobReasonBackoffLimitExceeded, fmt.Errorf("status %+v", job.Status)
					}
				}
				return false, fmt.Errorf("status %+v", job.Status)
			})
			pods := must(client.CoreV1().Pods(namespace).List(t.Context(), metav1.ListOptions{LabelSelector: batchv1.JobNameLabel + "=" + name}))(t)
			for _, pod := range pods.Items {
				if len(pod.Finalizers) > 0 {
					t.Errorf("%s keeps %v", pod.Name, pod.Finalizers)
				}
			}
			background := metav1.DeletePropagationBackground
			if err := client.BatchV1().Jobs(namespace).Delete(t.Context(), name, metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
				t.Fatal(err)
			}
		})
	}
	eventually(t, "the pods to go with their jobs", func(ctx context.Context) (bool, error) {
		pods, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(pods.Items) == 0, err
	})
}

// A cron job that has been there for a while, as far as it knows, makes one job
// at once, which is deleted soon after its end.
func testCronJob(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "cron")
	playWork(t, client, namespace)
	crons := client.BatchV1().CronJobs(namespace)
	created := must(crons.Create(t.Context(), &batchv1.CronJob{
		ObjectMeta: metav1.ObjectMeta{Name: "tick"},
		Spec: batchv1.CronJobSpec{
			Schedule: "* * * * *", TimeZone: ptr.To("Asia/Tokyo"), Suspend: ptr.To(true),
			JobTemplate: batchv1.JobTemplateSpec{Spec: batchv1.JobSpec{
				TTLSecondsAfterFinished: ptr.To[int32](0),
				Template: corev1.PodTemplateSpec{Spec: corev1.PodSpec{
					RestartPolicy: corev1.RestartPolicyNever, Containers: []corev1.Container{{Name: "work", Image: "work"}}}},
			}},
		},
	}, metav1.CreateOptions{}))(t)
	created.Status.LastScheduleTime = &metav1.Time{Time: time.Now().Add(-2 * time.Minute)}
	must(crons.UpdateStatus(t.Context(), created, metav1.UpdateOptions{}))(t)
	must(crons.Patch(t.Context(), "tick", "application/merge-patch+json", []byte(`{"spec":{"suspend":false}}`), metav1.PatchOptions{}))(t)
	eventually(t, "a job to have come and gone", func(ctx context.Context) (bool, error) {
		cron, err := crons.Get(ctx, "tick", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		jobs, err := client.BatchV1().Jobs(namespace).List(ctx, metav1.ListOptions{})
		return err == nil && len(jobs.Items) == 0 && len(cron.Status.Active) == 0 && time.Since(cron.Status.LastScheduleTime.Time) < 90*time.Second, err
	})
}

func testDisruptionBudget(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "budget")
	playNode(t, client, namespace)
	deployment := webDeployment(3)
	must(client.AppsV1().Deployments(namespace).Create(t.Context(), deployment, metav1.CreateOptions{}))(t)
	most := intstr.FromInt32(1)
	must(client.PolicyV1().PodDisruptionBudgets(namespace).Create(t.Context(), &policyv1.PodDisruptionBudget{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       policyv1.PodDisruptionBudgetSpec{MaxUnavailable: &most, Selector: deployment.Spec.Selector},
	}, metav1.CreateOptions{}))(t)
	eventually(t, "a budget of one", func(ctx context.Context) (bool, error) {
		budget, err := client.PolicyV1().PodDisruptionBudgets(namespace).Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		s := budget.Status
		return s.DisruptionsAllowed == 1 && s.ExpectedPods == 3 && s.DesiredHealthy == 2, fmt.Errorf("status %+v", s)
	})
}

func testReplicationController(t *testing.T, client kubernetes.Interface) {
	namespace := freshNamespace(t, client, "replication")
	playNode(t, client, namespace)
	must(client.CoreV1().ResourceQuotas(namespace).Create(t.Context(), &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "few"},
		Spec: corev1.ResourceQuotaSpec{Hard: corev1.ResourceList{
			corev1.ResourcePods: resource.MustParse("5"), "count/replicationcontrollers": resource.MustParse("5"), "count/deployments.apps": resource.MustParse("5")}},
	}, metav1.CreateOptions{}))(t)
	template := webDeployment(2).Spec
	controllers := client.CoreV1().ReplicationControllers(namespace)
	must(controllers.Create(t.Context(), &corev1.ReplicationController{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec:       corev1.ReplicationControllerSpec{Replicas: template.Replicas, Selector: template.Selector.MatchLabels, Template: &template.Template},
	}, metav1.CreateOptions{}))(t)
	settled := func(pods, rcs int64) {
		t.Helper()
		eventually(t, fmt.Sprintf("%d pods", pods), func(ctx context.Context) (bool, error) {
			quota, err := client.CoreV1().ResourceQuotas(namespace).Get(ctx, "few", metav1.GetOptions{})
			if err != nil {
				return false, err
			}
			list, err := client.CoreV1().Pods(namespace).List(ctx, metav1.ListOptions{})
			if err != nil {
				return false, err
			}
			used := quota.Status.Used
			counted, owners := used[corev1.ResourcePods], used["count/replicationcontrollers"]
			return counted.Value() == pods && owners.Value() == rcs && int64(len(list.Items)) == pods, fmt.Errorf("used %v", used)
		})
	}
	settled(2, 1)
	background := metav1.DeletePropagationBackground
	if err := controllers.Delete(t.Context(), "web", metav1.DeleteOptions{PropagationPolicy: &background}); err != nil {
		t.Fatal(err)
	}
	settled(0, 0)
}
