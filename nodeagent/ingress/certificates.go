package ingress

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"fmt"
	"math/big"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// certificates are what TLS is answered with. They never change once made.
type certificates struct {
	byHost map[string]*tls.Certificate // as in table.routes; "": for names without one
	own    *tls.Certificate            // for the rest: trusted by nobody
}

// choose finds the certificate of a server name.
func (c *certificates) choose(serverName string) *tls.Certificate {
	for _, h := range candidates(hostOf(serverName)) {
		if found := c.byHost[h]; found != nil {
			return found
		}
	}
	return c.own
}

// parseCertificate reads the pair that a Secret holds.
func parseCertificate(secret *v1.Secret) (*tls.Certificate, error) {
	chain, key := secret.Data[v1.TLSCertKey], secret.Data[v1.TLSPrivateKeyKey]
	if len(chain) == 0 || len(key) == 0 {
		return nil, errors.New("the secret lacks " + v1.TLSCertKey + " or " + v1.TLSPrivateKeyKey)
	}
	pair, err := tls.X509KeyPair(chain, key)
	if err != nil {
		return nil, fmt.Errorf("read certificate and key: %w", err)
	}
	return &pair, nil
}

// selfSigned makes the certificate that is shown for names that have none. It
// lives in memory only.
func selfSigned() (*tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "no certificate for this name"}, DNSNames: []string{"ingress.invalid"},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(10, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	raw, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("make a certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{raw}, PrivateKey: key}, nil
}

// user is whom the secret is watched for: itself, so that it can be let go
// alone.
func (n objectName) user() types.UID { return types.UID(n.namespace + "/" + n.name) }
