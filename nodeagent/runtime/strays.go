package runtime

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// strayCheck is how long a shim may outlive its bundle: one that ends in good
// order takes a moment.
const strayCheck = 20 * time.Second

// EndStrays ends, until ctx does, shims that containerd has lost. A call to make
// a sandbox that is cancelled halfway, as it is when its caller is killed, has
// containerd take the sandbox's bundle away and leave the shim behind, which
// then waits for ever. Bundles are below tasks; another runtime has none there.
func EndStrays(ctx context.Context, tasks string, logger *slog.Logger) {
	var before []int
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(strayCheck):
		}
		lost := lostShims("/proc", tasks)
		for _, pid := range lost {
			if slices.Contains(before, pid) {
				logger.Warn("ending a shim that the runtime has lost", "pid", pid)
				end(pid, tasks)
			}
		}
		before = lost
	}
}

// lostShims are the processes that work in a directory below tasks that is gone.
func lostShims(proc, tasks string) []int {
	var lost []int
	entries, _ := os.ReadDir(proc) // always there
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && isLost(filepath.Join(proc, e.Name()), tasks) {
			lost = append(lost, pid)
		}
	}
	return lost
}

// isLost is about one process by its directory in /proc.
func isLost(process, tasks string) bool {
	dir, err := os.Readlink(filepath.Join(process, "cwd"))
	return err == nil && strings.HasPrefix(dir, tasks+"/") && strings.HasSuffix(dir, " (deleted)")
}

// end ends the process unless its number has come to mean another one.
func end(pid int, tasks string) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if isLost(filepath.Join("/proc", strconv.Itoa(pid)), tasks) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it has ended
	}
}
