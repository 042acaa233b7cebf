package cgroups

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Drivers.
const (
	Cgroupfs = "cgroupfs"
	Systemd  = "systemd"
)

// Tree makes and removes the groups of pods. Safe for concurrent use: every
// operation is idempotent and touches one pod's group.
type Tree struct {
	Options
	root    string // where cgroups are mounted
	unified bool   // cgroup v2
	systemd bool
	units   slicer   // with the systemd driver
	huge    []string // sizes of pages that can be limited, as cgroups spell them
}

// Options are what the groups shall be like.
type Options struct {
	Driver   string // Cgroupfs or Systemd
	PodPIDs  int64  // processes that one pod may have; 0 for no limit of its own
	Together Limits // what all pods may have
}

// slicer starts and stops systemd slices.
type slicer interface {
	start(slice string, limits Limits) error
	stop(slice string) error
}

// Open finds out which version of cgroups the host has, and makes the
// groups of the classes.
func Open(root string, options Options) (*Tree, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(root, &fs); err != nil {
		return nil, fmt.Errorf("look at %s: %w", root, err)
	}
	t := &Tree{Options: options, root: root, unified: fs.Type == unix.CGROUP2_SUPER_MAGIC}
	if hasHugetlb(root) {
		t.huge = HugePageSizes()
	}
	switch options.Driver {
	case Systemd:
		t.systemd, t.units = true, systemdSlices{}
	case Cgroupfs, "":
	default:
		return nil, fmt.Errorf("cgroup driver %q: want %s or %s", options.Driver, Cgroupfs, Systemd)
	}
	return t, t.prepare()
}

func (t *Tree) prepare() error {
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		limits := Limits{}
		switch class {
		case v1.PodQOSGuaranteed: // the parent of all
			limits = t.Together
		case v1.PodQOSBestEffort:
			limits.CPUShares = minShares
		}
		if err := t.make(classPath(class), limits); err != nil {
			return fmt.Errorf("make cgroup of %s pods: %w", class, err)
		}
	}
	return nil
}

// hostIsUnified says that the host has cgroups v2.
var hostIsUnified = sync.OnceValue(func() bool {
	var fs unix.Statfs_t
	return unix.Statfs("/sys/fs/cgroup", &fs) == nil && fs.Type == unix.CGROUP2_SUPER_MAGIC
})

// Version is 1 or 2.
func (t *Tree) Version() int {
	if t.unified {
		return 2
	}
	return 1
}

// Driver says who makes groups: Cgroupfs or Systemd.
func (t *Tree) Driver() string {
	if t.systemd {
		return Systemd
	}
	return Cgroupfs
}

// Parent is the cgroup parent that the runtime puts the pod's containers in,
// in the notation of the driver.
func (t *Tree) Parent(pod *v1.Pod) string {
	path := podPath(QOS(pod), pod.UID)
	if t.systemd {
		return slicePath(path)
	}
	return "/" + strings.Join(path, "/")
}

// Create makes the pod's group with limits, or brings them up to date. What
// limits leave open stays as it is.
func (t *Tree) Create(pod *v1.Pod, limits Limits) error {
	path := podPath(QOS(pod), pod.UID)
	limits.PIDs = t.PodPIDs
	if err := t.make(path, limits); err != nil {
		return fmt.Errorf("make cgroup of pod: %w", err)
	}
	if err := t.limitHugePages(path, pod); err != nil {
		return fmt.Errorf("limit huge pages of pod: %w", err)
	}
	return nil
}

// Balance gives burstable pods together the weight that those among pods ask
// for: their groups share one, which stands against guaranteed pods.
func (t *Tree) Balance(pods []*v1.Pod) error {
	milli := int64(0)
	for _, pod := range pods {
		if QOS(pod) == v1.PodQOSBurstable {
			requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
			milli += requests.Cpu().MilliValue()
		}
	}
	if err := t.make(classPath(v1.PodQOSBurstable), Limits{CPUShares: Shares(milli)}); err != nil {
		return fmt.Errorf("weigh burstable pods: %w", err)
	}
	return nil
}

// Remove removes the pod's group and every empty group below it. A pod that
// has none is fine.
func (t *Tree) Remove(uid types.UID) error {
	var faults []error
	for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
		path := podPath(class, uid)
		group := filepath.Join(path...)
		if t.systemd {
			group = slicePath(path)
			if _, err := os.Stat(t.dirs(group)[0]); err == nil {
				faults = append(faults, t.units.stop(sliceName(path)))
			}
			if t.unified {
				continue
			}
		}
		for _, root := range t.hierarchies() {
			faults = append(faults, removeTree(filepath.Join(root, group)))
		}
	}
	if err := errors.Join(faults...); err != nil {
		return fmt.Errorf("remove cgroup of pod %s: %w", uid, err)
	}
	return nil
}

// Pods are the pods that have a group.
func (t *Tree) Pods() []types.UID {
	if t.systemd {
		return nil // systemd drops an empty transient slice by itself
	}
	var uids []types.UID
	for _, root := range t.hierarchies() {
		for _, class := range []v1.PodQOSClass{v1.PodQOSGuaranteed, v1.PodQOSBurstable, v1.PodQOSBestEffort} {
			entries, _ := os.ReadDir(filepath.Join(root, filepath.Join(classPath(class)...))) // none
			for _, e := range entries {
				if uid, ok := strings.CutPrefix(e.Name(), "pod"); ok && e.IsDir() {
					uids = append(uids, types.UID(uid))
				}
			}
		}
	}
	slices.Sort(uids)
	return slices.Compact(uids)
}

// hierarchies are the directories that a pod may have a group below: of cgroup
// v1 every one, since the runtime makes groups in all of them and takes away
// its containers' only.
func (t *Tree) hierarchies() []string {
	if t.unified {
		return []string{t.root}
	}
	var roots []string
	entries, _ := os.ReadDir(t.root) // what cannot be listed has no groups to find
	for _, e := range entries {
		if e.IsDir() { // links lead to others of them
			roots = append(roots, filepath.Join(t.root, e.Name()))
		}
	}
	return roots
}

// make creates the group at path (["kubepods", "burstable", "pod…"]).
func (t *Tree) make(path []string, limits Limits) error {
	if t.systemd {
		return t.units.start(sliceName(path), limits)
	}
	group := "/" + strings.Join(path, "/")
	if t.unified {
		if err := t.delegate(path); err != nil {
			return err
		}
	}
	for _, dir := range t.dirs(group) {
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return t.limit(group, limits)
}

// controllers of cgroup v1 in which a pod gets a group of its own.
var controllersV1 = []string{"cpu", "memory", "pids"}

// dirs are the directories that make up a group: one in each hierarchy.
func (t *Tree) dirs(group string) []string {
	if t.unified {
		return []string{filepath.Join(t.root, group)}
	}
	dirs := make([]string, 0, len(controllersV1)+1)
	for _, c := range controllersV1 {
		dirs = append(dirs, filepath.Join(t.root, c, group))
	}
	if len(t.huge) > 0 {
		dirs = append(dirs, filepath.Join(t.root, hugetlb, group))
	}
	return dirs
}

// delegate turns the controllers on in every group above path's last.
func (t *Tree) delegate(path []string) error {
	dir := t.root
	for _, name := range path {
		raw, err := os.ReadFile(filepath.Join(dir, "cgroup.controllers"))
		if err != nil {
			return fmt.Errorf("read controllers: %w", err)
		}
		for _, c := range strings.Fields(string(raw)) {
			switch c {
			case "cpu", "memory", "pids", "cpuset", "io", "hugetlb":
				if err := write(filepath.Join(dir, "cgroup.subtree_control"), "+"+c); err != nil {
					return err
				}
			}
		}
		dir = filepath.Join(dir, name)
		if err := os.MkdirAll(dir, 0o755); err != nil {
			return err
		}
	}
	return nil
}

func (t *Tree) limit(group string, l Limits) error {
	type setting struct{ controller, file, value string }
	var settings []setting
	if t.unified {
		if l.CPUShares > 0 {
			settings = append(settings, setting{"", "cpu.weight", number(Weight(l.CPUShares))})
		}
		if l.CPUQuota > 0 {
			settings = append(settings, setting{"", "cpu.max", fmt.Sprintf("%d %d", l.CPUQuota, QuotaPeriod)})
		}
		if l.Memory > 0 {
			settings = append(settings, setting{"", "memory.max", number(l.Memory)})
		}
		if l.PIDs > 0 {
			settings = append(settings, setting{"", "pids.max", number(l.PIDs)})
		}
	} else {
		if l.CPUShares > 0 {
			settings = append(settings, setting{"cpu", "cpu.shares", number(l.CPUShares)})
		}
		if l.CPUQuota > 0 {
			settings = append(settings,
				setting{"cpu", "cpu.cfs_period_us", number(QuotaPeriod)},
				setting{"cpu", "cpu.cfs_quota_us", number(l.CPUQuota)})
		}
		if l.Memory > 0 {
			settings = append(settings, setting{"memory", "memory.limit_in_bytes", number(l.Memory)})
		}
		if l.PIDs > 0 {
			settings = append(settings, setting{"pids", "pids.max", number(l.PIDs)})
		}
	}
	for _, s := range settings {
		if err := write(filepath.Join(t.root, s.controller, group, s.file), s.value); err != nil {
			return err
		}
	}
	return nil
}

// removeTree removes a group and the empty groups below it.
func removeTree(dir string) error {
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.IsDir() {
			if err := removeTree(filepath.Join(dir, e.Name())); err != nil {
				return err
			}
		}
	}
	err = unix.Rmdir(dir)
	for range killAttempts {
		if !errors.Is(err, unix.EBUSY) {
			break
		}
		kill(dir)
		time.Sleep(killWait)
		err = unix.Rmdir(dir)
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("rmdir %s: %w", dir, err)
	}
	return nil
}

// A group is removed when nothing should run in it any more: what does was
// lost by the runtime, and nobody else will end it.
const (
	killAttempts = 5
	killWait     = 20 * time.Millisecond
)

// kill ends the processes in dir. They may take a while to go.
func kill(dir string) {
	content, err := os.ReadFile(filepath.Join(dir, "cgroup.procs"))
	if err != nil {
		return // gone, or to be seen by the rmdir that follows
	}
	for _, field := range strings.Fields(string(content)) {
		if pid, err := strconv.Atoi(field); err == nil && pid > 1 {
			_ = unix.Kill(pid, unix.SIGKILL) // gone already
		}
	}
}

func write(file, value string) error {
	if err := os.WriteFile(file, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set %s to %s: %w", file, value, err)
	}
	return nil
}

func number(n int64) string { return strconv.FormatInt(n, 10) }

func classPath(class v1.PodQOSClass) []string {
	switch class {
	case v1.PodQOSBurstable:
		return []string{"kubepods", "burstable"}
	case v1.PodQOSBestEffort:
		return []string{"kubepods", "besteffort"}
	}
	return []string{"kubepods"}
}

func podPath(class v1.PodQOSClass, uid types.UID) []string {
	return append(classPath(class), "pod"+string(uid))
}
