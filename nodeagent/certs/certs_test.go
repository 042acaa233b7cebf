package certs

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/util/certificate"
)

// pair makes a self-signed certificate in PEM.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "n"}, NotAfter: time.Now().Add(time.Hour)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, private.Public(), private)
	if err != nil {
		t.Fatal(err)
	}
	keyDER, err := x509.MarshalECPrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

func TestStoreSurvivesACutAtAnyStep(t *testing.T) {
	dir := t.TempDir()
	s := &store{cert: filepath.Join(dir, "n.crt"), key: filepath.Join(dir, "n.key")}
	var none *certificate.NoCertKeyError
	if _, err := s.Current(); !errors.As(err, &none) {
		t.Errorf("empty store: got %v", err)
	}
	oldCert, oldKey := pair(t, 1)
	if _, err := s.Update(oldCert, oldKey); err != nil {
		t.Fatal(err)
	}
	newCert, newKey := pair(t, 2)
	serial := func() int64 {
		t.Helper()
		current, err := s.Current()
		if err != nil {
			t.Fatal(err)
		}
		return current.Leaf.SerialNumber.Int64()
	}
	// Cut after the new key was put beside the old.
	if err := write(s.pendingKey(), newKey); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 1 {
		t.Errorf("new key only: serial %d, want the old pair", got)
	}
	// Cut after the certificate was replaced.
	if err := write(s.cert, newCert); err != nil {
		t.Fatal(err)
	}
	if got := serial(); got != 2 {
		t.Errorf("certificate replaced: serial %d, want the new pair", got)
	}
	if _, err := os.Stat(s.pendingKey()); !os.IsNotExist(err) {
		t.Errorf("the new key still waits: %v", err)
	}
	if got := serial(); got != 2 {
		t.Errorf("afterwards: serial %d", got)
	}
	if info, err := os.Stat(s.key); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("key file: %v %v", info, err)
	}
}
