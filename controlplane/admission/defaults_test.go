package admission

import (
	"context"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	nodev1 "k8s.io/api/node/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/utils/ptr"
)

const isDefault = "storageclass.kubernetes.io/is-default-class"

func storageClass(name, byDefault string, made int64, grows bool) *storagev1.StorageClass {
	return &storagev1.StorageClass{
		ObjectMeta:           metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Unix(made, 0), Annotations: map[string]string{isDefault: byDefault}},
		AllowVolumeExpansion: ptr.To(grows),
	}
}

func claim(class *string, size string) *corev1.PersistentVolumeClaim {
	return &corev1.PersistentVolumeClaim{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"},
		Spec: corev1.PersistentVolumeClaimSpec{StorageClassName: class, Resources: corev1.VolumeResourceRequirements{
			Requests: corev1.ResourceList{corev1.ResourceStorage: resource.MustParse(size)},
		}},
		Status: corev1.PersistentVolumeClaimStatus{Phase: corev1.ClaimBound},
	}
}

func TestDefaultStorageClass(t *testing.T) {
	for _, test := range []struct {
		name    string
		classes []runtime.Object
		claim   *corev1.PersistentVolumeClaim
		want    *string
	}{
		{"none", []runtime.Object{storageClass("slow", "false", 1, false)}, claim(nil, "1Gi"), nil},
		{"one", []runtime.Object{storageClass("slow", "false", 9, false), storageClass("fast", "true", 1, false)}, claim(nil, "1Gi"), ptr.To("fast")},
		{"the newest", []runtime.Object{storageClass("a", "true", 1, false), storageClass("b", "true", 2, false)}, claim(nil, "1Gi"), ptr.To("b")},
		{"of the same age", []runtime.Object{storageClass("b", "true", 1, false), storageClass("a", "true", 1, false)}, claim(nil, "1Gi"), ptr.To("a")},
		{"named", []runtime.Object{storageClass("fast", "true", 1, false)}, claim(ptr.To("slow"), "1Gi"), ptr.To("slow")},
		{"none on purpose", []runtime.Object{storageClass("fast", "true", 1, false)}, claim(ptr.To(""), "1Gi"), ptr.To("")},
	} {
		t.Run(test.name, func(t *testing.T) {
			p := configure(t, newDefaultStorageClass, allow(), test.classes...).(*defaultStorageClass)
			wantError(t, p.Admit(context.Background(), write(admission.Create, anna, "/persistentvolumeclaims", test.claim, nil), nil), "")
			if got := test.claim.Spec.StorageClassName; ptr.Deref(got, "unset") != ptr.Deref(test.want, "unset") {
				t.Errorf("class %v, want %v", ptr.Deref(got, "unset"), ptr.Deref(test.want, "unset"))
			}
		})
	}
}

func TestInUseProtection(t *testing.T) {
	p := inUseProtection{admission.NewHandler(admission.Create)}
	for _, test := range []struct {
		resource string
		object   runtime.Object
		want     []string
	}{
		{"/persistentvolumeclaims", claim(nil, "1Gi"), []string{"kubernetes.io/pvc-protection"}},
		{"/persistentvolumes", &corev1.PersistentVolume{}, []string{"kubernetes.io/pv-protection"}},
		{"/persistentvolumes", &corev1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Finalizers: []string{"kubernetes.io/pv-protection"}}}, []string{"kubernetes.io/pv-protection"}},
		{"storage.k8s.io/volumeattributesclasses", &storagev1.VolumeAttributesClass{}, []string{"kubernetes.io/vac-protection"}},
		{"/pods", &corev1.Pod{}, nil},
	} {
		a := write(admission.Create, anna, test.resource, test.object, nil)
		wantError(t, p.Admit(context.Background(), a, nil), "")
		if got := a.GetObject().(metav1.Object).GetFinalizers(); !apiequality.Semantic.DeepEqual(got, test.want) {
			t.Errorf("%s: finalizers %q, want %q", test.resource, got, test.want)
		}
	}
}

func TestClaimResize(t *testing.T) {
	p := configure(t, newClaimResize, allow(), storageClass("grows", "", 1, true), storageClass("fixed", "", 1, false)).(*claimResize)
	pending := claim(ptr.To("grows"), "1Gi")
	pending.Status.Phase = corev1.ClaimPending
	for _, test := range []struct {
		name     string
		old, new *corev1.PersistentVolumeClaim
		err      string
	}{
		{"same", claim(ptr.To("fixed"), "1Gi"), claim(ptr.To("fixed"), "1Gi"), ""},
		{"smaller is for validation", claim(ptr.To("fixed"), "2Gi"), claim(ptr.To("fixed"), "1Gi"), ""},
		{"grows", claim(ptr.To("grows"), "1Gi"), claim(ptr.To("grows"), "2Gi"), ""},
		{"not bound", pending, claim(ptr.To("grows"), "2Gi"), "Only bound persistent volume claims can be expanded"},
		{"fixed", claim(ptr.To("fixed"), "1Gi"), claim(ptr.To("fixed"), "2Gi"), "only dynamically provisioned pvc can be resized and the storageclass that provisions the pvc must support resize"},
		{"unknown", claim(ptr.To("gone"), "1Gi"), claim(ptr.To("gone"), "2Gi"), "only dynamically provisioned pvc"},
		{"no class", claim(nil, "1Gi"), claim(nil, "2Gi"), "only dynamically provisioned pvc"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Validate(context.Background(), write(admission.Update, anna, "/persistentvolumeclaims", test.new, test.old), nil), test.err)
		})
	}
}

func TestDefaultIngressClass(t *testing.T) {
	class := func(name, byDefault string) *networkingv1.IngressClass {
		return &networkingv1.IngressClass{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{networkingv1.AnnotationIsDefaultIngressClass: byDefault}}}
	}
	p := configure(t, newDefaultIngressClass, allow(), class("main", "true"), class("other", "false")).(*defaultIngressClass)
	for _, test := range []struct {
		name    string
		ingress *networkingv1.Ingress
		want    string
	}{
		{"default", &networkingv1.Ingress{}, "main"},
		{"named", &networkingv1.Ingress{Spec: networkingv1.IngressSpec{IngressClassName: ptr.To("other")}}, "other"},
		{"annotated", &networkingv1.Ingress{ObjectMeta: metav1.ObjectMeta{Annotations: map[string]string{"kubernetes.io/ingress.class": "x"}}}, ""},
	} {
		wantError(t, p.Admit(context.Background(), write(admission.Create, anna, "networking.k8s.io/ingresses", test.ingress, nil), nil), "")
		if got := ptr.Deref(test.ingress.Spec.IngressClassName, ""); got != test.want {
			t.Errorf("%s: class %q, want %q", test.name, got, test.want)
		}
	}
}

func TestRuntimeClass(t *testing.T) {
	overhead := corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("64Mi")}
	p := configure(t, newRuntimeClass, allow(), &nodev1.RuntimeClass{
		ObjectMeta: metav1.ObjectMeta{Name: "vm"}, Handler: "vm",
		Overhead: &nodev1.Overhead{PodFixed: overhead},
		Scheduling: &nodev1.Scheduling{
			NodeSelector: map[string]string{"virtual": "yes"},
			Tolerations:  []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}},
		},
	}, &nodev1.RuntimeClass{ObjectMeta: metav1.ObjectMeta{Name: "plain"}, Handler: "plain"}).(*runtimeClass)
	for _, test := range []struct {
		name  string
		spec  corev1.PodSpec
		err   string
		after corev1.PodSpec
	}{
		{name: "none"},
		{name: "plain", spec: corev1.PodSpec{RuntimeClassName: ptr.To("plain")}},
		{name: "own overhead", spec: corev1.PodSpec{Overhead: overhead}, err: "pod rejected: Pod Overhead set without corresponding RuntimeClass defined Overhead"},
		{name: "unknown", spec: corev1.PodSpec{RuntimeClassName: ptr.To("gone")}, err: `pod rejected: RuntimeClass "gone" not found`},
		{name: "fills in", spec: corev1.PodSpec{RuntimeClassName: ptr.To("vm"), NodeSelector: map[string]string{"disk": "fast"},
			Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpEqual, Value: "x", Effect: corev1.TaintEffectNoSchedule}}},
			after: corev1.PodSpec{Overhead: overhead, NodeSelector: map[string]string{"disk": "fast", "virtual": "yes"},
				Tolerations: []corev1.Toleration{{Key: "vm", Operator: corev1.TolerationOpExists}}}},
		{name: "other overhead", spec: corev1.PodSpec{RuntimeClassName: ptr.To("vm"), Overhead: corev1.ResourceList{corev1.ResourceMemory: resource.MustParse("1Mi")}},
			err: "pod rejected: Pod's Overhead doesn't match RuntimeClass's defined Overhead"},
		{name: "conflict", spec: corev1.PodSpec{RuntimeClassName: ptr.To("vm"), NodeSelector: map[string]string{"virtual": "no"}},
			err: "conflict: runtimeClass.scheduling.nodeSelector[virtual] = yes; pod.spec.nodeSelector[virtual] = no"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p"}, Spec: test.spec}
			a := write(admission.Create, anna, "/pods", pod, nil)
			err := p.Admit(context.Background(), a, nil)
			if err == nil {
				err = p.Validate(context.Background(), a, nil)
			}
			wantError(t, err, test.err)
			test.after.RuntimeClassName = test.spec.RuntimeClassName
			if test.err == "" && !apiequality.Semantic.DeepEqual(pod.Spec, test.after) {
				t.Errorf("pod became %+v, want %+v", pod.Spec, test.after)
			}
		})
	}
}

func TestAlwaysPull(t *testing.T) {
	p := alwaysPull{admission.NewHandler(admission.Create, admission.Update)}
	ctx := context.Background()
	pod := &corev1.Pod{Spec: corev1.PodSpec{
		InitContainers: []corev1.Container{{Name: "i", Image: "a"}},
		Containers:     []corev1.Container{{Name: "c", Image: "b", ImagePullPolicy: corev1.PullNever}},
		Volumes:        []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Image: &corev1.ImageVolumeSource{Reference: "c"}}}},
	}}
	create := write(admission.Create, anna, "/pods", pod, nil)
	wantError(t, p.Validate(ctx, create, nil), `spec.containers[0].imagePullPolicy: Unsupported value: "Never": supported values: "Always"`)
	wantError(t, p.Validate(ctx, write(admission.Update, anna, "/pods", pod, pod.DeepCopy()), nil), "")
	wantError(t, p.Admit(ctx, create, nil), "")
	if pod.Spec.InitContainers[0].ImagePullPolicy != corev1.PullAlways || pod.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways ||
		pod.Spec.Volumes[0].Image.PullPolicy != corev1.PullAlways {
		t.Errorf("pod became %+v", pod.Spec)
	}
	wantError(t, p.Validate(ctx, create, nil), "")
	other := pod.DeepCopy()
	other.Spec.Containers[0].Image, other.Spec.Containers[0].ImagePullPolicy = "d", corev1.PullIfNotPresent
	wantError(t, p.Validate(ctx, write(admission.Update, anna, "/pods", other, pod), nil), "Unsupported value")
}

func TestTopologyLabels(t *testing.T) {
	p := configure(t, newTopologyLabels, allow(), &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", Labels: map[string]string{
		corev1.LabelTopologyZone: "z", "color": "red",
	}}}).(*topologyLabels)
	want := map[string]string{corev1.LabelTopologyZone: "z"}
	binding := func(node string) *corev1.Binding {
		return &corev1.Binding{Target: corev1.ObjectReference{Kind: "Node", Name: node}}
	}
	for _, test := range []struct {
		name, resource string
		object         runtime.Object
		want           map[string]string
	}{
		{"binding", "/pods/binding", binding("one"), want},
		{"to nowhere", "/pods/binding", binding("gone"), nil},
		{"bound pod", "/pods", &corev1.Pod{Spec: corev1.PodSpec{NodeName: "one"}}, want},
		{"pod", "/pods", &corev1.Pod{}, nil},
	} {
		wantError(t, p.Admit(context.Background(), write(admission.Create, anna, test.resource, test.object, nil), nil), "")
		if got := test.object.(metav1.Object).GetLabels(); !apiequality.Semantic.DeepEqual(got, test.want) {
			t.Errorf("%s: labels %v, want %v", test.name, got, test.want)
		}
	}
}

func TestPodResize(t *testing.T) {
	node := func(name, system string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{corev1.LabelOSStable: system}},
			Status:     corev1.NodeStatus{Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2"), corev1.ResourceMemory: resource.MustParse("1Gi")}},
		}
	}
	p := configure(t, newPodResize, allow(), node("one", "linux"), node("other", "windows")).(*podResize)
	pod := func(node, cpu, memory string, generation int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Generation: generation}, Spec: corev1.PodSpec{
			NodeName: node, Containers: []corev1.Container{{Name: "c", Resources: corev1.ResourceRequirements{Requests: corev1.ResourceList{
				corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
			}}}},
		}}
	}
	for _, test := range []struct {
		name string
		pod  *corev1.Pod
		err  string
	}{
		{"fits", pod("one", "2", "1Gi", 2), ""},
		{"unchanged", pod("one", "9", "1Gi", 1), ""},
		{"unbound", pod("", "9", "1Gi", 2), ""},
		{"too much", pod("one", "3", "2Gi", 2), "node didn't have enough allocatable resources: cpu, requested: 3000, allocatable: 2000; memory, requested: 2147483648, allocatable: 1073741824"},
		{"elsewhere", pod("other", "1", "1Gi", 2), `pod resize is only supported on linux nodes, node "other" is "windows"`},
		{"gone", pod("gone", "1", "1Gi", 2), `failed to get node "gone"`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Validate(context.Background(), write(admission.Update, anna, "/pods/resize", test.pod, pod(test.pod.Spec.NodeName, "1", "1Gi", 1)), nil), test.err)
		})
	}
}

func TestDeclaredFeatures(t *testing.T) {
	node := func(name string, features ...string) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Status: corev1.NodeStatus{DeclaredFeatures: features}}
	}
	p := configure(t, newDeclaredFeatures, allow(), node("able", "InPlacePodLevelResourcesVerticalScaling"), node("old")).(*declaredFeatures)
	pod := func(node, cpu string, generation int64) *corev1.Pod {
		return &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "p", Generation: generation}, Spec: corev1.PodSpec{
			NodeName: node, Resources: &corev1.ResourceRequirements{Limits: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse(cpu)}},
		}}
	}
	for _, test := range []struct {
		name, resource string
		pod            *corev1.Pod
		err            string
	}{
		{"able", "/pods/resize", pod("able", "2", 2), ""},
		{"too old", "/pods/resize", pod("old", "2", 2), `pod update requires features InPlacePodLevelResourcesVerticalScaling which are not available on node "old"`},
		{"nothing asked", "/pods", pod("old", "1", 2), ""},
		{"unchanged", "/pods", pod("old", "2", 1), ""},
		{"unbound", "/pods", pod("", "2", 2), ""},
		{"status", "/pods/status", pod("old", "2", 2), ""},
		{"gone", "/pods", pod("gone", "2", 2), `node "gone" not found`},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Validate(context.Background(), write(admission.Update, anna, test.resource, test.pod, pod(test.pod.Spec.NodeName, "1", 1)), nil), test.err)
		})
	}
}

func TestMergeTolerations(t *testing.T) {
	for _, test := range []struct {
		name          string
		first, second corev1.Toleration
		want          int // of both
	}{
		{"equal", corev1.Toleration{Key: "a"}, corev1.Toleration{Key: "a"}, 1},
		{"different keys", corev1.Toleration{Key: "a"}, corev1.Toleration{Key: "b"}, 2},
		{"everything", corev1.Toleration{Operator: corev1.TolerationOpExists}, corev1.Toleration{Key: "b"}, 1},
		{"one effect", corev1.Toleration{Key: "a", Effect: corev1.TaintEffectNoSchedule}, corev1.Toleration{Key: "a", Effect: corev1.TaintEffectNoExecute}, 2},
		{"for longer", corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To[int64](5)},
			corev1.Toleration{Key: "a", Operator: corev1.TolerationOpExists, Effect: corev1.TaintEffectNoExecute, TolerationSeconds: ptr.To(int64(time.Hour / time.Second))}, 1},
	} {
		got := mergeTolerations([]corev1.Toleration{test.first}, []corev1.Toleration{test.second})
		if len(got) != test.want {
			t.Errorf("%s: %+v, want %d", test.name, got, test.want)
		}
	}
}
