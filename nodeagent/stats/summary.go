package stats

import (
	"context"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"clusterctl/nodeagent/runtime"
)

// Source measures this host. Safe for concurrent use.
type Source struct {
	NodeName string
	StateDir string // on the file system that the node's disk is judged by
	Runtime  *runtime.Runtime
	Began    time.Time
	Volumes  *Volumes // nil: they are not measured

	mu       sync.Mutex
	lastCPU  uint64
	lastTime time.Time
	rate     uint64 // of the node, nanocores
}

// Summary is what the node and its pods use.
func (s *Source) Summary(ctx context.Context) (*stats.Summary, error) {
	now := metav1.Now()
	memory, err := ReadMemory()
	if err != nil {
		return nil, err
	}
	disk, err := ReadDisk(s.StateDir)
	if err != nil {
		return nil, err
	}
	cpu, err := CPUNanoseconds()
	if err != nil {
		return nil, err
	}
	used := memory.Total - memory.Available
	summary := &stats.Summary{Node: stats.NodeStats{
		NodeName:  s.NodeName,
		StartTime: metav1.NewTime(s.Began),
		CPU:       &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu, UsageNanoCores: s.cpuRate(cpu)},
		Memory:    &stats.MemoryStats{Time: now, AvailableBytes: &memory.Available, UsageBytes: &used, WorkingSetBytes: &used},
		Fs: &stats.FsStats{Time: now, AvailableBytes: &disk.Available, CapacityBytes: &disk.Total, UsedBytes: &disk.BlocksUsed,
			Inodes: &disk.Inodes, InodesFree: &disk.InodesFree, InodesUsed: &disk.InodeUsed},
	}}
	pods, err := s.Runtime.ListPodSandboxStats(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("measure pods: %w", err)
	}
	volumes := map[string][]stats.VolumeStats{}
	if s.Volumes != nil {
		for claimed, disk := range s.Volumes.measure() {
			uid := string(claimed.Pod)
			volumes[uid] = append(volumes[uid], stats.VolumeStats{
				Name: claimed.Volume, PVCRef: &stats.PVCReference{Name: claimed.Claim, Namespace: claimed.Namespace},
				FsStats: stats.FsStats{Time: now, AvailableBytes: &disk.Available, CapacityBytes: &disk.Total, UsedBytes: &disk.BlocksUsed,
					Inodes: &disk.Inodes, InodesFree: &disk.InodesFree, InodesUsed: &disk.InodeUsed},
			})
		}
	}
	for _, p := range pods {
		pod := podStats(p)
		pod.VolumeStats = volumes[pod.PodRef.UID]
		summary.Pods = append(summary.Pods, pod)
	}
	return summary, nil
}

// cpuRate is the node's use of CPUs since the last time it was asked.
func (s *Source) cpuRate(cpu uint64) *uint64 {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	if elapsed := now.Sub(s.lastTime); !s.lastTime.IsZero() && elapsed >= time.Second && cpu >= s.lastCPU {
		s.rate = uint64(float64(cpu-s.lastCPU) / elapsed.Seconds())
		s.lastCPU, s.lastTime = cpu, now
	} else if s.lastTime.IsZero() {
		s.lastCPU, s.lastTime = cpu, now
	}
	rate := s.rate
	return &rate
}

func podStats(p *criv1.PodSandboxStats) stats.PodStats {
	meta := p.GetAttributes().GetMetadata()
	pod := stats.PodStats{
		PodRef: stats.PodReference{Name: meta.GetName(), Namespace: meta.GetNamespace(), UID: meta.GetUid()},
		CPU:    cpuStats(p.GetLinux().GetCpu()),
		Memory: memoryStats(p.GetLinux().GetMemory()),
	}
	if n := p.GetLinux().GetNetwork(); n.GetDefaultInterface() != nil {
		d := n.DefaultInterface
		pod.Network = &stats.NetworkStats{
			Time: metav1.NewTime(time.Unix(0, n.Timestamp)),
			InterfaceStats: stats.InterfaceStats{Name: d.Name, RxBytes: value(d.RxBytes), RxErrors: value(d.RxErrors),
				TxBytes: value(d.TxBytes), TxErrors: value(d.TxErrors)},
		}
	}
	if process := p.GetLinux().GetProcess(); process != nil {
		pod.ProcessStats = &stats.ProcessStats{ProcessCount: value(process.ProcessCount)}
	}
	for _, c := range p.GetLinux().GetContainers() {
		container := stats.ContainerStats{
			Name: c.GetAttributes().GetMetadata().GetName(), CPU: cpuStats(c.Cpu), Memory: memoryStats(c.Memory)}
		if layer := c.WritableLayer; layer != nil {
			container.Rootfs = &stats.FsStats{Time: metav1.NewTime(time.Unix(0, layer.Timestamp)),
				UsedBytes: value(layer.UsedBytes), InodesUsed: value(layer.InodesUsed)}
		}
		pod.Containers = append(pod.Containers, container)
	}
	return pod
}

func cpuStats(c *criv1.CpuUsage) *stats.CPUStats {
	if c == nil {
		return nil
	}
	return &stats.CPUStats{Time: metav1.NewTime(time.Unix(0, c.Timestamp)),
		UsageCoreNanoSeconds: value(c.UsageCoreNanoSeconds), UsageNanoCores: value(c.UsageNanoCores)}
}

func memoryStats(m *criv1.MemoryUsage) *stats.MemoryStats {
	if m == nil {
		return nil
	}
	return &stats.MemoryStats{Time: metav1.NewTime(time.Unix(0, m.Timestamp)),
		WorkingSetBytes: value(m.WorkingSetBytes), AvailableBytes: value(m.AvailableBytes), UsageBytes: value(m.UsageBytes),
		RSSBytes: value(m.RssBytes), PageFaults: value(m.PageFaults), MajorPageFaults: value(m.MajorPageFaults)}
}

func value(v *criv1.UInt64Value) *uint64 {
	if v == nil {
		return nil
	}
	return &v.Value
}

// WriteMetrics renders a summary in the text format of Prometheus, under the
// names that the resource metrics of a node have.
func WriteMetrics(w io.Writer, s *stats.Summary) error {
	var b strings.Builder
	metric := func(name, kind, help string) { fmt.Fprintf(&b, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, kind) }
	cpu := func(name, labels string, c *stats.CPUStats) {
		if c != nil && c.UsageCoreNanoSeconds != nil {
			fmt.Fprintf(&b, "%s%s %g %d\n", name, labels, float64(*c.UsageCoreNanoSeconds)/1e9, c.Time.UnixMilli())
		}
	}
	memory := func(name, labels string, m *stats.MemoryStats) {
		if m != nil && m.WorkingSetBytes != nil {
			fmt.Fprintf(&b, "%s%s %d %d\n", name, labels, *m.WorkingSetBytes, m.Time.UnixMilli())
		}
	}
	pods := slices.Clone(s.Pods)
	slices.SortFunc(pods, func(a, b stats.PodStats) int {
		return strings.Compare(a.PodRef.Namespace+"/"+a.PodRef.Name, b.PodRef.Namespace+"/"+b.PodRef.Name)
	})
	each := func(do func(labels string, p *stats.PodStats)) {
		for i := range pods {
			do(fmt.Sprintf("{namespace=%q,pod=%q}", pods[i].PodRef.Namespace, pods[i].PodRef.Name), &pods[i])
		}
	}
	eachContainer := func(do func(labels string, c *stats.ContainerStats)) {
		for i := range pods {
			for j := range pods[i].Containers {
				c := &pods[i].Containers[j]
				do(fmt.Sprintf("{container=%q,namespace=%q,pod=%q}", c.Name, pods[i].PodRef.Namespace, pods[i].PodRef.Name), c)
			}
		}
	}
	metric("container_cpu_usage_seconds_total", "counter", "Cumulative CPU time used by the container in seconds")
	eachContainer(func(l string, c *stats.ContainerStats) { cpu("container_cpu_usage_seconds_total", l, c.CPU) })
	metric("container_memory_working_set_bytes", "gauge", "Current working set of the container in bytes")
	eachContainer(func(l string, c *stats.ContainerStats) { memory("container_memory_working_set_bytes", l, c.Memory) })
	metric("node_cpu_usage_seconds_total", "counter", "Cumulative CPU time used by the node in seconds")
	cpu("node_cpu_usage_seconds_total", "", s.Node.CPU)
	metric("node_memory_working_set_bytes", "gauge", "Current working set of the node in bytes")
	memory("node_memory_working_set_bytes", "", s.Node.Memory)
	metric("pod_cpu_usage_seconds_total", "counter", "Cumulative CPU time used by the pod in seconds")
	each(func(l string, p *stats.PodStats) { cpu("pod_cpu_usage_seconds_total", l, p.CPU) })
	metric("pod_memory_working_set_bytes", "gauge", "Current working set of the pod in bytes")
	each(func(l string, p *stats.PodStats) { memory("pod_memory_working_set_bytes", l, p.Memory) })
	_, err := io.WriteString(w, b.String())
	return err
}
