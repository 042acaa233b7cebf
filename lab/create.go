//go:build linux

package lab

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// Spec is the shape of a lab to create.
type Spec struct {
	Name          string // lower-case letters, digits and dashes
	ControlPlanes int
	Workers       int
	Etcd          int // hosts for etcd alone; 0: every control plane carries a member
	Links         int // 1, or 2 with a router between them that hosts hang on in turn; 0 is 1
}

// ErrExists is returned when a lab of that name has another shape.
var ErrExists = errors.New("lab exists")

// Create makes a lab and boots its hosts; it returns when all can be logged
// into. Creating a lab that exists in the same shape boots what is not
// running; one whose creation was interrupted is carried on with.
func (s *Store) Create(ctx context.Context, spec Spec) (*Lab, error) {
	if err := spec.check(); err != nil {
		return nil, err
	}
	if err := s.Check(); err != nil {
		return nil, err
	}
	for _, warning := range warnings(spec.ControlPlanes + spec.Workers + spec.Etcd) {
		s.logger().Warn(warning)
	}
	tree, err := s.tree(ctx)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(filepath.Join(s.Dir, spec.Name), 0o700); err != nil {
		return nil, fmt.Errorf("create lab directory: %w", err)
	}
	unlock, err := lockDir(filepath.Join(s.Dir, spec.Name))
	if err != nil {
		return nil, err
	}
	defer unlock()
	lab, err := s.plan(spec, tree)
	if err != nil {
		return nil, err
	}
	if err := lab.makeClientKey(); err != nil {
		return nil, err
	}
	err = lab.each(nil, func(host *Host) error { return host.prepare() })
	if err != nil {
		return nil, err
	}
	if err := lab.writeKnownHosts(); err != nil {
		return nil, err
	}
	if err := lab.start(ctx, nil); err != nil {
		return nil, err
	}
	return lab, nil
}

func (spec Spec) check() error {
	hosts := spec.ControlPlanes + spec.Workers + spec.Etcd
	switch {
	case !validName.MatchString(spec.Name):
		return fmt.Errorf("lab name %q: use up to 30 lower-case letters, digits and dashes", spec.Name)
	case spec.ControlPlanes < 0 || spec.Workers < 0 || spec.Etcd < 0:
		return errors.New("the number of hosts cannot be negative")
	case hosts == 0:
		return errors.New("a lab needs a host at least")
	case hosts > maxHosts:
		return fmt.Errorf("a lab has at most %d hosts", maxHosts)
	case spec.Links < 0 || spec.Links > 2:
		return errors.New("a lab has one link or two")
	}
	return nil
}

// plan returns the lab's state: what is on disk if it fits the spec, a new
// one with a free subnet otherwise.
func (s *Store) plan(spec Spec, tree string) (*Lab, error) {
	spec.Links = max(spec.Links, 1)
	lab, err := s.load(spec.Name)
	if err == nil {
		if shape := lab.shape(); shape != spec {
			return nil, fmt.Errorf("%w with %d control planes, %d workers and %d etcd hosts, links: %d: clusterctl lab delete --name %s",
				ErrExists, shape.ControlPlanes, shape.Workers, shape.Etcd, shape.Links, spec.Name)
		}
		return lab, nil
	}
	if !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	// Two labs that are created at the same time must not choose alike, those of
	// another store neither: what they share is the cache, and the machine, which
	// shows a subnet that is taken once the lab's switch is there.
	unlock, err := lockDir(s.CacheDir)
	if err != nil {
		return nil, err
	}
	defer unlock()
	used, err := usedPrefixes()
	if err != nil {
		return nil, err
	}
	labs, err := s.List()
	if err != nil {
		return nil, err
	}
	for _, other := range labs {
		if prefix, err := netip.ParsePrefix(other.Subnet); err == nil {
			used = append(used, prefix)
		}
	}
	subnet, err := freeSubnet(used)
	if err != nil {
		return nil, err
	}
	lab = &Lab{
		Name:    spec.Name,
		Created: time.Now().UTC().Truncate(time.Second),
		Subnet:  subnet.String(),
		Gateway: subnet.Addr().Next().String(),
		Links:   spec.Links,
		Tree:    tree,
		dir:     filepath.Join(s.Dir, spec.Name),
		log:     s.logger(),
	}
	lab.addHosts(spec, subnet)
	if err := lab.save(); err != nil {
		return nil, err
	}
	return lab, lab.makeSwitch()
}

func (l *Lab) addHosts(spec Spec, subnet netip.Prefix) {
	add := func(names []string, role string) {
		for _, name := range names {
			address := addressOn(subnet, len(l.Hosts)%l.Links, firstHost+len(l.Hosts)/l.Links)
			l.Hosts = append(l.Hosts, &Host{
				Name:    name,
				Address: address.String(),
				MAC:     hostMAC(address),
				Index:   len(l.Hosts),
				Roles:   []string{role},
				lab:     l,
			})
		}
	}
	add(hostNames("cp", spec.ControlPlanes), RoleControlPlane)
	add(hostNames("worker", spec.Workers), RoleWorker)
	add(hostNames("etcd", spec.Etcd), RoleEtcd)
}

// shape is the spec that the lab was created from.
func (l *Lab) shape() Spec {
	spec := Spec{Name: l.Name, Links: l.Links}
	for _, host := range l.Hosts {
		switch {
		case host.HasRole(RoleControlPlane):
			spec.ControlPlanes++
		case host.HasRole(RoleWorker):
			spec.Workers++
		default:
			spec.Etcd++
		}
	}
	return spec
}

// prepare lays out the host's disk, unless it has one. The console's file is
// made last and marks that it is whole.
func (h *Host) prepare() error {
	if exists(h.Console()) {
		return nil
	}
	if err := os.RemoveAll(h.dir()); err != nil {
		return fmt.Errorf("clear unfinished host: %w", err)
	}
	if err := os.MkdirAll(h.dir(), 0o700); err != nil {
		return fmt.Errorf("create host directory: %w", err)
	}
	for _, dir := range []struct {
		path string
		mode os.FileMode
	}{
		{"work", 0o755}, {"root", 0o755}, {"upper", 0o755}, {"upper/etc", 0o755}, {"upper/etc/ssh", 0o755},
		{"upper/root", 0o700}, {"upper/root/.ssh", 0o700},
	} {
		if err := os.Mkdir(filepath.Join(h.dir(), dir.path), dir.mode); err != nil {
			return fmt.Errorf("create host directory: %w", err)
		}
	}
	upper := filepath.Join(h.dir(), "upper")
	files, err := h.files()
	if err != nil {
		return err
	}
	for path, content := range files {
		if err := writeFile(filepath.Join(upper, path), []byte(content), 0o644); err != nil {
			return err
		}
	}
	if err := makeHostKeys(filepath.Join(upper, "etc/ssh"), h.Name); err != nil {
		return err
	}
	copied := exec.Command("cp", "-a", filepath.Join(h.lab.Tree, "var/lib"), filepath.Join(h.dir(), "varlib"))
	var output bytes.Buffer
	copied.Stderr = &output
	if err := runTied(copied); err != nil {
		return fmt.Errorf("copy /var/lib: %w: %s", err, lastLines(output.String(), 3))
	}
	console, err := os.OpenFile(h.Console(), os.O_CREATE|os.O_WRONLY, 0o600)
	if err != nil {
		return fmt.Errorf("create console: %w", err)
	}
	return console.Close()
}

// files are the host's own files at creation.
func (h *Host) files() (map[string]string, error) {
	key, err := os.ReadFile(h.lab.KeyFile() + ".pub")
	if err != nil {
		return nil, fmt.Errorf("read client key: %w", err)
	}
	names := []string{"127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"}
	for _, host := range h.lab.Hosts {
		names = append(names, host.Address+" "+host.Name)
	}
	return map[string]string{
		"etc/hostname":              h.Name + "\n",
		"etc/hosts":                 strings.Join(names, "\n") + "\n",
		"etc/machine-id":            strings.ReplaceAll(uuid.NewString(), "-", "") + "\n",
		"etc/resolv.conf":           "nameserver " + h.lab.Gateway + "\n",
		"root/.ssh/authorized_keys": string(key),
	}, nil
}

// Names returns the hosts' names, for completion and messages.
func (l *Lab) Names() []string {
	var names []string
	for _, host := range l.Hosts {
		names = append(names, host.Name)
	}
	return slices.Clip(names)
}
