package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/hostop/certcheck"
)

// readAuthorities is the content of this host's CA directory.
func (h *Hand) readAuthorities() (map[string][]byte, error) {
	return h.readDirectory(hostconfig.PKI(hostconfig.PKIDir).AuthorityDir())
}

// readDirectory reads every file of a directory; a missing one has none.
func (h *Hand) readDirectory(directory string) (map[string][]byte, error) {
	files := map[string][]byte{}
	entries, err := os.ReadDir(h.path(directory))
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", directory, err)
	}
	for _, e := range entries {
		content, err := os.ReadFile(filepath.Join(h.path(directory), e.Name()))
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", directory, err)
		}
		files[e.Name()] = content
	}
	return files, nil
}

func (h *Hand) checkAuthorities(o *hostop.Authorities) (string, error) {
	directory := hostconfig.PKI(o.PKIDir).AuthorityDir()
	have, err := h.readDirectory(directory)
	if err != nil {
		return "", err
	}
	switch {
	case len(have) == 0:
		return "are absent", nil
	case len(o.Bundle) > 0:
		if !maps.EqualFunc(have, o.Bundle, bytes.Equal) {
			return "are others", nil
		}
	case len(o.Keys) == 0:
		return "the cluster has none yet", nil
	default:
		prints, err := certcheck.FingerprintFiles(have)
		if err != nil {
			return "are unreadable: " + err.Error(), nil
		}
		if !maps.Equal(prints, o.Keys) {
			return "are others", nil
		}
	}
	info, err := os.Stat(h.path(directory))
	if err != nil {
		return "", fmt.Errorf("look at directory: %w", err)
	}
	return metadata(info, 0o700), nil
}

// applyAuthorities replaces the directory as a whole, so that no moment shows
// half of the old and half of the new.
func (h *Hand) applyAuthorities(o *hostop.Authorities) error {
	if len(o.Bundle) == 0 {
		return errors.New("the authorities were not sent along")
	}
	directory := hostconfig.PKI(o.PKIDir).AuthorityDir()
	fresh := directory + ".new"
	if err := os.RemoveAll(h.path(fresh)); err != nil {
		return fmt.Errorf("remove what an earlier run left: %w", err)
	}
	if err := h.secretDirectory(o.PKIDir); err != nil {
		return err
	}
	if err := h.secretDirectory(fresh); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(o.Bundle)) {
		if filepath.Base(name) != name || name == "." || name == ".." {
			return fmt.Errorf("%q is not a file name", name)
		}
		if err := h.writeFile(filepath.Join(fresh, name), 0o600, o.Bundle[name]); err != nil {
			return err
		}
	}
	err := os.Rename(h.path(fresh), h.path(directory))
	if errors.Is(err, fs.ErrExist) || errors.Is(err, unix.ENOTEMPTY) {
		err = unix.Renameat2(unix.AT_FDCWD, h.path(fresh), unix.AT_FDCWD, h.path(directory), unix.RENAME_EXCHANGE)
	}
	if err != nil {
		return fmt.Errorf("put the authorities in place: %w", err)
	}
	if err := os.RemoveAll(h.path(fresh)); err != nil {
		return fmt.Errorf("remove the authorities before: %w", err)
	}
	return syncDirectory(h.path(o.PKIDir))
}

// secretDirectory makes a directory that only root sees.
func (h *Hand) secretDirectory(path string) error {
	if err := os.MkdirAll(h.path(path), 0o700); err != nil {
		return fmt.Errorf("create directory: %w", err)
	}
	return claim(h.path(path), 0o700)
}

// readEncryption is this host's file of encryption keys; empty where there is
// none.
func (h *Hand) readEncryption() ([]byte, error) {
	raw, err := os.ReadFile(h.path(hostconfig.PKI(hostconfig.PKIDir).Encryption()))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read encryption keys: %w", err)
	}
	return raw, nil
}

func (h *Hand) checkEncryption(o *hostop.Encryption) (string, error) {
	path := hostconfig.PKI(o.PKIDir).Encryption()
	if o.Replace {
		return h.compareFile(path, 0o600, o.Content)
	}
	info, err := os.Lstat(h.path(path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "are absent", nil
	case err != nil:
		return "", fmt.Errorf("look at encryption keys: %w", err)
	}
	return metadata(info, 0o600), nil
}

// applyEncryption writes keys where there are none, or where they are to be
// replaced; otherwise only mode and owner of the file are amiss.
func (h *Hand) applyEncryption(o *hostop.Encryption) error {
	path := hostconfig.PKI(o.PKIDir).Encryption()
	if _, err := os.Lstat(h.path(path)); err == nil && !o.Replace {
		return claim(h.path(path), 0o600)
	}
	if len(o.Content) == 0 {
		return errors.New("the keys were not sent along")
	}
	if err := h.secretDirectory(o.PKIDir); err != nil {
		return err
	}
	return h.writeFile(path, 0o600, o.Content)
}

func (h *Hand) checkCertificate(o *hostop.Certificate) (string, error) {
	pki := hostconfig.PKI(o.PKIDir)
	cert, err := os.ReadFile(h.path(pki.Cert(o.Pair)))
	if errors.Is(err, fs.ErrNotExist) {
		return "is absent", nil
	}
	if err != nil {
		return "", fmt.Errorf("read certificate: %w", err)
	}
	key, err := os.ReadFile(h.path(pki.Key(o.Pair)))
	if errors.Is(err, fs.ErrNotExist) {
		return "has no key", nil
	}
	if err != nil {
		return "", fmt.Errorf("read key: %w", err)
	}
	if differs := certcheck.Check(cert, key, *o, time.Now()); differs != "" {
		return differs, nil
	}
	if o.AuthorityKey == "" {
		return "the cluster has no authority yet", nil
	}
	info, err := os.Stat(h.path(pki.Key(o.Pair)))
	if err != nil {
		return "", fmt.Errorf("look at key: %w", err)
	}
	return metadata(info, 0o600), nil
}

// applyCertificate writes key and certificate. A run killed in between leaves
// two that do not belong together, which the next check sees.
func (h *Hand) applyCertificate(o *hostop.Certificate) error {
	if len(o.Cert) == 0 || len(o.Key) == 0 {
		return errors.New("the pair was not sent along")
	}
	if differs := certcheck.Check(o.Cert, o.Key, *o, time.Now()); differs != "" {
		return fmt.Errorf("the pair that was sent is not what was asked for: %s", differs)
	}
	if err := h.secretDirectory(o.PKIDir); err != nil {
		return err
	}
	pki := hostconfig.PKI(o.PKIDir)
	if err := h.writeFile(pki.Key(o.Pair), 0o600, o.Key); err != nil {
		return err
	}
	return h.writeFile(pki.Cert(o.Pair), 0o600, o.Cert)
}

func (h *Hand) checkTrustAnchor(o *hostop.TrustAnchor) (string, error) {
	raw, err := os.ReadFile(h.path(o.Path))
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return "is absent", nil
	case err != nil:
		return "", fmt.Errorf("read certificate: %w", err)
	case len(o.Cert) > 0 && !bytes.Equal(raw, o.Cert):
		return "is another", nil
	case len(o.Cert) > 0:
		return "", nil
	case o.AuthorityKey == "":
		return "the cluster has no authority yet", nil
	}
	have, err := certcheck.FingerprintPEM(raw)
	if err != nil {
		return "is unreadable: " + err.Error(), nil
	}
	if have != o.AuthorityKey {
		return "is another", nil
	}
	return "", nil
}

func (h *Hand) applyTrustAnchor(o *hostop.TrustAnchor) error {
	if len(o.Cert) == 0 {
		return errors.New("the certificate was not sent along")
	}
	return h.writeFile(o.Path, 0o644, o.Cert)
}
