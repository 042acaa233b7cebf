package pods

import (
	"context"
	"errors"
	"strings"
	"sync/atomic"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/devices"
)

// testDevices fails as told, and counts.
type testDevices struct {
	noDevices
	fault    func(try int64) error
	tries    atomic.Int64
	returned atomic.Int64
	health   atomic.Value
	wake     func(types.UID)
}

func (d *testDevices) Prepare(context.Context, *v1.Pod) error { return d.fault(d.tries.Add(1)) }

func (d *testDevices) Unprepare(context.Context, types.UID) error {
	d.returned.Add(1)
	return nil
}

func runWithDevices(t *testing.T, d *testDevices) *bench {
	t.Helper()
	b := newBench(t)
	b.devices = d
	pod := testPod(v1.RestartPolicyAlways)
	pod.Spec.Containers = pod.Spec.Containers[:1]
	if _, err := b.client.CoreV1().Pods("n").Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	b.start()
	return b
}

func (d *testDevices) Health(*v1.Pod) map[string][]v1.ResourceStatus {
	return map[string][]v1.ResourceStatus{"a": {{Name: "gpu", Resources: []v1.ResourceHealth{{ResourceID: "0", Health: v1.ResourceHealthStatus(d.health.Load().(string))}}}}}
}

func (d *testDevices) Watch(wake func(types.UID)) {
	d.wake = wake
	d.health.Store("Healthy")
}

func TestStatusTellsTheHealthOfDevices(t *testing.T) {
	d := &testDevices{fault: func(int64) error { return nil }}
	b := runWithDevices(t, d)
	tells := func(health v1.ResourceHealthStatus) func(p *v1.Pod) bool {
		return func(p *v1.Pod) bool {
			list := p.Status.ContainerStatuses
			return ready(p) && len(list[0].AllocatedResourcesStatus) == 1 && list[0].AllocatedResourcesStatus[0].Resources[0].Health == health
		}
	}
	b.until("healthy", tells(v1.ResourceHealthStatusHealthy))
	d.health.Store("Unhealthy")
	d.wake("u")
	b.until("unhealthy", tells(v1.ResourceHealthStatusUnhealthy))
	b.stop()
}

func TestPodWaitsForItsDevices(t *testing.T) {
	d := &testDevices{fault: func(try int64) error {
		if try < 2 {
			return errors.New("the driver is not there yet")
		}
		return nil
	}}
	b := runWithDevices(t, d)
	b.until("ready", func(p *v1.Pod) bool { return ready(p) })
	if n := d.tries.Load(); n != 2 {
		t.Errorf("prepared %d times, want 2", n)
	}
	b.stop()
}

func TestPodWithoutTheDevicesItWasPromisedFails(t *testing.T) {
	d := &testDevices{fault: func(int64) error { return &devices.Refusal{Err: errors.New("there are none")} }}
	b := runWithDevices(t, d)
	pod := b.until("failed", func(p *v1.Pod) bool { return p.Status.Phase == v1.PodFailed })
	if pod.Status.Reason != "UnexpectedAdmissionError" || !strings.Contains(pod.Status.Message, "Pod was rejected: Allocate failed due to there are none, which is unexpected") {
		t.Errorf("failed with %s: %s", pod.Status.Reason, pod.Status.Message)
	}
	if d.returned.Load() == 0 {
		t.Error("nothing was given back")
	}
	b.stop()
}

func TestContainerIsGivenItsDevices(t *testing.T) {
	config := &criv1.ContainerConfig{Envs: []*criv1.KeyValue{{Key: "A", Value: []byte("pod")}}, Annotations: map[string]string{"x": "ours"}}
	give(config, &devices.Access{
		CDI: []string{"example.com/gpu=0"}, Env: map[string]string{"B": "2", "A": "plugin"}, Annotations: map[string]string{"x": "theirs", "y": "theirs"},
		Mounts: []*criv1.Mount{{ContainerPath: "/m"}}, Devices: []*criv1.Device{{ContainerPath: "/dev/gpu"}},
	})
	if len(config.Envs) != 3 || string(config.Envs[2].Value) != "pod" || config.Envs[1].Key != "B" {
		t.Errorf("environment %v: what the pod says has to come last", config.Envs)
	}
	if config.Annotations["x"] != "ours" || config.Annotations["y"] != "theirs" || config.CDIDevices[0].Name != "example.com/gpu=0" || len(config.Mounts) != 1 || len(config.Devices) != 1 {
		t.Errorf("config %+v", config)
	}
}
