package quota

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/klog/v2"
	"k8s.io/utils/clock"
	"k8s.io/utils/ptr"
)

func evaluatorOf(t *testing.T, resource string) quota.Evaluator {
	t.Helper()
	for _, e := range NewConfiguration(nil, Cluster{}).Evaluators() {
		if e.GroupResource().Resource == resource {
			return e
		}
	}
	t.Fatalf("nobody evaluates %s", resource)
	return nil
}

func list(text string) corev1.ResourceList {
	l := corev1.ResourceList{}
	for _, item := range strings.Fields(text) {
		name, quantity, _ := strings.Cut(item, "=")
		l[corev1.ResourceName(name)] = resource.MustParse(quantity)
	}
	return l
}

func show(l corev1.ResourceList) string {
	var items []string
	for name, quantity := range l {
		items = append(items, fmt.Sprintf("%s=%s", name, quantity.String()))
	}
	slices.Sort(items)
	return strings.Join(items, " ")
}

func pod(requests, limits string) *corev1.Pod {
	return &corev1.Pod{Spec: corev1.PodSpec{Containers: []corev1.Container{{
		Name: "c", Resources: corev1.ResourceRequirements{Requests: list(requests), Limits: list(limits)},
	}}}}
}

func devices(requests ...resourcev1.DeviceRequest) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: requests}}}
}

func exactly(class string, mode resourcev1.DeviceAllocationMode, count int64) resourcev1.DeviceRequest {
	return resourcev1.DeviceRequest{Exactly: &resourcev1.ExactDeviceRequest{DeviceClassName: class, AllocationMode: mode, Count: count}}
}

func TestUsage(t *testing.T) {
	done := pod("cpu=1", "")
	done.Status.Phase = corev1.PodSucceeded
	stuck := pod("cpu=1", "")
	stuck.DeletionTimestamp, stuck.DeletionGracePeriodSeconds = &metav1.Time{Time: time.Now().Add(-time.Hour)}, ptr.To[int64](30)
	claim := &corev1.PersistentVolumeClaim{Spec: corev1.PersistentVolumeClaimSpec{
		StorageClassName: ptr.To("fast"), Resources: corev1.VolumeResourceRequirements{Requests: list("storage=1Gi")},
	}}
	shrunk := claim.DeepCopy()
	shrunk.Status.AllocatedResources = list("storage=2Gi")
	service := func(kind corev1.ServiceType, allocate bool, ports ...int32) *corev1.Service {
		s := &corev1.Service{Spec: corev1.ServiceSpec{Type: kind, AllocateLoadBalancerNodePorts: &allocate}}
		for _, port := range ports {
			s.Spec.Ports = append(s.Spec.Ports, corev1.ServicePort{NodePort: port})
		}
		return s
	}
	for _, test := range []struct {
		name, resource string
		object         runtime.Object
		want           string
	}{
		{"nothing asked", "pods", pod("", ""), "count/pods=1 pods=1"},
		{"cpu", "pods", pod("cpu=1", "cpu=2"), "count/pods=1 cpu=1 limits.cpu=2 pods=1 requests.cpu=1"},
		{"extended", "pods", pod("example.com/gpu=2", ""), "count/pods=1 pods=1 requests.example.com/gpu=2"},
		{"huge pages", "pods", pod("hugepages-2Mi=4Mi", ""), "count/pods=1 hugepages-2Mi=4Mi pods=1 requests.hugepages-2Mi=4Mi"},
		{"done", "pods", done, "count/pods=1"},
		{"stuck", "pods", stuck, "count/pods=1"},
		{"cluster IP", "services", service(corev1.ServiceTypeClusterIP, true, 0), "count/services=1 services.loadbalancers=0 services.nodeports=0 services=1"},
		{"node port", "services", service(corev1.ServiceTypeNodePort, true, 0, 0), "count/services=1 services.loadbalancers=0 services.nodeports=2 services=1"},
		{"balancer", "services", service(corev1.ServiceTypeLoadBalancer, true, 0, 0), "count/services=1 services.loadbalancers=1 services.nodeports=2 services=1"},
		{"balancer without ports", "services", service(corev1.ServiceTypeLoadBalancer, false, 0, 30000), "count/services=1 services.loadbalancers=1 services.nodeports=1 services=1"},
		{"claim", "persistentvolumeclaims", claim, "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 " +
			"fast.storageclass.storage.k8s.io/requests.storage=1Gi persistentvolumeclaims=1 requests.storage=1Gi"},
		{"shrunk claim", "persistentvolumeclaims", shrunk, "count/persistentvolumeclaims=1 fast.storageclass.storage.k8s.io/persistentvolumeclaims=1 " +
			"fast.storageclass.storage.k8s.io/requests.storage=2Gi persistentvolumeclaims=1 requests.storage=2Gi"},
		{"config map", "configmaps", &corev1.ConfigMap{}, "configmaps=1 count/configmaps=1"},
		{"claim of devices", "resourceclaims", devices(
			exactly("gpu", resourcev1.DeviceAllocationModeExactCount, 2), exactly("gpu", resourcev1.DeviceAllocationModeExactCount, 1),
			exactly("nic", resourcev1.DeviceAllocationModeAll, 0),
		), "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=3 nic.deviceclass.resource.k8s.io/devices=32 " +
			"requests.deviceclass.resource.kubernetes.io/gpu=3 requests.deviceclass.resource.kubernetes.io/nic=32"},
		{"claim of one kind or another", "resourceclaims", devices(
			resourcev1.DeviceRequest{FirstAvailable: []resourcev1.DeviceSubRequest{
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 1},
				{DeviceClassName: "gpu", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 4},
				{DeviceClassName: "nic", AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: 2},
			}}, exactly("gpu", resourcev1.DeviceAllocationModeExactCount, 1),
		), "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=5 nic.deviceclass.resource.k8s.io/devices=2 " +
			"requests.deviceclass.resource.kubernetes.io/gpu=5 requests.deviceclass.resource.kubernetes.io/nic=2"},
	} {
		t.Run(test.name, func(t *testing.T) {
			usage, err := evaluatorOf(t, test.resource).Usage(test.object)
			if err != nil || show(usage) != test.want {
				t.Errorf("usage %q (%v), want %q", show(usage), err, test.want)
			}
		})
	}
	if _, err := evaluatorOf(t, "pods").Usage(&corev1.Service{}); err == nil {
		t.Error("a service was measured as a pod")
	}
}

func TestMatchingResources(t *testing.T) {
	all := []corev1.ResourceName{"cpu", "pods", "requests.example.com/gpu", "example.com/gpu", "hugepages-2Mi", "services", "services.nodeports",
		"requests.storage", "fast.storageclass.storage.k8s.io/requests.storage", "count/pods", "count/deployments.apps",
		"gpu.deviceclass.resource.k8s.io/devices", "count/resourceclaims.resource.k8s.io"}
	for resource, want := range map[string][]corev1.ResourceName{
		"pods":                   {"cpu", "pods", "requests.example.com/gpu", "hugepages-2Mi", "count/pods"},
		"services":               {"services", "services.nodeports"},
		"persistentvolumeclaims": {"requests.storage", "fast.storageclass.storage.k8s.io/requests.storage"},
		"resourceclaims":         {"gpu.deviceclass.resource.k8s.io/devices", "count/resourceclaims.resource.k8s.io"},
	} {
		if got := evaluatorOf(t, resource).MatchingResources(all); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", resource, got, want)
		}
	}
}

func TestConstraints(t *testing.T) {
	two := pod("cpu=1", "cpu=1")
	two.Spec.InitContainers = []corev1.Container{{Name: "i"}}
	whole := pod("", "")
	whole.Spec.Resources = &corev1.ResourceRequirements{Requests: list("cpu=1")}
	for _, test := range []struct {
		pod      *corev1.Pod
		required []corev1.ResourceName
		want     string
	}{
		{two, []corev1.ResourceName{"pods"}, ""},
		{two, []corev1.ResourceName{"requests.cpu", "limits.memory"}, "must specify limits.memory for: c,i; requests.cpu for: i"},
		{whole, []corev1.ResourceName{"requests.cpu"}, ""},
	} {
		err := evaluatorOf(t, "pods").Constraints(test.required, test.pod)
		if got := fmt.Sprint(err); got != test.want && (err != nil || test.want != "") {
			t.Errorf("%v: %q, want %q", test.required, got, test.want)
		}
	}
}

func TestScopes(t *testing.T) {
	deadline, crossing := pod("cpu=1", ""), pod("", "")
	deadline.Spec.ActiveDeadlineSeconds = ptr.To[int64](5)
	deadline.Spec.PriorityClassName = "high"
	crossing.Spec.Affinity = &corev1.Affinity{PodAntiAffinity: &corev1.PodAntiAffinity{PreferredDuringSchedulingIgnoredDuringExecution: []corev1.WeightedPodAffinityTerm{
		{PodAffinityTerm: corev1.PodAffinityTerm{Namespaces: []string{"other"}}},
	}}}
	for _, test := range []struct {
		scope              corev1.ScopedResourceSelectorRequirement
		deadline, crossing bool
	}{
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeTerminating}, true, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeNotTerminating}, false, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeBestEffort}, false, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeNotBestEffort}, true, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopeCrossNamespacePodAffinity}, false, true},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpExists}, true, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpIn, Values: []string{"high"}}, true, false},
		{corev1.ScopedResourceSelectorRequirement{ScopeName: corev1.ResourceQuotaScopePriorityClass, Operator: corev1.ScopeSelectorOpNotIn, Values: []string{"high"}}, false, true},
	} {
		for _, p := range []struct {
			pod  *corev1.Pod
			want bool
		}{{deadline, test.deadline}, {crossing, test.crossing}} {
			matched, err := evaluatorOf(t, "pods").MatchingScopes(p.pod, []corev1.ScopedResourceSelectorRequirement{test.scope})
			if err != nil || (len(matched) == 1) != p.want {
				t.Errorf("%+v matches %v (%v), want %v", test.scope, matched, err, p.want)
			}
		}
	}
}

// A device that a pod asks for by the name of an extended resource counts once,
// with the pod; a claim counts for the pod that it was made for, and no other.
func TestExtendedResourcesCountOnce(t *testing.T) {
	classes := extendedresourcecache.NewExtendedResourceCache(klog.Logger{})
	classes.OnAdd(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "gpu"}, Spec: resourcev1.DeviceClassSpec{ExtendedResourceName: ptr.To("example.com/gpu")}}, false)
	classes.OnAdd(&resourcev1.DeviceClass{ObjectMeta: metav1.ObjectMeta{Name: "nic"}}, false)
	made := func(name, pod string) *resourcev1.ResourceClaim {
		claim := devices(exactly("gpu", resourcev1.DeviceAllocationModeExactCount, 2))
		claim.Namespace, claim.Name = "ns", name
		claim.Annotations = map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"}
		claim.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(pod), Controller: ptr.To(true)}}
		return claim
	}
	pods := map[string]*corev1.Pod{
		"by-name": pod("example.com/gpu=2", ""), "by-class": pod("deviceclass.resource.kubernetes.io/gpu=2", ""), "one": pod("example.com/gpu=1", ""),
		"told": pod("example.com/gpu=2", ""), "another": pod("example.com/gpu=2", ""),
	}
	for name, p := range pods {
		p.UID = types.UID(name)
	}
	pods["told"].Status.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "x"}
	pods["another"].UID = "anew"
	first := made("a", "by-name")
	cluster := Cluster{Classes: classes,
		Pod: func(_, name string) (*corev1.Pod, error) {
			if p := pods[name]; p != nil {
				return p, nil
			}
			return nil, errors.New("none")
		},
		Claims: func(string) ([]*resourcev1.ResourceClaim, error) { return []*resourcev1.ResourceClaim{first}, nil },
	}
	evaluator := newDeviceEvaluator(nil, cluster, clock.RealClock{})
	const byName, byClass = " requests.example.com/gpu=", "requests.deviceclass.resource.kubernetes.io/gpu="
	for _, c := range []struct {
		name  string
		claim *resourcev1.ResourceClaim
		want  string // beside what every claim counts as
	}{
		{"of nobody", devices(exactly("gpu", resourcev1.DeviceAllocationModeExactCount, 2)), byClass + "2" + byName + "2"},
		{"by the resource's name", made("a", "by-name"), byClass + "2"},
		{"by the class's name", made("a", "by-class"), byName[1:] + "2"},
		{"more than was asked for", made("a", "one"), byClass + "2" + byName + "1"},
		{"a second claim of the same pod", made("b", "by-name"), byClass + "2" + byName + "2"},
		{"the one that the pod tells of", made("x", "told"), byClass + "2"},
		{"another than the pod tells of", made("y", "told"), byClass + "2" + byName + "2"},
		{"of a pod of the same name", made("a", "another"), byClass + "2" + byName + "2"},
		{"of a pod that is not there", made("a", "gone"), byClass + "2" + byName + "2"},
	} {
		usage, err := evaluator.Usage(c.claim)
		if want := "count/resourceclaims.resource.k8s.io=1 gpu.deviceclass.resource.k8s.io/devices=2 " + c.want; err != nil || show(usage) != want {
			t.Errorf("%s: %q, %v, want %q", c.name, show(usage), err, want)
		}
	}
	names := []corev1.ResourceName{"requests.example.com/gpu", "requests.example.com/other", "requests.deviceclass.resource.kubernetes.io/gpu", "requests.deviceclass.resource.kubernetes.io/nic", "requests.cpu"}
	if got := evaluator.MatchingResources(names); !slices.Equal(got, []corev1.ResourceName{names[0], names[2], names[3]}) {
		t.Errorf("matches %v", got)
	}
}
