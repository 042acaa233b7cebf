package volumes

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// file is one file of a volume's contents.
type file struct {
	data []byte
	mode fs.FileMode
	user *int64 // owner; nil leaves it to root
}

// The names by which contents are switched: dataLink points to the directory
// that holds the current ones, and every name a user sees leads through it.
const (
	dataLink    = "..data"
	dataLinkNew = "..data_tmp"
)

// writeAtomically makes dir show exactly contents, by relative path. Readers
// see the old contents or the new, never a mixture: the new ones are written
// beside the old, then one rename switches. It says whether anything changed.
func writeAtomically(dir string, contents map[string]file) (changed bool, err error) {
	for path := range contents {
		if err := checkPath(path); err != nil {
			return false, err
		}
	}
	current, err := os.Readlink(filepath.Join(dir, dataLink))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	if current != "" && same(filepath.Join(dir, current), contents) {
		return false, link(dir, contents)
	}
	fresh, err := os.MkdirTemp(dir, time.Now().UTC().Format("..2006_01_02_15_04_05."))
	if err != nil {
		return false, err
	}
	if err := fill(fresh, contents); err != nil {
		_ = os.RemoveAll(fresh)
		return false, err
	}
	newLink := filepath.Join(dir, dataLinkNew)
	_ = os.Remove(newLink)
	if err := os.Symlink(filepath.Base(fresh), newLink); err != nil {
		return false, err
	}
	if err := os.Rename(newLink, filepath.Join(dir, dataLink)); err != nil {
		return false, err
	}
	if err := link(dir, contents); err != nil {
		return true, err
	}
	if current != "" {
		return true, os.RemoveAll(filepath.Join(dir, current))
	}
	return true, nil
}

// fill writes contents into the directory fresh.
func fill(fresh string, contents map[string]file) error {
	if err := os.Chmod(fresh, 0o755); err != nil {
		return err
	}
	for path, f := range contents {
		full := filepath.Join(fresh, path)
		if err := os.MkdirAll(filepath.Dir(full), 0o755); err != nil {
			return err
		}
		if err := os.WriteFile(full, f.data, f.mode.Perm()); err != nil {
			return err
		}
		if err := os.Chmod(full, f.mode.Perm()); err != nil { // past the umask
			return err
		}
		if f.user != nil {
			if err := os.Chown(full, int(*f.user), -1); err != nil {
				return err
			}
		}
	}
	return nil
}

// link makes the names that users see, and removes those that are no more.
func link(dir string, contents map[string]file) error {
	names := map[string]bool{}
	for path := range contents {
		top, _, _ := strings.Cut(path, "/")
		names[top] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "..") {
			continue
		}
		if names[e.Name()] {
			delete(names, e.Name())
		} else if err := os.Remove(filepath.Join(dir, e.Name())); err != nil {
			return err
		}
	}
	for name := range names {
		if err := os.Symlink(filepath.Join(dataLink, name), filepath.Join(dir, name)); err != nil {
			return err
		}
	}
	return nil
}

// same says whether the directory holds exactly contents. Modes count by
// what they were asked to be, before the group of the pod was let in.
func same(dir string, contents map[string]file) bool {
	seen := 0
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		relative, err := filepath.Rel(dir, path)
		if err != nil {
			return err
		}
		f, ok := contents[relative]
		if !ok {
			return errDiffers
		}
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		info, err := e.Info()
		if err != nil {
			return err
		}
		if !bytes.Equal(data, f.data) || info.Mode().Perm()&^0o440 != f.mode.Perm()&^0o440 {
			return errDiffers
		}
		seen++
		return nil
	})
	return err == nil && seen == len(contents)
}

var errDiffers = errors.New("contents differ")

func checkPath(path string) error {
	if path == "" || filepath.IsAbs(path) || strings.HasPrefix(path, "..") || filepath.Clean(path) != path {
		return fmt.Errorf("path %q does not stay inside the volume", path)
	}
	return nil
}
