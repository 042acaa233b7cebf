package ociarchive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestTree(t *testing.T) {
	root := t.TempDir()
	for _, dir := range []string{"usr/bin", "uploads"} {
		if err := os.MkdirAll(filepath.Join(root, dir), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	program := filepath.Join(root, "usr/bin/nnp")
	if err := os.WriteFile(program, []byte("binary"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(program, 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("usr/bin", filepath.Join(root, "bin")); err != nil {
		t.Fatal(err)
	}
	files, err := Tree(root + "/")
	if err != nil {
		t.Fatal(err)
	}
	files = append(files, File{Path: "/home/user", Mode: os.ModeDir | 0o700, UID: 1000, GID: 50000})

	layer, err := layerOf(files)
	if err != nil {
		t.Fatal(err)
	}
	var got []string
	for in := tar.NewReader(bytes.NewReader(layer)); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, _ := io.ReadAll(in)
		got = append(got, fmt.Sprintf("%c %s %o %d:%d %s%s", h.Typeflag, h.Name, h.Mode, h.Uid, h.Gid, h.Linkname, content))
	}
	want := []string{
		"2 bin 777 0:0 usr/bin",
		"5 home/ 755 0:0 ",
		"5 home/user/ 700 1000:50000 ",
		"5 uploads/ 755 0:0 ",
		"5 usr/ 755 0:0 ",
		"5 usr/bin/ 755 0:0 ",
		"0 usr/bin/nnp 4755 0:0 binary",
	}
	if !slices.Equal(got, want) {
		t.Errorf("layer holds\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestTreeRefusesWhatNoImageHolds(t *testing.T) {
	root := t.TempDir()
	listener, err := net.Listen("unix", filepath.Join(root, "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	if _, err := Tree(root); err == nil || !strings.Contains(err.Error(), "which an image cannot hold") {
		t.Errorf("Tree of a socket: %v, want a refusal", err)
	}
	if _, err := Tree(filepath.Join(root, "missing")); err == nil {
		t.Error("Tree of a missing directory succeeded")
	}
}

func TestAliases(t *testing.T) {
	var archive bytes.Buffer
	target, err := Write(&archive, Image{Name: "a:1", Aliases: []string{"b:2"}, Arch: "amd64"})
	if err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(&archive); ; {
		h, err := in.Next()
		if err != nil {
			t.Fatalf("no index in the archive: %v", err)
		}
		if h.Name != v1.ImageIndexFile {
			continue
		}
		var index v1.Index
		if err := json.NewDecoder(in).Decode(&index); err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, m := range index.Manifests {
			if m.Digest != target {
				t.Errorf("%v points at %s, want %s", m.Annotations, m.Digest, target)
			}
			names = append(names, m.Annotations["io.containerd.image.name"])
		}
		if !slices.Equal(names, []string{"a:1", "b:2"}) {
			t.Errorf("index names %q, want both", names)
		}
		return
	}
}
