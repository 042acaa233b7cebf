package stats

import (
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"clusterctl/nodeagent/volumes"
)

// hung is how long a file system may take to say how full it is.
const hung = 2 * time.Second

// Volumes measures the volumes that claims stand for. Safe for concurrent use.
type Volumes struct {
	claimed func() []volumes.Claimed
	read    func(path string) (Disk, error)

	mu   sync.Mutex
	busy map[string]bool // paths that are being measured
}

// NewVolumes measures what claimed lists, when it is asked to.
func NewVolumes(claimed func() []volumes.Claimed) *Volumes {
	return &Volumes{claimed: claimed, read: ReadDisk, busy: map[string]bool{}}
}

// measure leaves out what cannot be measured. A file system that does not answer,
// such as one whose server is away, is not asked again until it has.
func (v *Volumes) measure() map[volumes.Claimed]Disk {
	type answer struct {
		of   volumes.Claimed
		disk Disk
		err  error
	}
	all := v.claimed()
	answers := make(chan answer, len(all))
	waiting := 0
	for _, one := range all {
		v.mu.Lock()
		busy := v.busy[one.Path]
		v.busy[one.Path] = true
		v.mu.Unlock()
		if busy {
			continue
		}
		waiting++
		go func() {
			disk, err := v.read(one.Path)
			v.mu.Lock()
			delete(v.busy, one.Path)
			v.mu.Unlock()
			answers <- answer{one, disk, err}
		}()
	}
	disks := map[volumes.Claimed]Disk{}
	late := time.After(hung)
	for ; waiting > 0; waiting-- {
		select {
		case a := <-answers:
			if a.err == nil {
				disks[a.of] = a.disk
			}
		case <-late:
			return disks
		}
	}
	return disks
}

var volumeFigures = []struct {
	desc *prometheus.Desc
	of   func(Disk) uint64
}{
	{describeVolume("capacity_bytes", "Capacity in bytes of the volume"), func(d Disk) uint64 { return d.Total }},
	{describeVolume("available_bytes", "Number of available bytes in the volume"), func(d Disk) uint64 { return d.Available }},
	{describeVolume("used_bytes", "Number of used bytes in the volume"), func(d Disk) uint64 { return d.BlocksUsed }},
	{describeVolume("inodes", "Maximum number of inodes in the volume"), func(d Disk) uint64 { return d.Inodes }},
	{describeVolume("inodes_free", "Number of free inodes in the volume"), func(d Disk) uint64 { return d.InodesFree }},
	{describeVolume("inodes_used", "Number of used inodes in the volume"), func(d Disk) uint64 { return d.InodeUsed }},
}

func describeVolume(name, help string) *prometheus.Desc {
	return prometheus.NewDesc("kubelet_volume_stats_"+name, help, []string{"namespace", "persistentvolumeclaim"}, nil)
}

// VolumeCount shows how many volumes pods are to have, and have, by plugin.
type VolumeCount struct {
	Count func() (wanted, inPlace map[string]int)
}

var volumeCount = prometheus.NewDesc("volume_manager_total_volumes", "Number of volumes in Volume Manager", []string{"plugin_name", "state"}, nil)

// Describe says what there may be.
func (v *VolumeCount) Describe(out chan<- *prometheus.Desc) { out <- volumeCount }

// Collect counts.
func (v *VolumeCount) Collect(out chan<- prometheus.Metric) {
	wanted, inPlace := v.Count()
	for plugin, n := range wanted {
		out <- prometheus.MustNewConstMetric(volumeCount, gauge, float64(n), plugin, "desired_state_of_world")
	}
	for plugin, n := range inPlace {
		out <- prometheus.MustNewConstMetric(volumeCount, gauge, float64(n), plugin, "actual_state_of_world")
	}
}

// Describe says nothing: what there is depends on the pods.
func (v *Volumes) Describe(chan<- *prometheus.Desc) {}

// Collect measures; a claim of several pods counts once.
func (v *Volumes) Collect(out chan<- prometheus.Metric) {
	type claim struct{ namespace, name string }
	done := map[claim]bool{}
	for of, disk := range v.measure() {
		c := claim{of.Namespace, of.Claim}
		if done[c] {
			continue
		}
		done[c] = true
		for _, f := range volumeFigures {
			out <- prometheus.MustNewConstMetric(f.desc, gauge, float64(f.of(disk)), c.namespace, c.name)
		}
	}
}
