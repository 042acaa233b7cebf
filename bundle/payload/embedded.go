package payload

import (
	"bytes"
	"compress/gzip"
	"crypto/sha256"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"strings"

	"github.com/klauspost/compress/zstd"
)

// ManifestName is the manifest's file name beside the blobs of its architecture.
const ManifestName = "manifest.json"

// files holds <arch>/manifest.json and <arch>/<sha256>. In a checkout where
// `make build` has not run it holds a README only.
//
//go:embed all:files
var files embed.FS

// ErrNone means that this build of clusterctl carries nothing for an
// architecture.
var ErrNone = errors.New("no payload for this architecture in this build of clusterctl (run `make build`)")

// Load returns the manifest for a GOARCH.
func Load(arch string) (Manifest, error) {
	raw, err := files.ReadFile(path.Join("files", arch, ManifestName))
	if errors.Is(err, fs.ErrNotExist) {
		return Manifest{}, fmt.Errorf("load payload for %s: %w", arch, ErrNone)
	}
	if err != nil {
		return Manifest{}, fmt.Errorf("load payload for %s: %w", arch, err)
	}
	var m Manifest
	if err := json.Unmarshal(raw, &m); err != nil {
		return Manifest{}, fmt.Errorf("parse payload manifest for %s: %w", arch, err)
	}
	return m, nil
}

// Architectures lists those that this build carries a payload for.
func Architectures() []string {
	var list []string
	for _, arch := range []string{"amd64", "arm64"} {
		if _, err := Load(arch); err == nil {
			list = append(list, arch)
		}
	}
	return list
}

// Open streams the compressed bytes of the blob with this digest.
func Open(digest string) (io.ReadCloser, error) {
	name := strings.TrimPrefix(digest, "sha256:")
	for _, arch := range []string{"amd64", "arm64"} {
		f, err := files.Open(path.Join("files", arch, name))
		if err == nil {
			return f, nil
		}
		if !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("open payload %s: %w", digest, err)
		}
	}
	return nil, fmt.Errorf("open payload %s: %w", digest, fs.ErrNotExist)
}

// Hand returns the nodeagent for an architecture compressed with gzip, which
// every host can unpack with its own tools, and the hash (hex SHA-256) of the
// unpacked binary. It works for a second or so: call it when a host needs it.
func Hand(arch string) (compressed []byte, sum string, err error) {
	m, err := Load(arch)
	if err != nil {
		return nil, "", err
	}
	entry, ok := m.Entry("nodeagent")
	if !ok {
		return nil, "", fmt.Errorf("the payload for %s has no nodeagent", arch)
	}
	blob, err := Open(entry.Digest)
	if err != nil {
		return nil, "", err
	}
	defer blob.Close()
	in, err := zstd.NewReader(blob)
	if err != nil {
		return nil, "", fmt.Errorf("unpack nodeagent: %w", err)
	}
	defer in.Close()
	var buffer bytes.Buffer
	out, err := gzip.NewWriterLevel(&buffer, gzip.BestSpeed)
	if err != nil {
		return nil, "", fmt.Errorf("compress nodeagent: %w", err)
	}
	digest := sha256.New()
	if _, err := io.Copy(io.MultiWriter(out, digest), in); err != nil {
		return nil, "", fmt.Errorf("unpack nodeagent: %w", err)
	}
	if err := out.Close(); err != nil {
		return nil, "", fmt.Errorf("compress nodeagent: %w", err)
	}
	return buffer.Bytes(), fmt.Sprintf("%x", digest.Sum(nil)), nil
}
