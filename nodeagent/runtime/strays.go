package runtime

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// strayCheck is how long something may outlive its bundle: what ends in good
// order takes a moment.
const strayCheck = 20 * time.Second

// Strays are shims and runc's containers that containerd has lost. A call to
// make one that is cancelled halfway, as it is when its caller is killed, has
// containerd take the bundle away and leave the rest behind: a shim that waits
// for ever, a state that nobody reads. Another runtime has none where this one
// looks.
type Strays struct {
	Tasks  string // bundles are below it, as <namespace>/<id>
	Runc   string // the program
	Root   string // runc's states are below it, as <namespace>/<id>
	Logger *slog.Logger
}

// End ends strays until ctx does.
func (s *Strays) End(ctx context.Context) {
	var shims []int
	var states []string
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(strayCheck):
		}
		before, lost := shims, s.shims("/proc")
		for _, pid := range lost {
			if slices.Contains(before, pid) {
				s.Logger.Warn("ending a shim that the runtime has lost", "pid", pid)
				s.endShim(pid)
			}
		}
		shims = lost
		had, stale := states, s.states()
		for _, state := range stale {
			if slices.Contains(had, state) {
				s.Logger.Warn("removing a container that the runtime has lost", "state", state)
				if err := s.remove(ctx, state); err != nil {
					s.Logger.Warn("cannot remove a container that the runtime has lost", "error", err)
				}
			}
		}
		states = stale
	}
}

// shims are the processes that work in a bundle that is gone.
func (s *Strays) shims(proc string) []int {
	var lost []int
	entries, _ := os.ReadDir(proc) // always there
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err == nil && s.isLost(filepath.Join(proc, e.Name())) {
			lost = append(lost, pid)
		}
	}
	return lost
}

// isLost is about one process by its directory in /proc.
func (s *Strays) isLost(process string) bool {
	dir, err := os.Readlink(filepath.Join(process, "cwd"))
	return err == nil && strings.HasPrefix(dir, s.Tasks+"/") && strings.HasSuffix(dir, " (deleted)")
}

// endShim ends the process unless its number has come to mean another one.
func (s *Strays) endShim(pid int) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return // it has ended
	}
	defer unix.Close(fd)
	if s.isLost(filepath.Join("/proc", strconv.Itoa(pid))) {
		_ = unix.PidfdSendSignal(fd, unix.SIGKILL, nil, 0) // it has ended
	}
}

// states are runc's directories of containers without a bundle: that comes
// first, and goes last.
func (s *Strays) states() []string {
	var lost []string
	found, _ := filepath.Glob(filepath.Join(s.Root, "*", "*", "state.json"))
	for _, file := range found {
		state := filepath.Dir(file)
		bundle := filepath.Join(s.Tasks, filepath.Base(filepath.Dir(state)), filepath.Base(state))
		if _, err := os.Lstat(bundle); os.IsNotExist(err) {
			lost = append(lost, state)
		}
	}
	return lost
}

// remove has runc end what is left of a container, and forget it.
func (s *Strays) remove(ctx context.Context, state string) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	root, id := filepath.Split(state)
	out, err := exec.CommandContext(ctx, s.Runc, "--root", filepath.Clean(root), "delete", "--force", id).CombinedOutput()
	if err != nil {
		return fmt.Errorf("runc delete %s: %w: %s", id, err, bytes.TrimSpace(out))
	}
	return nil
}
