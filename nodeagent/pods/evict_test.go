package pods

import (
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/nodeagent/eviction"
)

func TestAgentEvicts(t *testing.T) {
	b := newBench(t)
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	pod = b.until("ready", ready)
	cause := eviction.Cause{Message: "no room", Annotations: map[string]string{"starved_resource": "memory"}, Disrupts: true}
	if !(host{b.running}).Evict(pod, time.Second, cause) {
		t.Fatal("the pod cannot be evicted")
	}
	if (host{b.running}).Evict(pod, time.Second, cause) {
		t.Error("a pod is evicted twice")
	}
	told := ""
	for recorder := b.running.Recorder.(*record.FakeRecorder); len(recorder.Events) > 0; {
		if event := <-recorder.Events; strings.Contains(event, "Evicted") {
			told += event
		}
	}
	if want := "Warning Evicted no room map[starved_resource:memory]"; told != want {
		t.Errorf("told %q, want %q", told, want)
	}
	pod = b.until("evicted", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	c := condition(&pod.Status, v1.DisruptionTarget)
	if pod.Status.Reason != "Evicted" || pod.Status.Message != "no room" || c == nil || c.Reason != v1.PodReasonTerminationByKubelet {
		t.Errorf("status: %+v", pod.Status)
	}
	b.stop()
}
