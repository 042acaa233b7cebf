package proportional

import (
	"context"
	"fmt"
	"testing"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/hostconfig"
)

func TestSizes(t *testing.T) {
	dns := map[string]string{hostconfig.AnnotationNodesPerReplica: "16", hostconfig.AnnotationCoresPerReplica: "256"}
	for _, test := range []struct {
		annotations       map[string]string
		nodes, milliCores int64
		want              int32
		wrong             bool
	}{
		{dns, 0, 0, 0, false},
		{dns, 1, 2000, 1, false},
		{dns, 2, 4000, 2, false},
		{dns, 32, 64000, 2, false},
		{dns, 33, 66000, 3, false},
		{dns, 4, 4 * 192000, 3, false},
		{dns, 4, 4*192000 + 1, 4, false},
		{map[string]string{hostconfig.AnnotationNodesPerReplica: "1"}, 7, 100000, 7, false},
		{map[string]string{hostconfig.AnnotationCoresPerReplica: "1"}, 1, 3500, 4, false},
		{nil, 100, 100000, 0, false},
		{map[string]string{hostconfig.AnnotationNodesPerReplica: "0"}, 3, 3000, 0, true},
		{map[string]string{hostconfig.AnnotationCoresPerReplica: "many"}, 3, 3000, 0, true},
	} {
		got, err := size{test.nodes, test.milliCores}.replicas(test.annotations)
		if got != test.want || (err != nil) != test.wrong {
			t.Errorf("%v, %d nodes, %d m: got %d, %v, want %d", test.annotations, test.nodes, test.milliCores, got, err, test.want)
		}
	}
}

// TestReplicas has nodes that are ready, and nodes that are not.
func TestReplicas(t *testing.T) {
	for _, test := range []struct {
		ready, others, have, want int
	}{
		{0, 0, 3, 3},
		{0, 1, 1, 1},
		{1, 0, 1, 1},
		{1, 1, 1, 1}, // the other one is not there yet
		{2, 0, 1, 2},
		{1, 1, 2, 2}, // the other one may come back
		{1, 0, 2, 1},
		{9, 0, 1, 9},
		{7, 2, 9, 9},
		{7, 2, 12, 9},
		{7, 2, 3, 7},
		{2, 0, 0, 2},
	} {
		var nodes []*corev1.Node
		for range test.ready {
			nodes = append(nodes, &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: corev1.TaintNodeUnschedulable}}}})
		}
		for i := range test.others {
			key := []string{corev1.TaintNodeNotReady, corev1.TaintNodeUnreachable}[i%2]
			nodes = append(nodes, &corev1.Node{Spec: corev1.NodeSpec{Taints: []corev1.Taint{{Key: key}}}})
		}
		got, err := replicas(map[string]string{hostconfig.AnnotationNodesPerReplica: "1"}, nodes, int32(test.have))
		if err != nil || got != int32(test.want) {
			t.Errorf("%+v: got %d, %v", test, got, err)
		}
	}
}

func TestFollowsTheCluster(t *testing.T) {
	node := func(i int) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprintf("node%d", i)},
			Status: corev1.NodeStatus{Capacity: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("2")}}}
	}
	deployment := func(name string, annotations map[string]string) *appsv1.Deployment {
		one := int32(1)
		return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: name, Annotations: annotations},
			Spec: appsv1.DeploymentSpec{Replicas: &one}}
	}
	ctx := context.Background()
	f := controllertest.New(t, node(0),
		deployment("dns", map[string]string{hostconfig.AnnotationNodesPerReplica: "2"}), deployment("other", nil))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	have := func(name string) int32 {
		d, err := f.Client.AppsV1().Deployments("kube-system").Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return *d.Spec.Replicas
	}
	for i := 1; i < 5; i++ {
		if _, err := f.Client.CoreV1().Nodes().Create(ctx, node(i), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, "three replicas for five nodes", func() bool { return have("dns") == 3 })
	for i := range 4 {
		if err := f.Client.CoreV1().Nodes().Delete(ctx, fmt.Sprintf("node%d", i), metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, "one replica for one node", func() bool { return have("dns") == 1 })
	if _, err := f.Client.AppsV1().Deployments("kube-system").Update(ctx, func() *appsv1.Deployment {
		d := deployment("dns", map[string]string{hostconfig.AnnotationNodesPerReplica: "2"})
		*d.Spec.Replicas = 9
		return d
	}(), metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the number that somebody has changed to be set again", func() bool { return have("dns") == 1 })
	if n := have("other"); n != 1 {
		t.Errorf("a deployment that does not ask has %d replicas", n)
	}
}
