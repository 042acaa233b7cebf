package images

import (
	"context"
	"log/slog"
	"slices"
	"testing"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/stats"
)

// shelf is a runtime's images and the containers that use them.
type shelf struct {
	cri.ImageManagerService
	cri.ContainerManager
	images     []*criv1.Image
	containers []*criv1.Container
}

func (s *shelf) ListImages(context.Context, *criv1.ImageFilter) ([]*criv1.Image, error) {
	return s.images, nil
}

func (s *shelf) ListContainers(context.Context, *criv1.ContainerFilter) ([]*criv1.Container, error) {
	return s.containers, nil
}

func (s *shelf) RemoveImage(_ context.Context, spec *criv1.ImageSpec) error {
	s.images = slices.DeleteFunc(s.images, func(i *criv1.Image) bool { return i.Id == spec.Image })
	return nil
}

func (s *shelf) ImageFsInfo(context.Context) (*criv1.ImageFsInfoResponse, error) {
	return &criv1.ImageFsInfoResponse{ImageFilesystems: []*criv1.FilesystemUsage{{FsId: &criv1.FilesystemIdentifier{Mountpoint: "/images"}}}}, nil
}

func TestCollect(t *testing.T) {
	s := &shelf{
		images: []*criv1.Image{
			{Id: "pinned", Size: 10, Pinned: true},
			{Id: "running", Size: 10},
			{Id: "named", Size: 10, RepoTags: []string{"docker.io/library/named:1"}},
			{Id: "old", Size: 10},
			{Id: "older", Size: 10},
		},
		containers: []*criv1.Container{{ImageId: "running"}, {ImageId: "old"}},
	}
	var warned string
	disk := stats.Disk{Total: 100, Available: 14}
	c := &Collector{
		When:   hostconfig.Images{}.OrDefaults(),
		Images: s, Puller: New(s, 1, t.TempDir()), Containers: s, Wanted: func() []string { return []string{"named:1"} }, Logger: slog.New(slog.DiscardHandler),
		Disk: func(path string) (stats.Disk, error) {
			if path != "/images" {
				t.Errorf("measured %s", path)
			}
			return disk, nil
		},
		Warn: func(_, message string) { warned = message },
	}
	left := func() (ids []string) {
		for _, image := range s.images {
			ids = append(ids, image.Id)
		}
		return ids
	}
	start := time.Unix(1_000_000, 0)
	tidy := func(after time.Duration) {
		t.Helper()
		if err := c.tidy(t.Context(), start.Add(after)); err != nil {
			t.Fatal(err)
		}
	}
	short := "Insufficient free disk space on the node's image filesystem (86% of 100 B used). Failed to free sufficient space by deleting unused images (freed 0 bytes). " +
		"Investigate disk usage, as it could be used by active images, logs, volumes, or other data."
	if err := c.tidy(t.Context(), start); err == nil || err.Error() != short || len(s.images) != 5 || warned != short {
		t.Errorf("an image that has just come is removed: %v, said %q, %v", left(), warned, err)
	}
	s.containers = s.containers[:1] // "old" was used until now
	s.images = append(s.images, &criv1.Image{Id: "fresh", Size: 10})
	tidy(3 * time.Minute)
	if got, want := left(), []string{"pinned", "running", "named", "old", "fresh"}; !slices.Equal(got, want) {
		t.Errorf("the longest unused goes first: left %v, want %v", got, want)
	}
	disk.Available = 16
	tidy(10 * time.Minute)
	if len(s.images) != 5 {
		t.Errorf("removed without need: %v", left())
	}
	if freed, err := c.Collect(t.Context(), -1, start.Add(10*time.Minute)); err != nil || freed != 20 {
		t.Errorf("freed %d, %v", freed, err)
	}
	if got, want := left(), []string{"pinned", "running", "named"}; !slices.Equal(got, want) {
		t.Errorf("left %v, want %v", got, want)
	}
}

// TestImagesUnusedForLong: they go though there is room, once the agent has seen
// them idle for long enough itself.
func TestImagesUnusedForLong(t *testing.T) {
	s := &shelf{
		images:     []*criv1.Image{{Id: "pinned", Pinned: true}, {Id: "running"}, {Id: "stopped"}, {Id: "never used"}},
		containers: []*criv1.Container{{ImageId: "running"}, {ImageId: "stopped"}},
	}
	reasons := map[string]int{}
	c := &Collector{
		When:   hostconfig.Images{MaxUnusedSeconds: 3600}.OrDefaults(),
		Images: s, Puller: New(s, 1, t.TempDir()), Containers: s, Wanted: func() []string { return nil }, Logger: slog.New(slog.DiscardHandler),
		Disk:    func(string) (stats.Disk, error) { return stats.Disk{Total: 100, Available: 90}, nil },
		Warn:    func(reason, message string) { t.Errorf("warned: %s: %s", reason, message) },
		Removed: func(reason string) { reasons[reason]++ },
	}
	start := time.Unix(1_000_000, 0)
	for _, step := range []struct {
		after time.Duration
		want  []string
	}{
		{0, []string{"pinned", "running", "stopped", "never used"}},
		{time.Hour, []string{"pinned", "running", "stopped", "never used"}},
		{time.Hour + time.Minute, []string{"pinned", "running", "stopped", "fresh"}},
		{2 * time.Hour, []string{"pinned", "running", "stopped", "fresh"}},
		{2*time.Hour + time.Minute, []string{"pinned", "running", "fresh"}},
		{2*time.Hour + 2*time.Minute, []string{"pinned", "running"}},
	} {
		if err := c.tidy(t.Context(), start.Add(step.after)); err != nil {
			t.Fatal(err)
		}
		switch step.after {
		case time.Hour:
			s.containers = s.containers[:1] // "stopped" was used until now
			s.images = append(s.images, &criv1.Image{Id: "fresh"})
			step.want = append(step.want, "fresh")
		}
		var left []string
		for _, image := range s.images {
			left = append(left, image.Id)
		}
		if !slices.Equal(left, step.want) {
			t.Errorf("after %s: left %v, want %v", step.after, left, step.want)
		}
	}
	if reasons["age"] != 3 || len(reasons) != 1 {
		t.Errorf("counted %v", reasons)
	}
}

func TestADiskOfNoSize(t *testing.T) {
	var warned string
	c := &Collector{
		When:   hostconfig.Images{}.OrDefaults(),
		Images: &shelf{}, Containers: &shelf{}, Puller: New(&shelf{}, 1, t.TempDir()), Wanted: func() []string { return nil }, Logger: slog.New(slog.DiscardHandler),
		Disk: func(string) (stats.Disk, error) { return stats.Disk{}, nil },
		Warn: func(reason, message string) { warned = reason + ": " + message },
	}
	if err := c.tidy(t.Context(), time.Unix(1, 0)); err == nil || warned != "InvalidDiskCapacity: invalid capacity 0 on image filesystem" {
		t.Errorf("said %q, %v", warned, err)
	}
}

func TestSizesAreReadable(t *testing.T) {
	for bytes, want := range map[uint64]string{0: "0 B", 1023: "1023 B", 1024: "1.0 KiB", 1536: "1.5 KiB", 5 << 20: "5.0 MiB", 3 << 30: "3.0 GiB", 7 << 40: "7.0 TiB", 2 << 50: "2048.0 TiB"} {
		if got := size(bytes); got != want {
			t.Errorf("%d is %s, want %s", bytes, got, want)
		}
	}
}
