package volumes

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// SubPath pins the path sub inside the volume at base for the index-th mount
// of container, and returns where: a bind mount of exactly what the path led
// to when it was opened, so that nothing a container does to the volume
// afterwards can lead elsewhere. A missing path becomes a directory.
func (m *Manager) SubPath(pod *v1.Pod, volume, base, sub, container string, index int) (string, error) {
	target := filepath.Join(m.PodDir(pod.UID), "volume-subpaths", volume, container, strconv.Itoa(index))
	fd, err := openBeneath(base, sub)
	if err != nil {
		return "", fmt.Errorf("failed to prepare subPath for volumeMount %q of container %q: %w", volume, container, err)
	}
	defer unix.Close(fd)
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil {
		return "", fmt.Errorf("look at subPath %s: %w", sub, err)
	}
	if err := clear(target); err != nil {
		return "", err
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o750); err != nil {
		return "", fmt.Errorf("make subPath mount point: %w", err)
	}
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o750)
	} else {
		err = os.WriteFile(target, nil, 0o640)
	}
	if err != nil {
		return "", fmt.Errorf("make subPath mount point: %w", err)
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", fd), target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return "", fmt.Errorf("bind subPath %s: %w", sub, err)
	}
	return target, nil
}

// clear removes what an earlier run of the container left at target.
func clear(target string) error {
	if _, err := os.Lstat(target); errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if mounted, err := mountinfo.Mounted(target); err != nil {
		return fmt.Errorf("look at %s: %w", target, err)
	} else if mounted {
		if err := unix.Unmount(target, unix.UMOUNT_NOFOLLOW|unix.MNT_DETACH); err != nil {
			return fmt.Errorf("unmount %s: %w", target, err)
		}
	}
	if err := os.Remove(target); err != nil {
		return fmt.Errorf("remove %s: %w", target, err)
	}
	return nil
}

// openBeneath opens sub below base without ever leaving base, and makes the
// directories that are missing. The caller closes the descriptor.
func openBeneath(base, sub string) (int, error) {
	root, err := unix.Open(base, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", base, err)
	}
	defer unix.Close(root)
	var volume unix.Stat_t
	if err := unix.Fstat(root, &volume); err != nil {
		return -1, fmt.Errorf("look at %s: %w", base, err)
	}
	how := &unix.OpenHow{Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_MAGICLINKS}
	parts := strings.Split(filepath.Clean(sub), "/")
	for i := range parts {
		path := strings.Join(parts[:i+1], "/")
		fd, err := unix.Openat2(root, path, how)
		if errors.Is(err, unix.ENOENT) {
			if err := makeBeneath(root, strings.Join(parts[:i], "/"), parts[i], volume.Mode&0o7777, how); err != nil {
				return -1, fmt.Errorf("make directory %s: %w", path, err)
			}
			fd, err = unix.Openat2(root, path, how)
		}
		if err != nil {
			return -1, fmt.Errorf("open %s: %w", path, err)
		}
		if i == len(parts)-1 {
			return fd, nil
		}
		_ = unix.Close(fd)
	}
	return -1, fmt.Errorf("subPath %q is empty", sub)
}

// makeBeneath makes a directory that is open to whom the volume is open to.
func makeBeneath(root int, parent, name string, mode uint32, how *unix.OpenHow) error {
	dir := root
	if parent != "" {
		fd, err := unix.Openat2(root, parent, how)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		dir = fd
	}
	err := unix.Mkdirat(dir, name, mode)
	if errors.Is(err, unix.EEXIST) {
		return nil
	}
	if err != nil {
		return err
	}
	made, err := unix.Openat2(dir, name, &unix.OpenHow{Flags: unix.O_RDONLY | unix.O_DIRECTORY | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: how.Resolve})
	if err != nil {
		return err
	}
	defer unix.Close(made)
	return unix.Fchmod(made, mode) // past the umask
}
