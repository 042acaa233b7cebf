//go:build linux

package lab

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
)

// Delete ends every host of a lab and removes all there is of it, whatever
// state an interrupted create or delete left it in. Only the Debian tree
// stays, in the cache. It returns ErrNoLab when there is nothing to delete.
func (s *Store) Delete(name string) error {
	if !validName.MatchString(name) || !exists(filepath.Join(s.Dir, name)) {
		return fmt.Errorf("%w: %s", ErrNoLab, name)
	}
	lab := &Lab{Name: name, dir: filepath.Join(s.Dir, name), log: s.logger()}
	unlock, err := lockDir(lab.dir)
	if err != nil {
		return err
	}
	defer unlock()
	if loaded, err := s.load(name); err == nil {
		lab = loaded
	}
	hierarchies, err := machineHierarchies()
	if err != nil {
		return err
	}
	// First the hosts' first processes: with each goes all of a host.
	err = lab.each(nil, func(host *Host) error { return host.powerCut(context.Background()) })
	if err != nil {
		return err
	}
	if err := clearCgroups(hierarchies, lab.cgroup()); err != nil {
		return err
	}
	for _, hierarchy := range hierarchies {
		_ = os.Remove(filepath.Join(hierarchy.Mount, cgroupParent)) // unless another lab is in it
	}
	if err := lab.removeSwitch(); err != nil {
		return err
	}
	if err := os.RemoveAll(lab.dir); err != nil {
		return fmt.Errorf("delete lab directory: %w", err)
	}
	_ = os.Remove(s.Dir) // unless another lab is in it
	return nil
}
