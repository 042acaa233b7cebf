package host

import (
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"clusterctl/hostconfig"
)

// lockFile is held by the run that works on this host.
const lockFile = hostconfig.RunDir + "/lock"

// takeLock takes the run lock for as long as this process lives. The kernel
// gives it back whatever happens to the process, so no lock is ever stale.
func (h *Hand) takeLock(holder string) error {
	if h.lock != nil {
		return nil
	}
	if err := os.MkdirAll(h.path(hostconfig.RunDir), 0o755); err != nil {
		return fmt.Errorf("take the run lock: %w", err)
	}
	file, err := os.OpenFile(h.path(lockFile), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return fmt.Errorf("take the run lock: %w", err)
	}
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		defer file.Close()
		if !errors.Is(err, unix.EWOULDBLOCK) {
			return fmt.Errorf("take the run lock: %w", err)
		}
		held, _ := io.ReadAll(io.LimitReader(file, 1024))
		who := strings.TrimSpace(string(held))
		if who == "" {
			who = "another run"
		}
		return fmt.Errorf("this host is being worked on by %s; wait for it to end, or stop it", who)
	}
	note := fmt.Sprintf("%s, since %s\n", holder, time.Now().UTC().Format(time.RFC3339))
	if err := file.Truncate(0); err == nil {
		_, err = file.WriteAt([]byte(note), 0)
		if err != nil {
			h.log.Warn("write the lock's holder", "error", err)
		}
	}
	h.lock = file
	return nil
}
