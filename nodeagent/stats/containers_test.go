package stats

import (
	"log/slog"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"

	"clusterctl/nodeagent/runtime"
)

// onePod is a runtime with a pod of one running container.
func onePod() *runtime.Runtime {
	service := critest.NewFakeRuntimeService()
	sandbox := &critest.FakePodSandbox{}
	sandbox.Id, sandbox.Metadata = "s1", &criv1.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u1"}
	service.SetFakeSandboxes([]*critest.FakePodSandbox{sandbox})
	c := &critest.FakeContainer{SandboxID: "s1"}
	c.Id, c.CreatedAt, c.State = "c1", 7e9, criv1.ContainerState_CONTAINER_RUNNING
	c.Metadata, c.Image = &criv1.ContainerMetadata{Name: "c"}, &criv1.ImageSpec{Image: "i:1"}
	c.Labels = map[string]string{runtime.LabelContainerName: "c", runtime.LabelPodName: "p", runtime.LabelPodNamespace: "n"}
	service.SetFakeContainers([]*critest.FakeContainer{c})
	return runtime.New(service, nil, slog.New(slog.DiscardHandler))
}

func gathered(t *testing.T, c prometheus.Collector) *prometheus.Registry {
	t.Helper()
	registry := prometheus.NewPedanticRegistry()
	if err := registry.Register(c); err != nil {
		t.Fatal(err)
	}
	return registry
}

func TestContainersHaveTheLabelsThatDashboardsLookFor(t *testing.T) {
	content := map[string]string{}
	for group, usage := range map[string]string{"": "100", "kubepods": "50", "kubepods/podu1": "40", "kubepods/podu1/s1": "10", "kubepods/podu1/c1": "30"} {
		content["cpuacct/"+group+"/cpuacct.usage"] = usage + "000000000\n"
		content["cpu/"+group+"/cpu.shares"] = "2\n"
		content["memory/"+group+"/memory.stat"] = "total_inactive_file 1\n"
		content["memory/"+group+"/memory.usage_in_bytes"] = usage + "\n"
	}
	dir := t.TempDir() // twice on one file system, and once nowhere
	registry := gathered(t, &Containers{Runtime: onePod(), Cgroups: files(t, content), Disks: []string{dir, dir, dir + "/none"}, Logger: slog.New(slog.DiscardHandler)})
	want := `
# HELP container_cpu_usage_seconds_total Cumulative cpu time consumed in seconds.
# TYPE container_cpu_usage_seconds_total counter
container_cpu_usage_seconds_total{container="",cpu="total",id="/",image="",name="",namespace="",pod=""} 100
container_cpu_usage_seconds_total{container="",cpu="total",id="/kubepods",image="",name="",namespace="",pod=""} 50
container_cpu_usage_seconds_total{container="",cpu="total",id="/kubepods/podu1",image="",name="",namespace="n",pod="p"} 40
container_cpu_usage_seconds_total{container="",cpu="total",id="/kubepods/podu1/s1",image="",name="s1",namespace="n",pod="p"} 10
container_cpu_usage_seconds_total{container="c",cpu="total",id="/kubepods/podu1/c1",image="i:1",name="c1",namespace="n",pod="p"} 30
# HELP container_memory_working_set_bytes Current working set in bytes.
# TYPE container_memory_working_set_bytes gauge
container_memory_working_set_bytes{container="",id="/",image="",name="",namespace="",pod=""} 99
container_memory_working_set_bytes{container="",id="/kubepods",image="",name="",namespace="",pod=""} 49
container_memory_working_set_bytes{container="",id="/kubepods/podu1",image="",name="",namespace="n",pod="p"} 39
container_memory_working_set_bytes{container="",id="/kubepods/podu1/s1",image="",name="s1",namespace="n",pod="p"} 9
container_memory_working_set_bytes{container="c",id="/kubepods/podu1/c1",image="i:1",name="c1",namespace="n",pod="p"} 29
# HELP container_start_time_seconds Start time of the container since unix epoch in seconds.
# TYPE container_start_time_seconds gauge
container_start_time_seconds{container="c",id="/kubepods/podu1/c1",image="i:1",name="c1",namespace="n",pod="p"} 7
`
	if err := testutil.GatherAndCompare(registry, strings.NewReader(want),
		"container_cpu_usage_seconds_total", "container_memory_working_set_bytes", "container_start_time_seconds"); err != nil {
		t.Error(err)
	}
	if n, err := testutil.GatherAndCount(registry, "container_fs_usage_bytes"); err != nil || n != 1 {
		t.Errorf("%d file systems: %v", n, err)
	}
	if n, err := testutil.GatherAndCount(registry, "container_pressure_cpu_waiting_seconds_total"); err != nil || n != 0 {
		t.Errorf("pressure of %d groups, which version 1 does not have: %v", n, err)
	}
	// The host's own traffic is that of the group of everything.
	if n, err := testutil.GatherAndCount(registry, "container_network_receive_bytes_total"); err != nil || n != len(readTraffic("/proc/self")) {
		t.Errorf("%d interfaces: %v", n, err)
	}
}

func TestRunning(t *testing.T) {
	want := `
# HELP kubelet_running_containers Number of containers currently running
# TYPE kubelet_running_containers gauge
kubelet_running_containers{container_state="running"} 1
# HELP kubelet_running_pods Number of pods that have a running pod sandbox
# TYPE kubelet_running_pods gauge
kubelet_running_pods 1
`
	if err := testutil.GatherAndCompare(gathered(t, &Running{onePod(), slog.New(slog.DiscardHandler)}), strings.NewReader(want)); err != nil {
		t.Error(err)
	}
}
