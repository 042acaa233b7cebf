package csi

import (
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// recordFile lies beside a mount.
const recordFile = "vol_data.json"

// record is what is needed to take a volume away from a pod.
type record struct {
	Driver    string `json:"driverName"`
	Handle    string `json:"volumeHandle"`
	Ephemeral bool   `json:"ephemeral,omitempty"` // the pod's own: never staged
	Block     bool   `json:"block,omitempty"`     // published as a device
	Attached  bool   `json:"attached,omitempty"`  // by the control plane
	PVName    string `json:"specVolID,omitempty"` // the PersistentVolume
}

// Dir is where a pod's CSI volumes are, one directory each, below its own.
const Dir = "volumes/kubernetes.io~csi"

func (r *record) write(dir string) error {
	raw, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("encode record of volume: %w", err)
	}
	if err := os.MkdirAll(dir, 0o750); err != nil {
		return fmt.Errorf("make directory of volume: %w", err)
	}
	fresh := filepath.Join(dir, recordFile+".new")
	if err := os.WriteFile(fresh, raw, 0o600); err != nil {
		return fmt.Errorf("write record of volume: %w", err)
	}
	if err := os.Rename(fresh, filepath.Join(dir, recordFile)); err != nil {
		return fmt.Errorf("write record of volume: %w", err)
	}
	return nil
}

// readRecord returns nil where there is none.
func readRecord(dir string) (*record, error) {
	raw, err := os.ReadFile(filepath.Join(dir, recordFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read record of volume: %w", err)
	}
	r := &record{}
	if err := json.Unmarshal(raw, r); err != nil {
		return nil, fmt.Errorf("decode record of volume %s: %w", dir, err)
	}
	return r, nil
}

// target is where the volume is published.
func (r *record) target(dir string) string {
	if r.Block {
		return filepath.Join(dir, "device")
	}
	return filepath.Join(dir, "mount")
}

// key tells volumes of a node apart.
func (r *record) key() string { return r.Driver + "^" + r.Handle }

// staging is where a volume is staged for all its pods, below the root.
func (r *record) staging() string {
	return filepath.Join("plugins/kubernetes.io/csi", r.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(r.Handle))), "globalmount")
}

// records calls found for every volume of every pod of the host.
func (m *Manager) records(found func(dir string, r *record)) error {
	dirs, err := filepath.Glob(filepath.Join(m.Root, "pods", "*", Dir, "*"))
	if err != nil {
		return err
	}
	for _, dir := range dirs {
		r, err := readRecord(dir)
		if err != nil {
			return err
		}
		if r != nil {
			found(dir, r)
		}
	}
	return nil
}

// InUse names the attached volumes that this host uses: the control plane must
// not detach them.
func (m *Manager) InUse() ([]v1.UniqueVolumeName, error) {
	seen := map[v1.UniqueVolumeName]bool{}
	err := m.records(func(_ string, r *record) {
		if r.Attached {
			seen[v1.UniqueVolumeName("kubernetes.io/csi/"+r.key())] = true
		}
	})
	names := make([]v1.UniqueVolumeName, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	return names, err
}
