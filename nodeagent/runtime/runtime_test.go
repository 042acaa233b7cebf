package runtime

import (
	"log/slog"
	"maps"
	"slices"
	"testing"

	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"
)

func TestDifferences(t *testing.T) {
	before := map[string]summary{"same": {"a", 1}, "changed": {"b", 1}, "gone": {"c", 1}, "foreign": {"", 1}}
	after := map[string]summary{"same": {"a", 1}, "changed": {"b", 2}, "new": {"d", 1}, "foreign": {"", 2}}
	got := differences(before, after)
	want := map[types.UID]map[string]int32{"b": {"changed": 2}, "c": {}, "d": {"new": 1}}
	if !maps.EqualFunc(got, want, maps.Equal[map[string]int32, map[string]int32]) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestPodObservesItsOwnNewestFirst(t *testing.T) {
	service := critest.NewFakeRuntimeService()
	labels := map[string]string{LabelPodUID: "u", LabelContainerName: "c"}
	sandbox := &critest.FakePodSandbox{}
	sandbox.Id, sandbox.Metadata, sandbox.Labels = "s", &criv1.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}, labels
	sandbox.Network = &criv1.PodSandboxNetworkStatus{Ip: "10.0.0.1"}
	service.SetFakeSandboxes([]*critest.FakePodSandbox{sandbox})
	var containers []*critest.FakeContainer
	for i, id := range []string{"old", "new", "foreign"} {
		c := &critest.FakeContainer{SandboxID: "s"}
		c.Id, c.CreatedAt, c.Labels = id, int64(i+1), labels
		c.Metadata = &criv1.ContainerMetadata{Name: "c", Attempt: uint32(i)}
		c.Image = &criv1.ImageSpec{Image: "i"}
		if id == "foreign" {
			c.Labels = map[string]string{LabelPodUID: "other"}
		}
		containers = append(containers, c)
	}
	service.SetFakeContainers(containers)
	pod, err := New(service, nil, slog.New(slog.DiscardHandler)).Pod(t.Context(), "u")
	if err != nil {
		t.Fatal(err)
	}
	if len(pod.Containers) != 2 || pod.Latest("c").ID != "new" || pod.Runs("c")[1].ID != "old" || pod.Latest("d") != nil {
		t.Errorf("containers: %+v", pod.Containers)
	}
	if s := pod.Sandbox(); s == nil || !s.Ready || len(s.IPs) != 1 || pod.Name != "p" {
		t.Errorf("pod: %+v", pod)
	}
}

func TestAnEventTellsOfAnEnd(t *testing.T) {
	r := New(nil, nil, slog.New(slog.DiscardHandler))
	event := func(change func(*criv1.ContainerEventResponse, *criv1.ContainerStatus)) *criv1.ContainerEventResponse {
		ended := &criv1.ContainerStatus{Id: "c", Metadata: &criv1.ContainerMetadata{Name: "main", Attempt: 2},
			State: criv1.ContainerState_CONTAINER_EXITED, FinishedAt: 1e9, ExitCode: 3, Reason: "Error"}
		e := &criv1.ContainerEventResponse{
			ContainerId: "c", ContainerEventType: criv1.ContainerEventType_CONTAINER_STOPPED_EVENT,
			PodSandboxStatus:   &criv1.PodSandboxStatus{Id: "s", Metadata: &criv1.PodSandboxMetadata{Uid: "u"}},
			ContainersStatuses: []*criv1.ContainerStatus{{Id: "other", State: criv1.ContainerState_CONTAINER_RUNNING}, ended},
		}
		change(e, ended)
		return e
	}
	run := r.ended(event(func(*criv1.ContainerEventResponse, *criv1.ContainerStatus) {}))
	if run == nil || run.ID != "c" || run.URI != "containerd://c" || run.SandboxID != "s" || run.Name != "main" || run.Attempt != 2 ||
		run.State != Exited || run.ExitCode != 3 || run.Reason != "Error" || run.FinishedAt.Unix() != 1 {
		t.Errorf("the end is %+v", run)
	}
	for name, change := range map[string]func(*criv1.ContainerEventResponse, *criv1.ContainerStatus){
		"a start": func(e *criv1.ContainerEventResponse, _ *criv1.ContainerStatus) {
			e.ContainerEventType = criv1.ContainerEventType_CONTAINER_STARTED_EVENT
		},
		"the sandbox's end": func(e *criv1.ContainerEventResponse, _ *criv1.ContainerStatus) { e.ContainerId = "s" },
		"no statuses":       func(e *criv1.ContainerEventResponse, _ *criv1.ContainerStatus) { e.ContainersStatuses = nil },
		"a status of before": func(_ *criv1.ContainerEventResponse, s *criv1.ContainerStatus) {
			s.State = criv1.ContainerState_CONTAINER_RUNNING
		},
		"a status of no time": func(_ *criv1.ContainerEventResponse, s *criv1.ContainerStatus) { s.FinishedAt = 0 },
	} {
		if run := r.ended(event(change)); run != nil {
			t.Errorf("%s: an end is made of it: %+v", name, run)
		}
	}
}

func TestASandboxIsStoppedAsTheRuntimeNeedsIt(t *testing.T) {
	for name, want := range map[string][]string{containerd: {"RemovePodSandbox"}, "cri-o": {"StopPodSandbox", "RemovePodSandbox"}} {
		service := critest.NewFakeRuntimeService()
		sandbox := &critest.FakePodSandbox{}
		sandbox.Id, sandbox.Metadata = "s", &criv1.PodSandboxMetadata{Uid: "u"}
		service.SetFakeSandboxes([]*critest.FakePodSandbox{sandbox})
		r := New(service, nil, slog.New(slog.DiscardHandler))
		r.name = name
		if err := r.RemoveSandbox(t.Context(), "s"); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if got := service.GetCalls(); !slices.Equal(got, want) {
			t.Errorf("%s: %v, want %v", name, got, want)
		}
	}
}
