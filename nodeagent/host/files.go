package host

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"clusterctl/hostop"
)

func (h *Hand) checkDirectory(o *hostop.Directory) (string, error) {
	info, err := os.Lstat(h.path(o.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is absent", nil
	case err != nil:
		return "", fmt.Errorf("look at directory: %w", err)
	case !info.IsDir():
		return "is not a directory", nil
	}
	return metadata(info, o.Mode), nil
}

func (h *Hand) applyDirectory(o *hostop.Directory) error {
	path := h.path(o.Path)
	if info, err := os.Lstat(path); err == nil && !info.IsDir() {
		return errors.New("something else is there; remove it first")
	}
	if err := os.MkdirAll(path, o.Mode.Perm()); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	return claim(path, o.Mode)
}

func (h *Hand) checkFile(o *hostop.File) (string, error) {
	return h.compareFile(o.Path, o.Mode, o.Content)
}

func (h *Hand) applyFile(o *hostop.File) error {
	return h.writeFile(o.Path, o.Mode, o.Content)
}

// compareFile says how the file at path differs from content and mode.
func (h *Hand) compareFile(path string, mode fs.FileMode, content []byte) (string, error) {
	info, err := os.Lstat(h.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is absent", nil
	case err != nil:
		return "", fmt.Errorf("look at file: %w", err)
	case !info.Mode().IsRegular():
		return "is not a regular file", nil
	case info.Size() != int64(len(content)):
		return "has other content", nil
	}
	have, err := os.ReadFile(h.path(path))
	if err != nil {
		return "", fmt.Errorf("read file: %w", err)
	}
	if !bytes.Equal(have, content) {
		return "has other content", nil
	}
	return metadata(info, mode), nil
}

// metadata says how mode and owner differ.
func metadata(info fs.FileInfo, mode fs.FileMode) string {
	if info.Mode().Perm() != mode.Perm() {
		return fmt.Sprintf("has mode %04o, not %04o", info.Mode().Perm(), mode.Perm())
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 && (stat.Uid != 0 || stat.Gid != 0) {
		return "is not owned by root"
	}
	return ""
}

// claim sets mode and owner.
func claim(path string, mode fs.FileMode) error {
	if err := os.Chmod(path, mode.Perm()); err != nil {
		return fmt.Errorf("set mode: %w", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Lchown(path, 0, 0); err != nil {
			return fmt.Errorf("set owner: %w", err)
		}
	}
	return nil
}

// writeFile replaces the file at path. Missing directories above it are made:
// 0755, since a stricter one is asked for by an operation of its own.
func (h *Hand) writeFile(path string, mode fs.FileMode, content []byte) error {
	return h.replaceFile(path, mode, func(w io.Writer) error {
		_, err := w.Write(content)
		return err
	})
}

// replaceFile writes a file beside path and renames it over path when fill
// succeeded and the bytes are on disk. The name of the temporary file is always
// the same, so one that a killed run left is taken over by the next.
func (h *Hand) replaceFile(path string, mode fs.FileMode, fill func(io.Writer) error) (err error) {
	path = h.path(path)
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	temporary := filepath.Join(directory, "."+filepath.Base(path)+".clusterctl-new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old temporary file: %w", err)
	}
	file, err := os.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	defer func() {
		if err != nil {
			file.Close()
			os.Remove(temporary)
		}
	}()
	if err := fill(file); err != nil {
		return fmt.Errorf("write file: %w", err)
	}
	if err := claim(temporary, mode); err != nil {
		return err
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("sync file: %w", err)
	}
	if err := file.Close(); err != nil {
		return fmt.Errorf("close file: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("put file in place: %w", err)
	}
	return syncDirectory(directory)
}

// syncDirectory makes renames in a directory last.
func syncDirectory(path string) error {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync directory: %w", err)
	}
	defer directory.Close()
	if err := directory.Sync(); err != nil && !errors.Is(err, syscall.EINVAL) {
		return fmt.Errorf("sync directory: %w", err)
	}
	return nil
}

func (h *Hand) checkLink(o *hostop.Link) (string, error) {
	target, err := os.Readlink(h.path(o.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is absent", nil
	case errors.Is(err, syscall.EINVAL):
		return "is not a link", nil
	case err != nil:
		return "", fmt.Errorf("read link: %w", err)
	case target != o.Target:
		return "points at " + target, nil
	}
	return "", nil
}

func (h *Hand) applyLink(o *hostop.Link) error {
	path := h.path(o.Path)
	if info, err := os.Lstat(path); err == nil && info.IsDir() {
		return errors.New("a directory is there; remove it first")
	}
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	temporary := filepath.Join(directory, "."+filepath.Base(path)+".clusterctl-new")
	if err := os.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove an old temporary link: %w", err)
	}
	if err := os.Symlink(o.Target, temporary); err != nil {
		return fmt.Errorf("make link: %w", err)
	}
	if err := os.Rename(temporary, path); err != nil {
		os.Remove(temporary)
		return fmt.Errorf("put link in place: %w", err)
	}
	return syncDirectory(directory)
}

func (h *Hand) checkAbsent(o *hostop.Absent) (string, error) {
	_, err := os.Lstat(h.path(o.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "", nil
	case err != nil:
		return "", fmt.Errorf("look at path: %w", err)
	}
	return "is there", nil
}

func (h *Hand) applyAbsent(o *hostop.Absent) error {
	clean := filepath.Clean(o.Path)
	if !filepath.IsAbs(clean) || len(splitPath(clean)) < 2 {
		return fmt.Errorf("refuse to remove %q", o.Path)
	}
	if err := os.RemoveAll(h.path(clean)); err != nil {
		return fmt.Errorf("remove: %w", err)
	}
	return nil
}

// splitPath lists the elements of an absolute path.
func splitPath(path string) []string {
	var parts []string
	for path != "/" && path != "." {
		parts = append([]string{filepath.Base(path)}, parts...)
		path = filepath.Dir(path)
	}
	return parts
}
