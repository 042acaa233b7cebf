package csrsign

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/csr"
)

// authority writes a CA that lives for life, and returns its files.
func authority(t *testing.T, life time.Duration) (certFile, keyFile string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "ca"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(life),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	certFile, keyFile = filepath.Join(dir, "ca.crt"), filepath.Join(dir, "ca.key")
	for file, block := range map[string]*pem.Block{certFile: {Type: "CERTIFICATE", Bytes: der}, keyFile: {Type: "PRIVATE KEY", Bytes: raw}} {
		if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return certFile, keyFile
}

// request is an approved serving request of node n1.
func request(t *testing.T, name string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject:     pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}},
		DNSNames:    []string{"n1"},
		IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)},
	}, key)
	if err != nil {
		t.Fatal(err)
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: certificatesv1.KubeletServingSignerName,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
		Status: certificatesv1.CertificateSigningRequestStatus{Conditions: []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue}}},
	}
}

func TestSignsOnlyWhatIsApprovedAndAllowed(t *testing.T) {
	pending, denied, foreign, wrong := request(t, "pending"), request(t, "denied"), request(t, "foreign"), request(t, "wrong")
	pending.Status = certificatesv1.CertificateSigningRequestStatus{}
	denied.Status.Conditions = append(denied.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{Type: certificatesv1.CertificateDenied, Status: corev1.ConditionTrue})
	foreign.Spec.SignerName = "example.com/signer"
	wrong.Spec.Usages = append(wrong.Spec.Usages, certificatesv1.UsageCertSign)
	f := controllertest.New(t, request(t, "good"), pending, denied, foreign, wrong)
	certFile, keyFile := authority(t, 24*time.Hour)
	c, err := New(f.Env, certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	get := func(name string) *certificatesv1.CertificateSigningRequest {
		o, err := f.Client.CertificatesV1().CertificateSigningRequests().Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return o
	}
	controllertest.Eventually(t, "the good one to be signed", func() bool { return len(get("good").Status.Certificate) > 0 })
	controllertest.Eventually(t, "the wrong one to fail", func() bool { return csr.Has(get("wrong"), certificatesv1.CertificateFailed) })
	for _, name := range []string{"pending", "denied", "foreign", "wrong"} {
		if len(get(name).Status.Certificate) > 0 {
			t.Errorf("%s was signed", name)
		}
	}
	block, _ := pem.Decode(get("good").Status.Certificate)
	certificate, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(certFile)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(raw)
	if _, err := certificate.Verify(x509.VerifyOptions{Roots: roots, DNSName: "n1", KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}); err != nil {
		t.Error(err)
	}
	if certificate.IsCA || certificate.KeyUsage != x509.KeyUsageDigitalSignature || len(certificate.ExtKeyUsage) != 1 {
		t.Errorf("certificate may be used for %v, %v, CA %v", certificate.KeyUsage, certificate.ExtKeyUsage, certificate.IsCA)
	}
	if certificate.NotAfter.After(time.Now().Add(24 * time.Hour)) {
		t.Errorf("outlives its CA: %s", certificate.NotAfter)
	}
}

func TestLife(t *testing.T) {
	certFile, keyFile := authority(t, 10*365*24*time.Hour)
	ca, key, err := load(certFile, keyFile)
	if err != nil {
		t.Fatal(err)
	}
	now := time.Now()
	seconds := func(n int32) *int32 { return &n }
	for _, test := range []struct {
		asked *int32
		want  time.Duration
	}{{nil, longest}, {seconds(3600), time.Hour}, {seconds(1), shortest}, {seconds(1 << 30), longest}} {
		o := request(t, "r")
		o.Spec.ExpirationSeconds = test.asked
		parsed, err := csr.Parse(o)
		if err != nil {
			t.Fatal(err)
		}
		raw, err := sign(o, parsed, ca, key, now)
		if err != nil {
			t.Fatal(err)
		}
		block, _ := pem.Decode(raw)
		certificate, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			t.Fatal(err)
		}
		if got := certificate.NotAfter.Sub(now.Truncate(time.Second)); got != test.want {
			t.Errorf("asked for %v: lives for %s, want %s", test.asked, got, test.want)
		}
	}
	certFile, keyFile = authority(t, -time.Minute)
	if ca, key, err = load(certFile, keyFile); err != nil {
		t.Fatal(err)
	}
	o := request(t, "r")
	parsed, err := csr.Parse(o)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := sign(o, parsed, ca, key, now); err == nil || !strings.Contains(err.Error(), "expired") {
		t.Errorf("an expired CA signed (%v)", err)
	}
}
