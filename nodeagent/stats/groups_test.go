package stats

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func files(t *testing.T, content map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, text := range content {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	return root
}

func TestGroupsOfBothVersionsAreReadAlike(t *testing.T) {
	want := &group{
		cpu: 2.5, user: 1.5, system: 1, periods: 10, throttled: 4, throttledTime: 0.25, shares: 102, quota: 50000, period: 100000,
		usage: 9000, peak: 9500, limit: 10000, cache: 5000, rss: 3000, mapped: 100, swap: 7, swapLimit: 20, active: 2000, inactive: 1000,
		faults: 11, majorFaults: 2, failures: 3, ooms: 1, processes: 2, threads: 5, kernelMemory: 500, workingSet: 8000, init: 41,
		reads: map[string]float64{"7:99": 1}, writes: map[string]float64{"7:99": 2},
		readsBytes: map[string]float64{"7:99": 4096}, writesBytes: map[string]float64{"7:99": 8192},
		hasMemory: true, hasCPU: true, hasTask: true, mostThreads: 50,
	}
	first := files(t, map[string]string{
		"cpuacct/g/cpuacct.usage": "2500000000\n", "cpuacct/g/cpuacct.stat": "user 150\nsystem 100\n",
		"cpu/g/cpu.stat":   "nr_periods 10\nnr_throttled 4\nthrottled_time 250000000\n",
		"cpu/g/cpu.shares": "102\n", "cpu/g/cpu.cfs_quota_us": "50000\n", "cpu/g/cpu.cfs_period_us": "100000\n",
		"memory/g/memory.usage_in_bytes": "9000\n", "memory/g/memory.max_usage_in_bytes": "9500\n",
		"memory/g/memory.limit_in_bytes": "10000\n", "memory/g/memory.memsw.limit_in_bytes": "10020\n", "memory/g/memory.failcnt": "3\n", "memory/g/memory.kmem.usage_in_bytes": "500\n",
		"memory/g/memory.stat": "cache 1\ntotal_cache 5000\ntotal_rss 3000\ntotal_mapped_file 100\ntotal_swap 7\n" +
			"total_active_file 2000\ntotal_inactive_file 1000\ntotal_pgfault 11\ntotal_pgmajfault 2\n",
		"memory/g/memory.oom_control": "oom_kill_disable 0\nunder_oom 0\noom_kill 1\n",
		"memory/g/cgroup.procs":       "41\n42\n", "pids/g/pids.current": "5\n", "pids/g/pids.max": "50\n",
		"blkio/g/blkio.throttle.io_serviced_recursive":      "7:99 Read 1\n7:99 Write 2\n7:99 Sync 3\nTotal 3\n",
		"blkio/g/blkio.throttle.io_service_bytes_recursive": "7:99 Read 4096\n7:99 Write 8192\nTotal 12288\n",
	})
	second := files(t, map[string]string{
		"g/cpu.stat":   "usage_usec 2500000\nuser_usec 1500000\nsystem_usec 1000000\nnr_periods 10\nnr_throttled 4\nthrottled_usec 250000\n",
		"g/cpu.weight": "4\n", "g/cpu.max": "50000 100000\n",
		"g/memory.current": "9000\n", "g/memory.peak": "9500\n", "g/memory.max": "10000\n", "g/memory.swap.current": "7\n", "g/memory.swap.max": "20\n",
		"g/memory.stat":   "anon 3000\nfile 5000\nkernel 500\nfile_mapped 100\nactive_file 2000\ninactive_file 1000\npgfault 11\npgmajfault 2\n",
		"g/memory.events": "low 0\nhigh 0\nmax 3\noom 1\noom_kill 1\n",
		"g/cgroup.procs":  "41\n42\n", "g/pids.current": "5\n", "g/pids.max": "50\n",
		"g/cpu.pressure":    "some avg10=1.00 avg60=2.00 avg300=3.00 total=1500000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=500000\n",
		"g/memory.pressure": "some avg10=0.00 avg60=0.00 avg300=0.00 total=3000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=2000000\n",
		"g/io.pressure":     "some avg10=0.00 avg60=0.00 avg300=0.00 total=5000000\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=4000000\n",
		"g/io.stat":         "7:99 rbytes=4096 wbytes=8192 rios=1 wios=2 dbytes=0 dios=0\n",
	})
	for version, reader := range map[int]*groupReader{
		1: {root: first, devices: map[string]string{}}, 2: {root: second, unified: true, devices: map[string]string{}},
	} {
		got := reader.read("/g")
		if version == 2 {
			got.shares = 102 // a weight stands for many shares
			if got.cpuPressure != (pressure{1.5, 0.5, [3]float64{1, 2, 3}, [3]float64{}}) || got.memoryPressure != (pressure{waiting: 3, stalled: 2}) || got.ioPressure != (pressure{waiting: 5, stalled: 4}) || !got.hasPressure {
				t.Errorf("pressure: %v %v %v", got.cpuPressure, got.memoryPressure, got.ioPressure)
			}
			got.cpuPressure, got.memoryPressure, got.ioPressure, got.hasPressure = pressure{}, pressure{}, pressure{}, false // version 1 has none
		}
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(group{}, pressure{})); diff != "" {
			t.Errorf("version %d: %s", version, diff)
		}
	}
}

func TestNoLimitsAreZero(t *testing.T) {
	first := files(t, map[string]string{"cpu/g/cpu.cfs_quota_us": "-1\n", "memory/g/memory.limit_in_bytes": "9223372036854771712\n"})
	second := files(t, map[string]string{"g/cpu.max": "max 100000\n", "g/memory.max": "max\n"})
	for version, g := range map[int]*group{1: (&groupReader{root: first}).read("/g"), 2: (&groupReader{root: second, unified: true}).read("/g")} {
		if g.quota != 0 || g.limit != 0 {
			t.Errorf("version %d: quota %v, limit %v", version, g.quota, g.limit)
		}
	}
}

func TestWalkNamesAllGroups(t *testing.T) {
	root := files(t, map[string]string{"memory/kubepods/burstable/podu/c/x": "", "memory/other/x": ""})
	got := (&groupReader{root: root}).walk("/kubepods")
	want := []string{"/kubepods", "/kubepods/burstable", "/kubepods/burstable/podu", "/kubepods/burstable/podu/c"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

// TestPodsAreFoundWhereverTheDriverPutsThem: systemd has a slice for them.
func TestPodsAreFoundWhereverTheDriverPutsThem(t *testing.T) {
	for _, c := range []struct {
		unified bool
		file    string
		want    string
	}{
		{true, "kubepods/x", "/kubepods"}, {true, "kubepods.slice/x", "/kubepods.slice"},
		{false, "memory/kubepods/x", "/kubepods"}, {false, "memory/kubepods.slice/x", "/kubepods.slice"},
	} {
		if got := (&groupReader{root: files(t, map[string]string{c.file: ""}), unified: c.unified}).pods(); got != c.want {
			t.Errorf("with %s: %s", c.file, got)
		}
	}
}

func TestTraffic(t *testing.T) {
	proc := files(t, map[string]string{"net/dev": `Inter-|   Receive                                                |  Transmit
 face |bytes    packets errs drop fifo frame compressed multicast|bytes    packets errs drop fifo colls carrier compressed
    lo:    1 2 0 0 0 0 0 0 1 2 0 0 0 0 0 0
  eth0: 1000 10 1 2 0 0 0 0 2000 20 3 4 0 0 0 0
`})
	want := []traffic{{name: "eth0", rxBytes: 1000, rxPackets: 10, rxErrors: 1, rxDropped: 2, txBytes: 2000, txPackets: 20, txErrors: 3, txDropped: 4}}
	if diff := cmp.Diff(want, readTraffic(proc), cmp.AllowUnexported(traffic{})); diff != "" {
		t.Error(diff)
	}
}

func TestGroupsAreNamedAfterContainersAndPods(t *testing.T) {
	container, pod := &identity{container: "c"}, &identity{pod: "p"}
	known := &identities{map[string]*identity{"abc": container}, map[string]*identity{"1-2": pod}}
	for name, want := range map[string]*identity{
		"/kubepods/burstable/pod1-2/abc": container,
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice/cri-containerd-abc.scope": container,
		"/kubepods.slice/kubepods-pod1_2.slice/crio-abc.scope":                                              container,
		"/kubepods.slice/kubepods-pod1_2.slice/crio-conmon-abc.scope":                                       {},
		"/kubepods/pod1-2": pod,
		"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1_2.slice": pod,
		"/kubepods/burstable": {}, "/": {}, "/kubepods/pod3": {},
	} {
		if diff := cmp.Diff(want, known.of(name), cmp.AllowUnexported(identity{})); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}
