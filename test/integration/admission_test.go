package integration

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func TestLimitRangeDefaults(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	quantities := func(cpu string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
	}
	must(c.Client.CoreV1().LimitRanges(ns).Create(ctx, &corev1.LimitRange{
		ObjectMeta: metav1.ObjectMeta{Name: "limits"},
		Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{{
			Type: corev1.LimitTypeContainer, Default: quantities("200m"), DefaultRequest: quantities("100m"), Max: quantities("1"),
		}}},
	}, metav1.CreateOptions{}))(t)
	pod := must(c.Client.CoreV1().Pods(ns).Create(ctx, simplePod("p"), metav1.CreateOptions{}))(t)
	if got := pod.Spec.Containers[0].Resources; got.Requests.Cpu().String() != "100m" || got.Limits.Cpu().String() != "200m" {
		t.Errorf("resources %+v", got)
	}
	greedy := simplePod("greedy")
	greedy.Spec.Containers[0].Resources.Limits = quantities("2")
	_, err := c.Client.CoreV1().Pods(ns).Create(ctx, greedy, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "maximum cpu usage per Container is 1, but limit is 2") {
		t.Errorf("pod over the limit: %v", err)
	}
}

func TestPodSecurityLabels(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	privileged := simplePod("privileged")
	privileged.Spec.Containers[0].SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	create := func() error {
		_, err := c.Client.CoreV1().Pods(ns).Create(ctx, privileged, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}})
		return err
	}
	if err := create(); err != nil {
		t.Fatalf("without a label: %v", err)
	}
	object := must(c.Client.CoreV1().Namespaces().Get(ctx, ns, metav1.GetOptions{}))(t)
	metav1.SetMetaDataLabel(&object.ObjectMeta, "pod-security.kubernetes.io/enforce", "baseline")
	must(c.Client.CoreV1().Namespaces().Update(ctx, object, metav1.UpdateOptions{}))(t)
	eventually(t, "the label to count", func(context.Context) (bool, error) {
		err := create()
		return apierrors.IsForbidden(err) && strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": privileged`), err
	})
}

func TestResourceQuota(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	quotas := c.Client.CoreV1().ResourceQuotas(ns)
	hard := corev1.ResourceList{corev1.ResourcePods: resource.MustParse("1"), corev1.ResourceRequestsCPU: resource.MustParse("1")}
	quota := must(quotas.Create(ctx, &corev1.ResourceQuota{
		ObjectMeta: metav1.ObjectMeta{Name: "q"}, Spec: corev1.ResourceQuotaSpec{Hard: hard},
	}, metav1.CreateOptions{}))(t)
	// What a controller would say of an empty namespace.
	quota.Status = corev1.ResourceQuotaStatus{Hard: hard, Used: corev1.ResourceList{
		corev1.ResourcePods: resource.MustParse("0"), corev1.ResourceRequestsCPU: resource.MustParse("0"),
	}}
	must(quotas.UpdateStatus(ctx, quota, metav1.UpdateOptions{}))(t)
	create := func(name, cpu string) error {
		pod := simplePod(name)
		if cpu != "" {
			pod.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}
		}
		_, err := c.Client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	eventually(t, "a pod within the quota", func(context.Context) (bool, error) {
		err := create("fits", "500m")
		return err == nil, err
	})
	for _, test := range []struct{ name, cpu, want string }{
		{"silent", "", "failed quota: q: must specify requests.cpu for: c"},
		{"second", "100m", "exceeded quota: q, requested: pods=1, used: pods=1, limited: pods=1"},
	} {
		if err := create(test.name, test.cpu); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), test.want) {
			t.Errorf("%s: %v, want %q", test.name, err, test.want)
		}
	}
	charged := must(quotas.Get(ctx, "q", metav1.GetOptions{}))(t)
	if used := charged.Status.Used; used.Pods().String() != "1" || used.Name(corev1.ResourceRequestsCPU, resource.DecimalSI).String() != "500m" {
		t.Errorf("used %+v", used)
	}
}
