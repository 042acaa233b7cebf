package namespace

import (
	"context"
	"errors"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	discoveryfake "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

func object(kind, name string, finalizers ...string) *metav1.PartialObjectMetadata {
	return &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: kind},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", Finalizers: finalizers},
	}
}

// fixture has a namespace that is being deleted, with a pod and a config map.
func fixture(t *testing.T, content ...*metav1.PartialObjectMetadata) *controllertest.Fixture {
	t.Helper()
	now := metav1.Now()
	f := controllertest.New(t, &corev1.Namespace{
		ObjectMeta: metav1.ObjectMeta{Name: "ns", DeletionTimestamp: &now},
		Spec:       corev1.NamespaceSpec{Finalizers: []corev1.FinalizerName{"other", corev1.FinalizerKubernetes}},
	})
	verbs := metav1.Verbs{"get", "list", "delete", "deletecollection"}
	f.Client.Discovery().(*discoveryfake.FakeDiscovery).Resources = []*metav1.APIResourceList{{GroupVersion: "v1", APIResources: []metav1.APIResource{
		{Name: "configmaps", Kind: "ConfigMap", Namespaced: true, Verbs: verbs},
		{Name: "pods", Kind: "Pod", Namespaced: true, Verbs: verbs},
		{Name: "bindings", Kind: "Binding", Namespaced: true, Verbs: metav1.Verbs{"create"}},
	}}}
	for _, o := range content {
		resource := schema.GroupVersionResource{Version: "v1", Resource: map[string]string{"Pod": "pods", "ConfigMap": "configmaps"}[o.Kind]}
		if err := f.Metadata.Tracker().Create(resource, o, "ns"); err != nil {
			t.Fatal(err)
		}
		// The fake deletes no collections.
		f.Metadata.PrependReactor("delete-collection", resource.Resource, func(action clienttesting.Action) (bool, runtime.Object, error) {
			if len(o.Finalizers) > 0 {
				return true, nil, nil
			}
			return true, nil, f.Metadata.Tracker().Delete(resource, "ns", o.Name)
		})
	}
	return f
}

func finalizers(t *testing.T, f *controllertest.Fixture) ([]corev1.FinalizerName, *corev1.Namespace) {
	t.Helper()
	ns, err := f.Client.CoreV1().Namespaces().Get(context.Background(), "ns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return ns.Spec.Finalizers, ns
}

func TestEmptiesPodsFirstAndLetsGo(t *testing.T) {
	f := fixture(t, object("ConfigMap", "m"), object("Pod", "p"))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the finalizer to go, and only that", func() bool {
		got, _ := finalizers(t, f)
		return slices.Equal(got, []corev1.FinalizerName{"other"})
	})
	var deleted []string
	for _, action := range f.Metadata.Actions() {
		if action.GetVerb() == "delete-collection" {
			deleted = append(deleted, action.GetResource().Resource)
		}
	}
	if !slices.Equal(deleted, []string{"pods", "configmaps"}) {
		t.Errorf("deleted %v", deleted)
	}
}

func TestWaitsForPodsBeforeTheRest(t *testing.T) {
	f := fixture(t, object("ConfigMap", "m"), object("Pod", "p", "example.com/hold"))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the conditions", func() bool {
		_, ns := finalizers(t, f)
		return len(ns.Status.Conditions) == 5
	})
	got, ns := finalizers(t, f)
	if !slices.Contains(got, corev1.FinalizerKubernetes) || ns.Status.Phase != corev1.NamespaceTerminating {
		t.Errorf("finalizers %v, phase %s", got, ns.Status.Phase)
	}
	for _, action := range f.Metadata.Actions() {
		if action.GetVerb() == "delete-collection" && action.GetResource().Resource != "pods" {
			t.Errorf("deleted %s while a pod runs", action.GetResource().Resource)
		}
	}
	messages := map[corev1.NamespaceConditionType]string{}
	for _, c := range ns.Status.Conditions {
		if c.Status == corev1.ConditionTrue {
			messages[c.Type] = c.Message
		}
	}
	want := map[corev1.NamespaceConditionType]string{
		corev1.NamespaceContentRemaining:    "Some resources are remaining: pods. has 1 resource instances",
		corev1.NamespaceFinalizersRemaining: "Some content in the namespace has finalizers remaining: example.com/hold in 1 resource instances",
	}
	if !maps.Equal(messages, want) {
		t.Errorf("conditions %v", messages)
	}
}

// What remains without anything that holds it is a failure, but for pods that
// may still take their time.
func TestRemainingPods(t *testing.T) {
	ctx := context.Background()
	for _, test := range []struct {
		since time.Duration
		want  bool
	}{{10 * time.Second, false}, {40 * time.Second, true}} {
		f := fixture(t)
		pod := schema.GroupVersionResource{Version: "v1", Resource: "pods"}
		if err := f.Metadata.Tracker().Create(pod, object("Pod", "p"), "ns"); err != nil {
			t.Fatal(err)
		}
		f.Metadata.PrependReactor("delete-collection", "*", func(clienttesting.Action) (bool, runtime.Object, error) { return true, nil, nil })
		for name, phase := range map[string]corev1.PodPhase{"p": corev1.PodRunning, "done": corev1.PodSucceeded} {
			_, err := f.Client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name},
				Spec: corev1.PodSpec{TerminationGracePeriodSeconds: ptr.To(map[string]int64{"p": 30, "done": 3600}[name])}, Status: corev1.PodStatus{Phase: phase}}, metav1.CreateOptions{})
			if err != nil {
				t.Fatal(err)
			}
		}
		c := &controller{client: f.Client, discovery: f.Client.Discovery(), metadata: f.Metadata}
		left := c.empty(ctx, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns", DeletionTimestamp: ptr.To(metav1.NewTime(time.Now().Add(-test.since)))}})
		want := ""
		if test.want {
			want = "Failed to delete all resource types, 1 remaining: unexpected items still remain in namespace: ns for gvr: /v1, Resource=pods"
		}
		if got := left.failed(); got != want || left.objects() != 1 {
			t.Errorf("%s after the deletion: %d objects, %q", test.since, left.objects(), got)
		}
	}
}

func TestConditionsKeepTheirTime(t *testing.T) {
	first, second := metav1.Unix(1, 0), metav1.Unix(2, 0)
	failing := &leftover{discovery: errors.New("down")}
	before := failing.conditions(nil, first)
	again := failing.conditions(before, second)
	if !slices.Equal(before, again) {
		t.Errorf("an unchanged state changed %v to %v", before, again)
	}
	healed := (&leftover{}).conditions(again, second)
	for _, c := range healed {
		want := first
		if c.Type == corev1.NamespaceDeletionDiscoveryFailure {
			want = second
		}
		if c.Status != corev1.ConditionFalse || !c.LastTransitionTime.Equal(&want) {
			t.Errorf("%+v, want time %s", c, want)
		}
	}
}
