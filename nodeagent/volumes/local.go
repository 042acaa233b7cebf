package volumes

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/storage/volume"

	"clusterctl/hostconfig"
)

const (
	localVolumes = "local-volume" // kind of the directories of mounted local volumes
	removing     = ".removing-"   // begins the name of what is on its way out
)

// ErrInUse says that a pod still has a local volume mounted.
var ErrInUse = errors.New("the volume is mounted by a pod")

// ownLocal is the directory of a volume that our provisioner made.
func (m *Manager) ownLocal(pv *v1.PersistentVolume) (dir string, ok bool) {
	if pv.Annotations[volume.AnnDynamicallyProvisioned] != hostconfig.LocalPathProvisioner {
		return "", false
	}
	dir = filepath.Join(m.LocalDir, pv.Name)
	return dir, pv.Spec.Local != nil && filepath.Clean(pv.Spec.Local.Path) == dir
}

// makeLocal makes the directory of one of our volumes. Only root reaches it
// past its parent, so that it can be open to whoever a container runs as.
func makeLocal(dir string) error {
	if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
		return fmt.Errorf("make directory for volumes: %w", err)
	}
	err := os.Mkdir(dir, 0o700)
	switch {
	case errors.Is(err, fs.ErrExist):
		return nil
	case err != nil:
		return fmt.Errorf("make directory of volume: %w", err)
	}
	if err := os.Chmod(dir, 0o777); err != nil { // past the umask
		return fmt.Errorf("open directory of volume: %w", err)
	}
	return nil
}

// RemoveLocal removes the directory of one of our provisioner's volumes. It is
// out of sight when RemoveLocal returns; its contents go after that. A
// directory that is not there is a success.
func (m *Manager) RemoveLocal(name string) error {
	if name == "" || name != filepath.Base(name) || strings.HasPrefix(name, ".") {
		return fmt.Errorf("%q is no name of a volume", name)
	}
	m.localMu.Lock()
	defer m.localMu.Unlock()
	for _, uid := range m.Pods() {
		if _, err := os.Lstat(m.volumeDir(uid, localVolumes, name)); err == nil {
			return fmt.Errorf("pod %s: %w", uid, ErrInUse)
		}
	}
	gone := filepath.Join(m.LocalDir, removing+name)
	if err := os.Rename(filepath.Join(m.LocalDir, name), gone); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return fmt.Errorf("take volume away: %w", err)
	}
	go func() {
		if err := os.RemoveAll(gone); err != nil {
			m.Logger.Warn("removed volume is not wholly gone", "volume", name, "error", err)
		}
	}()
	return nil
}

// Sweep removes what is left of volumes whose removal was cut off.
func (m *Manager) Sweep(ctx context.Context) {
	left, _ := filepath.Glob(filepath.Join(m.LocalDir, removing+"*"))
	for _, dir := range left {
		if ctx.Err() != nil {
			return
		}
		if err := os.RemoveAll(dir); err != nil {
			m.Logger.Warn("removed volume is not wholly gone", "directory", dir, "error", err)
		}
	}
}
