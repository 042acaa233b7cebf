package volumes

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"

	"clusterctl/nodeagent/cgroups"
)

// memorySize is how many bytes a volume in memory may take: what the volume says,
// but no more than its pod may have, nor than the node gives to pods; 0: nothing
// is known, and the kernel decides.
func memorySize(pod *v1.Pod, limit *resource.Quantity, allocatable v1.ResourceList) int64 {
	size := allocatable.Memory().Value()
	atMost := func(n int64) {
		if n > 0 && (size == 0 || n < size) {
			size = n
		}
	}
	atMost(cgroups.PodLimits(pod).Memory)
	if limit != nil {
		atMost(limit.Value())
	}
	return size
}

// memory makes path a file system in memory, of size bytes at most (0 for
// the kernel's default), unless it is one already.
func (m *Manager) memory(path string, size int64) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	if mounted, err := mountinfo.Mounted(path); err != nil || mounted {
		return err
	}
	options := "mode=0777"
	if size > 0 {
		options += fmt.Sprintf(",size=%d", size)
	}
	if err := unix.Mount("tmpfs", path, "tmpfs", 0, options); err != nil {
		return fmt.Errorf("mount memory on %s: %w", path, err)
	}
	return nil
}

// onHugePages says whether a medium is huge pages, of any or of a certain size.
func onHugePages(medium v1.StorageMedium) bool {
	return medium == v1.StorageMediumHugePages || strings.HasPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix))
}

// mediumSize is the size of the pages that a medium names; ok is false where it
// leaves that to what the pod asks for.
func mediumSize(medium v1.StorageMedium) (size resource.Quantity, ok bool, err error) {
	text, ok := strings.CutPrefix(string(medium), string(v1.StorageMediumHugePagesPrefix))
	if !ok {
		return size, false, nil
	}
	if size, err = resource.ParseQuantity(text); err != nil {
		return size, false, fmt.Errorf("read page size of medium %s: %w", medium, err)
	}
	return size, true, nil
}

// pageSize is the size of the pages that a volume of the pod is to consist of: one
// that the pod asks for.
func pageSize(medium v1.StorageMedium, pod *v1.Pod) (size resource.Quantity, err error) {
	wanted, certain, err := mediumSize(medium)
	if err != nil {
		return size, err
	}
	var lists []v1.ResourceList
	if pod.Spec.Resources != nil {
		lists = append(lists, pod.Spec.Resources.Requests)
	}
	for _, containers := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range containers {
			lists = append(lists, containers[i].Resources.Requests)
		}
	}
	found := false
	for _, list := range lists {
		for name := range list {
			text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
			if !ok {
				continue
			}
			asked, err := resource.ParseQuantity(text)
			switch {
			case err != nil:
				return size, fmt.Errorf("read page size of resource %s: %w", name, err)
			case certain && asked.Cmp(wanted) != 0:
				continue
			case found && asked.Cmp(size) != 0:
				return size, fmt.Errorf("medium: %s can't be used if container requests multiple huge page sizes", medium)
			}
			size, found = asked, true
		}
	}
	if !found {
		return size, fmt.Errorf("medium %s: hugePages storage requested, but there is no resource request for huge pages", medium)
	}
	return size, nil
}

// hugePages makes path a file system of huge pages, unless it is one already. How
// many there may be is for the pod's cgroups to say.
func (m *Manager) hugePages(pod *v1.Pod, path string, medium v1.StorageMedium) error {
	if err := os.MkdirAll(path, 0o755); err != nil {
		return err
	}
	mounts, err := mountinfo.GetMounts(mountinfo.SingleEntryFilter(path))
	if err != nil {
		return fmt.Errorf("read mounts: %w", err)
	}
	if len(mounts) > 0 && mounts[0].FSType == "hugetlbfs" {
		return samePages(pod, path, medium, mounts[0].VFSOptions)
	}
	size, err := pageSize(medium, pod)
	if err != nil {
		return err
	}
	if err := unix.Mount("nodev", path, "hugetlbfs", 0, "pagesize="+size.String()); err != nil {
		return fmt.Errorf("mount huge pages on %s: %w", path, err)
	}
	return nil
}

// samePages fails if what is mounted on path, with options, does not consist of the
// pages that the medium names.
func samePages(pod *v1.Pod, path string, medium v1.StorageMedium, options string) error {
	wanted, certain, err := mediumSize(medium)
	if err != nil || !certain {
		return err
	}
	for option := range strings.SplitSeq(options, ",") {
		text, ok := strings.CutPrefix(option, "pagesize=")
		if !ok {
			continue
		}
		have, err := resource.ParseQuantity(strings.TrimSuffix(text, "i") + "i") // the kernel writes 2M
		if err != nil {
			return fmt.Errorf("read page size of %s: %w", path, err)
		}
		if have.Cmp(wanted) != 0 {
			return fmt.Errorf("pod %s: mounted dir %s pagesize '%s' and requested medium size '%s' differ", pod.UID, path, have.String(), wanted.String())
		}
		return nil
	}
	return errors.New("pod " + string(pod.UID) + ": mounted dir " + path + " pagesize is not determined")
}
