package pki

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"fmt"
	"net"
	"time"

	"clusterctl/hostop"
)

// Issue makes a key and has want.Authority sign a certificate for it with the
// names and usages of want. Both are PEM; the key is a secret.
func (b Bundle) Issue(want hostop.Certificate, now time.Time) (cert, key []byte, err error) {
	authority, signer, err := b.authority(want.Authority)
	if err != nil {
		return nil, nil, fmt.Errorf("issue %s: %w", want.Pair, err)
	}
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, nil, fmt.Errorf("make key for %s: %w", want.Pair, err)
	}
	serial, err := serialNumber()
	if err != nil {
		return nil, nil, err
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      pkix.Name{CommonName: want.CommonName, Organization: want.Organization},
		DNSNames:     want.DNSNames,
		NotBefore:    now.Add(-Backdate),
		NotAfter:     earlier(now.Add(LeafLifetime), authority.NotAfter),
		KeyUsage:     x509.KeyUsageDigitalSignature,
	}
	for _, address := range want.IPs {
		ip := net.ParseIP(address)
		if ip == nil {
			return nil, nil, fmt.Errorf("issue %s: %q is no IP address", want.Pair, address)
		}
		template.IPAddresses = append(template.IPAddresses, ip)
	}
	if want.Client {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageClientAuth)
	}
	if want.Server {
		template.ExtKeyUsage = append(template.ExtKeyUsage, x509.ExtKeyUsageServerAuth)
	}
	der, err := x509.CreateCertificate(rand.Reader, template, authority, private.Public(), signer)
	if err != nil {
		return nil, nil, fmt.Errorf("sign %s: %w", want.Pair, err)
	}
	if key, err = encodeKey(private); err != nil {
		return nil, nil, err
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), key, nil
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}
