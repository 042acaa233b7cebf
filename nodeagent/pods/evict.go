package pods

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/stats"
)

// Pressures are what the host runs short of.
func (a *Agent) Pressures() []v1.NodeConditionType { return a.evictions.Pressures() }

// imageNames are the images that pods of this host name.
func (a *Agent) imageNames() []string {
	var names []string
	for _, pod := range a.ledger.rooms() {
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				names = append(names, list[i].Image)
			}
		}
		for i := range pod.Spec.EphemeralContainers {
			names = append(names, pod.Spec.EphemeralContainers[i].Image)
		}
		for i := range pod.Spec.Volumes {
			if image := pod.Spec.Volumes[i].Image; image != nil {
				names = append(names, image.Reference)
			}
		}
	}
	return names
}

// host is the agent as evictions see it.
type host struct{ *Agent }

func (h host) Pods() []*v1.Pod { return h.ledger.rooms() }

// Warn records an event of the node.
func (h host) Warn(reason, message string) {
	if node := h.Config.Node(); node != nil {
		h.Recorder.Event(&v1.ObjectReference{Kind: "Node", Name: node.Name, UID: types.UID(node.Name)}, v1.EventTypeWarning, reason, message)
	}
}

func (h host) FreeImages(ctx context.Context) error {
	_, err := h.collector.Collect(ctx, -1, time.Now())
	return err
}

// Observe measures the host. What cannot be measured is left out.
func (h host) Observe(ctx context.Context) eviction.Observations {
	seen := eviction.Observations{}
	if memory, err := stats.ReadMemory(); err == nil {
		seen[eviction.Memory] = eviction.Observation{Available: int64(memory.Available), Capacity: int64(memory.Total)}
	}
	if used, limit := stats.PIDs(); limit > 0 {
		seen[eviction.PIDs] = eviction.Observation{Available: int64(limit - min(used, limit)), Capacity: int64(limit)}
	}
	disk := func(path string, space, inodes eviction.Signal) {
		d, err := stats.ReadDisk(path)
		if err != nil {
			h.Logger.Debug("cannot measure a disk", "error", err)
			return
		}
		seen[space] = eviction.Observation{Available: int64(d.Available), Capacity: int64(d.Total)}
		if d.Inodes > 0 { // some file systems have no fixed number
			seen[inodes] = eviction.Observation{Available: int64(d.InodesFree), Capacity: int64(d.Inodes)}
		}
	}
	if memory, ok := stats.ReadPodsMemory(h.CgroupRoot); ok {
		seen[eviction.PodsMemory] = eviction.Observation{Available: int64(memory.Available), Capacity: int64(memory.Total)}
	}
	disk(h.StateDir, eviction.NodeDisk, eviction.NodeInodes)
	if info, err := h.Runtime.Images.ImageFsInfo(ctx); err == nil && len(info.GetImageFilesystems()) > 0 {
		disk(info.ImageFilesystems[0].GetFsId().GetMountpoint(), eviction.ImageDisk, eviction.ImageInodes)
	}
	return seen
}

// Layout finds out which disks are the same. What cannot be found out is taken for
// the node's disk.
func (h host) Layout(ctx context.Context) eviction.Layout {
	info, err := h.Runtime.Images.ImageFsInfo(ctx)
	if err != nil || len(info.GetImageFilesystems()) == 0 {
		return eviction.Layout{}
	}
	apart := func(list []*criv1.FilesystemUsage) bool {
		if len(list) == 0 {
			list = info.ImageFilesystems // an old runtime: they are together
		}
		same, err := stats.SameDisk(h.StateDir, list[0].GetFsId().GetMountpoint())
		return err == nil && !same
	}
	return eviction.Layout{ImagesApart: apart(info.ImageFilesystems), LayersApart: apart(info.ContainerFilesystems)}
}

// Usage measures a pod.
func (h host) Usage(ctx context.Context, pod *v1.Pod) (eviction.Usage, error) {
	usage := eviction.Usage{Containers: map[string]eviction.ContainerUsage{}, EmptyDirs: map[string]int64{}}
	measured, err := h.Runtime.ListContainerStats(ctx, &criv1.ContainerStatsFilter{LabelSelector: map[string]string{runtime.LabelPodUID: string(pod.UID)}})
	if err != nil {
		return usage, fmt.Errorf("measure containers: %w", err)
	}
	for _, c := range measured {
		name := c.GetAttributes().GetMetadata().GetName()
		of := usage.Containers[name]
		memory := int64(c.GetMemory().GetWorkingSetBytes().GetValue())
		bytes, inodes := stats.DiskUsage(filepath.Join(h.logDirectory(pod), name))
		written := int64(c.GetWritableLayer().GetUsedBytes().GetValue())
		of.Memory += memory
		of.Disk = bytes + written
		usage.Containers[name] = of
		usage.Memory += memory
		usage.Local.Bytes += bytes
		usage.Local.Inodes += inodes
		usage.Layers.Bytes += written
		usage.Layers.Inodes += int64(c.GetWritableLayer().GetInodesUsed().GetValue())
	}
	pids, err := h.Runtime.ListPodSandboxStats(ctx, &criv1.PodSandboxStatsFilter{LabelSelector: map[string]string{runtime.LabelPodUID: string(pod.UID)}})
	if err == nil && len(pids) > 0 {
		usage.Processes = int64(pids[0].GetLinux().GetProcess().GetProcessCount().GetValue())
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if !stats.Ephemeral(v) {
			continue
		}
		bytes, inodes := stats.DiskUsage(h.Volumes.Directory(pod, v))
		usage.Local.Bytes += bytes
		usage.Local.Inodes += inodes
		if v.EmptyDir != nil {
			usage.EmptyDirs[v.Name] = bytes
		}
	}
	return usage, nil
}

// Evict ends a pod for good.
func (h host) Evict(pod *v1.Pod, grace time.Duration, cause eviction.Cause) bool {
	h.mu.Lock()
	w := h.workers[pod.UID]
	h.mu.Unlock()
	if w == nil {
		return false
	}
	end := &End{Phase: v1.PodFailed, Reason: eviction.Reason, Message: cause.Message, Grace: int64(grace / time.Second), Since: time.Now()}
	if cause.Disrupts {
		end.Disrupted = v1.PodReasonTerminationByKubelet
	}
	if !w.finishWith(end) {
		return false
	}
	h.annotatedEvent(pod, cause.Annotations, v1.EventTypeWarning, eviction.Reason, cause.Message)
	return true
}

// finishWith ends the worker's pod, unless it ends already.
func (w *worker) finishWith(end *End) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.end != nil || w.gone {
		return false
	}
	w.end = end
	w.poke()
	return true
}

// Disks measures what the agent's pods have on disks.
func (a *Agent) Disks() *stats.Disks {
	return &stats.Disks{Pods: a.List, LogDir: a.logDirectory, Volume: a.Volumes.Directory, Runtime: a.Config.Runtime, State: a.StateDir, Logger: a.Logger}
}
