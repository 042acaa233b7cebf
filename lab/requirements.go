//go:build linux

package lab

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Check returns everything this machine lacks to run a lab, as one error, or
// nil.
func (s *Store) Check() error {
	if os.Geteuid() != 0 {
		return errors.New("a lab needs root: it makes namespaces, mounts and links")
	}
	var missing []error
	if _, err := exec.LookPath("debootstrap"); err != nil && !exists(filepath.Join(s.CacheDir, treeKey())) {
		missing = append(missing, errors.New("program debootstrap is missing: apt-get install debootstrap"))
	}
	if _, err := exec.LookPath("cp"); err != nil {
		missing = append(missing, errors.New("program cp is missing: apt-get install coreutils"))
	}
	for _, ns := range []string{"cgroup", "ipc", "mnt", "net", "pid", "uts"} {
		if !exists("/proc/self/ns/" + ns) {
			missing = append(missing, fmt.Errorf("the kernel has no %s namespaces", ns))
		}
	}
	if raw, err := os.ReadFile("/proc/filesystems"); err == nil && !slices.Contains(strings.Fields(string(raw)), "overlay") {
		if err := exec.Command("modprobe", "overlay").Run(); err != nil {
			missing = append(missing, errors.New("the kernel has no overlay file system"))
		}
	}
	missing = append(missing, s.checkDir())
	if hierarchies, err := machineHierarchies(); err != nil {
		missing = append(missing, err)
	} else {
		missing = append(missing, checkHierarchies(hierarchies))
	}
	return errors.Join(missing...)
}

// checkDir tells whether overlays can be made in the store's directory.
func (s *Store) checkDir() error {
	if err := os.MkdirAll(s.Dir, 0o700); err != nil {
		return fmt.Errorf("create lab directory: %w", err)
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(s.Dir, &stat); err != nil {
		return fmt.Errorf("examine lab directory: %w", err)
	}
	if stat.Type == unix.OVERLAYFS_SUPER_MAGIC {
		return fmt.Errorf("%s lies on an overlay file system, which cannot carry another: choose a directory on a disk with --dir", s.Dir)
	}
	if strings.ContainsAny(s.Dir+s.CacheDir, ":,\\") {
		return fmt.Errorf("overlay mounts cannot be told a path with a colon, comma or backslash: %s, %s", s.Dir, s.CacheDir)
	}
	return nil
}

// checkHierarchies tells whether systemd can run on the machine's cgroups.
func checkHierarchies(hierarchies []hierarchy) error {
	if unified(hierarchies) {
		return nil
	}
	if !slices.ContainsFunc(hierarchies, func(h hierarchy) bool { return h.directory() == "systemd" }) {
		return errors.New("the machine has cgroup v1 without systemd's hierarchy: " +
			"mkdir /sys/fs/cgroup/systemd && mount -t cgroup -o none,name=systemd cgroup /sys/fs/cgroup/systemd")
	}
	return nil
}

// inotifyPerHost is how many inotify instances systemd, its services and a
// node's own programs use on one host.
const inotifyPerHost = 24

// warnings are limits of the machine that hosts may run into.
func warnings(hosts int) []string {
	var found []string
	raw, err := os.ReadFile("/proc/sys/fs/inotify/max_user_instances")
	if err != nil {
		return nil
	}
	if limit, err := strconv.Atoi(strings.TrimSpace(string(raw))); err == nil && limit < hosts*inotifyPerHost {
		found = append(found, fmt.Sprintf("fs.inotify.max_user_instances is %d, which %d hosts share: should a service fail with \"too many open files\", raise it to %d",
			limit, hosts, max(512, hosts*inotifyPerHost)))
	}
	return found
}
