package csi

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
)

// Unmount takes the pod's CSI volumes away, and unstages those that no other pod
// of the host uses: that is tried again by Run, and keeps no pod.
func (m *Manager) Unmount(ctx context.Context, podDir string) error {
	dirs, err := filepath.Glob(filepath.Join(podDir, Dir, "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		r, err := readRecord(dir)
		if err == nil && r != nil {
			err = m.unmount(ctx, dir, r)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("UnmountVolume.TearDown failed for %s: %w", filepath.Base(dir), err))
		}
	}
	return errors.Join(errs...)
}

func (m *Manager) unmount(ctx context.Context, dir string, r *record) error {
	defer m.lock(r.key())()
	if !r.Pending {
		if err := m.unpublish(ctx, dir, r); err != nil {
			return err
		}
	}
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove record of volume: %w", err)
	}
	if r.Ephemeral {
		return nil
	}
	if err := m.unstage(ctx, r); err != nil && ctx.Err() == nil {
		m.Logger.Warn("cannot unstage volume yet", "driver", r.Driver, "volume", r.Handle, "error", err)
		poke(m.unused)
	}
	return nil
}

func (m *Manager) unpublish(ctx context.Context, dir string, r *record) error {
	d, err := m.driver(r.Driver)
	if err != nil {
		return err
	}
	if d.stages && !r.Ephemeral {
		if err := m.keepStaged(r); err != nil { // as it was for the pod
			return err
		}
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	// The driver has to hear the path that it was given.
	told := filepath.Join(m.Root, "pods", filepath.Base(filepath.Dir(filepath.Dir(filepath.Dir(dir)))), Dir, filepath.Base(dir))
	target := r.target(told)
	if _, err := d.NodeUnpublishVolume(ctx, &csi.NodeUnpublishVolumeRequest{VolumeId: r.Handle, TargetPath: target}); err != nil {
		return err
	}
	if err := os.Remove(target); err != nil && !errors.Is(err, os.ErrNotExist) { // never what is in it
		return fmt.Errorf("remove mount point: %w", err)
	}
	return nil
}

// unstage unstages a volume that is staged, or may be, once no pod of the host has
// it. The volume has to be locked.
func (m *Manager) unstage(ctx context.Context, r *record) error {
	stage := filepath.Join(m.Root, r.stage())
	switch kept, err := readRecord(stage); {
	case err != nil:
		return err
	case kept == nil:
		m.mu.Lock()
		defer m.mu.Unlock()
		delete(m.sizes, r.key())
		return nil
	}
	used := false
	if err := m.records(func(_ string, o *record) { used = used || o.key() == r.key() && !o.Ephemeral }); err != nil || used {
		return err
	}
	d, err := m.driver(r.Driver)
	if err != nil {
		return err
	}
	m.mu.Lock()
	delete(m.sizes, r.key())
	delete(m.staged, r.key()) // also if this fails: who comes next has it staged anew
	m.mu.Unlock()
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	staging := filepath.Join(m.Root, r.staging())
	if d.stages {
		if _, err := d.NodeUnstageVolume(ctx, &csi.NodeUnstageVolumeRequest{VolumeId: r.Handle, StagingTargetPath: staging}); err != nil {
			return err
		}
	}
	if err := os.Remove(staging); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("remove staging directory: %w", err)
	}
	return removeRecord(stage)
}

// How long it takes until a volume is tried again that could not be unstaged.
const (
	firstRetry = 500 * time.Millisecond
	lastRetry  = callTimeout
)

// Run does what drivers need beside pods, until ctx ends.
func (m *Manager) Run(ctx context.Context) {
	var loops sync.WaitGroup
	loops.Go(func() { m.unstageUnused(ctx) })
	loops.Go(func() { m.followDrivers(ctx) })
	loops.Wait()
}

// unstageUnused unstages volumes that no pod of the host has: those that could not
// be when their last pod went, and those of an agent before this one.
func (m *Manager) unstageUnused(ctx context.Context) {
	type retry struct {
		at   time.Time
		wait time.Duration
	}
	failed := map[string]retry{}
	for {
		var next time.Time
		left := map[string]retry{}
		var list []*record
		if err := m.stagings(func(_ string, r *record) { list = append(list, r) }); err != nil {
			m.Logger.Warn("cannot tell which volumes are staged", "error", err)
		}
		for _, r := range list {
			f := failed[r.key()]
			if !time.Now().Before(f.at) {
				unlock := m.lock(r.key())
				err := m.unstage(ctx, r)
				unlock()
				if err == nil {
					continue
				}
				f.wait = min(max(firstRetry, 2*f.wait), lastRetry)
				f.at = time.Now().Add(f.wait)
				m.Logger.Warn("cannot unstage volume yet", "driver", r.Driver, "volume", r.Handle, "again", f.wait, "error", err)
			}
			left[r.key()] = f
			if next.IsZero() || f.at.Before(next) {
				next = f.at
			}
		}
		failed = left
		var again <-chan time.Time
		if !next.IsZero() {
			again = time.After(time.Until(next))
		}
		select {
		case <-ctx.Done():
			return
		case <-m.unused:
		case <-again:
		}
	}
}
