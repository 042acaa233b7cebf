package volumes

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
	v1 "k8s.io/api/core/v1"
)

// setGroup gives everything below dir to the pod's fsGroup: readable for it
// (readOnly) or writable, new files inheriting the group.
func setGroup(dir string, pod *v1.Pod, readOnly bool) error {
	if pod.Spec.SecurityContext == nil || pod.Spec.SecurityContext.FSGroup == nil {
		return nil
	}
	if keepsGroup(dir, pod) {
		return nil
	}
	group := int(*pod.Spec.SecurityContext.FSGroup)
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		if err := unix.Lchown(path, -1, group); err != nil {
			return err
		}
		if info.Mode()&fs.ModeSymlink != 0 {
			return nil
		}
		mode := info.Mode().Perm() | 0o660
		if readOnly {
			mode = info.Mode().Perm() | 0o440
		}
		if info.IsDir() {
			mode |= 0o110 | fs.ModeSetgid
		}
		return os.Chmod(path, mode)
	})
	if err != nil {
		return fmt.Errorf("give volume to group %d: %w", group, err)
	}
	return nil
}

// soleUser is the user that every container of the pod runs as, where all
// say so and agree.
func soleUser(pod *v1.Pod) *int64 {
	var sole *int64
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			var user *int64
			if pod.Spec.SecurityContext != nil {
				user = pod.Spec.SecurityContext.RunAsUser
			}
			if c := list[i].SecurityContext; c != nil && c.RunAsUser != nil {
				user = c.RunAsUser
			}
			if user == nil || sole != nil && *sole != *user {
				return nil
			}
			sole = user
		}
	}
	return sole
}
