package volumes

import (
	"fmt"
	"os"

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
