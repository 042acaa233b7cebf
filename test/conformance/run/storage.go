package main

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
)

// storageImage is an image of a storage driver, or of what goes with one.
var storageImage = regexp.MustCompile(`image: (registry\.k8s\.io/sig-storage/([a-z0-9-]+):v\S+)`)

// storageImages are the images that the manifests below a directory name, as
// far as there is a program of the name. The programs have to be linked to
// nothing: an image holds no more, but for the driver's own, which calls others.
func storageImages(programs, manifests string) ([]image, error) {
	names := map[string][]string{} // by program
	err := filepath.WalkDir(manifests, func(path string, e fs.DirEntry, err error) error {
		if err != nil || filepath.Ext(path) != ".yaml" {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		for _, found := range storageImage.FindAllStringSubmatch(string(content), -1) {
			if name, program := found[1], found[2]; !slices.Contains(names[program], name) {
				names[program] = append(names[program], name)
			}
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(programs)
	if err != nil {
		return nil, err
	}
	var list []image
	for _, e := range entries {
		if names[e.Name()] == nil {
			continue
		}
		i := image{archive: e.Name(), names: names[e.Name()], bare: true, entrypoint: []string{"/" + e.Name()},
			put: []file{{to: e.Name(), from: filepath.Join(programs, e.Name()), mode: 0o755}}}
		if e.Name() == "hostpathplugin" {
			i.bare, i.packages = false, []string{"mount", "util-linux"} // losetup, findmnt, fallocate
		}
		list = append(list, i)
	}
	return list, nil
}
