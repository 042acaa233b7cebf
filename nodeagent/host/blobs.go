package host

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"

	"github.com/klauspost/compress/zstd"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

const (
	blobDir  = hostconfig.HandDir + "/blobs"     // compressed, by digest; removed once used
	sumsFile = hostconfig.HandDir + "/sums.json" // path -> sum
)

// sum remembers a file's hash for as long as size and time stand.
type sum struct {
	Size   int64  `json:"size"`
	Time   int64  `json:"time"` // modification, ns
	SHA256 string `json:"sha256"`
}

var digestForm = regexp.MustCompile(`^sha256:[0-9a-f]{64}$`)

// blobPath is where the blob with this digest is kept.
func blobPath(digest string) (string, error) {
	if !digestForm.MatchString(digest) {
		return "", fmt.Errorf("%q is not a digest sha256:…", digest)
	}
	return filepath.Join(blobDir, digest[len("sha256:"):]), nil
}

// missingBlobs lists those of digests that have to be sent.
func (h *Hand) missingBlobs(digests []string) ([]string, error) {
	missing := []string{}
	for _, digest := range digests {
		path, err := blobPath(digest)
		if err != nil {
			return nil, err
		}
		if _, err := os.Stat(h.path(path)); err != nil {
			missing = append(missing, digest)
		}
	}
	return missing, nil
}

// putBlob stores a body under its digest once that is verified.
func (h *Hand) putBlob(digest string, body io.Reader) error {
	path, err := blobPath(digest)
	if err != nil {
		return err
	}
	if err := h.ownDirectory(); err != nil {
		return err
	}
	if err := h.secretDirectory(blobDir); err != nil {
		return err
	}
	return h.replaceFile(path, 0o600, func(w io.Writer) error {
		hash := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, hash), body); err != nil {
			return err
		}
		if got := "sha256:" + hex.EncodeToString(hash.Sum(nil)); got != digest {
			return fmt.Errorf("what arrived is %s, not %s", got, digest)
		}
		return nil
	})
}

// openBlob gives the unpacked bytes of a stored blob.
func (h *Hand) openBlob(digest string) (io.ReadCloser, error) {
	path, err := blobPath(digest)
	if err != nil {
		return nil, err
	}
	file, err := os.Open(h.path(path))
	if err != nil {
		return nil, fmt.Errorf("the blob was not sent: %w", err)
	}
	decoder, err := zstd.NewReader(file, zstd.WithDecoderConcurrency(1), zstd.WithDecoderLowmem(true))
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("unpack blob: %w", err)
	}
	return &unpacking{decoder, file}, nil
}

type unpacking struct {
	*zstd.Decoder
	file *os.File
}

func (u *unpacking) Close() error {
	u.Decoder.Close()
	return u.file.Close()
}

// dropBlob removes a blob that has been used. A blob that stays only takes room.
func (h *Hand) dropBlob(digest string) {
	if path, err := blobPath(digest); err == nil {
		if err := os.Remove(h.path(path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			h.log.Warn("remove a used blob", "digest", digest, "error", err)
		}
	}
}

func (h *Hand) checkBlob(o *hostop.Blob) (string, error) {
	info, err := os.Lstat(h.path(o.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is absent", nil
	case err != nil:
		return "", fmt.Errorf("look at file: %w", err)
	case !info.Mode().IsRegular():
		return "is not a regular file", nil
	}
	have, err := h.fileSum(o.Path, info)
	if err != nil {
		return "", err
	}
	if have != o.SHA256 {
		return "has other content", nil
	}
	return metadata(info, o.Mode), nil
}

func (h *Hand) applyBlob(o *hostop.Blob) error {
	content, err := h.openBlob(o.Digest)
	if err != nil {
		return err
	}
	defer content.Close()
	err = h.replaceFile(o.Path, o.Mode, func(w io.Writer) error {
		hash := sha256.New()
		if _, err := io.Copy(io.MultiWriter(w, hash), content); err != nil {
			return fmt.Errorf("unpack: %w", err)
		}
		if got := hex.EncodeToString(hash.Sum(nil)); got != o.SHA256 {
			return fmt.Errorf("unpacked content is %s, not %s", got, o.SHA256)
		}
		return nil
	})
	if err != nil {
		return err
	}
	h.dropBlob(o.Digest)
	if info, err := os.Lstat(h.path(o.Path)); err == nil {
		h.rememberSum(o.Path, info, o.SHA256)
	}
	return nil
}

// fileSum hashes a file, or finds the hash of an earlier time.
func (h *Hand) fileSum(path string, info fs.FileInfo) (string, error) {
	if s, ok := h.sums()[path]; ok && s.Size == info.Size() && s.Time == info.ModTime().UnixNano() {
		return s.SHA256, nil
	}
	file, err := os.Open(h.path(path))
	if err != nil {
		return "", fmt.Errorf("read file: %w", err)
	}
	defer file.Close()
	hash := sha256.New()
	if _, err := io.Copy(hash, file); err != nil {
		return "", fmt.Errorf("read file: %w", err)
	}
	have := hex.EncodeToString(hash.Sum(nil))
	if _, err := os.Stat(h.path(hostconfig.HandDir)); err == nil {
		h.rememberSum(path, info, have)
	}
	return have, nil
}

func (h *Hand) sums() map[string]sum {
	sums := map[string]sum{}
	if raw, err := os.ReadFile(h.path(sumsFile)); err == nil {
		if json.Unmarshal(raw, &sums) != nil {
			return map[string]sum{}
		}
	}
	return sums
}

// rememberSum is a cache: failing to write it costs a hash the next time.
func (h *Hand) rememberSum(path string, info fs.FileInfo, hash string) {
	sums := h.sums()
	sums[path] = sum{Size: info.Size(), Time: info.ModTime().UnixNano(), SHA256: hash}
	raw, err := json.Marshal(sums)
	if err == nil {
		err = h.writeFile(sumsFile, 0o600, raw)
	}
	if err != nil {
		h.log.Warn("remember a file's hash", "path", path, "error", err)
	}
}
