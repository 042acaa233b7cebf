package csi

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/checkpoint"
)

// recordFile lies beside a mount: a pod's, and that which a volume was staged at.
const recordFile = "vol_data.json"

// record is what is needed to take a volume away, from a pod or from the host.
type record struct {
	Driver    string `json:"driverName"`
	Handle    string `json:"volumeHandle"`
	Ephemeral bool   `json:"ephemeral,omitempty"` // the pod's own: never staged
	Block     bool   `json:"block,omitempty"`     // published as a device
	Attached  bool   `json:"attached,omitempty"`  // by the control plane
	PVName    string `json:"specVolID,omitempty"` // the PersistentVolume
	Pending   bool   `json:"pending,omitempty"`   // of a pod's: surely not published
}

// Dir is where a pod's CSI volumes are, one directory each, below its own.
const Dir = "volumes/kubernetes.io~csi"

func (r *record) write(dir string) error {
	if err := checkpoint.Store(filepath.Join(dir, recordFile), r); err != nil {
		return fmt.Errorf("keep record of volume: %w", err)
	}
	return nil
}

// readRecord returns nil where there is none.
func readRecord(dir string) (*record, error) {
	r := &record{}
	if err := checkpoint.Load(filepath.Join(dir, recordFile), r); err != nil {
		return nil, fmt.Errorf("read record of volume: %w", err)
	}
	if r.Driver == "" {
		return nil, nil
	}
	return r, nil
}

// removeRecord removes the record of a directory, then the directory if it holds
// nothing else.
func removeRecord(dir string) error {
	if err := os.Remove(filepath.Join(dir, recordFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove record of volume: %w", err)
	}
	_ = os.Remove(dir)
	return nil
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

// unique is the name of the volume in a node's status.
func (r *record) unique() v1.UniqueVolumeName {
	return v1.UniqueVolumeName("kubernetes.io/csi/" + r.key())
}

// stages is where drivers' volumes are staged, below the root: one directory each
// in that of its driver.
const stages = "plugins/kubernetes.io/csi"

// stage is the directory of a volume that is staged for all its pods, below the
// root; globalMount is where in it.
func (r *record) stage() string {
	return filepath.Join(stages, r.Driver, fmt.Sprintf("%x", sha256.Sum256([]byte(r.Handle))))
}

const globalMount = "globalmount"

func (r *record) staging() string { return filepath.Join(r.stage(), globalMount) }

// records calls found for every volume of every pod of the host.
func (m *Manager) records(found func(dir string, r *record)) error {
	return m.each(filepath.Join("pods", "*", Dir, "*"), found)
}

// stagings calls found for every volume that is staged, or may be.
func (m *Manager) stagings(found func(dir string, r *record)) error {
	return m.each(filepath.Join(stages, "*", "*"), found)
}

func (m *Manager) each(pattern string, found func(dir string, r *record)) error {
	dirs, err := filepath.Glob(filepath.Join(m.Root, pattern))
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
	note := func(_ string, r *record) {
		if m.holds(r) {
			seen[r.unique()] = true
		}
	}
	err := errors.Join(m.records(note), m.stagings(note))
	names := make([]v1.UniqueVolumeName, 0, len(seen))
	for name := range seen {
		names = append(names, name)
	}
	return names, err
}
