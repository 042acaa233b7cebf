package pods

import (
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

func TestByPriority(t *testing.T) {
	groups := []ShutdownGroup{{Priority: 1000}, {Priority: 0}, {Priority: 2_000_000_000}}
	of := func(name string, priority int32) *v1.Pod {
		pod := sizedPod(name, "1m")
		pod.Spec.Priority = &priority
		return pod
	}
	got := byPriority(groups, []*v1.Pod{of("low", -5), of("none", 0), of("some", 999), of("more", 1000), of("vital", 2_000_000_000), of("top", 2_000_001_000)})
	for i, want := range [][]string{{"low", "none", "some"}, {"more"}, {"vital", "top"}} {
		var names []string
		for _, pod := range got[i] {
			names = append(names, pod.Name)
		}
		if len(names) != len(want) {
			t.Errorf("group %d: got %v, want %v", i, names, want)
			continue
		}
		for j := range want {
			if names[j] != want[j] {
				t.Errorf("group %d: got %v, want %v", i, names, want)
			}
		}
	}
	if byPriority(nil, []*v1.Pod{of("a", 0)}) != nil {
		t.Error("without groups nobody is ended")
	}
}

func TestAgentShutsDown(t *testing.T) {
	b := newBench(t)
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	b.until("ready", ready)
	b.running.Shutdown(t.Context(), []ShutdownGroup{{Grace: 20 * time.Second}})
	pod = b.until("ended", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if pod.Status.Reason != "Terminated" || pod.Status.Message != shutdownMessage || condition(&pod.Status, v1.DisruptionTarget) == nil {
		t.Errorf("status: %+v", pod.Status)
	}
	if reason, _ := b.running.ledger.admit(sizedPod("late", "1m")); reason != "NodeShutdown" {
		t.Errorf("a pod comes to a host that goes down: %q", reason)
	}
	b.stop()
}
