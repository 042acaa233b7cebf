//go:build linux

package lab

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// cgroupParent is the group that all labs of the machine live under, in every
// hierarchy.
const cgroupParent = "clusterctl-lab"

// hierarchy is one mounted cgroup hierarchy of the machine, and what it takes
// to mount it again in a host.
type hierarchy struct {
	Mount   string // where the machine has it
	Type    string // cgroup or cgroup2
	Options string // of the mount: controllers, or none,name=…
}

// cgroupHierarchies reads the machine's hierarchies from mountinfo text.
func cgroupHierarchies(mountinfo string) []hierarchy {
	var found []hierarchy
	for line := range strings.Lines(mountinfo) {
		before, after, ok := strings.Cut(line, " - ")
		left, right := strings.Fields(before), strings.Fields(after)
		if !ok || len(left) < 5 || len(right) < 3 {
			continue
		}
		h := hierarchy{Mount: left[4], Type: right[0]}
		if slices.ContainsFunc(found, func(f hierarchy) bool { return f.Mount == h.Mount }) {
			continue
		}
		switch h.Type {
		case "cgroup2":
			found = append(found, h)
		case "cgroup":
			h.Options = controllerOptions(right[2])
			found = append(found, h)
		}
	}
	return found
}

// controllerOptions picks out of a cgroup v1 superblock's options those that
// name the hierarchy.
func controllerOptions(super string) string {
	var options []string
	for _, option := range strings.Split(super, ",") {
		switch {
		case option == "rw", option == "ro", option == "xattr", option == "clone_children",
			strings.HasPrefix(option, "release_agent="):
		case strings.HasPrefix(option, "name="):
			options = append(options, "none", option)
		default:
			options = append(options, option)
		}
	}
	return strings.Join(options, ",")
}

func machineHierarchies() ([]hierarchy, error) {
	raw, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return nil, fmt.Errorf("read mounts: %w", err)
	}
	found := cgroupHierarchies(string(raw))
	if len(found) == 0 {
		return nil, errors.New("the machine has no cgroup hierarchy mounted")
	}
	return found, nil
}

// unified tells whether the machine has cgroup v2 alone.
func unified(hierarchies []hierarchy) bool {
	return !slices.ContainsFunc(hierarchies, func(h hierarchy) bool { return h.Type == "cgroup" })
}

// cgroup is the path of the lab's group below each hierarchy's mount.
func (l *Lab) cgroup() string { return filepath.Join(cgroupParent, l.short()) }

func (h *Host) cgroup() string { return filepath.Join(h.lab.cgroup(), h.Name) }

// makeCgroups creates the host's group in every hierarchy, with all
// controllers of the machine at hand.
func (h *Host) makeCgroups(hierarchies []hierarchy) error {
	onlyV2 := unified(hierarchies)
	for _, hierarchy := range hierarchies {
		path := hierarchy.Mount
		for _, part := range strings.Split(h.cgroup(), "/") {
			if hierarchy.Type == "cgroup2" {
				if err := delegate(path); err != nil && onlyV2 {
					return err
				}
			}
			child := filepath.Join(path, part)
			if err := os.Mkdir(child, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
				return fmt.Errorf("create cgroup: %w", err)
			}
			if strings.Contains(hierarchy.Options, "cpuset") {
				if err := inheritCPUSet(path, child); err != nil {
					return err
				}
			}
			path = child
		}
	}
	return nil
}

// delegate makes a version 2 group's controllers available to its children.
func delegate(path string) error {
	raw, err := os.ReadFile(filepath.Join(path, "cgroup.controllers"))
	if err != nil {
		return fmt.Errorf("read cgroup controllers: %w", err)
	}
	for _, controller := range strings.Fields(string(raw)) {
		err := os.WriteFile(filepath.Join(path, "cgroup.subtree_control"), []byte("+"+controller), 0)
		if err != nil && slices.Contains([]string{"cpu", "memory", "pids"}, controller) {
			return fmt.Errorf("delegate the %s controller to lab hosts: %w (is this machine itself a container?)", controller, err)
		}
	}
	return nil
}

// inheritCPUSet fills a new cpuset group, which version 1 leaves empty and
// closed to processes.
func inheritCPUSet(parent, child string) error {
	for _, file := range []string{"cpuset.cpus", "cpuset.mems"} {
		raw, err := os.ReadFile(filepath.Join(parent, file))
		if err != nil {
			return fmt.Errorf("read %s: %w", file, err)
		}
		if err := os.WriteFile(filepath.Join(child, file), raw, 0); err != nil {
			return fmt.Errorf("set %s: %w", file, err)
		}
	}
	return nil
}

// enterCgroups moves a process into the host's groups.
func (h *Host) enterCgroups(hierarchies []hierarchy, pid int) error {
	for _, hierarchy := range hierarchies {
		file := filepath.Join(hierarchy.Mount, h.cgroup(), "cgroup.procs")
		if err := os.WriteFile(file, []byte(strconv.Itoa(pid)), 0); err != nil {
			return fmt.Errorf("enter cgroup: %w", err)
		}
	}
	return nil
}

// cgroupProcesses returns every process in the subtree below path, in any
// hierarchy.
func cgroupProcesses(hierarchies []hierarchy, path string) []int {
	seen := map[int]bool{}
	for _, hierarchy := range hierarchies {
		// Groups come and go while we walk: what cannot be read is gone.
		_ = filepath.WalkDir(filepath.Join(hierarchy.Mount, path), func(file string, entry fs.DirEntry, err error) error {
			if err != nil || entry.Name() != "cgroup.procs" {
				return nil
			}
			raw, err := os.ReadFile(file)
			if err != nil {
				return nil
			}
			for _, field := range strings.Fields(string(raw)) {
				if pid, err := strconv.Atoi(field); err == nil && pid > 0 {
					seen[pid] = true
				}
			}
			return nil
		})
	}
	pids := make([]int, 0, len(seen))
	for pid := range seen {
		pids = append(pids, pid)
	}
	return pids
}

// clearCgroups kills what lives below path and removes the groups.
func clearCgroups(hierarchies []hierarchy, path string) error {
	deadline := time.Now().Add(10 * time.Second)
	for {
		for _, pid := range cgroupProcesses(hierarchies, path) {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		var failed error
		for _, hierarchy := range hierarchies {
			if err := removeGroup(filepath.Join(hierarchy.Mount, path)); err != nil {
				failed = err
			}
		}
		if failed == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("remove cgroups: %w", failed)
		}
		time.Sleep(20 * time.Millisecond)
	}
}

// removeGroup removes a group and all below it, deepest first.
func removeGroup(path string) error {
	entries, err := os.ReadDir(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if entry.IsDir() {
			if err := removeGroup(filepath.Join(path, entry.Name())); err != nil {
				return err
			}
		}
	}
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}
