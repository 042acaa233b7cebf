package runtime

import (
	"log/slog"
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
	slices.Sort(got)
	if want := []types.UID{"b", "c", "d"}; !slices.Equal(got, want) {
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
