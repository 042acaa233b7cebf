package garbagecollector

import (
	"encoding/json"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	discoveryfake "k8s.io/client-go/discovery/fake"
	clienttesting "k8s.io/client-go/testing"

	"clusterctl/controlplane/controllers/controllertest"
)

var widgets = schema.GroupVersionResource{Group: "example.com", Version: "v1", Resource: "widgets"}

// widget is an object of a kind that only discovery knows.
func widget(name string, finalizers []string, owners ...*metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
	o := &metav1.PartialObjectMetadata{
		TypeMeta:   metav1.TypeMeta{APIVersion: "example.com/v1", Kind: "Widget"},
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID("uid-" + name), ResourceVersion: "1", Finalizers: finalizers},
	}
	for _, owner := range owners {
		yes := true
		o.OwnerReferences = append(o.OwnerReferences, metav1.OwnerReference{APIVersion: owner.APIVersion, Kind: owner.Kind, Name: owner.Name, UID: owner.UID, BlockOwnerDeletion: &yes})
	}
	return o
}

func deleted(o *metav1.PartialObjectMetadata) *metav1.PartialObjectMetadata {
	now := metav1.Now()
	o.DeletionTimestamp = &now
	return o
}

// collect runs the collector over objects; the fake server holds them.
func collect(t *testing.T, objects ...*metav1.PartialObjectMetadata) *controllertest.Fixture {
	t.Helper()
	f := controllertest.New(t)
	f.Client.Discovery().(*discoveryfake.FakeDiscovery).Resources = []*metav1.APIResourceList{{
		GroupVersion: "example.com/v1",
		APIResources: []metav1.APIResource{
			{Name: "widgets", Kind: "Widget", Namespaced: true, Verbs: metav1.Verbs{"get", "list", "watch", "delete", "patch"}},
			{Name: "widgets/status", Kind: "Widget", Namespaced: true, Verbs: metav1.Verbs{"get", "patch"}},
		},
	}}
	for _, o := range objects {
		if err := f.Metadata.Tracker().Create(widgets, o, o.Namespace); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	return f
}

func exists(t *testing.T, f *controllertest.Fixture, name string) (*metav1.PartialObjectMetadata, bool) {
	t.Helper()
	o, err := f.Metadata.Tracker().Get(widgets, "ns", name)
	if err != nil {
		return nil, false
	}
	return o.(*metav1.PartialObjectMetadata), true
}

func TestDependentsOfAbsentOwnersGo(t *testing.T) {
	gone := widget("gone", nil)
	stays := widget("stays", nil)
	impostor := widget("impostor", nil)
	oldUID := impostor.DeepCopy()
	oldUID.UID = "another"
	f := collect(t, stays, impostor,
		widget("dangling", nil, gone), widget("kept", nil, stays), widget("both", nil, gone, stays), widget("fooled", nil, oldUID))
	controllertest.Eventually(t, "the dangling objects to go", func() bool {
		_, dangling := exists(t, f, "dangling")
		_, fooled := exists(t, f, "fooled")
		return !dangling && !fooled
	})
	controllertest.Eventually(t, "the dead reference to be cut", func() bool {
		both, ok := exists(t, f, "both")
		return ok && len(both.OwnerReferences) == 1 && both.OwnerReferences[0].UID == stays.UID
	})
	for _, name := range []string{"stays", "kept", "impostor"} {
		if _, ok := exists(t, f, name); !ok {
			t.Errorf("%s is gone", name)
		}
	}
}

// An owner has to be in its dependent's namespace. Whoever refers to one that is
// not is told so before it goes.
func TestOwnersInOtherNamespaces(t *testing.T) {
	far := widget("far", nil)
	far.Namespace = "elsewhere"
	f := collect(t, far, widget("stray", nil, far))
	controllertest.Eventually(t, "the stray object to go", func() bool {
		_, ok := exists(t, f, "stray")
		return !ok
	})
	want := `OwnerRefInvalidNamespace: ownerRef [example.com/v1/Widget, namespace: ns, name: far, uid: uid-far] does not exist in namespace "ns"`
	controllertest.Eventually(t, "the event", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(t.Context(), metav1.ListOptions{})
		return err == nil && slices.ContainsFunc(events.Items, func(e corev1.Event) bool {
			return e.InvolvedObject.Name == "stray" && e.Reason+": "+e.Message == want
		})
	})
}

// Where one owner is of a kind that nobody serves, the others do not count
// either: it may be what keeps the object.
func TestOwnersOfUnknownKinds(t *testing.T) {
	stays, gone := widget("stays", nil), widget("gone", nil)
	unknown := widget("unknown", nil)
	unknown.Kind = "Gadget"
	f := collect(t, stays, widget("odd", nil, gone, stays, unknown), widget("plain", nil, gone, stays))
	controllertest.Eventually(t, "the dead reference to be cut", func() bool {
		plain, ok := exists(t, f, "plain")
		return ok && len(plain.OwnerReferences) == 1
	})
	if odd, ok := exists(t, f, "odd"); !ok || len(odd.OwnerReferences) != 3 {
		t.Errorf("the other is %+v", odd)
	}
}

func TestCascade(t *testing.T) {
	a := widget("a", nil)
	b := widget("b", nil, a)
	f := collect(t, a, b, widget("c", nil, b))
	if err := f.Metadata.Tracker().Delete(widgets, "ns", "a"); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the whole chain to go", func() bool {
		_, b := exists(t, f, "b")
		_, c := exists(t, f, "c")
		return !b && !c
	})
}

func TestForegroundWaitsForDependents(t *testing.T) {
	owner := deleted(widget("owner", []string{metav1.FinalizerDeleteDependents}))
	f := collect(t, owner, widget("dep", nil, owner))
	controllertest.Eventually(t, "the finalizer to go after the dependent", func() bool {
		_, dep := exists(t, f, "dep")
		o, ok := exists(t, f, "owner")
		if ok && len(o.Finalizers) == 0 && dep {
			t.Fatal("the owner did not wait")
		}
		return ok && len(o.Finalizers) == 0 && !dep
	})
}

func TestOrphanKeepsDependents(t *testing.T) {
	owner := deleted(widget("owner", []string{"other", metav1.FinalizerOrphanDependents}))
	f := collect(t, owner, widget("dep", nil, owner))
	controllertest.Eventually(t, "the finalizer to go", func() bool {
		o, ok := exists(t, f, "owner")
		return ok && slices.Equal(o.Finalizers, []string{"other"})
	})
	if dep, ok := exists(t, f, "dep"); !ok || len(dep.OwnerReferences) != 0 {
		t.Errorf("dependent %+v, %v", dep, ok)
	}
}

func TestWritesCarryWhatTheyWereDecidedOn(t *testing.T) {
	gone, stays := widget("gone", nil), widget("stays", nil)
	f := collect(t, stays, widget("dangling", nil, gone), widget("both", nil, gone, stays))
	controllertest.Eventually(t, "both writes", func() bool {
		_, dangling := exists(t, f, "dangling")
		both, _ := exists(t, f, "both")
		return !dangling && len(both.OwnerReferences) == 1
	})
	seen := 0
	for _, action := range f.Metadata.Actions() {
		switch a := action.(type) {
		case clienttesting.DeleteActionImpl:
			seen++
			if p := a.DeleteOptions.Preconditions; p == nil || p.UID == nil || *p.UID != "uid-dangling" || p.ResourceVersion == nil {
				t.Errorf("deletion with preconditions %+v", p)
			}
		case clienttesting.PatchActionImpl:
			seen++
			var patch metav1.PartialObjectMetadata
			if err := json.Unmarshal(a.Patch, &patch); err != nil || patch.UID != "uid-both" || patch.ResourceVersion == "" {
				t.Errorf("patch %s (%v)", a.Patch, err)
			}
		}
	}
	if seen < 2 {
		t.Errorf("saw %d writes", seen)
	}
}

func TestKindsPreferOneVersion(t *testing.T) {
	f := controllertest.New(t)
	all := metav1.Verbs{"get", "list", "watch", "delete"}
	f.Client.Discovery().(*discoveryfake.FakeDiscovery).Resources = []*metav1.APIResourceList{
		{GroupVersion: "example.com/v1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Verbs: all}}},
		{GroupVersion: "example.com/v1beta1", APIResources: []metav1.APIResource{{Name: "widgets", Kind: "Widget", Verbs: all}, {Name: "old", Kind: "Old", Verbs: all}}},
		{GroupVersion: "v1", APIResources: []metav1.APIResource{{Name: "events", Kind: "Event", Verbs: all}, {Name: "bindings", Kind: "Binding", Verbs: metav1.Verbs{"create"}}}},
	}
	var k kinds
	monitored, failed, err := k.refresh(f.Client.Discovery())
	if err != nil || len(failed) > 0 {
		t.Fatal(err, failed)
	}
	var names []string
	for _, s := range monitored {
		names = append(names, s.resource.Version+"/"+s.resource.Resource)
	}
	slices.Sort(names)
	if !slices.Equal(names, []string{"v1/widgets", "v1beta1/old"}) {
		t.Errorf("monitored %v", names)
	}
	for _, version := range []string{"v1", "v1beta1"} {
		if s, ok := k.lookup("example.com/"+version, "Widget"); !ok || s.resource.Version != version {
			t.Errorf("%s: %+v, %v", version, s, ok)
		}
	}
	if _, ok := k.lookup("v1", "Binding"); ok {
		t.Error("a kind that cannot be read is known")
	}
}

func TestBareKeepsWhatTheGraphNeeds(t *testing.T) {
	o := widget("o", []string{"f"}, widget("owner", nil))
	o.Labels, o.Annotations = map[string]string{"a": "b"}, map[string]string{"c": "d"}
	slim, err := bare(runtime.Object(o))
	if err != nil {
		t.Fatal(err)
	}
	got := slim.(*metav1.PartialObjectMetadata)
	if got.Labels != nil || got.Annotations != nil || len(got.OwnerReferences) != 1 || len(got.Finalizers) != 1 {
		t.Errorf("got %+v", got)
	}
}
