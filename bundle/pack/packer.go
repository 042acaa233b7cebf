package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"time"

	"github.com/klauspost/compress/zstd"

	"clusterctl/bundle/ociarchive"
	"clusterctl/bundle/payload"
)

// packer builds components for one architecture.
type packer struct {
	arch, version string
	out           string // blobs and manifest
	cache         string // <name>.json: the entry made of the binary with this hash
}

// cached is what the cache remembers of a component: the entry, and the hash
// of what went into it.
type cached struct {
	Input string        `json:"input"`
	Entry payload.Entry `json:"entry"`
}

// pack builds one component and returns its entry; the blob is in p.out.
func (p *packer) pack(c component) (payload.Entry, error) {
	started := time.Now()
	version, err := p.versionOf(c)
	if err != nil {
		return payload.Entry{}, err
	}
	built := filepath.Join(p.cache, c.name)
	if err := p.build(c, version, built); err != nil {
		return payload.Entry{}, err
	}
	binary, err := os.ReadFile(built)
	if err != nil {
		return payload.Entry{}, fmt.Errorf("read build: %w", err)
	}
	input := hash(append([]byte(fmt.Sprintf("%s %s %+v ", c.name, version, c.image)), binary...))

	remembered := filepath.Join(p.cache, c.name+".json")
	var last cached
	if raw, err := os.ReadFile(remembered); err == nil && json.Unmarshal(raw, &last) == nil && last.Input == input {
		if _, err := os.Stat(p.blob(last.Entry.Digest)); err == nil {
			log.Printf("%-24s unchanged", c.name)
			return last.Entry, nil
		}
	}

	entry := payload.Entry{Name: c.name, Version: version}
	content := binary
	if c.image == nil {
		entry.Path, entry.Mode = c.path, 0o755
	} else {
		entry.Image = c.image.name + ":" + version
		var archive bytes.Buffer
		target, err := ociarchive.Write(&archive, ociarchive.Image{
			Name: entry.Image, Arch: p.arch, Config: c.image.config,
			Files: []ociarchive.File{{Path: c.image.binary, Mode: 0o755, Content: binary}},
		})
		if err != nil {
			return payload.Entry{}, err
		}
		entry.Target, content = target.String(), archive.Bytes()
	}
	compressed, err := compress(content)
	if err != nil {
		return payload.Entry{}, err
	}
	entry.SHA256, entry.Digest, entry.Size = hash(content), "sha256:"+hash(compressed), int64(len(compressed))
	if err := writeFile(p.blob(entry.Digest), compressed); err != nil {
		return payload.Entry{}, err
	}
	raw, err := json.Marshal(cached{Input: input, Entry: entry})
	if err != nil {
		return payload.Entry{}, fmt.Errorf("marshal cache entry: %w", err)
	}
	if err := writeFile(remembered, raw); err != nil {
		return payload.Entry{}, err
	}
	log.Printf("%-24s %-12s %5.1f MB, %5.1f MB compressed, %s", c.name, version, mega(len(content)), mega(len(compressed)), time.Since(started).Round(100*time.Millisecond))
	return entry, nil
}

// versionOf asks the component's own go.mod.
func (p *packer) versionOf(c component) (string, error) {
	switch {
	case c.source != "":
		return pauseVersion, nil
	case c.module == "":
		return p.version, nil
	}
	cmd := exec.Command("go", "list", "-m", "-f", "{{.Version}}", c.module)
	cmd.Dir = c.dir
	cmd.Stderr = os.Stderr
	raw, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("find version of %s: %w", c.module, err)
	}
	return strings.TrimSpace(string(raw)), nil
}

// build compiles c to path; the Go toolchain's own cache makes an unchanged
// build cheap.
func (p *packer) build(c component, version, path string) error {
	absolute, err := filepath.Abs(path)
	if err != nil {
		return fmt.Errorf("find build path: %w", err)
	}
	var cmd *exec.Cmd
	if c.source != "" {
		cc, err := p.compiler()
		if err != nil {
			return err
		}
		cmd = exec.Command(cc, "-static", "-nostdlib", "-Os", "-ffreestanding", "-fno-stack-protector",
			"-fno-asynchronous-unwind-tables", "-Wall", "-Werror", "-Wl,--build-id=none,-z,noseparate-code", "-s", "-o", absolute, c.source)
	} else {
		cmd = exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-tags", c.tags,
			"-ldflags", "-s -w "+strings.ReplaceAll(c.ld, "{{version}}", version), "-o", absolute, c.pkg)
		cmd.Dir = c.dir
		cmd.Env = append(os.Environ(), "GOOS=linux", "GOARCH="+p.arch, "CGO_ENABLED=0")
		if c.cgo {
			cc, err := p.compiler()
			if err != nil {
				return err
			}
			cmd.Env = append(cmd.Env, "CGO_ENABLED=1", "CC="+cc)
		}
	}
	var stderr bytes.Buffer
	cmd.Stderr = &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build: %w\n%s", err, stderr.Bytes())
	}
	return nil
}

// compiler is the C compiler for p.arch.
func (p *packer) compiler() (string, error) {
	cc := "gcc"
	if p.arch != runtime.GOARCH || runtime.GOOS != "linux" {
		cc = map[string]string{"amd64": "x86_64-linux-gnu-gcc", "arm64": "aarch64-linux-gnu-gcc"}[p.arch]
	}
	if _, err := exec.LookPath(cc); err != nil {
		return "", fmt.Errorf("no C compiler for linux/%s: install %s and libseccomp-dev for that architecture", p.arch, cc)
	}
	return cc, nil
}

func (p *packer) blob(digest string) string {
	return filepath.Join(p.out, strings.TrimPrefix(digest, "sha256:"))
}

// removeStrangers deletes blobs that the manifest no longer names, so that
// they are not embedded.
func (p *packer) removeStrangers(manifest payload.Manifest) error {
	keep := map[string]bool{payload.ManifestName: true}
	for _, e := range manifest.Entries {
		keep[strings.TrimPrefix(e.Digest, "sha256:")] = true
	}
	entries, err := os.ReadDir(p.out)
	if err != nil {
		return fmt.Errorf("list payload: %w", err)
	}
	for _, e := range entries {
		if !keep[e.Name()] {
			if err := os.Remove(filepath.Join(p.out, e.Name())); err != nil {
				return fmt.Errorf("remove old blob: %w", err)
			}
		}
	}
	return nil
}

func compress(content []byte) ([]byte, error) {
	encoder, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedBetterCompression), zstd.WithWindowSize(8<<20))
	if err != nil {
		return nil, fmt.Errorf("make encoder: %w", err)
	}
	defer encoder.Close()
	return encoder.EncodeAll(content, nil), nil
}

// writeFile replaces path atomically, and leaves it alone (time stamp and all)
// where it has this content already.
func writeFile(path string, content []byte) error {
	if old, err := os.ReadFile(path); err == nil && bytes.Equal(old, content) {
		return nil
	} else if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read %s: %w", path, err)
	}
	if err := os.WriteFile(path+".part", content, 0o644); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if err := os.Rename(path+".part", path); err != nil {
		return fmt.Errorf("replace %s: %w", path, err)
	}
	return nil
}

func hash(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}

func mega(n int) float64 { return float64(n) / (1 << 20) }
