package stats

import (
	"context"
	"fmt"
	"os"
	"path"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"clusterctl/nodeagent/runtime"
)

// Source measures this host and its pods. Safe for concurrent use.
type Source struct {
	NodeName string
	StateDir string // on the file system that the node's disk is judged by
	Cgroups  string // where control groups are mounted
	Runtime  *runtime.Runtime
	Volumes  *Volumes // nil: volumes of claims are not measured
	Disks    *Disks   // nil: pods' disks are not measured

	groups *groupReader // nil: of Cgroups

	mu    sync.Mutex
	rates map[string]rate // by control group; "" is the node
}

// rate is how fast CPU time is used, and from when to when that was found.
type rate struct {
	at        time.Time
	total     uint64 // nanoseconds
	nanocores uint64
}

// CPUAndMemory is what the node and its pods use of those.
func (s *Source) CPUAndMemory(ctx context.Context) (*stats.Summary, error) {
	summary, _, err := s.measure(ctx)
	return summary, err
}

// Summary is what the node and its pods use. What pods have on disks is as of
// some seconds ago.
func (s *Source) Summary(ctx context.Context) (*stats.Summary, error) {
	summary, known, err := s.measure(ctx)
	if err != nil {
		return nil, err
	}
	node, now := &summary.Node, summary.Node.CPU.Time
	disk, err := ReadDisk(s.StateDir)
	if err != nil {
		return nil, err
	}
	node.Fs = disk.fs(now)
	used, limit := PIDs()
	running, most := int64(used), int64(limit)
	node.Rlimit = &stats.RlimitStats{Time: now, MaxPID: &most, NumOfRunningProcesses: &running}
	node.Network = networkStats(now, readTraffic("/proc/self"))
	for i := range summary.Pods {
		pod := &summary.Pods[i]
		if sandbox := known.sandboxes[pod.PodRef.UID]; sandbox > 0 {
			pod.Network = networkStats(now, readTraffic(path.Join("/proc", strconv.Itoa(sandbox))))
		}
	}
	if s.Volumes != nil {
		volumes := map[string][]stats.VolumeStats{}
		for claimed, disk := range s.Volumes.measure() {
			uid := string(claimed.Pod)
			volumes[uid] = append(volumes[uid], stats.VolumeStats{FsStats: *disk.fs(now),
				Name: claimed.Volume, PVCRef: &stats.PVCReference{Name: claimed.Claim, Namespace: claimed.Namespace}})
		}
		for i := range summary.Pods {
			summary.Pods[i].VolumeStats = volumes[summary.Pods[i].PodRef.UID]
		}
	}
	if s.Disks != nil {
		s.Disks.add(ctx, summary)
	}
	return summary, nil
}

// found is what a measurement came across: processes in the pods' sandboxes that
// have a network of their own, by the pods' UIDs.
type found struct{ sandboxes map[string]int }

// measure reads control groups.
func (s *Source) measure(ctx context.Context) (*stats.Summary, *found, error) {
	memory, err := ReadMemory()
	if err != nil {
		return nil, nil, err
	}
	cpu, err := CPUNanoseconds()
	if err != nil {
		return nil, nil, err
	}
	known, err := identify(ctx, s.Runtime)
	if err != nil {
		return nil, nil, fmt.Errorf("find the groups of pods: %w", err)
	}
	now := metav1.Now()
	reader := s.groups
	if reader == nil {
		reader = newGroupReader(s.Cgroups)
	}
	before := s.lastRates()
	rates := map[string]rate{}
	measured := func(name string, total uint64) *uint64 {
		rates[name] = before[name].next(now.Time, total)
		nanocores := rates[name].nanocores
		return &nanocores
	}
	root := reader.read("/")
	used, swapped := memory.Total-memory.Available, memory.SwapTotal-memory.SwapFree
	summary := &stats.Summary{Pods: []stats.PodStats{}, Node: stats.NodeStats{
		NodeName:  s.NodeName,
		StartTime: metav1.NewTime(Booted()),
		CPU:       &stats.CPUStats{Time: now, UsageCoreNanoSeconds: &cpu, UsageNanoCores: measured("", cpu), PSI: root.psi(root.cpuPressure)},
		Memory: &stats.MemoryStats{Time: now, AvailableBytes: &memory.Available, UsageBytes: &used, WorkingSetBytes: &used,
			RSSBytes: whole(root.rss), PageFaults: whole(root.faults), MajorPageFaults: whole(root.majorFaults), PSI: root.psi(root.memoryPressure)},
		IO:   root.io(now),
		Swap: &stats.SwapStats{Time: now, SwapUsageBytes: &swapped, SwapAvailableBytes: &memory.SwapFree},
	}}
	of := func(name string, g *group) (*stats.CPUStats, *stats.MemoryStats, *stats.SwapStats, *stats.IOStats) {
		return g.cpuStats(now, measured(name, uint64(g.cpu*nanoseconds))), g.memoryStats(now), g.swapStats(now), g.io(now)
	}
	for name, group := range map[string]string{stats.SystemContainerPods: reader.pods(), stats.SystemContainerKubelet: ownGroup()} {
		if g := reader.read(group); g.hasCPU || g.hasMemory {
			c := stats.ContainerStats{Name: name, StartTime: summary.Node.StartTime}
			if name == stats.SystemContainerKubelet && g.cpu == 0 {
				g.cpu = ownCPU() // the init system has its group counted for memory alone
			}
			c.CPU, c.Memory, c.Swap, c.IO = of(group, g)
			summary.Node.SystemContainers = append(summary.Node.SystemContainers, c)
		}
	}

	places := map[string]int{} // of pods in the summary, by UID
	more := &found{map[string]int{}}
	host, _ := os.Readlink("/proc/self/ns/net")
	for _, name := range reader.walk(reader.pods()) {
		about := known.of(name)
		if about.uid == "" {
			continue
		}
		g := reader.read(name)
		if !g.hasMemory && !g.hasCPU {
			continue // ended
		}
		i, ok := places[about.uid]
		if !ok {
			i = len(summary.Pods)
			places[about.uid] = i
			summary.Pods = append(summary.Pods, stats.PodStats{PodRef: stats.PodReference{Name: about.pod, Namespace: about.namespace, UID: about.uid},
				Containers: []stats.ContainerStats{}, ProcessStats: &stats.ProcessStats{ProcessCount: new(uint64)}})
		}
		pod := &summary.Pods[i]
		*pod.ProcessStats.ProcessCount += uint64(g.processes)
		switch {
		case about.sandbox:
			pod.StartTime = metav1.NewTime(time.Unix(0, about.created))
			if own, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/net", g.init)); g.init > 0 && err == nil && own != host {
				more.sandboxes[about.uid] = g.init
			}
		case about.container != "":
			c := stats.ContainerStats{Name: about.container, StartTime: metav1.NewTime(time.Unix(0, about.created))}
			c.CPU, c.Memory, c.Swap, c.IO = of(name, g)
			pod.Containers = append(pod.Containers, c)
		default:
			pod.CPU, pod.Memory, pod.Swap, pod.IO = of(name, g)
		}
	}
	s.mu.Lock()
	s.rates = rates
	s.mu.Unlock()
	return summary, more, nil
}

func (s *Source) lastRates() map[string]rate {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.rates
}

// next is the rate when total has been used by now. It takes a second to tell.
func (r rate) next(now time.Time, total uint64) rate {
	elapsed := now.Sub(r.at)
	switch {
	case r.at.IsZero() || total < r.total:
		return rate{at: now, total: total}
	case elapsed < time.Second:
		return r
	}
	return rate{now, total, uint64(float64(total-r.total) / elapsed.Seconds())}
}

// ownGroup is the name of the agent's control group.
func ownGroup() string {
	group := ""
	for line := range strings.Lines(text("/proc/self/cgroup")) {
		if parts := strings.SplitN(strings.TrimSpace(line), ":", 3); len(parts) == 3 && (parts[1] == "" && group == "" || parts[1] == "memory") {
			group = parts[2]
		}
	}
	return group
}

// ownCPU is the CPU time that the agent has used, in seconds.
func ownCPU() float64 {
	var use unix.Rusage
	if unix.Getrusage(unix.RUSAGE_SELF, &use) != nil {
		return 0
	}
	return float64(use.Utime.Nano()+use.Stime.Nano()) / nanoseconds
}

func whole(n float64) *uint64 {
	u := uint64(max(n, 0))
	return &u
}

func (g *group) cpuStats(at metav1.Time, nanocores *uint64) *stats.CPUStats {
	return &stats.CPUStats{Time: at, UsageCoreNanoSeconds: whole(g.cpu * nanoseconds), UsageNanoCores: nanocores, PSI: g.psi(g.cpuPressure)}
}

func (g *group) memoryStats(at metav1.Time) *stats.MemoryStats {
	m := &stats.MemoryStats{Time: at, UsageBytes: whole(g.usage), WorkingSetBytes: whole(g.workingSet),
		RSSBytes: whole(g.rss), PageFaults: whole(g.faults), MajorPageFaults: whole(g.majorFaults), PSI: g.psi(g.memoryPressure)}
	if g.limit > 0 {
		m.AvailableBytes = whole(g.limit - g.workingSet)
	}
	return m
}

func (g *group) swapStats(at metav1.Time) *stats.SwapStats {
	s := &stats.SwapStats{Time: at, SwapUsageBytes: whole(g.swap)}
	if g.swapLimit >= 0 {
		s.SwapAvailableBytes = whole(g.swapLimit - g.swap)
	}
	return s
}

// psi is nil where the kernel does not tell.
func (g *group) psi(p pressure) *stats.PSIStats {
	if !g.hasPressure {
		return nil
	}
	data := func(seconds float64, of [3]float64) stats.PSIData {
		return stats.PSIData{Total: *whole(seconds * nanoseconds), Avg10: of[0], Avg60: of[1], Avg300: of[2]}
	}
	return &stats.PSIStats{Some: data(p.waiting, p.waitingOf), Full: data(p.stalled, p.stalledOf)}
}

func (g *group) io(at metav1.Time) *stats.IOStats {
	if !g.hasPressure {
		return nil
	}
	return &stats.IOStats{Time: at, PSI: g.psi(g.ioPressure)}
}

// networkStats tells of all interfaces but other hosts' ends of pairs, and of eth0
// first.
func networkStats(at metav1.Time, all []traffic) *stats.NetworkStats {
	n := &stats.NetworkStats{Time: at}
	for _, t := range all {
		if strings.HasPrefix(t.name, "veth") {
			continue
		}
		one := stats.InterfaceStats{Name: t.name, RxBytes: whole(t.rxBytes), RxErrors: whole(t.rxErrors), TxBytes: whole(t.txBytes), TxErrors: whole(t.txErrors)}
		if t.name == "eth0" {
			n.InterfaceStats = one
		}
		n.Interfaces = append(n.Interfaces, one)
	}
	return n
}

func (d Disk) fs(at metav1.Time) *stats.FsStats {
	return &stats.FsStats{Time: at, AvailableBytes: &d.Available, CapacityBytes: &d.Total, UsedBytes: &d.BlocksUsed,
		Inodes: &d.Inodes, InodesFree: &d.InodesFree, InodesUsed: &d.InodeUsed}
}
