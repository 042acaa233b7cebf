package certs

import (
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"sync"

	"k8s.io/client-go/util/certificate"
)

// store is a pair of files. It satisfies certificate.Store.
//
// Two files cannot be replaced at once. So the new key is put beside the old
// one first, then the certificate is replaced, then the key: a pair that does
// not fit is one whose new key still waits beside it.
type store struct {
	cert, key string
	mu        sync.Mutex
}

func (s *store) pendingKey() string { return s.key + ".next" }

// Current reads the pair, and completes a replacement that was cut short.
func (s *store) Current() (*tls.Certificate, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pair, err := load(s.cert, s.key)
	if err == nil {
		return pair, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		none := certificate.NoCertKeyError("no certificate at " + s.cert)
		return nil, &none
	}
	pair, pendingErr := load(s.cert, s.pendingKey())
	if pendingErr != nil {
		return nil, fmt.Errorf("load certificate %s: %w", s.cert, err)
	}
	if err := os.Rename(s.pendingKey(), s.key); err != nil {
		return nil, fmt.Errorf("complete replacement of %s: %w", s.key, err)
	}
	return pair, nil
}

// Update replaces the pair.
func (s *store) Update(cert, key []byte) (*tls.Certificate, error) {
	pair, err := parse(cert, key)
	if err != nil {
		return nil, fmt.Errorf("new certificate for %s: %w", s.cert, err)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := write(s.pendingKey(), key); err != nil {
		return nil, err
	}
	if err := write(s.cert, cert); err != nil {
		return nil, err
	}
	if err := os.Rename(s.pendingKey(), s.key); err != nil {
		return nil, fmt.Errorf("replace %s: %w", s.key, err)
	}
	return pair, nil
}

func load(certFile, keyFile string) (*tls.Certificate, error) {
	cert, err := os.ReadFile(certFile)
	if err != nil {
		return nil, err
	}
	key, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, err
	}
	return parse(cert, key)
}

func parse(cert, key []byte) (*tls.Certificate, error) {
	pair, err := tls.X509KeyPair(cert, key)
	if err != nil {
		return nil, err
	}
	if pair.Leaf == nil {
		if pair.Leaf, err = x509.ParseCertificate(pair.Certificate[0]); err != nil {
			return nil, err
		}
	}
	return &pair, nil
}

// write replaces a file in one step, 0600.
func write(name string, content []byte) error {
	f, err := os.CreateTemp(filepath.Dir(name), "."+filepath.Base(name)+".*")
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	defer os.Remove(f.Name())
	_, err = f.Write(content)
	err = errors.Join(err, f.Sync(), f.Close())
	if err == nil {
		err = os.Rename(f.Name(), name)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}
