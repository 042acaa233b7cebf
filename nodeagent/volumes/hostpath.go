package volumes

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
)

// checkHostPath sees that what a hostPath volume names is what its type
// says, and makes it where the type says so.
func checkHostPath(source *v1.HostPathVolumeSource) error {
	want := v1.HostPathUnset
	if source.Type != nil {
		want = *source.Type
	}
	if want == v1.HostPathUnset {
		return nil
	}
	info, err := os.Stat(source.Path)
	missing := errors.Is(err, fs.ErrNotExist)
	if err != nil && !missing {
		return fmt.Errorf("look at %s: %w", source.Path, err)
	}
	if missing {
		switch want {
		case v1.HostPathDirectoryOrCreate:
			return os.MkdirAll(source.Path, 0o755)
		case v1.HostPathFileOrCreate:
			if _, err := os.Stat(filepath.Dir(source.Path)); err != nil {
				return fmt.Errorf("hostPath type check failed: %s is not a file", source.Path)
			}
			f, err := os.OpenFile(source.Path, os.O_CREATE, 0o644)
			if err != nil {
				return fmt.Errorf("create %s: %w", source.Path, err)
			}
			return f.Close()
		}
		return fmt.Errorf("hostPath type check failed: %s does not exist", source.Path)
	}
	mode := info.Mode()
	ok, name := false, ""
	switch want {
	case v1.HostPathDirectory, v1.HostPathDirectoryOrCreate:
		ok, name = mode.IsDir(), "a directory"
	case v1.HostPathFile, v1.HostPathFileOrCreate:
		ok, name = mode.IsRegular(), "a file"
	case v1.HostPathSocket:
		ok, name = mode&fs.ModeSocket != 0, "a socket file"
	case v1.HostPathCharDev:
		ok, name = mode&fs.ModeCharDevice != 0, "a character device"
	case v1.HostPathBlockDev:
		ok, name = mode&fs.ModeDevice != 0 && mode&fs.ModeCharDevice == 0, "a block device"
	default:
		return fmt.Errorf("hostPath type %q is not known", want)
	}
	if !ok {
		return fmt.Errorf("hostPath type check failed: %s is not %s", source.Path, name)
	}
	return nil
}
