package podgc

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestCollect(t *testing.T) {
	pod := func(name, node string, phase corev1.PodPhase, deleting bool) *corev1.Pod {
		p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns"}, Spec: corev1.PodSpec{NodeName: node}, Status: corev1.PodStatus{Phase: phase}}
		if deleting {
			now := metav1.Now()
			p.DeletionTimestamp = &now
		}
		return p
	}
	node := func(name string, taints ...corev1.Taint) *corev1.Node {
		return &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: corev1.NodeSpec{Taints: taints}}
	}
	old := pod("finished-old", "here", corev1.PodSucceeded, false)
	old.CreationTimestamp = metav1.NewTime(time.Unix(1, 0))
	young := pod("finished-young", "here", corev1.PodFailed, false)
	young.CreationTimestamp = metav1.NewTime(time.Unix(2, 0))
	evicted := pod("finished-evicted", "here", corev1.PodFailed, false)
	evicted.Status.Reason, evicted.CreationTimestamp = "Evicted", metav1.NewTime(time.Unix(3, 0))
	f := controllertest.New(t,
		node("here"), node("dead", corev1.Taint{Key: corev1.TaintNodeOutOfService}),
		pod("running", "here", corev1.PodRunning, false), pod("going", "here", corev1.PodRunning, true),
		pod("lost", "gone", corev1.PodRunning, false), pod("never-bound", "", corev1.PodPending, true), pod("pending", "", corev1.PodPending, false),
		pod("on-dead", "dead", corev1.PodRunning, true), pod("on-dead-kept", "dead", corev1.PodRunning, false),
		old, young, evicted)
	c := newController(f.Env)
	c.keep = 1
	now := time.Now()
	c.now = func() time.Time { return now }
	f.Start(t)
	names := func() []string {
		list, err := f.Client.CoreV1().Pods("ns").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var result []string
		for _, p := range list.Items {
			result = append(result, p.Name)
		}
		slices.Sort(result)
		return result
	}
	for _, step := range []struct {
		after time.Duration
		want  []string
	}{
		{0, []string{"finished-young", "going", "lost", "on-dead-kept", "pending", "running"}},
		{quarantine / 2, []string{"finished-young", "going", "lost", "on-dead-kept", "pending", "running"}},
		{quarantine, []string{"finished-young", "going", "on-dead-kept", "pending", "running"}},
	} {
		now = now.Add(step.after)
		if err := c.collect(context.Background()); err != nil {
			t.Fatal(err)
		}
		if got := names(); !slices.Equal(got, step.want) {
			t.Errorf("after %s: %v, want %v", step.after, got, step.want)
		}
		controllertest.Eventually(t, "the cache", func() bool {
			_, err := c.pods.Pods("ns").Get("never-bound")
			return err != nil
		})
	}
}
