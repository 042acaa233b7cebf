package host

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"clusterctl/hostconfig"
)

// systemd drives systemctl, which works with and without a message bus.
type systemd struct{ root string }

// systemctlLimit bounds one call. A unit's own start limit is shorter.
const systemctlLimit = 3 * time.Minute

func (s *systemd) Name() string { return "systemd" }

func (s *systemd) UnitPath(unit string) string {
	return filepath.Join(hostconfig.UnitDir, unit+".service")
}

// run calls a program to its end even when ctx is done meanwhile: half a start
// is no state to leave a unit in.
func (s *systemd) run(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), systemctlLimit)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "SYSTEMD_PAGER=", "SYSTEMD_COLORS=0")
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if said := strings.TrimSpace(stderr.String()); said != "" {
			return stdout.String(), fmt.Errorf("%s %s: %s", name, strings.Join(args, " "), said)
		}
		return stdout.String(), fmt.Errorf("%s %s: %w", name, strings.Join(args, " "), err)
	}
	return stdout.String(), nil
}

func (s *systemd) Status(ctx context.Context, unit string) (UnitStatus, error) {
	out, err := s.run(ctx, "systemctl", "show", "--property=LoadState,UnitFileState,NeedDaemonReload,ActiveState,NRestarts", unit+".service")
	if err != nil {
		return UnitStatus{}, err
	}
	var status UnitStatus
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "=")
		switch key {
		case "LoadState":
			status.Installed = value != "not-found"
		case "UnitFileState":
			status.Enabled = value == "enabled"
		case "NeedDaemonReload":
			status.Stale = value == "yes"
		case "ActiveState":
			status.Active = value
		case "NRestarts":
			status.Restarts, _ = strconv.Atoi(value)
		}
	}
	return status, nil
}

func (s *systemd) Reload(ctx context.Context) error {
	_, err := s.run(ctx, "systemctl", "daemon-reload")
	return err
}

func (s *systemd) Enable(ctx context.Context, unit string) error {
	_, err := s.run(ctx, "systemctl", "enable", "--quiet", "--no-reload", unit+".service")
	return err
}

func (s *systemd) Disable(ctx context.Context, unit string) error {
	_, err := s.run(ctx, "systemctl", "disable", "--quiet", unit+".service")
	return ignoreMissing(err)
}

func (s *systemd) Start(ctx context.Context, unit string) error {
	s.forgetFailure(ctx, unit)
	_, err := s.run(ctx, "systemctl", "start", unit+".service")
	return err
}

func (s *systemd) Restart(ctx context.Context, unit string) error {
	s.forgetFailure(ctx, unit)
	_, err := s.run(ctx, "systemctl", "restart", unit+".service")
	return err
}

func (s *systemd) Stop(ctx context.Context, unit string) error {
	_, err := s.run(ctx, "systemctl", "stop", unit+".service")
	s.forgetFailure(ctx, unit)
	return ignoreMissing(err)
}

func (s *systemd) HangUp(ctx context.Context, unit string) error {
	// Later versions call it --kill-whom, and know both.
	_, err := s.run(ctx, "systemctl", "kill", "--kill-who=main", "--signal=HUP", unit+".service")
	return err
}

// forgetFailure clears the failed state and the start rate limit; a unit that
// never failed makes it fail, which means nothing.
func (s *systemd) forgetFailure(ctx context.Context, unit string) {
	_, _ = s.run(ctx, "systemctl", "reset-failed", "--quiet", unit+".service")
}

func ignoreMissing(err error) error {
	if err != nil && (strings.Contains(err.Error(), "not loaded") || strings.Contains(err.Error(), "does not exist")) {
		return nil
	}
	return err
}

func (s *systemd) Journal(ctx context.Context, unit string, lines int) (string, error) {
	if lines <= 0 {
		lines = 50
	}
	return s.run(ctx, "journalctl", "--no-pager", "--quiet", "--output=cat", "--lines="+strconv.Itoa(lines), "--unit="+unit+".service")
}
