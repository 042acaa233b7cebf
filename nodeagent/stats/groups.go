package stats

import (
	"bufio"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// group is what the kernel counts for a control group and everything below it.
// What it does not count is 0.
type group struct {
	cpu, user, system          float64 // seconds
	periods, throttled         float64
	throttledTime              float64 // seconds
	shares, quota, period      float64 // quota 0: none
	usage, peak, limit         float64 // bytes; limit 0: none
	cache, rss, mapped         float64
	swap, swapLimit            float64 // bytes; swapLimit -1: none is known
	active, inactive           float64
	faults, majorFaults        float64
	failures, ooms             float64
	processes, threads         float64
	mostThreads                float64 // 0: no limit
	cpuPressure, ioPressure    pressure
	memoryPressure             pressure
	reads, writes              map[string]float64 // by device
	readsBytes, writesBytes    map[string]float64
	init                       int // a process that is in the group itself; 0: none
	kernelMemory, workingSet   float64
	hasMemory, hasCPU, hasTask bool
	hasPressure                bool
}

// pressure is for how long tasks of a group had to wait for something, in seconds.
type pressure struct {
	waiting float64 // some of them
	stalled float64 // all of them
	// Shares of the last 10, 60 and 300 seconds, in percent.
	waitingOf, stalledOf [3]float64
}

// groupReader reads control groups, of either version.
type groupReader struct {
	root    string
	unified bool
	devices map[string]string // names of block devices, by number
}

func newGroupReader(root string) *groupReader {
	var fs unix.Statfs_t
	unified := unix.Statfs(root, &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
	return &groupReader{root: root, unified: unified, devices: map[string]string{}}
}

// pods names the group of all pods, in the notation of the driver that made it.
func (r *groupReader) pods() string {
	const slice = "/kubepods.slice"
	if exists(filepath.Join(r.hierarchy(), slice)) {
		return slice
	}
	return "/kubepods"
}

func (r *groupReader) podsMemory() (m Memory, ok bool) {
	g := r.read(r.pods())
	if !g.hasMemory || g.limit == 0 {
		return m, false
	}
	return Memory{Total: uint64(g.limit), Available: uint64(max(g.limit-g.workingSet, 0))}, true
}

// hierarchy is the directory that groups are looked for in.
func (r *groupReader) hierarchy() string {
	if r.unified {
		return r.root
	}
	return filepath.Join(r.root, "memory")
}

// walk names the group top ("/kubepods") and all below it, which may end at any
// moment.
func (r *groupReader) walk(top string) []string {
	root := r.hierarchy()
	var names []string
	_ = filepath.WalkDir(filepath.Join(root, top), func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return nil // gone since
		}
		if entry.IsDir() {
			names = append(names, "/"+strings.TrimPrefix(strings.TrimPrefix(path, root), "/"))
		}
		return nil
	})
	return names
}

// read measures the group by its name ("/kubepods/pod…/…").
func (r *groupReader) read(name string) *group {
	if r.unified {
		return r.readUnified(filepath.Join(r.root, name))
	}
	return r.readV1(name)
}

const (
	microseconds = 1e6 // in one
	nanoseconds  = 1e9
	// boundless is what version 1 shows for no limit: more than any host has.
	boundless = 1 << 60
)

func (r *groupReader) readV1(name string) *group {
	g := &group{swapLimit: -1}
	file := func(controller, file string) string { return filepath.Join(r.root, controller, name, file) }
	g.cpu = number(file("cpuacct", "cpuacct.usage")) / nanoseconds
	use := pairs(file("cpuacct", "cpuacct.stat"))
	g.user, g.system = use["user"]/ticksPerSecond, use["system"]/ticksPerSecond
	cpu := pairs(file("cpu", "cpu.stat"))
	g.periods, g.throttled, g.throttledTime = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_time"]/nanoseconds
	g.shares = number(file("cpu", "cpu.shares"))
	g.quota, g.period = max(number(file("cpu", "cpu.cfs_quota_us")), 0), number(file("cpu", "cpu.cfs_period_us"))
	g.hasCPU = g.shares > 0

	g.usage, g.peak = number(file("memory", "memory.usage_in_bytes")), number(file("memory", "memory.max_usage_in_bytes"))
	if limit := number(file("memory", "memory.limit_in_bytes")); limit < boundless {
		g.limit = limit
	}
	g.failures = number(file("memory", "memory.failcnt"))
	g.kernelMemory = number(file("memory", "memory.kmem.usage_in_bytes"))
	m := pairs(file("memory", "memory.stat"))
	g.hasMemory = len(m) > 0
	g.cache, g.rss, g.mapped, g.swap = m["total_cache"], m["total_rss"], m["total_mapped_file"], m["total_swap"]
	if both := number(file("memory", "memory.memsw.limit_in_bytes")); both > 0 && both < boundless {
		g.swapLimit = max(both-g.limit, 0)
	}
	g.active, g.inactive = m["total_active_file"], m["total_inactive_file"]
	g.faults, g.majorFaults = m["total_pgfault"], m["total_pgmajfault"]
	g.ooms = pairs(file("memory", "memory.oom_control"))["oom_kill"]
	g.workingSet = max(g.usage-g.inactive, 0)

	r.processes(g, file("memory", "cgroup.procs"), file("pids", "pids.current"))
	g.mostThreads = number(file("pids", "pids.max"))
	g.reads, g.writes = r.throttle(file("blkio", "blkio.throttle.io_serviced_recursive"))
	g.readsBytes, g.writesBytes = r.throttle(file("blkio", "blkio.throttle.io_service_bytes_recursive"))
	return g
}

func (r *groupReader) readUnified(dir string) *group {
	g := &group{swapLimit: -1}
	file := func(name string) string { return filepath.Join(dir, name) }
	cpu := pairs(file("cpu.stat"))
	g.hasCPU = len(cpu) > 0
	g.cpu, g.user, g.system = cpu["usage_usec"]/microseconds, cpu["user_usec"]/microseconds, cpu["system_usec"]/microseconds
	g.periods, g.throttled, g.throttledTime = cpu["nr_periods"], cpu["nr_throttled"], cpu["throttled_usec"]/microseconds
	if weight := number(file("cpu.weight")); weight > 0 {
		g.shares = 2 + float64(int64((weight-1)*262142)/9999) // as the runtime made it of shares
	}
	if fields := strings.Fields(text(file("cpu.max"))); len(fields) == 2 {
		g.quota, _ = strconv.ParseFloat(fields[0], 64) // "max": 0
		g.period, _ = strconv.ParseFloat(fields[1], 64)
	}

	g.usage, g.peak, g.limit = number(file("memory.current")), number(file("memory.peak")), number(file("memory.max"))
	g.swap = number(file("memory.swap.current"))
	if limit, err := strconv.ParseFloat(strings.TrimSpace(text(file("memory.swap.max"))), 64); err == nil {
		g.swapLimit = limit
	}
	m := pairs(file("memory.stat"))
	g.hasMemory = len(m) > 0
	g.cache, g.rss, g.mapped, g.kernelMemory = m["file"], m["anon"], m["file_mapped"], m["kernel"]
	g.active, g.inactive = m["active_file"], m["inactive_file"]
	g.faults, g.majorFaults = m["pgfault"], m["pgmajfault"]
	events := pairs(file("memory.events"))
	g.failures, g.ooms = events["max"], events["oom_kill"]
	g.workingSet = max(g.usage-g.inactive, 0)

	g.hasPressure = exists(file("cpu.pressure")) // not with every kernel
	g.cpuPressure, g.memoryPressure, g.ioPressure = readPressure(file("cpu.pressure")), readPressure(file("memory.pressure")), readPressure(file("io.pressure"))

	r.processes(g, file("cgroup.procs"), file("pids.current"))
	g.mostThreads = number(file("pids.max"))
	g.reads, g.writes = map[string]float64{}, map[string]float64{}
	g.readsBytes, g.writesBytes = map[string]float64{}, map[string]float64{}
	for line := range strings.Lines(text(file("io.stat"))) {
		fields := strings.Fields(line)
		for i := 1; i < len(fields); i++ {
			key, value, _ := strings.Cut(fields[i], "=")
			into := map[string]map[string]float64{"rios": g.reads, "wios": g.writes, "rbytes": g.readsBytes, "wbytes": g.writesBytes}[key]
			if n, err := strconv.ParseFloat(value, 64); err == nil && into != nil {
				into[r.device(fields[0])] = n
			}
		}
	}
	return g
}

func (r *groupReader) processes(g *group, procs, pids string) {
	members := strings.Fields(text(procs))
	g.processes, g.threads = float64(len(members)), number(pids)
	g.hasTask = exists(pids)
	if len(members) > 0 {
		g.init, _ = strconv.Atoi(members[0])
	}
}

// readPressure reads lines such as
//
//	some avg10=0.00 avg60=0.00 avg300=0.00 total=1500000
//	full avg10=0.00 avg60=0.00 avg300=0.00 total=0
func readPressure(file string) (p pressure) {
	for line := range strings.Lines(text(file)) {
		fields := strings.Fields(line)
		if len(fields) != 5 {
			continue
		}
		var n [4]float64
		for i, field := range fields[1:] {
			_, value, _ := strings.Cut(field, "=")
			n[i], _ = strconv.ParseFloat(value, 64)
		}
		switch fields[0] {
		case "some":
			p.waiting, p.waitingOf = n[3]/microseconds, [3]float64(n[:3])
		case "full":
			p.stalled, p.stalledOf = n[3]/microseconds, [3]float64(n[:3])
		}
	}
	return p
}

// throttle reads what version 1 counts of block devices:
//
//	8:0 Read 4096
//	8:0 Write 0
//	…
//	Total 4096
func (r *groupReader) throttle(file string) (reads, writes map[string]float64) {
	reads, writes = map[string]float64{}, map[string]float64{}
	for line := range strings.Lines(text(file)) {
		fields := strings.Fields(line)
		if len(fields) != 3 {
			continue
		}
		into := map[string]map[string]float64{"Read": reads, "Write": writes}[fields[1]]
		if n, err := strconv.ParseFloat(fields[2], 64); err == nil && into != nil {
			into[r.device(fields[0])] = n
		}
	}
	return reads, writes
}

// device is the name of a block device by its number ("8:0").
func (r *groupReader) device(number string) string {
	if name, ok := r.devices[number]; ok {
		return name
	}
	name := number // of one that has gone, or that is another host's
	for line := range strings.Lines(text(filepath.Join("/sys/dev/block", number, "uevent"))) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			name = "/dev/" + value
		}
	}
	r.devices[number] = name
	return name
}

// deviceOf is the name of the device that holds a directory.
func (r *groupReader) deviceOf(dir string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "", err
	}
	return r.device(fmt.Sprintf("%d:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev))), nil
}

func exists(file string) bool {
	_, err := os.Stat(file)
	return err == nil
}

// text is what a file of the kernel's says; "" where there is none.
func text(file string) string {
	content, err := os.ReadFile(file)
	if err != nil {
		return ""
	}
	return string(content)
}

// number is 0 where there is none, or "max".
func number(file string) float64 {
	n, err := strconv.ParseFloat(strings.TrimSpace(text(file)), 64)
	if err != nil {
		return 0
	}
	return n
}

// pairs reads lines of a name and a number.
func pairs(file string) map[string]float64 {
	values := map[string]float64{}
	lines := bufio.NewScanner(strings.NewReader(text(file)))
	for lines.Scan() {
		name, value, ok := strings.Cut(lines.Text(), " ")
		if n, err := strconv.ParseFloat(value, 64); ok && err == nil {
			values[name] = n
		}
	}
	return values
}

// traffic of a network interface.
type traffic struct {
	name                                    string
	rxBytes, rxPackets, rxErrors, rxDropped float64
	txBytes, txPackets, txErrors, txDropped float64
}

// readTraffic reads what the interfaces carried that a process sees, other than
// loopback.
func readTraffic(proc string) []traffic {
	var list []traffic
	for line := range strings.Lines(text(filepath.Join(proc, "net", "dev"))) {
		name, rest, ok := strings.Cut(line, ":")
		fields := strings.Fields(rest)
		if name = strings.TrimSpace(name); !ok || len(fields) < 12 || name == "lo" {
			continue // a heading
		}
		n := make([]float64, len(fields))
		for i, field := range fields {
			n[i], _ = strconv.ParseFloat(field, 64)
		}
		list = append(list, traffic{name: name,
			rxBytes: n[0], rxPackets: n[1], rxErrors: n[2], rxDropped: n[3],
			txBytes: n[8], txPackets: n[9], txErrors: n[10], txDropped: n[11]})
	}
	return list
}
