package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strings"
	"time"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// servicesFile has the fingerprint each service was last started with.
const servicesFile = hostconfig.HandDir + "/services.json"

// settle is how long a service is watched after its start: one that cannot
// read its configuration ends within it.
const settle = 200 * time.Millisecond

func (h *Hand) checkUnit(ctx context.Context, o *hostop.Unit) (string, error) {
	path := h.init.UnitPath(o.Name)
	if path == "" {
		return "", noInitError("install")
	}
	if differs, err := h.compareFile(path, 0o644, o.Content); err != nil || differs != "" {
		return differs, err
	}
	status, err := h.init.Status(ctx, o.Name)
	switch {
	case err != nil:
		return "", err
	case status.Stale || !status.Installed:
		return "changed since it was loaded", nil
	case !status.Enabled:
		return "is not enabled", nil
	}
	return "", nil
}

func (h *Hand) applyUnit(ctx context.Context, o *hostop.Unit) error {
	if err := h.writeFile(h.init.UnitPath(o.Name), 0o644, o.Content); err != nil {
		return err
	}
	if err := h.init.Enable(ctx, o.Name); err != nil {
		return err
	}
	return h.init.Reload(ctx)
}

func (h *Hand) checkService(ctx context.Context, o *hostop.Service) (string, error) {
	status, err := h.init.Status(ctx, o.Name)
	if err != nil {
		return "", err
	}
	if status.Active != "active" {
		return "is " + status.Active, nil
	}
	fingerprints, err := h.fingerprints()
	if err != nil {
		return "", err
	}
	if fingerprints[o.Name] != o.Fingerprint {
		return "runs what was there before", nil
	}
	return "", nil
}

func (h *Hand) applyService(ctx context.Context, o *hostop.Service) error {
	return h.startService(ctx, o.Name, o.Fingerprint)
}

// startService (re)starts a unit and records its fingerprint once it is up. A
// run killed in between restarts it once more.
func (h *Hand) startService(ctx context.Context, name, fingerprint string) error {
	if err := h.init.Restart(ctx, name); err != nil {
		return h.withJournal(ctx, name, err)
	}
	select {
	case <-time.After(settle):
	case <-ctx.Done():
	}
	status, err := h.init.Status(ctx, name)
	if err != nil {
		return err
	}
	if status.Active != "active" || status.Restarts > 0 {
		state := status.Active
		if status.Restarts > 0 {
			state = "restarting again and again"
		}
		return h.withJournal(ctx, name, fmt.Errorf("it was started and is %s", state))
	}
	fingerprints, err := h.fingerprints()
	if err != nil {
		return err
	}
	fingerprints[name] = fingerprint
	raw, err := json.Marshal(fingerprints)
	if err != nil {
		return fmt.Errorf("record the start: %w", err)
	}
	return h.writeFile(servicesFile, 0o600, raw)
}

func (h *Hand) fingerprints() (map[string]string, error) {
	fingerprints := map[string]string{}
	raw, err := os.ReadFile(h.path(servicesFile))
	if errors.Is(err, fs.ErrNotExist) {
		return fingerprints, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the record of starts: %w", err)
	}
	if err := json.Unmarshal(raw, &fingerprints); err != nil {
		return map[string]string{}, nil // damaged: everything is started once more
	}
	return fingerprints, nil
}

// withJournal adds the last lines a unit wrote to an error about it.
func (h *Hand) withJournal(ctx context.Context, unit string, err error) error {
	journal, journalErr := h.init.Journal(ctx, unit, 8)
	journal = strings.TrimSpace(journal)
	if journalErr != nil || journal == "" {
		return fmt.Errorf("%w (see journalctl -u %s)", err, unit)
	}
	return fmt.Errorf("%w; the last it said:\n%s", err, indent(journal))
}

func indent(s string) string {
	return "    " + strings.ReplaceAll(s, "\n", "\n    ")
}
