package integration

import (
	"encoding/json"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
)

func TestPatch(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	pods := c.Client.CoreV1().Pods(ns)
	must(pods.Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p", Labels: map[string]string{"a": "1", "b": "2"}},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x:1"}, {Name: "y", Image: "y:1"}}},
	}, metav1.CreateOptions{}))(t)
	force := true
	for _, step := range []struct {
		name    string
		kind    types.PatchType
		patch   string
		options metav1.PatchOptions
		want    string // labels and images
	}{
		{"merge", types.MergePatchType, `{"metadata":{"labels":{"a":null,"c":"3"}}}`, metav1.PatchOptions{}, `{"b":"2","c":"3"} x:1 y:1`},
		{"strategic merge by container name", types.StrategicMergePatchType, `{"spec":{"containers":[{"name":"y","image":"y:2"}]}}`, metav1.PatchOptions{}, `{"b":"2","c":"3"} x:1 y:2`},
		{"json", types.JSONPatchType, `[{"op":"test","path":"/metadata/labels/b","value":"2"},{"op":"replace","path":"/metadata/labels/b","value":"4"}]`, metav1.PatchOptions{}, `{"b":"4","c":"3"} x:1 y:2`},
		{"apply", types.ApplyPatchType, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p","labels":{"d":"5"}}}`, metav1.PatchOptions{FieldManager: "test", Force: &force}, `{"b":"4","c":"3","d":"5"} x:1 y:2`},
		{"apply again, without the label", types.ApplyPatchType, `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"p"}}`, metav1.PatchOptions{FieldManager: "test", Force: &force}, `{"b":"4","c":"3"} x:1 y:2`},
	} {
		t.Run(step.name, func(t *testing.T) {
			got := must(pods.Patch(t.Context(), "p", step.kind, []byte(step.patch), step.options))(t)
			labels := must(json.Marshal(got.Labels))(t)
			have := string(labels)
			for _, container := range got.Spec.Containers {
				have += " " + container.Image
			}
			if have != step.want {
				t.Errorf("pod is %s, want %s", have, step.want)
			}
		})
	}
}

func TestApplyConflict(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	maps := c.Client.CoreV1().ConfigMaps(ns)
	apply := func(manager, value string, force bool) (*corev1.ConfigMap, error) {
		return maps.Apply(t.Context(), applycorev1.ConfigMap("m", ns).WithData(map[string]string{"k": value}),
			metav1.ApplyOptions{FieldManager: manager, Force: force})
	}
	must(apply("one", "1", false))(t)
	_, err := apply("two", "2", false)
	if !apierrors.IsConflict(err) || !strings.Contains(err.Error(), `"one"`) {
		t.Fatalf("applying another manager's field: %v, want a conflict that names the manager", err)
	}
	got := must(apply("two", "2", true))(t)
	if got.Data["k"] != "2" {
		t.Errorf("forced value is %q, want 2", got.Data["k"])
	}
	if len(got.ManagedFields) != 1 || got.ManagedFields[0].Manager != "two" {
		t.Errorf("managers after the forced apply: %+v, want two alone", got.ManagedFields)
	}
}

func TestOptimisticConcurrency(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	first := must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{}))(t)
	second := first.DeepCopy()
	first.Data = map[string]string{"k": "1"}
	updated := must(maps.Update(t.Context(), first, metav1.UpdateOptions{}))(t)
	second.Data = map[string]string{"k": "2"}
	if _, err := maps.Update(t.Context(), second, metav1.UpdateOptions{}); !apierrors.IsConflict(err) {
		t.Errorf("update of an old version: %v, want a conflict", err)
	}
	same := must(maps.Update(t.Context(), updated, metav1.UpdateOptions{}))(t)
	if same.ResourceVersion != updated.ResourceVersion {
		t.Errorf("an update without a change wrote version %s over %s", same.ResourceVersion, updated.ResourceVersion)
	}
	_, err := maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m"}}, metav1.CreateOptions{})
	if !apierrors.IsAlreadyExists(err) {
		t.Errorf("second create: %v, want already exists", err)
	}
	wrong := types.UID("another")
	err = maps.Delete(t.Context(), "m", metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &wrong}})
	if !apierrors.IsConflict(err) {
		t.Errorf("delete of another life: %v, want a conflict", err)
	}
}

func TestDryRun(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	dry := []string{metav1.DryRunAll}
	got := must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{GenerateName: "m-"}}, metav1.CreateOptions{DryRun: dry}))(t)
	if got.UID == "" || !strings.HasPrefix(got.Name, "m-") {
		t.Errorf("dry run answered %+v, want what would be created", got.ObjectMeta)
	}
	if _, err := maps.Get(t.Context(), got.Name, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("after a dry-run create: %v, want not found", err)
	}
	must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "real"}}, metav1.CreateOptions{}))(t)
	if err := maps.Delete(t.Context(), "real", metav1.DeleteOptions{DryRun: dry}); err != nil {
		t.Fatal(err)
	}
	must(maps.Get(t.Context(), "real", metav1.GetOptions{}))(t)
}

func TestFieldValidation(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	body := `{"apiVersion":"v1","kind":"ConfigMap","metadata":{"name":"m"},"dada":{"a":"b"}}`
	post := func(mode string) error {
		return c.Client.CoreV1().RESTClient().Post().Namespace(ns).Resource("configmaps").
			Param("fieldValidation", mode).SetHeader("Content-Type", "application/json").Body([]byte(body)).Do(t.Context()).Error()
	}
	if err := post("Strict"); !apierrors.IsBadRequest(err) || !strings.Contains(err.Error(), `unknown field "dada"`) {
		t.Errorf("strict: %v, want the unknown field refused", err)
	}
	if err := post("Ignore"); err != nil {
		t.Errorf("ignore: %v", err)
	}
}

func TestFinalizers(t *testing.T) {
	c := Start(t)
	maps := c.Client.CoreV1().ConfigMaps(c.namespace(t))
	must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "m", Finalizers: []string{"example.com/wait"}}}, metav1.CreateOptions{}))(t)
	if err := maps.Delete(t.Context(), "m", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waiting := must(maps.Get(t.Context(), "m", metav1.GetOptions{}))(t)
	if waiting.DeletionTimestamp == nil {
		t.Fatal("deleted object with a finalizer has no deletion timestamp")
	}
	waiting.Finalizers = nil
	must(maps.Update(t.Context(), waiting, metav1.UpdateOptions{}))(t)
	if _, err := maps.Get(t.Context(), "m", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("without its finalizer: %v, want not found", err)
	}

	foreground := metav1.DeletePropagationForeground
	must(maps.Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: "owner"}}, metav1.CreateOptions{}))(t)
	if err := maps.Delete(t.Context(), "owner", metav1.DeleteOptions{PropagationPolicy: &foreground}); err != nil {
		t.Fatal(err)
	}
	owner := must(maps.Get(t.Context(), "owner", metav1.GetOptions{}))(t)
	if len(owner.Finalizers) != 1 || owner.Finalizers[0] != metav1.FinalizerDeleteDependents {
		t.Errorf("finalizers of foreground deletion: %v, want %s", owner.Finalizers, metav1.FinalizerDeleteDependents)
	}
}
