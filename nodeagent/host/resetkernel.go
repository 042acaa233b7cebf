package host

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"clusterctl/hostconfig"
)

// process is a line of the process table.
type process struct {
	pid, parent int
	command     string // arguments, separated by blanks
}

func (h *Hand) processes() []process {
	var list []process
	entries, err := os.ReadDir(h.path("/proc"))
	if err != nil {
		return nil
	}
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		stat := h.read("/proc/" + e.Name() + "/stat")
		// The command stands in parentheses and may hold any character.
		i := strings.LastIndex(stat, ")")
		if i < 0 {
			continue
		}
		fields := strings.Fields(stat[i+1:])
		if len(fields) < 2 || fields[0] == "Z" {
			continue
		}
		parent, _ := strconv.Atoi(fields[1])
		command := strings.TrimSpace(strings.ReplaceAll(h.read("/proc/"+e.Name()+"/cmdline"), "\x00", " "))
		list = append(list, process{pid, parent, command})
	}
	return list
}

// containerProcesses are our shims, everything below them, and whatever is in
// the pods' cgroups.
func (h *Hand) containerProcesses() []int {
	table := h.processes()
	var found []int
	add := func(pid int) bool {
		if pid <= 1 || pid == os.Getpid() || slices.Contains(found, pid) {
			return false
		}
		found = append(found, pid)
		return true
	}
	for _, p := range table {
		if strings.Contains(p.command, "containerd-shim") && (strings.Contains(p.command, hostconfig.CRISock) || strings.HasPrefix(p.command, hostconfig.LibDir+"/")) {
			add(p.pid)
		}
	}
	for _, directory := range h.podCgroups() {
		file, err := os.Open(filepath.Join(directory, "cgroup.procs"))
		if err != nil {
			continue
		}
		scanner := bufio.NewScanner(file)
		for scanner.Scan() {
			if pid, err := strconv.Atoi(scanner.Text()); err == nil {
				add(pid)
			}
		}
		file.Close()
	}
	for more := true; more; {
		more = false
		for _, p := range table {
			if slices.Contains(found, p.parent) && add(p.pid) {
				more = true
			}
		}
	}
	return found
}

// killContainers ends every container. Nobody is left to run its pods, so
// there is nothing to wait for.
func (r *reset) killContainers() error {
	total := 0
	for range 50 {
		left := r.containerProcesses()
		if len(left) == 0 {
			if total > 0 {
				r.report(fmt.Sprintf("ended %d processes of containers", total))
			}
			return nil
		}
		total = max(total, len(left))
		for _, pid := range left {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil && !errors.Is(err, unix.ESRCH) {
				return fmt.Errorf("kill %d: %w", pid, err)
			}
		}
		time.Sleep(50 * time.Millisecond)
	}
	return fmt.Errorf("processes %v do not end", r.containerProcesses())
}

// podCgroups lists the cgroups of pods in every hierarchy, parents first.
func (h *Hand) podCgroups() []string {
	var list []string
	const mount = "/sys/fs/cgroup"
	roots := []string{h.path(mount)}
	if entries, err := os.ReadDir(h.path(mount)); err == nil && !h.exists(mount+"/cgroup.controllers") {
		roots = nil
		for _, e := range entries {
			if e.IsDir() {
				roots = append(roots, filepath.Join(h.path(mount), e.Name()))
			}
		}
	}
	for _, root := range roots {
		for _, name := range []string{"kubepods", "kubepods.slice"} {
			_ = filepath.WalkDir(filepath.Join(root, name), func(path string, entry fs.DirEntry, err error) error {
				if err == nil && entry.IsDir() {
					list = append(list, path)
				}
				return nil
			})
		}
	}
	return list
}

func (r *reset) removeCgroups() error {
	list := r.podCgroups()
	if len(list) == 0 {
		return nil
	}
	var last error
	for range 20 { // the kernel lets go of a cgroup a moment after its last process
		last = nil
		for _, directory := range slices.Backward(list) {
			if err := unix.Rmdir(directory); err != nil && !errors.Is(err, unix.ENOENT) {
				last = fmt.Errorf("remove cgroup %s: %w", directory, err)
			}
		}
		if last == nil {
			r.report(fmt.Sprintf("removed %d cgroups of pods", len(list)))
			return nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return last
}

// mount is a line of mountinfo.
type mount struct {
	point        string
	kind         string // file system type
	superOptions string
}

// parseMount reads a line of /proc/self/mountinfo.
func parseMount(line string) (mount, bool) {
	before, after, ok := strings.Cut(line, " - ")
	fields, rest := strings.Fields(before), strings.Fields(after)
	if !ok || len(fields) < 6 || len(rest) < 3 {
		return mount{}, false
	}
	return mount{point: unescapeMount(fields[4]), kind: rest[0], superOptions: rest[2]}, true
}

// unescapeMount undoes the kernel's octal escapes of blanks and the like.
func unescapeMount(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// unmountAll unmounts everything below our directories, the last mounted first.
// A directory of ours that is itself a file system of the machine's stays.
func (r *reset) unmountAll() error {
	var points []string
	for line := range strings.Lines(r.read("/proc/self/mountinfo")) {
		m, ok := parseMount(line)
		if !ok {
			continue
		}
		for _, directory := range ours {
			if strings.HasPrefix(m.point, directory+"/") {
				points = append(points, m.point)
			}
		}
	}
	var faults []error
	for _, point := range slices.Backward(points) {
		if err := unix.Unmount(point, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
			faults = append(faults, fmt.Errorf("unmount %s: %w", point, err))
		}
	}
	if len(points) > 0 {
		r.report(fmt.Sprintf("unmounted %d file systems", len(points)))
	}
	return errors.Join(faults...)
}

// removeLinks removes the pods' veth pairs that are left, then our own links.
func (r *reset) removeLinks() error {
	links, err := netlink.LinkList()
	if err != nil && !errors.Is(err, netlink.ErrDumpInterrupted) {
		return fmt.Errorf("list links: %w", err)
	}
	bridge := -1
	for _, link := range links {
		if link.Attrs().Name == ownLinks[0] {
			bridge = link.Attrs().Index
		}
	}
	var faults []error
	for _, link := range links {
		attributes := link.Attrs()
		isVeth := link.Type() == "veth" && bridge >= 0 && attributes.MasterIndex == bridge
		if !isVeth && !slices.Contains(ownLinks, attributes.Name) {
			continue
		}
		if err := netlink.LinkDel(link); err != nil && !errors.Is(err, unix.ENODEV) && !errors.Is(err, unix.EINVAL) {
			faults = append(faults, fmt.Errorf("remove link %s: %w", attributes.Name, err))
			continue
		}
		r.report("removed link " + attributes.Name)
	}
	return errors.Join(faults...)
}
