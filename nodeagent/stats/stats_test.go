package stats

import (
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"clusterctl/nodeagent/runtime"
)

func TestHostHasMemoryDiskAndCPU(t *testing.T) {
	if m, err := ReadMemory(); err != nil || m.Total == 0 || m.Available > m.Total {
		t.Errorf("memory: %+v %v", m, err)
	}
	if d, err := ReadDisk("/"); err != nil || d.Total == 0 || d.Available > d.Total {
		t.Errorf("disk: %+v %v", d, err)
	}
	if c, err := CPUNanoseconds(); err != nil || c == 0 {
		t.Errorf("cpu: %d %v", c, err)
	}
	if used, limit := PIDs(); used == 0 || limit == 0 {
		t.Errorf("pids: %d of %d", used, limit)
	}
}

func TestWriteMetrics(t *testing.T) {
	nano, bytes := uint64(2_500_000_000), uint64(4096)
	at := metav1.NewTime(time.UnixMilli(7))
	s := &stats.Summary{Pods: []stats.PodStats{{
		PodRef: stats.PodReference{Name: "p", Namespace: "n"},
		Containers: []stats.ContainerStats{{Name: "c", StartTime: metav1.NewTime(time.UnixMilli(9500)),
			Swap: &stats.SwapStats{Time: at, SwapUsageBytes: &bytes, SwapAvailableBytes: &bytes},
			CPU:  &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &nano}, Memory: &stats.MemoryStats{Time: at, WorkingSetBytes: &bytes}}},
	}}}
	var b strings.Builder
	if err := WriteMetrics(&b, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 2.5 7`,
		`container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 7`,
		`container_start_time_seconds{container="c",namespace="n",pod="p"} 9.500`,
		`container_swap_usage_bytes{container="c",namespace="n",pod="p"} 4096 7`,
		`container_swap_limit_bytes{container="c",namespace="n",pod="p"} 8192 7`,
		"scrape_error 0",
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("missing %s in\n%s", want, b.String())
		}
	}
}

func TestNoMetricsAreAnError(t *testing.T) {
	var b strings.Builder
	if err := WriteMetrics(&b, nil); err != nil || !strings.Contains(b.String(), "\nresource_scrape_error 1\n") {
		t.Errorf("%v in\n%s", err, b.String())
	}
}

func TestSummaryOfControlGroups(t *testing.T) {
	group := func(name, cpu string, more map[string]string) map[string]string {
		all := map[string]string{name + "/cpu.stat": "usage_usec " + cpu + "\n", name + "/memory.stat": "anon 10\ninactive_file 100\n",
			name + "/memory.current": "1100\n", name + "/memory.max": "max\n", name + "/memory.swap.max": "0\n",
			name + "/cpu.pressure": "some avg10=1.00 avg60=2.00 avg300=3.00 total=5\n", name + "/cgroup.procs": ""}
		maps.Copy(all, more)
		return all
	}
	content := group("", "1", nil)
	maps.Copy(content, group("kubepods", "4000000", nil))
	maps.Copy(content, group("kubepods/podu", "3000000", map[string]string{"kubepods/podu/memory.max": "5000\n"}))
	maps.Copy(content, group("kubepods/podu/box", "1000000", map[string]string{"kubepods/podu/box/cgroup.procs": "999999999\n"}))
	maps.Copy(content, group("kubepods/podu/first", "2000000", map[string]string{"kubepods/podu/first/cgroup.procs": "999999997\n999999998\n"}))
	maps.Copy(content, group("kubepods/podu/foreign", "1", nil))
	service := critest.NewFakeRuntimeService()
	sandbox := &critest.FakePodSandbox{}
	sandbox.Id, sandbox.CreatedAt, sandbox.Metadata = "box", 1e9, &criv1.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}
	service.SetFakeSandboxes([]*critest.FakePodSandbox{sandbox})
	container := &critest.FakeContainer{SandboxID: "box"}
	container.Id, container.CreatedAt, container.State = "first", 2e9, criv1.ContainerState_CONTAINER_RUNNING
	container.Labels = map[string]string{runtime.LabelPodUID: "u", runtime.LabelPodName: "p", runtime.LabelPodNamespace: "n", runtime.LabelContainerName: "c"}
	service.SetFakeContainers([]*critest.FakeContainer{container})
	s := &Source{NodeName: "node", StateDir: t.TempDir(), groups: &groupReader{root: files(t, content), unified: true, devices: map[string]string{}}, Runtime: runtime.New(service, nil, slog.New(slog.DiscardHandler))}
	summary, err := s.Summary(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if node := summary.Node; node.NodeName != "node" || node.StartTime.IsZero() || *node.Fs.CapacityBytes == 0 || *node.Rlimit.MaxPID == 0 || node.Swap.SwapUsageBytes == nil {
		t.Errorf("the node: %+v", node)
	}
	pods := summary.Node.SystemContainers
	if i := slices.IndexFunc(pods, func(c stats.ContainerStats) bool { return c.Name == "pods" }); i < 0 || *pods[i].CPU.UsageCoreNanoSeconds != 4e9 {
		t.Errorf("all pods: %+v", pods)
	}
	if len(summary.Pods) != 1 {
		t.Fatalf("pods: %+v", summary.Pods)
	}
	pod := summary.Pods[0]
	if pod.PodRef != (stats.PodReference{Name: "p", Namespace: "n", UID: "u"}) || *pod.CPU.UsageCoreNanoSeconds != 3e9 || *pod.Memory.WorkingSetBytes != 1000 ||
		*pod.Memory.AvailableBytes != 4000 || *pod.ProcessStats.ProcessCount != 3 || pod.StartTime.Unix() != 1 || pod.CPU.PSI.Some.Avg60 != 2 || pod.CPU.PSI.Some.Total != 5000 {
		t.Errorf("the pod: %+v %+v %+v", pod, pod.CPU, pod.Memory)
	}
	if c := pod.Containers; len(c) != 1 || c[0].Name != "c" || *c[0].CPU.UsageCoreNanoSeconds != 2e9 || c[0].Memory.AvailableBytes != nil ||
		*c[0].Memory.RSSBytes != 10 || c[0].StartTime.Unix() != 2 || *c[0].Swap.SwapAvailableBytes != 0 {
		t.Errorf("containers: %+v", c)
	}
}

func TestRates(t *testing.T) {
	at := time.Unix(100, 0)
	first := rate{}.next(at, 1e9)
	if first.nanocores != 0 {
		t.Errorf("a rate of one reading: %d", first.nanocores)
	}
	second := first.next(at.Add(2*time.Second), 2e9)
	if second.nanocores != 5e8 {
		t.Errorf("a second of CPU in two: %d", second.nanocores)
	}
	if soon := second.next(at.Add(2100*time.Millisecond), 9e9); soon != second {
		t.Errorf("soon after: %+v", soon)
	}
	if anew := second.next(at.Add(9*time.Second), 1); anew.nanocores != 0 || anew.total != 1 {
		t.Errorf("a group that was made anew: %+v", anew)
	}
}
