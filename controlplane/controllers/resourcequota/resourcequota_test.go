package resourcequota

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func testPod(name string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"},
		Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("300m")}}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning},
	}
}

func TestFollowsWhatGoes(t *testing.T) {
	hard := corev1.ResourceList{
		corev1.ResourcePods:            resource.MustParse("5"),
		corev1.ResourceRequestsCPU:     resource.MustParse("2"),
		"count/configmaps":             resource.MustParse("5"),
		"count/gadgets.example.com":    resource.MustParse("5"),
		corev1.ResourceServices:        resource.MustParse("5"),
		corev1.ResourceRequestsStorage: resource.MustParse("5Gi"),
	}
	f := controllertest.New(t, testPod("a"), testPod("b"),
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "ns"}},
		&corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Namespace: "elsewhere"}},
		&corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "s", Namespace: "ns"}},
		&corev1.ResourceQuota{ObjectMeta: metav1.ObjectMeta{Name: "q", Namespace: "ns"}, Spec: corev1.ResourceQuotaSpec{Hard: hard}})
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	used := func(pods int, cpu string) func() bool {
		return func() bool {
			q, err := f.Client.CoreV1().ResourceQuotas("ns").Get(ctx, "q", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			want := map[corev1.ResourceName]string{"pods": fmt.Sprint(pods), "requests.cpu": cpu, "count/configmaps": "1",
				"count/gadgets.example.com": "0", "services": "1", "requests.storage": "0"}
			for name, value := range want {
				got := q.Status.Used[name]
				if got.Cmp(resource.MustParse(value)) != 0 {
					return false
				}
			}
			return len(q.Status.Used) == len(want) && len(q.Status.Hard) == len(hard)
		}
	}
	controllertest.Eventually(t, "two pods", used(2, "600m"))
	ended := testPod("a")
	ended.Status.Phase = corev1.PodSucceeded
	if _, err := f.Client.CoreV1().Pods("ns").UpdateStatus(ctx, ended, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "one pod", used(1, "300m"))
	if err := f.Client.CoreV1().Pods("ns").Delete(ctx, "b", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "no pod", used(0, "0"))
}

func TestWhatMayFreeSomething(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*corev1.Pod)
		want   bool
	}{
		"bound":   {func(p *corev1.Pod) { p.Spec.NodeName = "n" }, false},
		"started": {func(p *corev1.Pod) { p.Status.PodIP = "192.0.2.1" }, false},
		"resized": {func(p *corev1.Pod) { p.Spec.Containers[0].Resources = corev1.ResourceRequirements{} }, true},
		"shrunk": {func(p *corev1.Pod) {
			p.Status.ContainerStatuses[0].Resources = &corev1.ResourceRequirements{Requests: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("1m")}}
		}, true},
		"restarted": {func(p *corev1.Pod) { p.Status.ContainerStatuses[0].RestartCount++ }, false},
		"ended":     {func(p *corev1.Pod) { p.Status.Phase = corev1.PodFailed }, true},
		"deleting":  {func(p *corev1.Pod) { p.DeletionTimestamp = &metav1.Time{} }, true},
	} {
		before := testPod("a")
		before.Status.ContainerStatuses = []corev1.ContainerStatus{{Name: "c"}}
		now := before.DeepCopy()
		c.change(now)
		if got := usesLess(before, now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}

func TestWhatClaimsMayFree(t *testing.T) {
	before := &corev1.PersistentVolumeClaim{Status: corev1.PersistentVolumeClaimStatus{
		AllocatedResources: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse("2Gi")}, CurrentVolumeAttributesClassName: new("gold")}}
	for name, c := range map[string]struct {
		change func(*corev1.PersistentVolumeClaimStatus)
		want   bool
	}{
		"bound":       {func(s *corev1.PersistentVolumeClaimStatus) { s.Phase = corev1.ClaimBound }, false},
		"gave up":     {func(s *corev1.PersistentVolumeClaimStatus) { s.AllocatedResources = nil }, true},
		"left class":  {func(s *corev1.PersistentVolumeClaimStatus) { s.CurrentVolumeAttributesClassName = new("tin") }, true},
		"aims higher": {func(s *corev1.PersistentVolumeClaimStatus) { s.ModifyVolumeStatus = &corev1.ModifyVolumeStatus{} }, true},
	} {
		now := before.DeepCopy()
		c.change(&now.Status)
		if got := usesLess(before, now); got != c.want {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
