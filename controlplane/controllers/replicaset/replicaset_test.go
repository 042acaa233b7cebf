package replicaset

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/controllers/controllertest"
)

func testSet(replicas int32) *appsv1.ReplicaSet {
	labels := map[string]string{"app": "web"}
	return &appsv1.ReplicaSet{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "rs", Generation: 1},
		Spec: appsv1.ReplicaSetSpec{
			Replicas: &replicas,
			Selector: &metav1.LabelSelector{MatchLabels: labels},
			Template: corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: labels}},
		},
	}
}

func TestKeepsTheWantedNumber(t *testing.T) {
	orphan := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Name: "orphan", Namespace: "ns", UID: "orphan", Labels: map[string]string{"app": "web"}}}
	f := controllertest.New(t, testSet(4), orphan)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	count := func(want int) func() bool {
		return func() bool {
			pods, err := f.Client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			rs, err := f.Client.AppsV1().ReplicaSets("ns").Get(ctx, "web", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			return len(pods.Items) == want && rs.Status.Replicas == int32(want)
		}
	}
	controllertest.Eventually(t, "four pods", count(4))
	adopted, err := f.Client.CoreV1().Pods("ns").Get(ctx, "orphan", metav1.GetOptions{})
	if err != nil || !metav1.IsControlledBy(adopted, testSet(0)) {
		t.Errorf("the orphan was not adopted: %v, %v", adopted, err)
	}
	if err := f.Client.CoreV1().Pods("ns").Delete(ctx, "orphan", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "a replacement", count(4))
	smaller := testSet(1)
	if _, err := f.Client.AppsV1().ReplicaSets("ns").Update(ctx, smaller, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "one pod", count(1))
}

func TestDeletionOrder(t *testing.T) {
	now := time.Unix(1e9, 0)
	ago := func(d time.Duration) metav1.Time { return metav1.NewTime(now.Add(-d)) }
	type change func(*corev1.Pod)
	pod := func(name string, changes ...change) *corev1.Pod {
		p := &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name), CreationTimestamp: ago(time.Hour)},
			Spec:       corev1.PodSpec{NodeName: "node"},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, Conditions: []corev1.PodCondition{
				{Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: ago(time.Hour)}}},
		}
		for _, c := range changes {
			c(p)
		}
		return p
	}
	// Each goes before all that follow it.
	ordered := []*corev1.Pod{
		pod("unassigned", func(p *corev1.Pod) { p.Spec.NodeName = "" }),
		pod("pending", func(p *corev1.Pod) { p.Status.Phase = corev1.PodPending }),
		pod("not ready", func(p *corev1.Pod) { p.Status.Conditions[0].Status = corev1.ConditionFalse }),
		pod("cheap", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "-5"} }),
		pod("crowded", func(p *corev1.Pod) { p.Spec.NodeName = "crowded" }),
		pod("ready for a second", func(p *corev1.Pod) { p.Status.Conditions[0].LastTransitionTime = ago(time.Second) }),
		pod("restarted", func(p *corev1.Pod) { p.Status.ContainerStatuses = []corev1.ContainerStatus{{RestartCount: 3}} }),
		pod("young", func(p *corev1.Pod) { p.CreationTimestamp = ago(time.Minute) }),
		pod("old"),
		pod("dear", func(p *corev1.Pod) { p.Annotations = map[string]string{corev1.PodDeletionCost: "5"} }),
	}
	perNode := map[string]int{"node": 1, "crowded": 3}
	shuffled := slices.Clone(ordered)
	slices.Reverse(shuffled)
	slices.SortFunc(shuffled, func(a, b *corev1.Pod) int { return compareCost(a, b, perNode, now) })
	for i := range ordered {
		if shuffled[i] != ordered[i] {
			t.Errorf("place %d: got %q, want %q", i, shuffled[i].Name, ordered[i].Name)
		}
	}
}

func TestStatus(t *testing.T) {
	now := time.Unix(1e9, 0)
	rs := testSet(3)
	rs.Spec.MinReadySeconds = 10
	ready := func(since time.Duration, label string) *corev1.Pod {
		return &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Labels: map[string]string{"app": label}},
			Status: corev1.PodStatus{Conditions: []corev1.PodCondition{{
				Type: corev1.PodReady, Status: corev1.ConditionTrue, LastTransitionTime: metav1.NewTime(now.Add(-since))}}},
		}
	}
	pods := []*corev1.Pod{ready(time.Minute, "web"), ready(4*time.Second, "web"), {}}
	got := newStatus(rs, pods, 2, nil, now)
	if got.Replicas != 3 || got.ReadyReplicas != 2 || got.AvailableReplicas != 1 || got.FullyLabeledReplicas != 2 || *got.TerminatingReplicas != 2 || got.ObservedGeneration != 1 {
		t.Errorf("status %+v", got)
	}
	if wait := nextAvailable(rs, pods, now); wait != 6*time.Second {
		t.Errorf("next available in %s, want 6s", wait)
	}
	quota := apierrors.NewForbidden(corev1.Resource("pods"), "", errors.New("quota"))
	failed := newStatus(rs, nil, 0, errors.Join(fmt.Errorf("create pod: %w", quota)), now)
	if len(failed.Conditions) != 1 || failed.Conditions[0].Reason != "FailedCreate" || failed.Conditions[0].Message != quota.Error() {
		t.Errorf("conditions %+v", failed.Conditions)
	}
	rs.Status = failed
	if healed := newStatus(rs, nil, 0, nil, now); len(healed.Conditions) != 0 {
		t.Errorf("conditions %+v", healed.Conditions)
	}
}

func TestRunsReplicationControllers(t *testing.T) {
	set := testSet(2)
	f := controllertest.New(t, &corev1.ReplicationController{
		ObjectMeta: set.ObjectMeta,
		Spec:       corev1.ReplicationControllerSpec{Replicas: set.Spec.Replicas, Selector: set.Spec.Selector.MatchLabels, Template: &set.Spec.Template},
	})
	c, err := NewForReplicationControllers(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	controllertest.Eventually(t, "two pods", func() bool {
		rc, err := f.Client.CoreV1().ReplicationControllers("ns").Get(ctx, "web", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return rc.Status.Replicas == 2 && rc.Status.ObservedGeneration == 1
	})
	pods, err := f.Client.CoreV1().Pods("ns").List(ctx, metav1.ListOptions{})
	if err != nil || len(pods.Items) != 2 {
		t.Fatalf("%d pods, %v", len(pods.Items), err)
	}
	if ref := metav1.GetControllerOf(&pods.Items[0]); ref == nil || ref.Kind != "ReplicationController" || ref.APIVersion != "v1" {
		t.Errorf("the pods' owner is %v", ref)
	}
}
