package scheduler

import (
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	kubetesting "k8s.io/client-go/testing"

	"clusterctl/controlplane/scheduler/plugins"
)

// Whoever sees others' victims go before its own has nobody else evicted.
func TestPreemptorsDoNotDisturbEachOther(t *testing.T) {
	const nodes, perNode, preemptors = 10, 3, 15
	third := requests("600m", "1Mi")
	var objects []runtime.Object
	for i := range nodes {
		name := fmt.Sprint("n", i)
		objects = append(objects, node(name))
		for j := range perNode {
			objects = append(objects, newPod(fmt.Sprint("low-", i, "-", j), third, func(p *v1.Pod) { p.Spec.NodeName = name }))
		}
	}
	for i := range preemptors {
		objects = append(objects, newPod(fmt.Sprint("high-", i), third, func(p *v1.Pod) { p.Spec.Priority = new(int32(5)) }))
	}
	client := fakeCluster(objects...)
	var mu sync.Mutex
	evicted := map[string]bool{}
	client.PrependReactor("*", "pods", func(action kubetesting.Action) (bool, runtime.Object, error) {
		mu.Lock()
		defer mu.Unlock()
		if a, ok := action.(kubetesting.DeleteAction); ok {
			evicted[a.GetName()] = true
			time.Sleep(10 * time.Millisecond) // the others see that the one before is gone
		}
		return false, nil, nil
	})
	runScheduler(t, client)
	eventually(t, "every preemptor has its node", func() bool {
		pods, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return !slices.ContainsFunc(pods.Items, func(p v1.Pod) bool { return p.Spec.NodeName == "" })
	})
	mu.Lock()
	defer mu.Unlock()
	if len(evicted) != preemptors {
		t.Errorf("%d pods made room for %d", len(evicted), preemptors)
	}
}

// A pod that was deleted and made again while the watch was down has another UID.
func TestAnotherPodOfTheName(t *testing.T) {
	s := newScheduler(plugins.Default(nil))
	s.picture.SetNode(node("a"))
	old := newPod("p", func(p *v1.Pod) { p.Spec.NodeName, p.UID = "a", "old" })
	s.podChanged(nil, old)
	s.podChanged(old, newPod("p", func(p *v1.Pod) { p.Spec.NodeName, p.UID = "a", "new" }))
	if _, known := s.picture.HasPod("old"); known {
		t.Error("the old one is still counted")
	}
	if _, known := s.picture.HasPod("new"); !known {
		t.Error("the new one is not counted")
	}
}
