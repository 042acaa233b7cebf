package admission

import (
	"context"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

func cpu(quantity string) corev1.ResourceList {
	if quantity == "" {
		return nil
	}
	return corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(quantity)}
}

func limitRange(item corev1.LimitRangeItem) *corev1.LimitRange {
	return &corev1.LimitRange{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "limits"}, Spec: corev1.LimitRangeSpec{Limits: []corev1.LimitRangeItem{item}}}
}

func TestLimitRangerDefaults(t *testing.T) {
	p := configure(t, newLimitRanger, allow(), limitRange(corev1.LimitRangeItem{
		Type: corev1.LimitTypeContainer, Default: cpu("2"), DefaultRequest: cpu("1"),
	})).(*limitRanger)
	pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i"}},
		Containers:     []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: cpu("500m")}}},
	}}
	wantError(t, p.Admit(context.Background(), write(admission.Create, anna, "/pods", pod, nil), nil), "")
	for _, test := range []struct {
		container       corev1.Container
		requests, limit string
	}{{pod.Spec.InitContainers[0], "1", "2"}, {pod.Spec.Containers[0], "500m", "2"}} {
		if r, l := test.container.Resources.Requests.Cpu().String(), test.container.Resources.Limits.Cpu().String(); r != test.requests || l != test.limit {
			t.Errorf("%s: requests %s and limits %s, want %s and %s", test.container.Name, r, l, test.requests, test.limit)
		}
	}
	if got, want := pod.Annotations["kubernetes.io/limit-ranger"], "LimitRanger plugin set: cpu limit for container c; cpu request for init container i; cpu limit for init container i"; got != want {
		t.Errorf("annotation %q, want %q", got, want)
	}
	elsewhere := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "other", Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{Name: "c"}}}}
	wantError(t, p.Admit(context.Background(), write(admission.Create, anna, "/pods", elsewhere, nil), nil), "")
	if elsewhere.Spec.Containers[0].Resources.Requests != nil {
		t.Errorf("pod of another namespace: %+v", elsewhere.Spec.Containers[0].Resources)
	}
}

func TestLimitRangerBounds(t *testing.T) {
	container := func(item corev1.LimitRangeItem) *corev1.LimitRange {
		item.Type = corev1.LimitTypeContainer
		return limitRange(item)
	}
	pod := func(requests, limits string, copies int) runtime.Object {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}}
		for range copies {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "c", Resources: corev1.ResourceRequirements{Requests: cpu(requests), Limits: cpu(limits)}})
		}
		return p
	}
	storage := func(size string) corev1.ResourceList {
		return corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)}
	}
	claims := limitRange(corev1.LimitRangeItem{Type: corev1.LimitTypePersistentVolumeClaim, Min: storage("1Gi"), Max: storage("2Gi")})
	for _, test := range []struct {
		name   string
		limits *corev1.LimitRange
		object runtime.Object
		err    string
	}{
		{"within", container(corev1.LimitRangeItem{Min: cpu("1"), Max: cpu("3")}), pod("1", "3", 1), ""},
		{"below", container(corev1.LimitRangeItem{Min: cpu("1")}), pod("500m", "", 1), "minimum cpu usage per Container is 1, but request is 500m"},
		{"limit below", container(corev1.LimitRangeItem{Min: cpu("1")}), pod("1", "500m", 1), "minimum cpu usage per Container is 1, but limit is 500m"},
		{"no request", container(corev1.LimitRangeItem{Min: cpu("1")}), pod("", "", 1), "minimum cpu usage per Container is 1.  No request is specified"},
		{"above", container(corev1.LimitRangeItem{Max: cpu("1")}), pod("1", "2", 1), "maximum cpu usage per Container is 1, but limit is 2"},
		{"no limit", container(corev1.LimitRangeItem{Max: cpu("1")}), pod("1", "", 1), "maximum cpu usage per Container is 1.  No limit is specified"},
		{"ratio", container(corev1.LimitRangeItem{MaxLimitRequestRatio: cpu("2")}), pod("1", "3", 1), "cpu max limit to request ratio per Container is 2, but provided ratio is 3.000000"},
		{"ratio kept", container(corev1.LimitRangeItem{MaxLimitRequestRatio: cpu("2")}), pod("1", "2", 1), ""},
		{"ratio of nothing", container(corev1.LimitRangeItem{MaxLimitRequestRatio: cpu("2")}), pod("", "2", 1), "but no request is specified or request is 0"},
		{"pod", limitRange(corev1.LimitRangeItem{Type: corev1.LimitTypePod, Max: cpu("3")}), pod("1", "2", 2), "maximum cpu usage per Pod is 3, but limit is 4"},
		{"claim", claims, claim(nil, "1Gi"), ""},
		{"small claim", claims, claim(nil, "1Mi"), "minimum storage usage per PersistentVolumeClaim is 1Gi, but request is 1Mi"},
		{"big claim", claims, claim(nil, "3Gi"), "maximum storage usage per PersistentVolumeClaim is 2Gi, but request is 3Gi"},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := configure(t, newLimitRanger, allow(), test.limits).(*limitRanger)
			resource := "/pods"
			if _, ok := test.object.(*corev1.PersistentVolumeClaim); ok {
				resource = "/persistentvolumeclaims"
			}
			wantError(t, p.Validate(context.Background(), write(admission.Create, anna, resource, test.object, nil), nil), test.err)
		})
	}
}

func TestPodSecurity(t *testing.T) {
	namespace := func(name, level string) *corev1.Namespace {
		ns := &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{}}}
		if level != "" {
			ns.Labels["pod-security.kubernetes.io/enforce"] = level
		}
		return ns
	}
	for _, test := range []struct {
		cluster, namespace string
		err                string
	}{
		{"", "silent", ""},
		{"", "restricted", `violates PodSecurity "restricted:latest"`},
		{"baseline", "silent", `violates PodSecurity "baseline:latest": privileged (container "c" must not set securityContext.privileged=true)`},
		{"baseline", "privileged", ""},
		{"baseline", "kube-system", ""},
	} {
		t.Run(test.cluster+" "+test.namespace, func(t *testing.T) {
			p := configure(t, func(c Config) (admission.Interface, error) {
				c.PodSecurity = test.cluster
				return newPodSecurity(c)
			}, allow(), namespace("silent", ""), namespace("kube-system", ""), namespace("restricted", "restricted"), namespace("privileged", "privileged")).(*podSecurity)
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: test.namespace, Name: "p"}, Spec: corev1.PodSpec{Containers: []corev1.Container{{
				Name: "c", SecurityContext: &corev1.SecurityContext{Privileged: ptr.To(true)},
			}}}}
			wantError(t, p.Validate(context.Background(), write(admission.Create, anna, "/pods", pod, nil), nil), test.err)
		})
	}
	p := configure(t, newPodSecurity, allow()).(*podSecurity)
	wantError(t, p.Validate(context.Background(), write(admission.Create, anna, "/namespaces", namespace("n", "loose"), nil), nil),
		`metadata.labels[pod-security.kubernetes.io/enforce]: Invalid value: "loose"`)
}

// A plugin that watches what the server has not is left out; options count.
func TestEnabledPlugins(t *testing.T) {
	names := func(config Config) string {
		var all []string
		for _, p := range enabled(config) {
			all = append(all, p.name)
		}
		return " " + strings.Join(all, " ") + " "
	}
	everything := names(Config{AlwaysPullImages: true})
	for _, name := range []string{"LimitRanger", "AlwaysPullImages", "RuntimeClass"} {
		if !strings.Contains(everything, " "+name+" ") {
			t.Errorf("%s is not among %s", name, everything)
		}
	}
	little := names(Config{Served: func(r schema.GroupResource) bool { return r != limitRanges }})
	if strings.Contains(little, "LimitRanger") || strings.Contains(little, "AlwaysPullImages") || !strings.Contains(little, "RuntimeClass") {
		t.Errorf("plugins without limit ranges: %s", little)
	}
}
