package ociarchive

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"testing"

	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

func TestWrite(t *testing.T) {
	image := Image{
		Name:   "clusterctl.dev/sample:1",
		Arch:   "amd64",
		Config: v1.ImageConfig{Entrypoint: []string{"/sample"}, User: "65534"},
		Files: []File{
			{Path: "/usr/bin/sample", Mode: 0o755, Content: []byte("binary")},
			{Path: "/sample", Link: "usr/bin/sample"},
		},
	}
	var first, second bytes.Buffer
	target, err := Write(&first, image)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Write(&second, image); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(first.Bytes(), second.Bytes()) {
		t.Error("two archives of one image differ")
	}

	entries := map[string][]byte{}
	for in := tar.NewReader(&first); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if entries[h.Name], err = io.ReadAll(in); err != nil {
			t.Fatal(err)
		}
	}
	blob := func(d digest.Digest, into any) []byte {
		t.Helper()
		content, ok := entries["blobs/sha256/"+d.Encoded()]
		if !ok || digest.FromBytes(content) != d {
			t.Fatalf("blob %s is missing or has another digest", d)
		}
		if into != nil {
			if err := json.Unmarshal(content, into); err != nil {
				t.Fatal(err)
			}
		}
		return content
	}
	var index v1.Index
	if err := json.Unmarshal(entries["index.json"], &index); err != nil {
		t.Fatal(err)
	}
	if got := index.Manifests[0]; got.Digest != target || got.Annotations["io.containerd.image.name"] != image.Name {
		t.Errorf("index names %s as %q, want %s as %q", got.Digest, got.Annotations["io.containerd.image.name"], target, image.Name)
	}
	var manifest v1.Manifest
	blob(target, &manifest)
	var config v1.Image
	blob(manifest.Config.Digest, &config)
	if config.RootFS.DiffIDs[0] != manifest.Layers[0].Digest || config.Architecture != "amd64" || config.Config.User != "65534" {
		t.Errorf("configuration does not describe the image: %+v", config)
	}

	var names []string
	for in := tar.NewReader(bytes.NewReader(blob(manifest.Layers[0].Digest, nil))); ; {
		h, err := in.Next()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		names = append(names, h.Name)
	}
	want := []string{"sample", "usr/", "usr/bin/", "usr/bin/sample"}
	if len(names) != len(want) {
		t.Fatalf("layer holds %q, want %q", names, want)
	}
	for i := range want {
		if names[i] != want[i] {
			t.Errorf("layer holds %q, want %q", names, want)
		}
	}
}
