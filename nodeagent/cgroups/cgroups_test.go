package cgroups

import (
	"os"
	"path/filepath"
	"testing"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
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
