package stats

import (
	"cmp"
	"context"
	"log/slog"
	"os"
	"path"
	"strconv"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/runtime"
)

// Containers are the metrics of this host's containers, of the groups that they
// are in, and of the host as a whole, under cAdvisor's names. Everything is read
// from the kernel when it is asked for. Safe for concurrent use.
type Containers struct {
	Runtime *runtime.Runtime
	Cgroups string   // where control groups are mounted
	Disks   []string // directories whose file systems are told of
	Logger  *slog.Logger
}

// Names of the labels that every metric of a container has.
var containerLabels = []string{"container", "id", "image", "name", "namespace", "pod"}

// figure is a metric that is read off a group.
type figure struct {
	desc *prometheus.Desc
	kind prometheus.ValueType
	of   func(*group) float64
	when func(*group) bool
}

func describe(name, help string, more ...string) *prometheus.Desc {
	return prometheus.NewDesc(name, help, append(append([]string{}, containerLabels...), more...), nil)
}

func hasCPU(g *group) bool    { return g.hasCPU }
func hasMemory(g *group) bool { return g.hasMemory }
func hasTasks(g *group) bool  { return g.hasTask }
func hasQuota(g *group) bool  { return g.quota > 0 }
func pressed(g *group) bool   { return g.hasPressure }

const (
	gauge   = prometheus.GaugeValue
	counter = prometheus.CounterValue
)

var figures = []figure{
	{describe("container_cpu_user_seconds_total", "Cumulative user cpu time consumed in seconds."), counter, func(g *group) float64 { return g.user }, hasCPU},
	{describe("container_cpu_system_seconds_total", "Cumulative system cpu time consumed in seconds."), counter, func(g *group) float64 { return g.system }, hasCPU},
	{describe("container_cpu_cfs_periods_total", "Number of elapsed enforcement period intervals."), counter, func(g *group) float64 { return g.periods }, hasQuota},
	{describe("container_cpu_cfs_throttled_periods_total", "Number of throttled period intervals."), counter, func(g *group) float64 { return g.throttled }, hasQuota},
	{describe("container_cpu_cfs_throttled_seconds_total", "Total time duration the container has been throttled."), counter, func(g *group) float64 { return g.throttledTime }, hasQuota},
	{describe("container_spec_cpu_period", "CPU period of the container."), gauge, func(g *group) float64 { return g.period }, hasCPU},
	{describe("container_spec_cpu_quota", "CPU quota of the container."), gauge, func(g *group) float64 { return g.quota }, hasQuota},
	{describe("container_spec_cpu_shares", "CPU share of the container."), gauge, func(g *group) float64 { return g.shares }, hasCPU},
	{describe("container_spec_memory_limit_bytes", "Memory limit for the container."), gauge, func(g *group) float64 { return g.limit }, hasMemory},
	{describe("container_memory_cache", "Number of bytes of page cache memory."), gauge, func(g *group) float64 { return g.cache }, hasMemory},
	{describe("container_memory_rss", "Size of RSS in bytes."), gauge, func(g *group) float64 { return g.rss }, hasMemory},
	{describe("container_memory_kernel_usage", "Size of kernel memory allocated in bytes."), gauge, func(g *group) float64 { return g.kernelMemory }, hasMemory},
	{describe("container_memory_mapped_file", "Size of memory mapped files in bytes."), gauge, func(g *group) float64 { return g.mapped }, hasMemory},
	{describe("container_memory_swap", "Container swap usage in bytes."), gauge, func(g *group) float64 { return g.swap }, hasMemory},
	{describe("container_memory_failcnt", "Number of memory usage hits limits"), counter, func(g *group) float64 { return g.failures }, hasMemory},
	{describe("container_memory_usage_bytes", "Current memory usage in bytes, including all memory regardless of when it was accessed"), gauge, func(g *group) float64 { return g.usage }, hasMemory},
	{describe("container_memory_max_usage_bytes", "Maximum memory usage recorded in bytes"), gauge, func(g *group) float64 { return g.peak }, hasMemory},
	{describe("container_memory_working_set_bytes", "Current working set in bytes."), gauge, func(g *group) float64 { return g.workingSet }, hasMemory},
	{describe("container_memory_total_active_file_bytes", "Current total active file in bytes."), gauge, func(g *group) float64 { return g.active }, hasMemory},
	{describe("container_memory_total_inactive_file_bytes", "Current total inactive file in bytes."), gauge, func(g *group) float64 { return g.inactive }, hasMemory},
	{describe("container_oom_events_total", "Count of out of memory events observed for the container"), counter, func(g *group) float64 { return g.ooms }, hasMemory},
	{describe("container_processes", "Number of processes running inside the container."), gauge, func(g *group) float64 { return g.processes }, hasTasks},
	{describe("container_threads", "Number of threads running inside the container"), gauge, func(g *group) float64 { return g.threads }, hasTasks},
	{describe("container_threads_max", "Maximum number of threads allowed inside the container, infinity if value is zero"), gauge, func(g *group) float64 { return g.mostThreads }, hasTasks},
	{describe("container_pressure_cpu_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to CPU congestion."), counter, func(g *group) float64 { return g.cpuPressure.stalled }, pressed},
	{describe("container_pressure_cpu_waiting_seconds_total", "Total time duration tasks in the container have waited due to CPU congestion."), counter, func(g *group) float64 { return g.cpuPressure.waiting }, pressed},
	{describe("container_pressure_memory_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to memory congestion."), counter, func(g *group) float64 { return g.memoryPressure.stalled }, pressed},
	{describe("container_pressure_memory_waiting_seconds_total", "Total time duration tasks in the container have waited due to memory congestion."), counter, func(g *group) float64 { return g.memoryPressure.waiting }, pressed},
	{describe("container_pressure_io_stalled_seconds_total", "Total time duration no tasks in the container could make progress due to IO congestion."), counter, func(g *group) float64 { return g.ioPressure.stalled }, pressed},
	{describe("container_pressure_io_waiting_seconds_total", "Total time duration tasks in the container have waited due to IO congestion."), counter, func(g *group) float64 { return g.ioPressure.waiting }, pressed},
}

var (
	cpuUsage   = describe("container_cpu_usage_seconds_total", "Cumulative cpu time consumed in seconds.", "cpu")
	pageFaults = describe("container_memory_failures_total", "Cumulative count of memory allocation failures.", "failure_type", "scope")
	started    = describe("container_start_time_seconds", "Start time of the container since unix epoch in seconds.")
	lastSeen   = describe("container_last_seen", "Last time a container was seen by the exporter")
	cores      = prometheus.NewDesc("machine_cpu_cores", "Number of logical CPU cores.", nil, nil)
	memory     = prometheus.NewDesc("machine_memory_bytes", "Amount of memory installed on the machine.", nil, nil)
)

// disks are counted by device.
var disks = []struct {
	desc *prometheus.Desc
	of   func(*group) map[string]float64
}{
	{describe("container_fs_reads_total", "Cumulative count of reads completed", "device"), func(g *group) map[string]float64 { return g.reads }},
	{describe("container_fs_writes_total", "Cumulative count of writes completed", "device"), func(g *group) map[string]float64 { return g.writes }},
	{describe("container_fs_reads_bytes_total", "Cumulative count of bytes read", "device"), func(g *group) map[string]float64 { return g.readsBytes }},
	{describe("container_fs_writes_bytes_total", "Cumulative count of bytes written", "device"), func(g *group) map[string]float64 { return g.writesBytes }},
}

// fileSystems are measured for the host as a whole, by device: what a container
// has written nobody counts but by walking all its files.
var fileSystems = []struct {
	desc *prometheus.Desc
	of   func(Disk) uint64
}{
	{describe("container_fs_inodes_free", "Number of available Inodes", "device"), func(d Disk) uint64 { return d.InodesFree }},
	{describe("container_fs_inodes_total", "Number of Inodes", "device"), func(d Disk) uint64 { return d.Inodes }},
	{describe("container_fs_limit_bytes", "Number of bytes that can be consumed by the container on this filesystem.", "device"), func(d Disk) uint64 { return d.Total }},
	{describe("container_fs_usage_bytes", "Number of bytes that are consumed by the container on this filesystem.", "device"), func(d Disk) uint64 { return d.BlocksUsed }},
}

// networks are counted by interface.
var networks = []struct {
	desc *prometheus.Desc
	of   func(traffic) float64
}{
	{describe("container_network_receive_bytes_total", "Cumulative count of bytes received", "interface"), func(t traffic) float64 { return t.rxBytes }},
	{describe("container_network_receive_packets_total", "Cumulative count of packets received", "interface"), func(t traffic) float64 { return t.rxPackets }},
	{describe("container_network_receive_packets_dropped_total", "Cumulative count of packets dropped while receiving", "interface"), func(t traffic) float64 { return t.rxDropped }},
	{describe("container_network_receive_errors_total", "Cumulative count of errors encountered while receiving", "interface"), func(t traffic) float64 { return t.rxErrors }},
	{describe("container_network_transmit_bytes_total", "Cumulative count of bytes transmitted", "interface"), func(t traffic) float64 { return t.txBytes }},
	{describe("container_network_transmit_packets_total", "Cumulative count of packets transmitted", "interface"), func(t traffic) float64 { return t.txPackets }},
	{describe("container_network_transmit_packets_dropped_total", "Cumulative count of packets dropped while transmitting", "interface"), func(t traffic) float64 { return t.txDropped }},
	{describe("container_network_transmit_errors_total", "Cumulative count of errors encountered while transmitting", "interface"), func(t traffic) float64 { return t.txErrors }},
}

// Describe says nothing: what there is depends on the host.
func (c *Containers) Describe(chan<- *prometheus.Desc) {}

// Collect measures. Groups that end meanwhile are left out.
func (c *Containers) Collect(out chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	known, err := identify(ctx, c.Runtime)
	if err != nil {
		c.Logger.Warn("cannot measure containers", "error", err)
		return
	}
	out <- prometheus.MustNewConstMetric(cores, gauge, float64(CPUs()))
	if m, err := ReadMemory(); err == nil {
		out <- prometheus.MustNewConstMetric(memory, gauge, float64(m.Total))
	}
	reader := newGroupReader(c.Cgroups)
	host, _ := os.Readlink("/proc/self/ns/net")
	for _, name := range append([]string{"/"}, reader.walk(reader.pods())...) {
		g, about := reader.read(name), known.of(name)
		if !g.hasMemory && !g.hasCPU {
			continue
		}
		write(out, g, about, name)
		switch {
		case name == "/":
			writeTraffic(out, readTraffic("/proc/self"), about, name)
			c.writeDisks(out, reader, about, name)
		case about.sandbox && g.init > 0:
			proc := path.Join("/proc", strconv.Itoa(g.init))
			if own, err := os.Readlink(proc + "/ns/net"); err == nil && own != host {
				writeTraffic(out, readTraffic(proc), about, name)
			}
		}
	}
}

// identity is whose group it is.
type identity struct {
	container, image, name, namespace, pod string
	uid                                    string // of the pod
	sandbox                                bool
	created                                int64 // nanoseconds; 0: not known
}

func (i *identity) labels(id string, more ...string) []string {
	return append([]string{i.container, id, i.image, i.name, i.namespace, i.pod}, more...)
}

// identities of containers and sandboxes by their ID, and of pods by their UID.
type identities struct{ byID, byUID map[string]*identity }

// identify asks the runtime what runs.
func identify(ctx context.Context, r *runtime.Runtime) (*identities, error) {
	known := &identities{map[string]*identity{}, map[string]*identity{}}
	sandboxes, err := r.ListPodSandbox(ctx, &criv1.PodSandboxFilter{
		State: &criv1.PodSandboxStateValue{State: criv1.PodSandboxState_SANDBOX_READY}})
	if err != nil {
		return nil, err
	}
	containers, err := r.ListContainers(ctx, &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}})
	if err != nil {
		return nil, err
	}
	for _, s := range sandboxes {
		namespace, pod := s.Metadata.GetNamespace(), s.Metadata.GetName()
		uid := s.Metadata.GetUid()
		known.byID[s.Id] = &identity{name: s.Id, namespace: namespace, pod: pod, uid: uid, sandbox: true, created: s.CreatedAt}
		known.byUID[uid] = &identity{namespace: namespace, pod: pod, uid: uid}
	}
	for _, one := range containers {
		known.byID[one.Id] = &identity{
			container: one.Labels[runtime.LabelContainerName], name: one.Id, created: one.CreatedAt,
			image:     cmp.Or(one.Image.GetUserSpecifiedImage(), one.Image.GetImage()),
			namespace: one.Labels[runtime.LabelPodNamespace], pod: one.Labels[runtime.LabelPodName], uid: one.Labels[runtime.LabelPodUID]}
	}
	return known, nil
}

// of says whose group has that name, in the notation of either driver: a
// container's ends in its ID ("…/ID", "…/cri-containerd-ID.scope"), a pod's in its
// UID ("…/podUID", "…-podUID.slice", with underscores). CRI-O has a group beside a
// container's for what watches over it, which is nobody's.
func (k *identities) of(name string) *identity {
	base := strings.TrimSuffix(path.Base(name), ".scope")
	if strings.HasPrefix(base, "crio-conmon-") {
		return &identity{}
	}
	if i := k.byID[base[strings.LastIndexByte(base, '-')+1:]]; i != nil {
		return i
	}
	if slice, ok := strings.CutSuffix(base, ".slice"); ok {
		base = strings.ReplaceAll(slice[strings.LastIndexByte(slice, '-')+1:], "_", "-")
	}
	if uid, ok := strings.CutPrefix(base, "pod"); ok && k.byUID[uid] != nil {
		return k.byUID[uid]
	}
	return &identity{}
}

func write(out chan<- prometheus.Metric, g *group, about *identity, id string) {
	labels := about.labels(id)
	for _, f := range figures {
		if f.when(g) {
			out <- prometheus.MustNewConstMetric(f.desc, f.kind, f.of(g), labels...)
		}
	}
	if g.hasCPU {
		out <- prometheus.MustNewConstMetric(cpuUsage, counter, g.cpu, about.labels(id, "total")...)
	}
	if g.hasMemory {
		out <- prometheus.MustNewConstMetric(pageFaults, counter, g.faults, about.labels(id, "pgfault", "hierarchy")...)
		out <- prometheus.MustNewConstMetric(pageFaults, counter, g.majorFaults, about.labels(id, "pgmajfault", "hierarchy")...)
	}
	for _, d := range disks {
		for device, n := range d.of(g) {
			out <- prometheus.MustNewConstMetric(d.desc, counter, n, about.labels(id, device)...)
		}
	}
	out <- prometheus.MustNewConstMetric(lastSeen, gauge, float64(time.Now().Unix()), labels...)
	if about.created > 0 {
		out <- prometheus.MustNewConstMetric(started, gauge, float64(about.created/int64(time.Second)), labels...)
	}
}

func (c *Containers) writeDisks(out chan<- prometheus.Metric, reader *groupReader, about *identity, id string) {
	told := map[string]bool{}
	for _, dir := range c.Disks {
		device, err := reader.deviceOf(dir)
		if err != nil || told[device] {
			continue // not there yet, or on the same file system
		}
		disk, err := ReadDisk(dir)
		if err != nil {
			continue
		}
		told[device] = true
		for _, f := range fileSystems {
			out <- prometheus.MustNewConstMetric(f.desc, gauge, float64(f.of(disk)), about.labels(id, device)...)
		}
	}
}

func writeTraffic(out chan<- prometheus.Metric, list []traffic, about *identity, id string) {
	for _, t := range list {
		for _, n := range networks {
			out <- prometheus.MustNewConstMetric(n.desc, counter, n.of(t), about.labels(id, t.name)...)
		}
	}
}
