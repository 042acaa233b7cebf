package cgroups

import (
	"os"
	"path/filepath"
	"sync"

	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// swapControl is how the kernel lets a container be kept from swapping.
type swapControl int

const (
	noSwapControl swapControl = iota
	swapControlV1             // memory and swap are limited together
	swapControlV2             // swap has a limit of its own
)

var hostSwapControl = sync.OnceValue(func() swapControl { return findSwapControl("/sys/fs/cgroup") })

func findSwapControl(root string) swapControl {
	if _, err := os.Stat(filepath.Join(root, "memory", "memory.memsw.limit_in_bytes")); err == nil {
		return swapControlV1
	}
	if files, _ := filepath.Glob(filepath.Join(root, "*", "memory.swap.max")); len(files) > 0 {
		return swapControlV2
	}
	return noSwapControl
}

// withoutSwap keeps a container from swapping, where the host can.
func withoutSwap(r *criv1.LinuxContainerResources) {
	switch hostSwapControl() {
	case swapControlV1:
		r.MemorySwapLimitInBytes = r.MemoryLimitInBytes
	case swapControlV2:
		if r.Unified == nil {
			r.Unified = map[string]string{}
		}
		r.Unified["memory.swap.max"] = "0"
	}
}
