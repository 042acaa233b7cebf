package host

import (
	"context"
	"errors"
	"sync"

	"clusterctl/hostconfig"
)

// fakeInit is a service manager in memory. What it is told to do is written in
// log; start, when set, is what starting a unit does.
type fakeInit struct {
	mu     sync.Mutex
	log    []string
	units  map[string]*UnitStatus
	start  func(unit string) error
	stop   func(unit string)
	hangUp func(unit string)
	broken map[string]string // unit to journal: units that fail when started
}

func newFakeInit() *fakeInit {
	return &fakeInit{units: map[string]*UnitStatus{}, broken: map[string]string{}}
}

func (f *fakeInit) say(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what)
}

func (f *fakeInit) unit(name string) *UnitStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.units[name] == nil {
		f.units[name] = &UnitStatus{Installed: true, Active: "inactive"}
	}
	return f.units[name]
}

func (f *fakeInit) took() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	log := f.log
	f.log = nil
	return log
}

func (f *fakeInit) Name() string { return "systemd" }
func (f *fakeInit) UnitPath(unit string) string {
	return hostconfig.UnitDir + "/" + unit + ".service"
}
func (f *fakeInit) Status(_ context.Context, unit string) (UnitStatus, error) {
	return *f.unit(unit), nil
}
func (f *fakeInit) Reload(context.Context) error { f.say("reload"); return nil }
func (f *fakeInit) Enable(_ context.Context, unit string) error {
	f.say("enable " + unit)
	f.unit(unit).Enabled = true
	return nil
}
func (f *fakeInit) Disable(_ context.Context, unit string) error {
	f.say("disable " + unit)
	f.unit(unit).Enabled = false
	return nil
}
func (f *fakeInit) Start(ctx context.Context, unit string) error { return f.Restart(ctx, unit) }
func (f *fakeInit) Restart(_ context.Context, unit string) error {
	f.say("restart " + unit)
	if f.broken[unit] != "" {
		f.unit(unit).Active = "failed"
		return errors.New("the job failed")
	}
	if f.start != nil {
		if err := f.start(unit); err != nil {
			f.unit(unit).Active = "failed"
			return err
		}
	}
	f.unit(unit).Active = "active"
	return nil
}
func (f *fakeInit) Stop(_ context.Context, unit string) error {
	f.say("stop " + unit)
	if f.stop != nil {
		f.stop(unit)
	}
	f.unit(unit).Active = "inactive"
	return nil
}
func (f *fakeInit) HangUp(_ context.Context, unit string) error {
	f.say("hang up " + unit)
	if f.hangUp != nil {
		f.hangUp(unit)
	}
	return nil
}
func (f *fakeInit) Journal(_ context.Context, unit string, _ int) (string, error) {
	return f.broken[unit], nil
}
