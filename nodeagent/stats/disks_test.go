package stats

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	internalapi "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"
	stats "k8s.io/kubelet/pkg/apis/stats/v1alpha1"

	"clusterctl/nodeagent/runtime"
)

func TestDiskUsage(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "a"), make([]byte, 1<<20), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(filepath.Join(dir, "a"), filepath.Join(dir, "b")); err != nil {
		t.Fatal(err)
	}
	bytes, inodes := DiskUsage(dir)
	if bytes < 1<<20 || bytes >= 2<<20 || inodes != 2 {
		t.Errorf("got %d bytes in %d inodes", bytes, inodes)
	}
	if bytes, inodes := DiskUsage(filepath.Join(dir, "none")); bytes != 0 || inodes != 0 {
		t.Errorf("of nothing: %d, %d", bytes, inodes)
	}
}

// writes is a runtime with one container that wrote something.
type writes struct{ internalapi.RuntimeService }

// shelf has images in dir.
type shelf struct {
	internalapi.ImageManagerService
	dir string
}

func (writes) ListContainerStats(context.Context, *criv1.ContainerStatsFilter) ([]*criv1.ContainerStats, error) {
	return []*criv1.ContainerStats{{
		Attributes:    &criv1.ContainerAttributes{Labels: map[string]string{runtime.LabelPodUID: "u", runtime.LabelContainerName: "c"}},
		WritableLayer: &criv1.FilesystemUsage{UsedBytes: &criv1.UInt64Value{Value: 5000}, InodesUsed: &criv1.UInt64Value{Value: 3}},
	}}, nil
}

func (r shelf) ImageFsInfo(context.Context) (*criv1.ImageFsInfoResponse, error) {
	return &criv1.ImageFsInfoResponse{ImageFilesystems: []*criv1.FilesystemUsage{{
		FsId: &criv1.FilesystemIdentifier{Mountpoint: r.dir}, UsedBytes: &criv1.UInt64Value{Value: 700}, InodesUsed: &criv1.UInt64Value{Value: 7}}}}, nil
}

func TestDisksOfPods(t *testing.T) {
	dir := files(t, map[string]string{"logs/c/0.log": "x", "volumes/empty/a": "x", "volumes/secret/a": "x"})
	asked := 0
	d := &Disks{
		Pods: func() []*v1.Pod {
			asked++
			return []*v1.Pod{{ObjectMeta: metav1.ObjectMeta{UID: "u"}, Spec: v1.PodSpec{Containers: []v1.Container{{Name: "c"}}, Volumes: []v1.Volume{
				{Name: "empty", VolumeSource: v1.VolumeSource{EmptyDir: &v1.EmptyDirVolumeSource{}}},
				{Name: "secret", VolumeSource: v1.VolumeSource{Secret: &v1.SecretVolumeSource{}}},
				{Name: "late", VolumeSource: v1.VolumeSource{ConfigMap: &v1.ConfigMapVolumeSource{}}},
				{Name: "host", VolumeSource: v1.VolumeSource{HostPath: &v1.HostPathVolumeSource{Path: "/"}}},
			}}}}
		},
		LogDir: func(*v1.Pod) string { return filepath.Join(dir, "logs") },
		Volume: func(_ *v1.Pod, v *v1.Volume) string {
			if v.HostPath != nil {
				return ""
			}
			return filepath.Join(dir, "volumes", v.Name)
		},
		Runtime: runtime.New(writes{critest.NewFakeRuntimeService()}, shelf{dir: dir}, slog.New(slog.DiscardHandler)), State: dir, Logger: slog.New(slog.DiscardHandler),
	}
	summary := func() *stats.Summary {
		return &stats.Summary{Pods: []stats.PodStats{
			{PodRef: stats.PodReference{UID: "u"}, Containers: []stats.ContainerStats{{Name: "c"}}}, {PodRef: stats.PodReference{UID: "young"}}}}
	}
	s := summary()
	d.add(t.Context(), s)
	if r := s.Node.Runtime; r == nil || *r.ImageFs.UsedBytes != 700 || *r.ContainerFs.InodesUsed != 7 || *r.ImageFs.CapacityBytes == 0 {
		t.Fatalf("of the runtime: %+v", r)
	}
	pod := s.Pods[0]
	c := pod.Containers[0]
	if *c.Rootfs.UsedBytes != 5000 || *c.Rootfs.InodesUsed != 3 || *c.Rootfs.CapacityBytes == 0 || *c.Logs.UsedBytes == 0 || *c.Logs.InodesUsed != 2 {
		t.Errorf("of the container: %+v %+v", c.Rootfs, c.Logs)
	}
	if len(pod.VolumeStats) != 2 || pod.VolumeStats[0].Name != "empty" || pod.VolumeStats[1].Name != "secret" || *pod.VolumeStats[0].InodesUsed != 2 {
		t.Errorf("volumes: %+v", pod.VolumeStats)
	}
	if want := *c.Rootfs.UsedBytes + *c.Logs.UsedBytes + *pod.VolumeStats[0].UsedBytes; *pod.EphemeralStorage.UsedBytes != want || *pod.EphemeralStorage.InodesUsed != 3+2+2 {
		t.Errorf("ephemeral storage: %d bytes in %d inodes, want %d", *pod.EphemeralStorage.UsedBytes, *pod.EphemeralStorage.InodesUsed, want)
	}
	if s.Pods[1].EphemeralStorage != nil {
		t.Error("something is told of a pod that was not measured")
	}
	for range 5 {
		d.add(t.Context(), summary())
	}
	if asked != 1 {
		t.Errorf("disks were measured %d times in a row", asked)
	}
	d.mu.Lock()
	d.until = time.Now().Add(-time.Second)
	d.mu.Unlock()
	d.add(t.Context(), summary())
	d.mu.Lock()
	under := d.reading
	d.mu.Unlock()
	if under != nil {
		<-under
	}
	if asked != 2 {
		t.Errorf("what is old was measured %d times", asked)
	}
}
