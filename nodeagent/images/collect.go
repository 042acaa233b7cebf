package images

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"math/bits"
	"slices"
	"sync"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/stats"
)

const collectPeriod = 5 * time.Minute

// Why an image was removed, for Removed.
const (
	bySpace = "space"
	byAge   = "age"
)

// Collector removes images that nobody needs. Pinned images are never removed:
// what clusterctl carries and what an operator loads has no registry to come
// back from. Safe for concurrent use.
type Collector struct {
	When       hostconfig.Images // with its defaults
	Images     cri.ImageManagerService
	Puller     *Puller // forgets who may use images that are gone
	Containers cri.ContainerManager
	Wanted     func() []string                       // references that pods of this host name
	Disk       func(path string) (stats.Disk, error) // stats.ReadDisk
	Warn       func(reason, message string)          // for events of the node
	Removed    func(reason string)                   // counts an image that is gone; may be nil
	Logger     *slog.Logger

	mu   sync.Mutex
	seen map[string]*record // by image ID
}

type record struct {
	first, used time.Time
}

// idle is since when nobody has used the image, as far as this agent knows.
func (r record) idle() time.Time {
	if r.used.After(r.first) {
		return r.used
	}
	return r.first
}

// Run collects images whenever their disk fills up, and those that were unused for
// too long, until ctx ends.
func (c *Collector) Run(ctx context.Context) {
	ticker := time.NewTicker(collectPeriod)
	defer ticker.Stop()
	failed := false
	for {
		err := c.tidy(ctx, time.Now())
		if err != nil && ctx.Err() == nil {
			c.Logger.Warn("cannot collect images", "error", err)
			if failed { // once may be a runtime that starts
				c.Warn("ImageGCFailed", err.Error())
			}
		}
		failed = err != nil
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
	}
}

// tidy removes what was unused for too long, and frees what the disk is too full by.
func (c *Collector) tidy(ctx context.Context, now time.Time) error {
	list, err := c.look(ctx, now) // even if there is nothing to do: ages count from here
	if err != nil {
		return err
	}
	if err := c.expire(ctx, list, now); err != nil {
		return err
	}
	disk, err := c.disk(ctx)
	if err != nil {
		return err
	}
	if disk.Total == 0 {
		err := errors.New("invalid capacity 0 on image filesystem")
		c.Warn("InvalidDiskCapacity", err.Error())
		return err
	}
	full := 100 - int(disk.Available*100/disk.Total)
	if full < c.When.CollectAbovePercent {
		return nil
	}
	excess := int64(disk.Total*uint64(100-c.When.CollectBelowPercent)/100) - int64(disk.Available)
	freed, err := c.Collect(ctx, excess, now)
	if err != nil {
		return err
	}
	c.Logger.Info("collected images", "freed", freed, "wanted", excess)
	if freed < excess {
		message := fmt.Sprintf("Insufficient free disk space on the node's image filesystem (%d%% of %s used). "+
			"Failed to free sufficient space by deleting unused images (freed %d bytes). "+
			"Investigate disk usage, as it could be used by active images, logs, volumes, or other data.", full, size(disk.Total), freed)
		c.Warn("FreeDiskSpaceFailed", message)
		return errors.New(message)
	}
	return nil
}

// size is a number of bytes as people read it.
func size(bytes uint64) string {
	if bytes < 1<<10 {
		return fmt.Sprintf("%d B", bytes)
	}
	power := min((bits.Len64(bytes)-1)/10, 4)
	return fmt.Sprintf("%.1f %ciB", float64(bytes)/float64(uint64(1)<<(10*power)), "KMGT"[power-1])
}

// disk is the file system that images lie on.
func (c *Collector) disk(ctx context.Context) (stats.Disk, error) {
	info, err := c.Images.ImageFsInfo(ctx)
	if err != nil {
		return stats.Disk{}, fmt.Errorf("find the file system of images: %w", err)
	}
	if len(info.GetImageFilesystems()) == 0 {
		return stats.Disk{}, errors.New("find the file system of images: the runtime names none")
	}
	return c.Disk(info.ImageFilesystems[0].GetFsId().GetMountpoint())
}

// unused is an image that may go.
type unused struct {
	id   string
	size int64
	record
}

// Collect removes unused images, the longest unused first, until excess bytes
// are free (all of them if it is negative). It returns how many it freed.
func (c *Collector) Collect(ctx context.Context, excess int64, now time.Time) (int64, error) {
	list, err := c.look(ctx, now)
	if err != nil {
		return 0, err
	}
	var freed int64
	var faults []error
	for _, image := range list {
		if excess >= 0 && freed >= excess {
			break
		}
		if now.Sub(image.first) < time.Duration(c.When.MinAgeSeconds)*time.Second {
			continue
		}
		if err := c.remove(ctx, image, bySpace); err != nil {
			faults = append(faults, err)
			continue
		}
		freed += image.size
	}
	return freed, errors.Join(faults...)
}

// expire removes those of the list that were unused for too long.
func (c *Collector) expire(ctx context.Context, list []unused, now time.Time) error {
	most := time.Duration(c.When.MaxUnusedSeconds) * time.Second
	if most == 0 {
		return nil
	}
	var faults []error
	for _, image := range list {
		if now.Sub(image.idle()) > most {
			faults = append(faults, c.remove(ctx, image, byAge))
		}
	}
	return errors.Join(faults...)
}

func (c *Collector) remove(ctx context.Context, image unused, reason string) error {
	if err := c.Images.RemoveImage(ctx, &criv1.ImageSpec{Image: image.id}); err != nil {
		return fmt.Errorf("remove image %s: %w", image.id, err)
	}
	c.Logger.Info("removed an unused image", "image", image.id, "bytes", image.size, "for", reason)
	if c.Removed != nil {
		c.Removed(reason)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.seen, image.id)
	return nil
}

// look lists unused images, the longest unused first, and notes which are used.
func (c *Collector) look(ctx context.Context, now time.Time) ([]unused, error) {
	since := time.Now()
	all, err := c.Images.ListImages(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	containers, err := c.Containers.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	used := map[string]bool{}
	for _, container := range containers {
		used[container.ImageId], used[container.ImageRef], used[container.GetImage().GetImage()] = true, true, true
	}
	for _, name := range c.Wanted() {
		used[Normalize(name)] = true
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.seen == nil {
		c.seen = map[string]*record{}
	}
	var list []unused
	present := map[string]bool{}
	for _, image := range all {
		present[image.Id] = true
		r := c.seen[image.Id]
		if r == nil {
			r = &record{first: now}
			c.seen[image.Id] = r
		}
		isUsed := func(name string) bool { return used[name] }
		if used[image.Id] || slices.ContainsFunc(image.RepoTags, isUsed) || slices.ContainsFunc(image.RepoDigests, isUsed) {
			r.used = now
			continue
		}
		if !image.Pinned {
			list = append(list, unused{image.Id, int64(image.Size), *r})
		}
	}
	for id := range c.seen {
		if !present[id] {
			delete(c.seen, id)
		}
	}
	if err := c.Puller.pulls.forget(present, since); err != nil {
		c.Logger.Warn("cannot forget images that are gone", "error", err)
	}
	slices.SortFunc(list, func(a, b unused) int {
		if d := a.used.Compare(b.used); d != 0 {
			return d
		}
		return a.first.Compare(b.first)
	})
	return list, nil
}
