package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"slices"
	"strings"
	"testing"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/dynamic"
	explain "k8s.io/kubectl/pkg/explain/v2"
)

// The tests below run side by side: the server keeps the first request for a new
// resource waiting for two seconds, as Kubernetes does.
var (
	definitions = schema.GroupVersionResource{Group: "apiextensions.k8s.io", Version: "v1", Resource: "customresourcedefinitions"}
	apiServices = schema.GroupVersionResource{Group: "apiregistration.k8s.io", Version: "v1", Resource: "apiservices"}
)

// widgets are custom resources with all that a definition can say. GROUP
// differs from test to test.
const widgets = `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: widgets.GROUP}
spec:
  group: GROUP
  scope: Namespaced
  names: {plural: widgets, singular: widget, kind: Widget, shortNames: [wd], categories: [all]}
  versions:
  - name: v1
    served: true
    storage: true
    subresources:
      status: {}
      scale: {specReplicasPath: .spec.replicas, statusReplicasPath: .status.replicas, labelSelectorPath: .status.selector}
    selectableFields: [{jsonPath: .spec.color}]
    additionalPrinterColumns:
    - {name: Color, type: string, jsonPath: .spec.color}
    - {name: Size, type: integer, jsonPath: .spec.size, priority: 1}
    schema:
      openAPIV3Schema:
        type: object
        description: A widget is a thing to test with.
        properties:
          spec:
            type: object
            x-kubernetes-validations:
            - {rule: "self.size <= 10 || self.color == 'red'", message: only red widgets may be larger than 10}
            properties:
              color: {type: string, default: red, description: The color it is painted in.}
              size: {type: integer, minimum: 1, default: 1}
              replicas: {type: integer, default: 1}
              parts:
                type: array
                x-kubernetes-list-type: map
                x-kubernetes-list-map-keys: [name]
                items: {type: object, required: [name], properties: {name: {type: string}, count: {type: integer}}}
          status:
            type: object
            properties: {replicas: {type: integer}, selector: {type: string}, phase: {type: string}}
`

// establish defines the custom resource and waits until it is served. The
// definition goes when the test ends.
func (c *Cluster) establish(t *testing.T, definition string) *unstructured.Unstructured {
	t.Helper()
	all := c.Dynamic.Resource(definitions)
	crd := must(all.Create(t.Context(), object(t, definition), metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		err := all.Delete(context.Background(), crd.GetName(), metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete definition: %v", err)
		}
	})
	eventually(t, crd.GetName()+" being established", func(ctx context.Context) (bool, error) {
		var err error
		crd, err = all.Get(ctx, crd.GetName(), metav1.GetOptions{})
		return err == nil && condition(crd, "Established") == "True", err
	})
	return crd
}

func condition(u *unstructured.Unstructured, name string) string {
	conditions, _, _ := unstructured.NestedSlice(u.Object, "status", "conditions")
	for _, item := range conditions {
		if c, ok := item.(map[string]any); ok && c["type"] == name {
			status, _ := c["status"].(string)
			return status
		}
	}
	return ""
}

// establishWidgets returns the resource of widgets in group.
func (c *Cluster) establishWidgets(t *testing.T, group string) schema.GroupVersionResource {
	t.Helper()
	c.establish(t, strings.ReplaceAll(widgets, "GROUP", group))
	return schema.GroupVersionResource{Group: group, Version: "v1", Resource: "widgets"}
}

func widget(t *testing.T, gvr schema.GroupVersionResource, name, spec string) *unstructured.Unstructured {
	t.Helper()
	return object(t, "apiVersion: "+gvr.GroupVersion().String()+"\nkind: Widget\nmetadata: {name: "+name+"}\nspec: "+spec)
}

func specOf(t *testing.T, u *unstructured.Unstructured) string {
	t.Helper()
	return string(must(json.Marshal(u.Object["spec"]))(t))
}

func TestCustomResources(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "basic.example.com")
	all := c.Dynamic.Resource(gvr).Namespace(c.namespace(t))

	// Read with a watch from before the first object.
	before := must(all.List(t.Context(), metav1.ListOptions{}))(t)
	events := must(all.Watch(t.Context(), metav1.ListOptions{ResourceVersion: before.GetResourceVersion()}))(t)
	defer events.Stop()

	created := must(all.Create(t.Context(), widget(t, gvr, "w", `{size: 2, unknown: {deep: 1}}`), metav1.CreateOptions{}))(t)
	if got := specOf(t, created); got != `{"color":"red","replicas":1,"size":2}` {
		t.Errorf("created with %s: want defaults, and no unknown field", got)
	}
	if created.GetGeneration() != 1 || created.GetUID() == "" {
		t.Errorf("metadata: %v", created.Object["metadata"])
	}
	_, err := all.Create(t.Context(), widget(t, gvr, "w", `{unknown: 1}`), metav1.CreateOptions{FieldValidation: metav1.FieldValidationStrict})
	if !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "spec.unknown"`) {
		t.Errorf("strict creation with an unknown field: %v", err)
	}
	list := must(all.List(t.Context(), metav1.ListOptions{}))(t)
	if len(list.Items) != 1 || list.GetKind() != "WidgetList" {
		t.Errorf("list is a %s of %d items, want a WidgetList of one", list.GetKind(), len(list.Items))
	}
	if err := all.Delete(t.Context(), "w", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []watch.EventType{watch.Added, watch.Deleted} {
		if event := <-events.ResultChan(); event.Type != want {
			t.Errorf("watch shows %s, want %s", event.Type, want)
		}
	}
}

func TestCustomResourcesArePatched(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "patch.example.com")
	all := c.Dynamic.Resource(gvr).Namespace(c.namespace(t))
	must(all.Create(t.Context(), widget(t, gvr, "w", `{parts: [{name: a, count: 1}]}`), metav1.CreateOptions{}))(t)
	force := true
	apply := func(spec string) string {
		return `{"apiVersion":"` + gvr.GroupVersion().String() + `","kind":"Widget","spec":` + spec + `}`
	}
	for _, step := range []struct {
		name    string
		kind    types.PatchType
		patch   string
		manager string
		want    string
	}{
		{"merge", types.MergePatchType, `{"spec":{"size":3}}`, "", `{"color":"red","parts":[{"count":1,"name":"a"}],"replicas":1,"size":3}`},
		{"json", types.JSONPatchType, `[{"op":"replace","path":"/spec/color","value":"blue"}]`, "", `{"color":"blue","parts":[{"count":1,"name":"a"}],"replicas":1,"size":3}`},
		{"apply to a list by its key", types.ApplyPatchType, apply(`{"parts":[{"name":"b","count":2}]}`), "test", `{"color":"blue","parts":[{"count":1,"name":"a"},{"count":2,"name":"b"}],"replicas":1,"size":3}`},
		{"apply again without it", types.ApplyPatchType, apply(`{}`), "test", `{"color":"blue","parts":[{"count":1,"name":"a"}],"replicas":1,"size":3}`},
	} {
		t.Run(step.name, func(t *testing.T) {
			options := metav1.PatchOptions{FieldManager: step.manager}
			if step.kind == types.ApplyPatchType {
				options.Force = &force
			}
			got := must(all.Patch(t.Context(), "w", step.kind, []byte(step.patch), options))(t)
			if have := specOf(t, got); have != step.want {
				t.Errorf("spec is %s, want %s", have, step.want)
			}
		})
	}
	_, err := all.Patch(t.Context(), "w", types.StrategicMergePatchType, []byte(`{"spec":{"size":4}}`), metav1.PatchOptions{})
	if !apierrors.IsUnsupportedMediaType(err) {
		t.Errorf("strategic merge patch: %v, want unsupported media type", err)
	}
}

func TestCustomResourcesAreValidated(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "valid.example.com")
	all := c.Dynamic.Resource(gvr).Namespace(c.namespace(t))
	for _, test := range []struct{ name, spec, want string }{
		{"rule", `{size: 11, color: blue}`, "spec: Invalid value: only red widgets may be larger than 10"},
		{"minimum", `{size: 0}`, "spec.size: Invalid value: 0: spec.size in body should be greater than or equal to 1"},
		{"type", `{size: big}`, `spec.size: Invalid value: "string": spec.size in body must be of type integer`},
		{"required", `{parts: [{count: 1}]}`, "spec.parts[0].name: Required value"},
		{"duplicate key", `{parts: [{name: a}, {name: a}]}`, "spec.parts[1]: Duplicate value"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := all.Create(t.Context(), widget(t, gvr, "w", test.spec), metav1.CreateOptions{})
			if !apierrors.IsInvalid(err) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want invalid with %q", err, test.want)
			}
		})
	}
	must(all.Create(t.Context(), widget(t, gvr, "w", `{size: 11}`), metav1.CreateOptions{}))(t)

	// A definition is validated too.
	bad := object(t, strings.ReplaceAll(widgets, "GROUP", "bad.example.com"))
	bad.SetName("gadgets.bad.example.com")
	if _, err := c.Dynamic.Resource(definitions).Create(t.Context(), bad, metav1.CreateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("definition with the wrong name: %v, want invalid", err)
	}
}

func TestCustomSubresources(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "sub.example.com")
	all := c.Dynamic.Resource(gvr).Namespace(c.namespace(t))
	made := widget(t, gvr, "w", `{replicas: 2}`)
	made.Object["status"] = map[string]any{"phase": "Early"}
	created := must(all.Create(t.Context(), made, metav1.CreateOptions{}))(t)
	if _, has := created.Object["status"]; has {
		t.Error("a client set the status while creating")
	}
	created.Object["status"] = map[string]any{"phase": "Late", "replicas": int64(2), "selector": "a=b"}
	created.Object["spec"] = map[string]any{"color": "green"}
	updated := must(all.UpdateStatus(t.Context(), created, metav1.UpdateOptions{}))(t)
	if phase, _, _ := unstructured.NestedString(updated.Object, "status", "phase"); phase != "Late" || !strings.Contains(specOf(t, updated), `"red"`) {
		t.Errorf("after an update of the status: %v", updated.Object)
	}
	if updated.GetGeneration() != 1 {
		t.Errorf("generation is %d after an update of the status, want 1", updated.GetGeneration())
	}
	scale := must(all.Get(t.Context(), "w", metav1.GetOptions{}, "scale"))(t)
	if scale.GetKind() != "Scale" || scale.GetAPIVersion() != "autoscaling/v1" {
		t.Errorf("scale is a %s of %s", scale.GetKind(), scale.GetAPIVersion())
	}
	if selector, _, _ := unstructured.NestedString(scale.Object, "status", "selector"); selector != "a=b" {
		t.Errorf("selector of the scale is %q, want a=b", selector)
	}
	must(all.Patch(t.Context(), "w", types.MergePatchType, []byte(`{"spec":{"replicas":5}}`), metav1.PatchOptions{}, "scale"))(t)
	scaled := must(all.Get(t.Context(), "w", metav1.GetOptions{}))(t)
	if replicas, _, _ := unstructured.NestedInt64(scaled.Object, "spec", "replicas"); replicas != 5 || scaled.GetGeneration() != 2 {
		t.Errorf("after scaling: %d replicas in generation %d, want 5 in 2", replicas, scaled.GetGeneration())
	}
}

func TestCustomColumnsAndSelectors(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "columns.example.com")
	ns := c.namespace(t)
	all := c.Dynamic.Resource(gvr).Namespace(ns)
	for name, color := range map[string]string{"a": "red", "b": "blue", "c": "blue"} {
		must(all.Create(t.Context(), widget(t, gvr, name, `{color: `+color+`}`), metav1.CreateOptions{}))(t)
	}
	blue := must(all.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.color=blue"}))(t)
	if len(blue.Items) != 2 || blue.Items[0].GetName() != "b" {
		t.Errorf("%d widgets are blue, want b and c", len(blue.Items))
	}
	if _, err := all.List(t.Context(), metav1.ListOptions{FieldSelector: "spec.size=1"}); !apierrors.IsBadRequest(err) {
		t.Errorf("selecting by a field that is not selectable: %v", err)
	}
	var table metav1.Table
	raw := must(c.Client.Discovery().RESTClient().Get().AbsPath("/apis", gvr.Group, "v1", "namespaces", ns, "widgets").
		SetHeader("Accept", "application/json;as=Table;v=v1;g=meta.k8s.io").DoRaw(t.Context()))(t)
	if err := json.Unmarshal(raw, &table); err != nil {
		t.Fatal(err)
	}
	var columns []string
	for _, column := range table.ColumnDefinitions {
		columns = append(columns, column.Name)
	}
	if !slices.Equal(columns, []string{"Name", "Color", "Size"}) || table.Rows[1].Cells[1] != "blue" {
		t.Errorf("table has columns %v and a row %v", columns, table.Rows[1].Cells)
	}
}

func TestCustomResourcesAreDescribed(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "docs.example.com")
	eventually(t, "the widgets in discovery", func(context.Context) (bool, error) {
		_, lists, err := c.Client.Discovery().ServerGroupsAndResources()
		i := slices.IndexFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == gvr.GroupVersion().String() })
		if i < 0 { // other tests' extensions may not answer, which is an error too
			return false, err
		}
		var names []string
		for _, resource := range lists[i].APIResources {
			names = append(names, resource.Name)
		}
		slices.Sort(names)
		return slices.Equal(names, []string{"widgets", "widgets/scale", "widgets/status"}), err
	})

	var out bytes.Buffer
	err := explain.PrintModelDescription([]string{"spec", "color"}, &out, c.Client.Discovery().OpenAPIV3(), gvr, false, "plaintext")
	if err != nil || !strings.Contains(out.String(), "The color it is painted in.") {
		t.Errorf("explain says %q, %v", out.String(), err)
	}
	v2 := must(c.Client.Discovery().RESTClient().Get().AbsPath("/openapi/v2").SetHeader("Accept", "application/json").DoRaw(t.Context()))(t)
	if !bytes.Contains(v2, []byte(`"/apis/docs.example.com/v1/namespaces/{namespace}/widgets/{name}/scale"`)) {
		t.Error("OpenAPI v2 has no path of the widgets")
	}
	eventually(t, "the APIService of the widgets", func(ctx context.Context) (bool, error) {
		service, err := c.Dynamic.Resource(apiServices).Get(ctx, "v1.docs.example.com", metav1.GetOptions{})
		return err == nil && condition(service, "Available") == "True", err
	})
}

// TestDefinitionGoes checks that custom resources go with their definition.
func TestDefinitionGoes(t *testing.T) {
	t.Parallel()
	c := Start(t)
	gvr := c.establishWidgets(t, "gone.example.com")
	ns := c.namespace(t)
	must(c.Dynamic.Resource(gvr).Namespace(ns).Create(t.Context(), widget(t, gvr, "w", "{}"), metav1.CreateOptions{}))(t)
	etcd := openStore(t, c).Etcd()
	key := "/registry/gone.example.com/widgets/" + ns + "/w"
	if stored := must(etcd.Get(t.Context(), key))(t); len(stored.Kvs) != 1 {
		t.Fatalf("etcd has no %s", key)
	}
	if err := c.Dynamic.Resource(definitions).Delete(t.Context(), "widgets.gone.example.com", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the definition gone", func(ctx context.Context) (bool, error) {
		_, err := c.Dynamic.Resource(definitions).Get(ctx, "widgets.gone.example.com", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
	if stored := must(etcd.Get(t.Context(), key))(t); len(stored.Kvs) != 0 {
		t.Error("the widget outlived its definition")
	}
	eventually(t, "the group gone from discovery and documents", func(ctx context.Context) (bool, error) {
		_, err := c.Dynamic.Resource(apiServices).Get(ctx, "v1.gone.example.com", metav1.GetOptions{})
		if !apierrors.IsNotFound(err) {
			return false, err
		}
		paths, err := c.Client.Discovery().OpenAPIV3().Paths()
		if _, has := paths["apis/gone.example.com/v1"]; has || err != nil {
			return false, err
		}
		_, err = c.Dynamic.Resource(gvr).Namespace(ns).List(ctx, metav1.ListOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// TestControllersSeeCustomResources checks garbage collection and the emptying
// of namespaces, both of which find kinds by discovery.
func TestControllersSeeCustomResources(t *testing.T) {
	c := Start(t)
	gvr := c.establishWidgets(t, "swept.example.com")
	c.startControllers(t)
	ns := freshNamespace(t, c.Client, "swept")
	all := c.Dynamic.Resource(gvr).Namespace(ns)
	owner := must(all.Create(t.Context(), widget(t, gvr, "owner", "{}"), metav1.CreateOptions{}))(t)
	owned := widget(t, gvr, "owned", "{}")
	owned.SetOwnerReferences([]metav1.OwnerReference{{APIVersion: owner.GetAPIVersion(), Kind: "Widget", Name: "owner", UID: owner.GetUID()}})
	must(all.Create(t.Context(), owned, metav1.CreateOptions{}))(t)
	must(all.Create(t.Context(), widget(t, gvr, "free", "{}"), metav1.CreateOptions{}))(t)
	if err := all.Delete(t.Context(), "owner", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	gone := func(all dynamic.ResourceInterface, name string) func(context.Context) (bool, error) {
		return func(ctx context.Context) (bool, error) {
			_, err := all.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), err
		}
	}
	eventually(t, "what the widget owned gone", gone(all, "owned"))
	must(all.Get(t.Context(), "free", metav1.GetOptions{}))(t)
	if err := c.Client.CoreV1().Namespaces().Delete(t.Context(), ns, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	namespaces := c.Dynamic.Resource(schema.GroupVersionResource{Version: "v1", Resource: "namespaces"})
	eventually(t, "the namespace gone", gone(namespaces, ns))
	if left := must(all.List(t.Context(), metav1.ListOptions{}))(t); len(left.Items) != 0 {
		t.Errorf("%d widgets outlived their namespace", len(left.Items))
	}
}
