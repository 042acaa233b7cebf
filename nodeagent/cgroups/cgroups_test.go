package cgroups

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func pod(requests, limits map[string]string) *v1.Pod {
	list := func(m map[string]string) v1.ResourceList {
		l := v1.ResourceList{}
		for k, v := range m {
			l[v1.ResourceName(k)] = resource.MustParse(v)
		}
		return l
	}
	p := &v1.Pod{Spec: v1.PodSpec{Containers: []v1.Container{{
		Name: "c", Resources: v1.ResourceRequirements{Requests: list(requests), Limits: list(limits)}}}}}
	p.UID = "ab-cd"
	return p
}

func TestParent(t *testing.T) {
	full := map[string]string{"cpu": "100m", "memory": "64Mi"}
	cases := []struct {
		pod              *v1.Pod
		cgroupfs, system string
	}{
		{pod(full, full), "/kubepods/podab-cd", "/kubepods.slice/kubepods-podab_cd.slice"},
		{pod(full, nil), "/kubepods/burstable/podab-cd", "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-podab_cd.slice"},
		{pod(nil, nil), "/kubepods/besteffort/podab-cd", "/kubepods.slice/kubepods-besteffort.slice/kubepods-besteffort-podab_cd.slice"},
	}
	for _, c := range cases {
		if got := (&Tree{}).Parent(c.pod); got != c.cgroupfs {
			t.Errorf("cgroupfs: got %s, want %s", got, c.cgroupfs)
		}
		if got := (&Tree{systemd: true}).Parent(c.pod); got != c.system {
			t.Errorf("systemd: got %s, want %s", got, c.system)
		}
	}
}

func TestContainerResources(t *testing.T) {
	p := pod(map[string]string{"cpu": "250m", "memory": "1Gi"}, map[string]string{"cpu": "500m"})
	r := ContainerResources(p, &p.Spec.Containers[0], 4<<30)
	if r.CpuShares != 256 || r.CpuQuota != 50_000 || r.CpuPeriod != 100_000 || r.MemoryLimitInBytes != 0 || r.OomScoreAdj != 750 {
		t.Errorf("got %+v", r)
	}
	best := pod(nil, nil)
	if r := ContainerResources(best, &best.Spec.Containers[0], 4<<30); r.CpuShares != 2 || r.OomScoreAdj != 1000 || r.CpuQuota != 0 {
		t.Errorf("best effort: got %+v", r)
	}
}

func TestTreeCreatesLimitsAndRemoves(t *testing.T) {
	root := t.TempDir()
	tree := &Tree{root: root}
	if err := tree.prepare(); err != nil {
		t.Fatal(err)
	}
	p := pod(map[string]string{"cpu": "1", "memory": "64Mi"}, map[string]string{"cpu": "1", "memory": "64Mi"})
	if err := tree.Create(p, PodLimits(p)); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu/kubepods/podab-cd/cpu.shares":               "1024",
		"cpu/kubepods/podab-cd/cpu.cfs_quota_us":         "100000",
		"memory/kubepods/podab-cd/memory.limit_in_bytes": "67108864",
		"cpu/kubepods/besteffort/cpu.shares":             "2",
	} {
		raw, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || string(raw) != want {
			t.Errorf("%s: got %q %v, want %q", file, raw, err, want)
		}
		_ = os.Remove(filepath.Join(root, file)) // a kernel's files go with their directory
	}
	_ = os.Remove(filepath.Join(root, "cpu/kubepods/podab-cd/cpu.cfs_period_us"))
	if got := tree.Pods(); len(got) != 1 || got[0] != p.UID {
		t.Errorf("pods: got %v", got)
	}
	if err := tree.Remove(p.UID); err != nil {
		t.Fatal(err)
	}
	if got := tree.Pods(); len(got) != 0 {
		t.Errorf("pods after removal: got %v", got)
	}
}

// The runtime makes groups in every hierarchy of cgroup v1, and removes its
// containers' own.
func TestGroupsOfTheRuntimeAreRemoved(t *testing.T) {
	for _, tree := range []*Tree{{}, {systemd: true, units: noUnits{}}} {
		tree.root = t.TempDir()
		p := pod(nil, nil)
		group := tree.Parent(p)
		for _, dir := range []string{"blkio", "unified", "systemd"} {
			if err := os.MkdirAll(filepath.Join(tree.root, dir, group, "lost"), 0o700); err != nil {
				t.Fatal(err)
			}
		}
		if got := tree.Pods(); !tree.systemd && (len(got) != 1 || got[0] != p.UID) {
			t.Errorf("pods: got %v", got)
		}
		if err := tree.Remove(p.UID); err != nil {
			t.Fatal(err)
		}
		if left, _ := filepath.Glob(filepath.Join(tree.root, "*", group)); len(left) > 0 {
			t.Errorf("left: %v", left)
		}
	}
}

type noUnits struct{}

func (noUnits) start(string, Limits) error { return nil }
func (noUnits) stop(string) error          { return nil }

// What the runtime lost has to go with the group, or the group stays for ever.
func TestKill(t *testing.T) {
	lost := exec.Command("sleep", "600")
	if err := lost.Start(); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "cgroup.procs"), fmt.Appendf(nil, "0\n1\n%d\n", lost.Process.Pid), 0o600); err != nil {
		t.Fatal(err)
	}
	kill(dir)
	err := lost.Wait()
	var exit *exec.ExitError
	if !errors.As(err, &exit) || exit.Sys().(syscall.WaitStatus).Signal() != syscall.SIGKILL {
		t.Errorf("the process ended with %v, want a kill", err)
	}
}

func TestTreeLimitsAndWeighs(t *testing.T) {
	root := t.TempDir()
	tree := &Tree{root: root, huge: []string{"2MB", "1GB"},
		Options: Options{PodPIDs: 77, Together: Limits{CPUShares: 2048, Memory: 1 << 30, PIDs: 9000}}}
	if err := tree.prepare(); err != nil {
		t.Fatal(err)
	}
	some := pod(map[string]string{"cpu": "250m", "hugepages-2Mi": "8Mi"}, map[string]string{"hugepages-2Mi": "8Mi"})
	full := map[string]string{"cpu": "1", "memory": "64Mi"}
	if err := tree.Create(some, PodLimits(some)); err != nil {
		t.Fatal(err)
	}
	if err := tree.Balance([]*v1.Pod{some, some, pod(full, full), pod(nil, nil)}); err != nil {
		t.Fatal(err)
	}
	for file, want := range map[string]string{
		"cpu/kubepods/cpu.shares":                                        "2048",
		"memory/kubepods/memory.limit_in_bytes":                          "1073741824",
		"pids/kubepods/pids.max":                                         "9000",
		"pids/kubepods/burstable/podab-cd/pids.max":                      "77",
		"cpu/kubepods/burstable/cpu.shares":                              "512",
		"hugetlb/kubepods/burstable/podab-cd/hugetlb.2MB.limit_in_bytes": "8388608",
		"hugetlb/kubepods/burstable/podab-cd/hugetlb.1GB.limit_in_bytes": "0",
	} {
		raw, err := os.ReadFile(filepath.Join(root, file))
		if err != nil || string(raw) != want {
			t.Errorf("%s: got %q %v, want %q", file, raw, err, want)
		}
	}
}

func TestHugePageLimits(t *testing.T) {
	p := pod(nil, map[string]string{"hugepages-2Mi": "4Mi"})
	p.Spec.Containers = append(p.Spec.Containers, v1.Container{Name: "other"})
	sizes := []string{"2MB", "1GB"}
	for i, want := range []uint64{4 << 20, 0} {
		limits := hugePageLimits(p, &p.Spec.Containers[i], sizes)
		if len(limits) != 2 || limits[0].PageSize != "2MB" || limits[0].Limit != want || limits[1].Limit != 0 {
			t.Errorf("container %d: got %v", i, limits)
		}
	}
	for size, want := range map[int64]string{2 << 20: "2MB", 1 << 30: "1GB", 64 << 10: "64KB"} {
		if got := pageSize(size); got != want {
			t.Errorf("%d: got %s, want %s", size, got, want)
		}
	}
	if got := HugePageResource(2 << 20); got != "hugepages-2Mi" {
		t.Errorf("got %s", got)
	}
}

func TestFindSwapControl(t *testing.T) {
	put := func(name string) string {
		t.Helper()
		root := t.TempDir()
		if err := os.MkdirAll(filepath.Dir(filepath.Join(root, name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(root, name), nil, 0o600); err != nil {
			t.Fatal(err)
		}
		return root
	}
	for root, want := range map[string]swapControl{
		t.TempDir(): noSwapControl,
		put("memory/memory.memsw.limit_in_bytes"): swapControlV1,
		put("system.slice/memory.swap.max"):       swapControlV2,
	} {
		if got := findSwapControl(root); got != want {
			t.Errorf("got %d, want %d", got, want)
		}
	}
}

// TestSandboxResources: what a sandbox takes itself is told apart from what its
// containers have.
func TestSandboxResources(t *testing.T) {
	p := &v1.Pod{Spec: v1.PodSpec{
		Overhead: v1.ResourceList{v1.ResourceCPU: resource.MustParse("250m"), v1.ResourceMemory: resource.MustParse("64Mi")},
		Containers: []v1.Container{{Resources: v1.ResourceRequirements{
			Requests: v1.ResourceList{v1.ResourceCPU: resource.MustParse("500m"), v1.ResourceMemory: resource.MustParse("128Mi")},
			Limits:   v1.ResourceList{v1.ResourceCPU: resource.MustParse("1"), v1.ResourceMemory: resource.MustParse("256Mi")}}}}}}
	own, overhead := SandboxResources(p)
	for what, r := range map[string]*criv1.LinuxContainerResources{"its own": own, "after a change": PodLimits(p).Resources(p)} {
		if r.CpuShares != 512 || r.CpuQuota != 100_000 || r.CpuPeriod != 100_000 || r.MemoryLimitInBytes != 256<<20 {
			t.Errorf("%s: %v", what, r)
		}
	}
	if overhead.CpuShares != 256 || overhead.CpuQuota != 25_000 || overhead.MemoryLimitInBytes != 64<<20 {
		t.Errorf("overhead: %v", overhead)
	}
	group := "" // only v2 can
	if hostIsUnified() {
		group = "1"
	}
	if r := ContainerResources(p, &p.Spec.Containers[0], 4<<30); r.Unified["memory.oom.group"] != group {
		t.Errorf("out of memory: %v, want %q", r.Unified, group)
	}
}
