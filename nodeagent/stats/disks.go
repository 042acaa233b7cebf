package stats

import (
	"context"
	"io/fs"
	"log/slog"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"clusterctl/nodeagent/runtime"
)

const (
	// fresh is for how long what was measured of disks is good enough: so long, or
	// as many times longer than it took.
	fresh, freshTimes = 20 * time.Second, 10
	// patience is how long somebody who asks waits for what has never been measured.
	patience = 5 * time.Second
)

// Disks measures what pods have on disks: what containers wrote, their logs and
// the volumes that are directories of the host. All files are looked at for that,
// so it is done when somebody asks and what is known is old, at most once at a time
// and not while anybody waits, but the first time. Safe for concurrent use.
type Disks struct {
	Pods    func() []*v1.Pod
	LogDir  func(pod *v1.Pod) string // with a directory for each container
	Volume  func(pod *v1.Pod, volume *v1.Volume) string
	Runtime *runtime.Runtime
	State   string // a directory on the disk of logs and volumes
	Logger  *slog.Logger

	mu      sync.Mutex
	last    *reading
	until   time.Time     // when last is too old
	reading chan struct{} // closed when the reading under way ends; nil: none is
}

// reading is one measurement of disks.
type reading struct {
	at               metav1.Time
	images           *stats.FsStats
	layers           *stats.FsStats // of containers; as images, where they are together
	pods             map[string]*podDisks
	state, container Disk // file systems
}

type podDisks struct {
	layers, logs map[string]use // by container
	volumes      []volumeUse
}

type volumeUse struct {
	name      string
	ephemeral bool // counts against the pod's ephemeral storage
	disk      Disk
	use
}

type use struct{ bytes, inodes int64 }

// add tells of disks in summary.
func (d *Disks) add(ctx context.Context, summary *stats.Summary) {
	r := d.current(ctx)
	if r == nil {
		return // next time
	}
	summary.Node.Runtime = &stats.RuntimeStats{ImageFs: r.images, ContainerFs: r.layers}
	for i := range summary.Pods {
		pod := &summary.Pods[i]
		disks := r.pods[pod.PodRef.UID]
		if disks == nil {
			continue // younger than the reading
		}
		var sum use
		for j := range pod.Containers {
			c := &pod.Containers[j]
			layer, logs := disks.layers[c.Name], disks.logs[c.Name]
			c.Rootfs, c.Logs = layer.of(r.container, r.at), logs.of(r.state, r.at)
			sum.plus(layer)
			sum.plus(logs)
		}
		for _, v := range disks.volumes {
			pod.VolumeStats = append(pod.VolumeStats, stats.VolumeStats{Name: v.name, FsStats: *v.of(v.disk, r.at)})
			if v.ephemeral {
				sum.plus(v.use)
			}
		}
		pod.EphemeralStorage = sum.of(r.state, r.at)
	}
}

func (u *use) plus(more use) { u.bytes, u.inodes = u.bytes+more.bytes, u.inodes+more.inodes }

// of is the use of a part of the disk.
func (u use) of(disk Disk, at metav1.Time) *stats.FsStats {
	s := disk.fs(at)
	s.UsedBytes, s.InodesUsed = whole(float64(u.bytes)), whole(float64(u.inodes))
	return s
}

// current is the last reading, and has another begun if that is too old. Nil if
// there is none in time.
func (d *Disks) current(ctx context.Context) *reading {
	d.mu.Lock()
	last, under := d.last, d.reading
	if under == nil && (last == nil || time.Now().After(d.until)) {
		under = make(chan struct{})
		d.reading = under
		go d.read(under)
	}
	d.mu.Unlock()
	if last != nil {
		return last
	}
	select {
	case <-under:
	case <-ctx.Done():
	case <-time.After(patience):
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.last
}

func (d *Disks) read(done chan struct{}) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	began := time.Now()
	r := d.measure(ctx)
	d.mu.Lock()
	defer d.mu.Unlock()
	d.last, d.reading = r, nil
	d.until = time.Now().Add(max(fresh, freshTimes*time.Since(began)))
	close(done)
}

// measure looks at everything. What cannot be measured is left out.
func (d *Disks) measure(ctx context.Context) *reading {
	r := &reading{at: metav1.Now(), pods: map[string]*podDisks{}}
	var err error
	if r.state, err = ReadDisk(d.State); err != nil {
		d.Logger.Debug("cannot measure a disk", "error", err)
	}
	r.container = r.state
	if info, err := d.Runtime.Images.ImageFsInfo(ctx); err == nil {
		r.images = d.runtimeDisk(r.at, info.GetImageFilesystems())
		if r.layers = d.runtimeDisk(r.at, info.GetContainerFilesystems()); r.layers == nil {
			r.layers = r.images
		}
		for _, f := range append(info.GetContainerFilesystems(), info.GetImageFilesystems()...) {
			if disk, err := ReadDisk(f.GetFsId().GetMountpoint()); err == nil {
				r.container = disk
				break
			}
		}
	}
	for _, pod := range d.Pods() {
		p := &podDisks{layers: map[string]use{}, logs: map[string]use{}}
		for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
			for i := range list {
				p.logs[list[i].Name] = usedBelow(filepath.Join(d.LogDir(pod), list[i].Name))
			}
		}
		for i := range pod.Spec.Volumes {
			v := &pod.Spec.Volumes[i]
			dir := d.Volume(pod, v)
			if dir == "" {
				continue
			}
			disk, err := ReadDisk(dir)
			if err != nil {
				continue // not mounted yet
			}
			p.volumes = append(p.volumes, volumeUse{v.Name, Ephemeral(v), disk, usedBelow(dir)})
		}
		r.pods[string(pod.UID)] = p
	}
	written, err := d.Runtime.ListContainerStats(ctx, &criv1.ContainerStatsFilter{})
	if err != nil {
		d.Logger.Debug("cannot ask what containers wrote", "error", err)
	}
	for _, c := range written {
		labels := c.GetAttributes().GetLabels()
		if p := r.pods[labels[runtime.LabelPodUID]]; p != nil {
			p.layers[labels[runtime.LabelContainerName]] = use{
				int64(c.GetWritableLayer().GetUsedBytes().GetValue()), int64(c.GetWritableLayer().GetInodesUsed().GetValue())}
		}
	}
	return r
}

// runtimeDisk is what the runtime has on the first of its file systems.
func (d *Disks) runtimeDisk(at metav1.Time, list []*criv1.FilesystemUsage) *stats.FsStats {
	for _, f := range list {
		disk, err := ReadDisk(f.GetFsId().GetMountpoint())
		if err != nil {
			d.Logger.Debug("cannot measure a disk", "error", err)
			continue
		}
		return use{int64(f.GetUsedBytes().GetValue()), int64(f.GetInodesUsed().GetValue())}.of(disk, at)
	}
	return nil
}

func usedBelow(dir string) use {
	bytes, inodes := DiskUsage(dir)
	return use{bytes, inodes}
}

// Ephemeral says that what is in the volume counts against its pod's ephemeral
// storage.
func Ephemeral(v *v1.Volume) bool {
	return v.ConfigMap != nil || v.EmptyDir != nil && v.EmptyDir.Medium == v1.StorageMediumDefault
}

// DiskUsage is what lies below dir: blocks in use, in bytes, and inodes. Files
// that come and go meanwhile may be missed.
func DiskUsage(dir string) (bytes, inodes int64) {
	seen := map[uint64]bool{} // files with several names count once
	_ = filepath.WalkDir(dir, func(_ string, e fs.DirEntry, err error) error {
		if err != nil {
			return nil
		}
		info, err := e.Info()
		if err != nil {
			return nil
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok || seen[stat.Ino] {
			return nil
		}
		if stat.Nlink > 1 {
			seen[stat.Ino] = true
		}
		bytes += stat.Blocks * 512
		inodes++
		return nil
	})
	return bytes, inodes
}
