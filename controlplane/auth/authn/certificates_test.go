package authn

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"math/big"
	"net/http"
	"testing"
	"time"
)

// authority signs certificates of one CA.
type authority struct {
	t           *testing.T
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	a := &authority{t: t, key: newKey(t)}
	a.certificate = a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: "ca"}, NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign,
	}, a.key)
	return a
}

func newKey(t *testing.T) *ecdsa.PrivateKey {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func (a *authority) sign(template *x509.Certificate, key *ecdsa.PrivateKey) *x509.Certificate {
	a.t.Helper()
	template.SerialNumber = big.NewInt(time.Now().UnixNano())
	template.NotBefore = time.Now().Add(-time.Minute)
	parent := a.certificate
	if parent == nil {
		parent = template
	}
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), a.key)
	if err != nil {
		a.t.Fatal(err)
	}
	certificate, err := x509.ParseCertificate(der)
	if err != nil {
		a.t.Fatal(err)
	}
	return certificate
}

func (a *authority) client(name string, life time.Duration) *x509.Certificate {
	a.t.Helper()
	return a.sign(&x509.Certificate{
		Subject: pkix.Name{CommonName: name}, NotAfter: time.Now().Add(life),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth},
	}, newKey(a.t))
}

func (a *authority) options() x509.VerifyOptions {
	roots := x509.NewCertPool()
	roots.AddCert(a.certificate)
	return x509.VerifyOptions{Roots: roots, KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageClientAuth}}
}

func TestCertificatesAreRemembered(t *testing.T) {
	first, second := newAuthority(t), newAuthority(t)
	trusted := first.options()
	a := newCertificateAuthenticator(func() (x509.VerifyOptions, bool) { return trusted, true })
	who := func(certificates ...*x509.Certificate) string {
		t.Helper()
		response, ok, _ := a.AuthenticateRequest(&http.Request{TLS: &tls.ConnectionState{PeerCertificates: certificates}})
		if !ok {
			return ""
		}
		return response.User.GetName()
	}
	jane, joe := first.client("jane", time.Hour), first.client("joe", 30*time.Minute)
	for range 2 { // verified, then remembered
		if got := who(jane); got != "jane" {
			t.Errorf("jane is known as %q", got)
		}
		if got := who(second.client("eve", time.Hour)); got != "" {
			t.Errorf("a certificate of another authority is known as %q", got)
		}
		if got := who(); got != "" {
			t.Errorf("no certificate is known as %q", got)
		}
	}
	if got := len(a.known.Keys()); got != 1 {
		t.Errorf("%d certificates are remembered, want jane's only", got)
	}

	if got := who(joe); got != "joe" {
		t.Errorf("joe is known as %q", got)
	}
	trusted.CurrentTime = joe.NotAfter.Add(time.Second)
	a.now = func() time.Time { return trusted.CurrentTime }
	if got := who(joe); got != "" {
		t.Errorf("a certificate that has expired is known as %q", got)
	}

	trusted = second.options()
	if got := who(jane); got != "" {
		t.Errorf("jane is known as %q by an authority that is trusted no more", got)
	}
}
