package nodettl

import (
	"context"
	"fmt"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestStepsOverlap(t *testing.T) {
	var s size
	for _, step := range []struct{ to, seconds int }{
		{100, 0}, {101, 15}, {90, 15}, {89, 0}, {100, 0}, {500, 15}, {501, 30}, {450, 30}, {449, 15},
		{1001, 60}, {900, 60}, {899, 30}, {2000, 60}, {2001, 300}, {1800, 300}, {1799, 60}, {0, 0}, {5000, 300}, {1, 0},
	} {
		for s.nodes != step.to {
			if s.nodes < step.to {
				s.add(1)
			} else {
				s.add(-1)
			}
		}
		if got := s.seconds(); got != step.seconds {
			t.Errorf("at %d nodes: %d s, want %d", step.to, got, step.seconds)
		}
	}
}

func TestNodesLearnTheirTTL(t *testing.T) {
	node := func(name, ttl string) *corev1.Node {
		n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{"other": "stays"}}}
		if ttl != "" {
			n.Annotations[corev1.ObjectTTLAnnotationKey] = ttl
		}
		return n
	}
	objects := []runtime.Object{node("without", ""), node("garbled", "soon"), node("wrong", "300"), node("right", "15")}
	for i := range 97 {
		objects = append(objects, node(fmt.Sprint("more-", i), "15"))
	}
	f := controllertest.New(t, objects...)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	has := func(name, want string) func() bool {
		return func() bool {
			n, err := f.Client.CoreV1().Nodes().Get(context.Background(), name, metav1.GetOptions{})
			return err == nil && n.Annotations[corev1.ObjectTTLAnnotationKey] == want && n.Annotations["other"] == "stays"
		}
	}
	for _, name := range []string{"without", "garbled", "wrong", "right"} {
		controllertest.Eventually(t, name, has(name, "15"))
	}
	controllertest.Eventually(t, "the watch to show it", func() bool { // which deletions could escape before
		n, err := f.Env.Informers.Core().V1().Nodes().Lister().Get("wrong")
		return err == nil && n.Annotations[corev1.ObjectTTLAnnotationKey] == "15"
	})
	for i := range 20 {
		if err := f.Client.CoreV1().Nodes().Delete(context.Background(), fmt.Sprint("more-", i), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, "a smaller cluster's value with the next update", func() bool {
		n, err := f.Client.CoreV1().Nodes().Get(context.Background(), "right", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		n.Labels = map[string]string{"updated": n.ResourceVersion}
		_, _ = f.Client.CoreV1().Nodes().Update(context.Background(), n, metav1.UpdateOptions{}) // a conflict comes again
		return has("right", "0")()
	})
	for _, a := range f.Client.Actions() {
		if a.GetVerb() == "patch" && a.(interface{ GetName() string }).GetName() == "more-96" {
			t.Error("a node that has the value already was written")
		}
	}
}
