package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"clusterctl/hostconfig"
)

// ownLinks are the network links a node has of ours; the pods' hang on the
// first.
var ownLinks = []string{"cctl0", "cctl-vx"}

// Reset leaves the host as it was before clusterctl came: no process, mount,
// link, rule, unit or file of ours. It goes on past what fails, reports all
// faults at the end, and may be run any number of times.
func (h *Hand) Reset(ctx context.Context, report func(string)) error {
	r := &reset{Hand: h, report: report}
	// What a caller that went away began is brought to its end: half a reset
	// helps nobody.
	ctx = context.WithoutCancel(ctx)

	r.stopUnits(ctx, hostconfig.UnitNodeAgent, hostconfig.UnitControlPlane)
	r.stopUnits(ctx, hostconfig.UnitContainerd)
	foreign, err := r.foreignPaths()
	_, usedCRIO := foreign[hostconfig.CRIOConf]
	r.try("read the journal", func() error { return err })
	if r.exists(hostconfig.CRIOConf) {
		r.try("empty CRI-O", func() error { return r.emptyCRIO(ctx) })
	}
	if h.root == "" { // the machine's own processes, mounts and links
		r.try("stop containers", r.killContainers)
		r.try("undo the pods' network", r.removeLinks)
		for _, undo := range h.undo {
			r.try("undo the network", func() error { return undo(h.log) })
		}
		r.try("unmount", r.unmountAll)
		r.try("remove cgroups", r.removeCgroups)
	}
	r.stopUnits(ctx, hostconfig.UnitEtcd)
	r.try("remove units", func() error { return r.removeUnits(ctx) })
	r.try("put back files", r.restoreForeign)
	if usedCRIO {
		r.try("release CRI-O", func() error { return r.releaseCRIO(ctx) })
	}
	r.try("remove CNI results", r.removeCNIResults)
	r.try("remove shims' sockets", r.removeShimSockets)
	for _, directory := range []string{hostconfig.LibDir, hostconfig.EtcDir, hostconfig.LogDir, hostconfig.VarDir, hostconfig.RunDir} {
		r.try("remove "+directory, func() error { return r.removeTree(directory) })
	}
	r.try("remove link "+hostconfig.KubeletDir, r.removeKubeletLink)
	r.try("remove uploaded hands", r.removeHands)
	return errors.Join(r.faults...)
}

// reset is one Reset at work.
type reset struct {
	*Hand
	report func(string)
	faults []error
}

func (r *reset) try(what string, f func() error) {
	if err := f(); err != nil {
		r.faults = append(r.faults, fmt.Errorf("%s: %w", what, err))
	}
}

// stopUnits stops and disables units that are installed.
func (r *reset) stopUnits(ctx context.Context, names ...string) {
	for _, unit := range names {
		path := r.init.UnitPath(unit)
		if path == "" || !r.exists(path) {
			continue
		}
		r.try("stop "+unit, func() error {
			if err := r.init.Stop(ctx, unit); err != nil {
				return err
			}
			if err := r.init.Disable(ctx, unit); err != nil {
				return err
			}
			r.report("stopped " + unit)
			return nil
		})
	}
}

// removeUnits removes unit files and what was left of their enabling.
func (r *reset) removeUnits(ctx context.Context) error {
	removed := false
	for _, unit := range units {
		path := r.init.UnitPath(unit)
		if path == "" {
			continue
		}
		temporary := filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".clusterctl-new")
		for _, file := range []string{path, temporary} {
			err := os.Remove(r.path(file))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return err
			}
			removed = true
			r.report("removed " + file)
		}
	}
	if !removed {
		return nil
	}
	return r.init.Reload(ctx)
}

// restoreForeign puts back or removes what was written outside our directories.
func (r *reset) restoreForeign() error {
	paths, err := r.foreignPaths()
	if err != nil {
		return err
	}
	var faults []error
	// What is in a directory goes before it.
	for _, path := range slices.Backward(slices.Sorted(maps.Keys(paths))) {
		e := paths[path]
		if slices.ContainsFunc(units, func(unit string) bool { return r.init.UnitPath(unit) == path }) {
			continue
		}
		info, err := os.Lstat(r.path(path))
		switch {
		case e.Original == path: // a directory that was there before
			continue
		case e.Original != "":
			kept, readErr := os.ReadFile(r.path(e.Original))
			if errors.Is(readErr, fs.ErrNotExist) {
				continue // put back by a reset before this one
			}
			keptInfo, statErr := os.Stat(r.path(e.Original))
			if err := errors.Join(readErr, statErr); err != nil {
				faults = append(faults, err)
				continue
			}
			if err := r.writeFile(path, keptInfo.Mode(), kept); err != nil {
				faults = append(faults, err)
				continue
			}
			r.report("put back " + path)
		case errors.Is(err, fs.ErrNotExist):
		case err != nil:
			faults = append(faults, err)
		default:
			// A directory goes only when nothing else has come into it.
			if err := os.Remove(r.path(path)); err != nil && !info.IsDir() {
				faults = append(faults, err)
				continue
			}
			r.report("removed " + path)
		}
	}
	return errors.Join(faults...)
}

// removeCNIResults removes what the CNI library noted about our pods outside
// our directories, and its directories where nothing else is in them.
func (r *reset) removeCNIResults() error {
	const cache, results = "/var/lib/cni", "/var/lib/cni/results"
	entries, err := os.ReadDir(r.path(results))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	removed := false
	for _, e := range entries {
		file := filepath.Join(r.path(results), e.Name())
		raw, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var note struct {
			Netns string `json:"netns"`
		}
		if json.Unmarshal(raw, &note) != nil || !strings.HasPrefix(note.Netns, hostconfig.RunDir+"/") {
			continue
		}
		if err := os.Remove(file); err != nil {
			return err
		}
		removed = true
	}
	if removed {
		r.report("removed notes of pods' networks in " + results)
	}
	_ = os.Remove(r.path(results)) // both fail where others use them, as they should
	_ = os.Remove(r.path(cache))
	return nil
}

// removeShimSockets removes the sockets of our shims, which containerd keeps
// outside our directories. Those of another containerd's shims are answered;
// ours are not, now that they have ended.
func (r *reset) removeShimSockets() error {
	const state, sockets = "/run/containerd", "/run/containerd/s"
	entries, err := os.ReadDir(r.path(sockets))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	for _, e := range entries {
		socket := filepath.Join(r.path(sockets), e.Name())
		conn, err := net.DialTimeout("unix", socket, time.Second)
		if err == nil {
			_ = conn.Close() // somebody else's; nothing was said
			continue
		}
		if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	_ = os.Remove(r.path(sockets)) // both fail where others use them, as they should
	if os.Remove(r.path(state)) == nil {
		r.report("removed " + state)
	}
	return nil
}

func (r *reset) removeTree(directory string) error {
	if !r.exists(directory) {
		return nil
	}
	// A process that is just ending may still write.
	var err error
	for range 5 {
		if err = os.RemoveAll(r.path(directory)); err == nil {
			r.report("removed " + directory)
			return nil
		}
		time.Sleep(100 * time.Millisecond)
	}
	return err
}

// removeKubeletLink removes the link that the node agent made; what others have
// there stays.
func (r *reset) removeKubeletLink() error {
	link := r.path(hostconfig.KubeletDir)
	if to, err := os.Readlink(link); err != nil || to != hostconfig.StateDir {
		return nil
	}
	return os.Remove(link)
}

// removeHands removes copies of this program that were put where /run cannot
// hold one.
func (r *reset) removeHands() error {
	hands, err := filepath.Glob(r.path("/var/tmp/clusterctl-hand-*"))
	if err != nil {
		return err
	}
	for _, directory := range hands {
		if err := os.RemoveAll(directory); err != nil {
			return err
		}
	}
	return nil
}
