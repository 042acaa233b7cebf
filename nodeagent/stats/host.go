package stats

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"runtime"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// Memory of the host, in bytes.
type Memory struct {
	Total, Available    uint64
	SwapTotal, SwapFree uint64
}

// ReadMemory reads /proc/meminfo.
func ReadMemory() (Memory, error) {
	var m Memory
	f, err := os.Open("/proc/meminfo")
	if err != nil {
		return m, fmt.Errorf("read memory: %w", err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(lines.Text())
		if len(fields) < 2 {
			continue
		}
		kib, err := strconv.ParseUint(fields[1], 10, 64)
		if err != nil {
			continue
		}
		switch fields[0] {
		case "MemTotal:":
			m.Total = kib << 10
		case "MemAvailable:":
			m.Available = kib << 10
		case "SwapTotal:":
			m.SwapTotal = kib << 10
		case "SwapFree:":
			m.SwapFree = kib << 10
		}
	}
	return m, lines.Err()
}

// ReadPodsMemory is what all pods of the host may have together, and what is left of
// it; ok is false where nothing limits them. The path is where control groups are
// mounted.
func ReadPodsMemory(cgroups string) (m Memory, ok bool) {
	reader := newGroupReader(cgroups)
	return reader.podsMemory()
}

// Disk is a file system's space in bytes and inodes.
type Disk struct {
	Total, Available      uint64
	Inodes, InodesFree    uint64
	BlocksUsed, InodeUsed uint64 // bytes and inodes in use
}

// ReadDisk measures the file system that holds path.
func ReadDisk(path string) (Disk, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(path, &fs); err != nil {
		return Disk{}, fmt.Errorf("measure %s: %w", path, err)
	}
	block := uint64(fs.Bsize)
	return Disk{
		Total: fs.Blocks * block, Available: fs.Bavail * block, BlocksUsed: (fs.Blocks - fs.Bfree) * block,
		Inodes: fs.Files, InodesFree: fs.Ffree, InodeUsed: fs.Files - fs.Ffree,
	}, nil
}

// SameDisk says whether two paths are on one file system.
func SameDisk(a, b string) (bool, error) {
	var one, other unix.Stat_t
	if err := errors.Join(unix.Stat(a, &one), unix.Stat(b, &other)); err != nil {
		return false, fmt.Errorf("find the file systems of %s and %s: %w", a, b, err)
	}
	return one.Dev == other.Dev, nil
}

// CPUs is how many the host has.
func CPUs() int { return runtime.NumCPU() }

// ticksPerSecond is the unit of /proc/stat; Linux reports 100 to user space
// on every architecture.
const ticksPerSecond = 100

// CPUNanoseconds is the CPU time that the host has spent working.
func CPUNanoseconds() (uint64, error) {
	raw, err := os.ReadFile("/proc/stat")
	if err != nil {
		return 0, fmt.Errorf("read CPU time: %w", err)
	}
	line, _, _ := strings.Cut(string(raw), "\n")
	fields := strings.Fields(line)
	var ticks uint64
	for i, field := range fields {
		if i == 0 || i == 4 || i == 5 || i > 8 { // idle, iowait; guest time is in user time already
			continue
		}
		n, err := strconv.ParseUint(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("read CPU time: %w", err)
		}
		ticks += n
	}
	return ticks * (1_000_000_000 / ticksPerSecond), nil
}

// Booted is when the host was started; zero if the kernel does not tell.
func Booted() time.Time {
	for line := range strings.Lines(text("/proc/stat")) {
		if fields := strings.Fields(line); len(fields) == 2 && fields[0] == "btime" {
			if n, err := strconv.ParseInt(fields[1], 10, 64); err == nil {
				return time.Unix(n, 0)
			}
		}
	}
	return time.Time{}
}

// PIDs are how many processes and threads the host runs, and how many it can:
// 0 where the kernel does not tell.
func PIDs() (used, limit uint64) {
	for _, name := range []string{"/proc/sys/kernel/pid_max", "/proc/sys/kernel/threads-max"} {
		raw, err := os.ReadFile(name)
		if err != nil {
			continue
		}
		if n, err := strconv.ParseUint(strings.TrimSpace(string(raw)), 10, 64); err == nil && (limit == 0 || n < limit) {
			limit = n
		}
	}
	raw, _ := os.ReadFile("/proc/loadavg") // its fourth field: running/all
	if fields := strings.Fields(string(raw)); len(fields) > 3 {
		_, all, _ := strings.Cut(fields[3], "/")
		used, _ = strconv.ParseUint(all, 10, 64)
	}
	return used, limit
}
