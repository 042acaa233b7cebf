package integration

import (
	"context"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
)

func simplePod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx"}}},
	}
}

func bind(ctx context.Context, c *Cluster, namespace, pod, node string) error {
	return c.Client.CoreV1().Pods(namespace).Bind(ctx, &corev1.Binding{
		ObjectMeta: metav1.ObjectMeta{Name: pod, Annotations: map[string]string{"chosen-by": "test"}},
		Target:     corev1.ObjectReference{Kind: "Node", Name: node},
	}, metav1.CreateOptions{})
}

func TestPodIsBoundOnce(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	pods := c.Client.CoreV1().Pods(ns)
	created := must(pods.Create(ctx, simplePod("p"), metav1.CreateOptions{}))(t)
	if created.Status.Phase != corev1.PodPending || created.Status.QOSClass != corev1.PodQOSBestEffort || created.Generation != 1 {
		t.Errorf("new pod: %+v, generation %d", created.Status, created.Generation)
	}
	if created.Spec.ServiceAccountName != created.Spec.DeprecatedServiceAccount {
		t.Errorf("service account %q, its old name %q", created.Spec.ServiceAccountName, created.Spec.DeprecatedServiceAccount)
	}
	// Of many schedulers, one wins.
	var wins, conflicts int
	var mu sync.Mutex
	var wg sync.WaitGroup
	for _, node := range []string{"a", "b", "c", "d"} {
		wg.Go(func() {
			err := bind(ctx, c, ns, "p", node)
			mu.Lock()
			defer mu.Unlock()
			switch {
			case err == nil:
				wins++
			case apierrors.IsConflict(err):
				conflicts++
			default:
				t.Errorf("bind to %s: %v", node, err)
			}
		})
	}
	wg.Wait()
	if wins != 1 || conflicts != 3 {
		t.Errorf("%d bindings, %d conflicts", wins, conflicts)
	}
	bound := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if bound.Annotations["chosen-by"] != "test" || bound.Status.Conditions[0].Type != corev1.PodScheduled {
		t.Errorf("bound pod: annotations %v, conditions %v", bound.Annotations, bound.Status.Conditions)
	}
	list := must(pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + bound.Spec.NodeName + ",status.phase=Pending"}))(t)
	if len(list.Items) != 1 {
		t.Errorf("%d pods by field selector", len(list.Items))
	}
	if _, err := pods.List(ctx, metav1.ListOptions{FieldSelector: "spec.color=red"}); !apierrors.IsBadRequest(err) {
		t.Errorf("unknown field: %v", err)
	}
}

func TestPodDeletion(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	pods := c.Client.CoreV1().Pods(ns)
	must(pods.Create(ctx, simplePod("idle"), metav1.CreateOptions{}))(t)
	if err := pods.Delete(ctx, "idle", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "idle", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a pod that runs nowhere is still there: %v", err)
	}

	must(pods.Create(ctx, simplePod("busy"), metav1.CreateOptions{}))(t)
	if err := bind(ctx, c, ns, "busy", "n"); err != nil {
		t.Fatal(err)
	}
	if err := pods.Delete(ctx, "busy", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	busy := must(pods.Get(ctx, "busy", metav1.GetOptions{}))(t)
	if busy.DeletionTimestamp == nil || ptr.Deref(busy.DeletionGracePeriodSeconds, 0) != 30 {
		t.Errorf("deleted pod: timestamp %v, grace %v", busy.DeletionTimestamp, busy.DeletionGracePeriodSeconds)
	}
	// The node agent has the last word.
	if err := pods.Delete(ctx, "busy", metav1.DeleteOptions{GracePeriodSeconds: ptr.To[int64](0)}); err != nil {
		t.Fatal(err)
	}
	if _, err := pods.Get(ctx, "busy", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after the agent's deletion: %v", err)
	}
}

func TestPodEviction(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	pods := c.Client.CoreV1().Pods(ns)
	must(pods.Create(ctx, simplePod("p"), metav1.CreateOptions{}))(t)
	if err := bind(ctx, c, ns, "p", "n"); err != nil {
		t.Fatal(err)
	}
	dry := &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}, DeleteOptions: &metav1.DeleteOptions{DryRun: []string{metav1.DryRunAll}}}
	if err := c.Client.PolicyV1().Evictions(ns).Evict(ctx, dry); err != nil {
		t.Fatal(err)
	}
	if p := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t); p.DeletionTimestamp != nil {
		t.Error("a dry run evicted")
	}
	if err := c.Client.PolicyV1().Evictions(ns).Evict(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "p", Namespace: ns}}); err != nil {
		t.Fatal(err)
	}
	p := must(pods.Get(ctx, "p", metav1.GetOptions{}))(t)
	if p.DeletionTimestamp == nil {
		t.Error("the evicted pod is not being deleted")
	}
	var told bool
	for _, condition := range p.Status.Conditions {
		told = told || condition.Type == corev1.DisruptionTarget && condition.Reason == "EvictionByEvictionAPI"
	}
	if !told {
		t.Errorf("conditions %v do not tell of the eviction", p.Status.Conditions)
	}
}

func TestPodSubresourcesChangeTheirPartOnly(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	pods := c.Client.CoreV1().Pods(ns)
	pod := simplePod("p")
	pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{"cpu": resource.MustParse("100m")}
	created := must(pods.Create(ctx, pod, metav1.CreateOptions{}))(t)

	// The main resource leaves the status alone, and the status the spec.
	edited := created.DeepCopy()
	edited.Labels = map[string]string{"a": "b"}
	edited.Status.Phase = corev1.PodRunning
	if got := must(pods.Update(ctx, edited, metav1.UpdateOptions{}))(t); got.Status.Phase != corev1.PodPending || got.Labels["a"] != "b" {
		t.Errorf("update: phase %s, labels %v", got.Status.Phase, got.Labels)
	}
	patch := `{"spec":{"containers":[{"name":"c","image":"other"}]},"status":{"phase":"Running","podIP":"10.1.2.3"}}`
	got := must(pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(patch), metav1.PatchOptions{}, "status"))(t)
	if got.Spec.Containers[0].Image != "nginx" || got.Status.Phase != corev1.PodRunning || len(got.Status.PodIPs) != 1 {
		t.Errorf("status patch: image %s, status %+v", got.Spec.Containers[0].Image, got.Status)
	}
	if _, err := pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","command":["sh"]}]}}`), metav1.PatchOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("change of a command: %v", err)
	}

	got.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug", Image: "busybox"}, TargetContainerName: "c"}}
	got.Spec.Containers[0].Image = "other"
	debugged := must(pods.UpdateEphemeralContainers(ctx, "p", got, metav1.UpdateOptions{}))(t)
	if len(debugged.Spec.EphemeralContainers) != 1 || debugged.Spec.Containers[0].Image != "nginx" || debugged.Generation != 2 {
		t.Errorf("ephemeral containers: %+v, generation %d", debugged.Spec, debugged.Generation)
	}
	debugged.Spec.EphemeralContainers = nil
	if _, err := pods.UpdateEphemeralContainers(ctx, "p", debugged, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("removal of an ephemeral container: %v", err)
	}

	resized := must(pods.Patch(ctx, "p", types.StrategicMergePatchType, []byte(`{"spec":{"containers":[{"name":"c","resources":{"requests":{"cpu":"200m"}}}]}}`), metav1.PatchOptions{}, "resize"))(t)
	if q := resized.Spec.Containers[0].Resources.Requests["cpu"]; q.String() != "200m" || resized.Generation != 3 {
		t.Errorf("resize: cpu %s, generation %d", q.String(), resized.Generation)
	}
}
