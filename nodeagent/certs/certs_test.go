package certs

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	"k8s.io/client-go/util/certificate"

	"clusterctl/hostconfig"
)

// pair makes a self-signed certificate in PEM.
func pair(t *testing.T, serial int64) (cert, key []byte) {
	t.Helper()
	return selfSigned(t, &x509.Certificate{SerialNumber: big.NewInt(serial), Subject: pkix.Name{CommonName: "n"}, NotAfter: time.Now().Add(time.Hour)})
}

func selfSigned(t *testing.T, template *x509.Certificate) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
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

// TestServingCertificateHasEveryAddress has a node's IPv6 address come to be known
// after its certificate was made.
func TestServingCertificateHasEveryAddress(t *testing.T) {
	pki := hostconfig.PKI(t.TempDir())
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		Subject:  pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}},
		DNSNames: []string{"n1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}
	for _, name := range []string{hostconfig.PairNode, hostconfig.PairNodeServing} {
		cert, key := selfSigned(t, template)
		for file, content := range map[string][]byte{pki.Cert(name): cert, pki.Key(name): key} {
			if err := os.MkdirAll(filepath.Dir(file), 0o700); err != nil {
				t.Fatal(err)
			}
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	requests := make(chan *certificatesv1.CertificateSigningRequest, 100)
	client := fake.NewClientset()
	client.PrependReactor("create", "certificatesigningrequests", func(action clienttesting.Action) (bool, runtime.Object, error) {
		requests <- action.(clienttesting.CreateAction).GetObject().(*certificatesv1.CertificateSigningRequest)
		return true, nil, errors.New("not now")
	})
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var second atomic.Bool
	k, err := New(ctx, pki, "n1", func() []string {
		if second.Load() {
			return []string{"10.0.0.1", "fd00::1"}
		}
		return []string{"10.0.0.1"}
	}, client)
	if err != nil {
		t.Fatal(err)
	}
	var running sync.WaitGroup
	running.Go(func() { _ = k.Run(ctx) }) // it never fails
	defer running.Wait()
	defer stop()
	select { // long enough for several looks
	case got := <-requests:
		t.Fatalf("a certificate with all addresses is renewed by %s", got.Spec.SignerName)
	case <-time.After(3 * time.Second):
	}
	second.Store(true)
	select {
	case got := <-requests:
		block, _ := pem.Decode(got.Spec.Request)
		request, err := x509.ParseCertificateRequest(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got.Spec.SignerName != certificatesv1.KubeletServingSignerName || !slices.Equal(request.DNSNames, []string{"n1"}) ||
			len(request.IPAddresses) != 2 || !request.IPAddresses[0].Equal(net.IPv4(10, 0, 0, 1)) || !request.IPAddresses[1].Equal(net.ParseIP("fd00::1")) {
			t.Errorf("%s asked for %v %v", got.Spec.SignerName, request.DNSNames, request.IPAddresses)
		}
	case <-time.After(time.Minute):
		t.Error("the certificate is not renewed")
	}
}
