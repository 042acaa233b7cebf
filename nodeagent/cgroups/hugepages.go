package cgroups

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

const (
	hugetlb      = "hugetlb" // the controller
	hugePagesDir = "/sys/kernel/mm/hugepages"
)

// HugePages are the host's huge pages: bytes set aside for each size of page.
func HugePages() map[int64]int64 {
	pages := map[int64]int64{}
	entries, _ := os.ReadDir(hugePagesDir) // a kernel without them has no such directory
	for _, e := range entries {
		kib, err := strconv.ParseInt(strings.TrimSuffix(strings.TrimPrefix(e.Name(), "hugepages-"), "kB"), 10, 64)
		if err != nil {
			continue
		}
		raw, err := os.ReadFile(filepath.Join(hugePagesDir, e.Name(), "nr_hugepages"))
		if err != nil {
			continue
		}
		count, err := strconv.ParseInt(strings.TrimSpace(string(raw)), 10, 64)
		if err != nil {
			continue
		}
		pages[kib<<10] = count * kib << 10
	}
	return pages
}

// HugePageSizes are the sizes of the host's huge pages as cgroups spell them:
// "2MB", "1GB".
func HugePageSizes() []string {
	var sizes []string
	for size := range HugePages() {
		sizes = append(sizes, pageSize(size))
	}
	return sizes
}

// HugePageResource is the resource of huge pages of size bytes.
func HugePageResource(size int64) v1.ResourceName {
	return v1.ResourceName(v1.ResourceHugePagesPrefix + resource.NewQuantity(size, resource.BinarySI).String())
}

// pageSize is how cgroups spell a size of pages.
func pageSize(bytes int64) string {
	unit := 0
	for bytes >= 1024 && bytes%1024 == 0 && unit < 3 {
		bytes /= 1024
		unit++
	}
	return strconv.FormatInt(bytes, 10) + []string{"B", "KB", "MB", "GB"}[unit]
}

// hugePagesOf sums huge pages in a list up by size as cgroups spell it.
func hugePagesOf(list v1.ResourceList) map[string]int64 {
	sums := map[string]int64{}
	for name, q := range list {
		text, ok := strings.CutPrefix(string(name), v1.ResourceHugePagesPrefix)
		if !ok {
			continue
		}
		if size, err := resource.ParseQuantity(text); err == nil {
			sums[pageSize(size.Value())] += q.Value()
		}
	}
	return sums
}

// hugePageLimits are a container's limits for every size that the host has:
// none of what it did not ask for.
func hugePageLimits(pod *v1.Pod, c *v1.Container, sizes []string) []*criv1.HugepageLimit {
	var limits []*criv1.HugepageLimit
	own := hugePagesOf(c.Resources.Limits)
	var pods map[string]int64
	if pod.Spec.Resources != nil {
		pods = hugePagesOf(pod.Spec.Resources.Limits)
	}
	for _, size := range sizes {
		limit, ok := own[size]
		if !ok {
			limit = pods[size]
		}
		limits = append(limits, &criv1.HugepageLimit{PageSize: size, Limit: uint64(limit)})
	}
	return limits
}

// hasHugetlb says whether there is a hierarchy in which groups can be made; in
// a container it may be there to be read only.
func hasHugetlb(root string) bool {
	raw, err := os.ReadFile(filepath.Join(root, "cgroup.controllers"))
	if err != nil { // version 1
		return unix.Access(filepath.Join(root, hugetlb), unix.W_OK) == nil
	}
	return strings.Contains(string(raw), hugetlb)
}

// hostHasHugetlb is about the host; not every runtime passes over limits that
// nothing can keep.
var hostHasHugetlb = sync.OnceValue(func() bool { return hasHugetlb("/sys/fs/cgroup") })

// limitHugePages allows the pod the huge pages that it asks for, and no other.
func (t *Tree) limitHugePages(path []string, pod *v1.Pod) error {
	group := "/" + strings.Join(path, "/")
	if t.systemd {
		group = slicePath(path) // systemd does not know of huge pages
	}
	asked := hugePagesOf(resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{}))
	for _, size := range t.huge {
		file := filepath.Join(t.root, hugetlb, group, fmt.Sprintf("hugetlb.%s.limit_in_bytes", size))
		if t.unified {
			file = filepath.Join(t.root, group, fmt.Sprintf("hugetlb.%s.max", size))
		}
		if _, err := os.Stat(file); err != nil && t.systemd {
			continue // the controller is not delegated
		}
		if err := write(file, number(asked[size])); err != nil {
			return err
		}
	}
	return nil
}
