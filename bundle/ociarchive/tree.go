package ociarchive

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Tree reads a whole root file system as the files of an image: directories,
// regular files and symbolic links with their modes. Whoever owns them here,
// root owns them in the image. Anything else in the tree is an error.
func Tree(root string) ([]File, error) {
	var files []File
	err := filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || path == root {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		file := File{Path: "/" + filepath.ToSlash(path[len(filepath.Clean(root))+1:]), Mode: info.Mode()}
		switch {
		case info.IsDir():
		case info.Mode().IsRegular():
			file.Content, err = os.ReadFile(path)
		case info.Mode()&fs.ModeSymlink != 0:
			file.Mode = 0o777
			file.Link, err = os.Readlink(path)
		default:
			err = fmt.Errorf("%s is a %s, which an image cannot hold", path, info.Mode().Type())
		}
		files = append(files, file)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read tree %s: %w", root, err)
	}
	return files, nil
}
