package host

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Init is a host's service manager. Names are without a suffix.
type Init interface {
	Name() string // as in hostop.Facts
	UnitPath(unit string) string
	Status(ctx context.Context, unit string) (UnitStatus, error)
	Reload(ctx context.Context) error               // reads unit files again
	Enable(ctx context.Context, unit string) error  // at boot; Reload makes it known
	Disable(ctx context.Context, unit string) error // also of a unit that is not installed
	Start(ctx context.Context, unit string) error   // returns when it is up, or has failed
	Restart(ctx context.Context, unit string) error // starts it where it is not running
	Stop(ctx context.Context, unit string) error    // also of a unit that is not installed
	HangUp(ctx context.Context, unit string) error  // SIGHUP to its main process, as "read your configuration again"
	Journal(ctx context.Context, unit string, lines int) (string, error)
}

// UnitStatus is where a unit stands.
type UnitStatus struct {
	Installed bool
	Enabled   bool
	Stale     bool   // the file changed since the service manager read it
	Active    string // active, activating, inactive, failed …
	Restarts  int    // since it was started
}

// findInit finds the service manager of the machine.
func findInit(root string) Init {
	if info, err := os.Stat(filepath.Join("/", root, "run/systemd/system")); err == nil && info.IsDir() {
		return &systemd{root: root}
	}
	return noInit{}
}

// noInit stands on hosts without a service manager that is known: facts say so
// and preflight refuses them; what needs units fails with that reason.
type noInit struct{}

func (noInit) Name() string           { return "unknown" }
func (noInit) UnitPath(string) string { return "" }
func (noInit) Status(context.Context, string) (UnitStatus, error) {
	return UnitStatus{Active: "inactive"}, nil
}
func (noInit) Reload(context.Context) error          { return noInitError("reload") }
func (noInit) Enable(context.Context, string) error  { return noInitError("enable") }
func (noInit) Start(context.Context, string) error   { return noInitError("start") }
func (noInit) Restart(context.Context, string) error { return noInitError("restart") }
func (noInit) Disable(context.Context, string) error { return nil }
func (noInit) Stop(context.Context, string) error    { return nil }
func (noInit) HangUp(context.Context, string) error  { return noInitError("signal") }
func (noInit) Journal(context.Context, string, int) (string, error) {
	return "", noInitError("read the journal of")
}

func noInitError(verb string) error {
	return fmt.Errorf("cannot %s units: systemd does not run on this host", verb)
}
