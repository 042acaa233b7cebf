package stats

import (
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"
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
		Containers: []stats.ContainerStats{{Name: "c",
			CPU: &stats.CPUStats{Time: at, UsageCoreNanoSeconds: &nano}, Memory: &stats.MemoryStats{Time: at, WorkingSetBytes: &bytes}}},
	}}}
	var b strings.Builder
	if err := WriteMetrics(&b, s); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		`container_cpu_usage_seconds_total{container="c",namespace="n",pod="p"} 2.5 7`,
		`container_memory_working_set_bytes{container="c",namespace="n",pod="p"} 4096 7`,
	} {
		if !strings.Contains(b.String(), want+"\n") {
			t.Errorf("missing %s in\n%s", want, b.String())
		}
	}
}
