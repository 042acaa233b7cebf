package ociarchive

import (
	"archive/tar"
	"bytes"
	"cmp"
	"crypto/sha256"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/go-digest"
	"github.com/opencontainers/image-spec/specs-go"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// File is one entry of the image's only layer.
type File struct {
	Path    string      // absolute
	Mode    fs.FileMode // permissions, set-user-ID, set-group-ID, sticky; fs.ModeDir for a directory
	Content []byte
	Link    string // a symbolic link's target, in place of Content
	UID     int    // owner
	GID     int    // owning group
}

// Image is what an archive holds.
type Image struct {
	Name    string   // full, with tag: "clusterctl.dev/pause:1"
	Aliases []string // further names of the same image
	Arch    string   // GOARCH
	Config  v1.ImageConfig
	Files   []File
}

// Write writes the archive to w and returns the digest of the image's
// manifest, which is what Name points at once it is imported.
func Write(w io.Writer, image Image) (digest.Digest, error) {
	layer, err := layerOf(image.Files)
	if err != nil {
		return "", fmt.Errorf("write layer of %s: %w", image.Name, err)
	}
	blobs := map[digest.Digest][]byte{}
	add := func(mediaType string, content []byte) v1.Descriptor {
		d := digest.FromBytes(content)
		blobs[d] = content
		return v1.Descriptor{MediaType: mediaType, Digest: d, Size: int64(len(content))}
	}
	layerDescriptor := add(v1.MediaTypeImageLayer, layer)
	config, err := json.Marshal(v1.Image{
		Platform: v1.Platform{OS: "linux", Architecture: image.Arch},
		Config:   image.Config,
		RootFS:   v1.RootFS{Type: "layers", DiffIDs: []digest.Digest{layerDescriptor.Digest}},
	})
	if err != nil {
		return "", fmt.Errorf("marshal configuration of %s: %w", image.Name, err)
	}
	manifest, err := json.Marshal(v1.Manifest{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageManifest,
		Config:    add(v1.MediaTypeImageConfig, config),
		Layers:    []v1.Descriptor{layerDescriptor},
	})
	if err != nil {
		return "", fmt.Errorf("marshal manifest of %s: %w", image.Name, err)
	}
	root := add(v1.MediaTypeImageManifest, manifest)
	root.Platform = &v1.Platform{OS: "linux", Architecture: image.Arch}
	var roots []v1.Descriptor
	for _, name := range append([]string{image.Name}, image.Aliases...) {
		named := root
		named.Annotations = map[string]string{"io.containerd.image.name": name, v1.AnnotationRefName: name}
		roots = append(roots, named)
	}
	index, err := json.Marshal(v1.Index{
		Versioned: specs.Versioned{SchemaVersion: 2},
		MediaType: v1.MediaTypeImageIndex,
		Manifests: roots,
	})
	if err != nil {
		return "", fmt.Errorf("marshal index of %s: %w", image.Name, err)
	}

	files := []File{
		{Path: v1.ImageLayoutFile, Mode: 0o444, Content: []byte(`{"imageLayoutVersion":"` + v1.ImageLayoutVersion + `"}`)},
		{Path: v1.ImageIndexFile, Mode: 0o444, Content: index},
	}
	for d, content := range blobs {
		files = append(files, File{Path: path.Join(v1.ImageBlobsDir, d.Algorithm().String(), d.Encoded()), Mode: 0o444, Content: content})
	}
	if err := writeTar(w, files); err != nil {
		return "", fmt.Errorf("write archive of %s: %w", image.Name, err)
	}
	return root.Digest, nil
}

func layerOf(files []File) ([]byte, error) {
	var buffer bytes.Buffer
	err := writeTar(&buffer, files)
	return buffer.Bytes(), err
}

// writeTar writes files in order of their paths, with the directories that
// lead to them (owned by root unless they are files of their own), at the epoch.
func writeTar(w io.Writer, files []File) error {
	files = slices.Clone(files)
	slices.SortFunc(files, func(a, b File) int { return cmp.Compare(a.Path, b.Path) })
	out := tar.NewWriter(w)
	made := map[string]bool{".": true, "/": true}
	for _, f := range files {
		name := strings.TrimPrefix(path.Clean(f.Path), "/")
		var missing []string
		for dir := path.Dir(name); !made[dir]; dir = path.Dir(dir) {
			missing = append(missing, dir)
			made[dir] = true
		}
		for _, dir := range slices.Backward(missing) {
			if err := out.WriteHeader(&tar.Header{Typeflag: tar.TypeDir, Name: dir + "/", Mode: dirMode(dir), Format: tar.FormatPAX}); err != nil {
				return err
			}
		}
		header := &tar.Header{Typeflag: tar.TypeReg, Name: name, Mode: tarMode(f.Mode), Uid: f.UID, Gid: f.GID, Format: tar.FormatPAX}
		switch {
		case f.Link != "":
			header.Typeflag, header.Linkname = tar.TypeSymlink, f.Link
		case f.Mode.IsDir():
			header.Typeflag, header.Name = tar.TypeDir, name+"/"
			made[name] = true
		default:
			header.Size = int64(len(f.Content))
		}
		if err := out.WriteHeader(header); err != nil {
			return err
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := out.Write(f.Content); err != nil {
				return err
			}
		}
	}
	return out.Close()
}

func dirMode(dir string) int64 {
	if dir == "tmp" {
		return 0o1777
	}
	return 0o755
}

// tarMode keeps the bits beside the permissions, which some test images are
// about.
func tarMode(mode fs.FileMode) int64 {
	m := int64(mode.Perm())
	for bit, value := range map[fs.FileMode]int64{fs.ModeSetuid: 0o4000, fs.ModeSetgid: 0o2000, fs.ModeSticky: 0o1000} {
		if mode&bit != 0 {
			m |= value
		}
	}
	return m
}

// Digest is the digest of content as registries write it.
func Digest(content []byte) string { return fmt.Sprintf("sha256:%x", sha256.Sum256(content)) }
