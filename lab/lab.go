//go:build linux

package lab

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"sort"
	"time"

	"golang.org/x/sys/unix"
)

// Where labs and the cached trees live unless a Store says otherwise.
const (
	DefaultDir      = "/var/lib/clusterctl-lab"
	DefaultCacheDir = "/var/cache/clusterctl-lab"
)

// Roles of a host, as the inventory spells them.
const (
	RoleControlPlane = "control-plane"
	RoleWorker       = "worker"
	RoleEtcd         = "etcd"
)

// Store is the directory all labs of a machine live under. Its methods may be
// used by several processes at once: a lab is locked while it is changed.
type Store struct {
	Dir      string       // labs, one directory each; must not lie on an overlay file system
	CacheDir string       // Debian trees
	Mirror   string       // Debian mirror; empty: the one apt is configured with
	Log      *slog.Logger // nil: silent
}

// Lab is a set of hosts on one bridge, or on two. Its exported fields are the state file.
type Lab struct {
	Name    string    `json:"name"`
	Created time.Time `json:"created"`
	Subnet  string    `json:"subnet"`  // 10.x.y.0/24
	Gateway string    `json:"gateway"` // the machine's address in Subnet
	Links   int       `json:"links"`   // 1, or 2 that share Subnet; the machine is on the first
	Tree    string    `json:"tree"`    // lower directory of every host
	Hosts   []*Host   `json:"hosts"`
	Cuts    []Cut     `json:"cuts,omitempty"`

	dir string
	log *slog.Logger
}

// Host is one member of a lab.
type Host struct {
	Name    string   `json:"name"`
	Address string   `json:"address"` // IPv4, without a mask
	MAC     string   `json:"mac"`
	Index   int      `json:"index"` // from 0, unique within the lab
	Roles   []string `json:"roles"`

	lab *Lab
}

// Cut is a link that was taken down: host A's own when B is empty, the path
// between A and B otherwise.
type Cut struct {
	A string `json:"a"`
	B string `json:"b,omitempty"`
}

// ErrNoLab is returned when a lab of that name does not exist.
var ErrNoLab = errors.New("no such lab")

var validName = regexp.MustCompile(`^[a-z0-9]([a-z0-9-]{0,28}[a-z0-9])?$`)

func (s *Store) logger() *slog.Logger {
	if s.Log == nil {
		return slog.New(slog.DiscardHandler)
	}
	return s.Log
}

// Open reads the state of a lab. It returns ErrNoLab when there is none.
func (s *Store) Open(name string) (*Lab, error) {
	lab, err := s.load(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("%w: %s", ErrNoLab, name)
	}
	return lab, err
}

// load is Open without the translation of errors.
func (s *Store) load(name string) (*Lab, error) {
	lab := &Lab{dir: filepath.Join(s.Dir, name), log: s.logger()}
	raw, err := os.ReadFile(lab.stateFile())
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(raw, lab); err != nil {
		return nil, fmt.Errorf("parse %s: %w", lab.stateFile(), err)
	}
	lab.Links = max(lab.Links, 1) // of labs made before there could be two
	for _, host := range lab.Hosts {
		host.lab = lab
	}
	return lab, nil
}

// List returns every lab of the store, sorted by name. Labs whose creation
// was cut off before their state was written appear with their name alone.
func (s *Store) List() ([]*Lab, error) {
	entries, err := os.ReadDir(s.Dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("list labs: %w", err)
	}
	var labs []*Lab
	for _, entry := range entries {
		if !entry.IsDir() {
			continue
		}
		lab, err := s.load(entry.Name())
		if errors.Is(err, fs.ErrNotExist) {
			lab, err = &Lab{Name: entry.Name(), dir: filepath.Join(s.Dir, entry.Name()), log: s.logger()}, nil
		}
		if err != nil {
			return nil, err
		}
		labs = append(labs, lab)
	}
	sort.Slice(labs, func(i, j int) bool { return labs[i].Name < labs[j].Name })
	return labs, nil
}

// Host returns the host of that name.
func (l *Lab) Host(name string) (*Host, error) {
	for _, host := range l.Hosts {
		if host.Name == name {
			return host, nil
		}
	}
	return nil, fmt.Errorf("lab %s has no host %q", l.Name, name)
}

// KeyFile is the private key that opens every host of the lab to root.
func (l *Lab) KeyFile() string { return filepath.Join(l.dir, "ssh", "id_ed25519") }

// KnownHosts is the known_hosts file with every host's key.
func (l *Lab) KnownHosts() string { return filepath.Join(l.dir, "ssh", "known_hosts") }

func (l *Lab) stateFile() string  { return filepath.Join(l.dir, "lab.json") }
func (l *Lab) switchFile() string { return filepath.Join(l.dir, "switch.ns") }

// HasRole tells whether the host was created for that role.
func (h *Host) HasRole(role string) bool { return slices.Contains(h.Roles, role) }

// Console is the file that the host's first process writes its messages to.
func (h *Host) Console() string { return filepath.Join(h.dir(), "console.log") }

// Journal is the directory of the host's journal on the machine, which can be
// read (journalctl -D) whether the host is running or not.
func (h *Host) Journal() string { return filepath.Join(h.dir(), "upper/var/log/journal") }

func (h *Host) dir() string { return filepath.Join(h.lab.dir, "hosts", h.Name) }

// save writes the state file in one step.
func (l *Lab) save() error {
	raw, err := json.MarshalIndent(l, "", "  ")
	if err != nil {
		return fmt.Errorf("encode lab state: %w", err)
	}
	return writeFile(l.stateFile(), append(raw, '\n'), 0o600)
}

// writeFile replaces path in one step, so that a reader sees the old content
// or the new one.
func writeFile(path string, content []byte, mode os.FileMode) error {
	temporary, err := os.CreateTemp(filepath.Dir(path), ".new-")
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	defer os.Remove(temporary.Name())
	_, err = temporary.Write(content)
	if err == nil {
		err = temporary.Chmod(mode)
	}
	if closeErr := temporary.Close(); err == nil {
		err = closeErr
	}
	if err == nil {
		err = os.Rename(temporary.Name(), path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

// lockDir holds an exclusive lock on a directory until the returned function
// is called or the process ends.
func lockDir(dir string) (unlock func(), err error) {
	file, err := os.Open(dir)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if !errors.Is(err, unix.EINTR) {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock %s: %w", dir, err)
	}
	return func() { file.Close() }, nil
}

// change runs f on the lab while no other process changes it.
func (s *Store) change(name string, f func(*Lab) error) error {
	if _, err := s.Open(name); err != nil {
		return err
	}
	unlock, err := lockDir(filepath.Join(s.Dir, name))
	if err != nil {
		return err
	}
	defer unlock()
	lab, err := s.Open(name) // it may have changed or gone while we waited
	if err != nil {
		return err
	}
	return f(lab)
}
