package certcheck

import (
	"bytes"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	"clusterctl/hostop"
)

// Fingerprint is the lower-case hexadecimal SHA-256 of a public key's
// SubjectPublicKeyInfo. It is empty when the key is of a kind that X.509 does
// not know.
func Fingerprint(pub crypto.PublicKey) string {
	raw, err := x509.MarshalPKIXPublicKey(pub)
	if err != nil {
		return ""
	}
	sum := sha256.Sum256(raw)
	return hex.EncodeToString(sum[:])
}

// FingerprintPEM is the Fingerprint of the key that the first PEM block of raw
// holds or speaks of: a certificate, a private key or a public key. A
// certificate and its key have the same fingerprint.
func FingerprintPEM(raw []byte) (string, error) {
	pub, err := publicKey(raw)
	if err != nil {
		return "", err
	}
	return Fingerprint(pub), nil
}

// FingerprintFiles is the fingerprint of each file by its name, for a
// certificate authority directory.
func FingerprintFiles(files map[string][]byte) (map[string]string, error) {
	prints := make(map[string]string, len(files))
	for name, raw := range files {
		print, err := FingerprintPEM(raw)
		if err != nil {
			return nil, fmt.Errorf("fingerprint %s: %w", name, err)
		}
		prints[name] = print
	}
	return prints, nil
}

func publicKey(raw []byte) (crypto.PublicKey, error) {
	block, _ := pem.Decode(raw)
	if block == nil {
		return nil, errors.New("no PEM block")
	}
	switch block.Type {
	case "CERTIFICATE":
		cert, err := x509.ParseCertificate(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse certificate: %w", err)
		}
		return cert.PublicKey, nil
	case "PUBLIC KEY":
		pub, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse public key: %w", err)
		}
		return pub, nil
	case "EC PRIVATE KEY":
		key, err := x509.ParseECPrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse EC key: %w", err)
		}
		return key.Public(), nil
	case "PRIVATE KEY":
		key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("parse key: %w", err)
		}
		signer, ok := key.(crypto.Signer)
		if !ok {
			return nil, fmt.Errorf("a %T has no public key", key)
		}
		return signer.Public(), nil
	}
	return nil, fmt.Errorf("unexpected PEM block %q", block.Type)
}

// Check says in a few words what keeps the pair from being what want asks for;
// empty means that nothing does. More names than asked for are no difference.
// The signer is known by want.AuthorityKey (compared with the certificate's
// authority key id, see AuthorityKeyID); an empty one is not compared.
func Check(certPEM, keyPEM []byte, want hostop.Certificate, now time.Time) (differs string) {
	block, _ := pem.Decode(certPEM)
	if block == nil || block.Type != "CERTIFICATE" {
		return "no certificate"
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return "unreadable certificate"
	}
	key, err := publicKey(keyPEM)
	if err != nil {
		return "unreadable key"
	}
	if Fingerprint(key) != Fingerprint(cert.PublicKey) {
		return "key and certificate do not belong together"
	}
	if now.Before(cert.NotBefore) {
		return "not valid before " + cert.NotBefore.UTC().Format(time.RFC3339)
	}
	if !now.Add(want.RenewBefore).Before(cert.NotAfter) {
		return "expires " + cert.NotAfter.UTC().Format(time.RFC3339)
	}
	if want.AuthorityKey != "" && !bytes.Equal(cert.AuthorityKeyId, AuthorityKeyID(want.AuthorityKey)) {
		return "signed by another authority"
	}
	return names(cert, want)
}

// names compares subject, alternative names and usages.
func names(cert *x509.Certificate, want hostop.Certificate) string {
	if cert.Subject.CommonName != want.CommonName {
		return fmt.Sprintf("is for %q, not %q", cert.Subject.CommonName, want.CommonName)
	}
	for _, organization := range want.Organization {
		if !slices.Contains(cert.Subject.Organization, organization) {
			return "lacks organization " + organization
		}
	}
	for _, organization := range cert.Subject.Organization {
		if !slices.Contains(want.Organization, organization) {
			return "has organization " + organization
		}
	}
	for _, name := range want.DNSNames {
		if !slices.ContainsFunc(cert.DNSNames, func(have string) bool { return strings.EqualFold(have, name) }) {
			return "lacks name " + name
		}
	}
	for _, address := range want.IPs {
		ip := net.ParseIP(address)
		if !slices.ContainsFunc(cert.IPAddresses, ip.Equal) {
			return "lacks address " + address
		}
	}
	if want.Client && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageClientAuth) {
		return "not for clients"
	}
	if want.Server && !slices.Contains(cert.ExtKeyUsage, x509.ExtKeyUsageServerAuth) {
		return "not for servers"
	}
	return ""
}

// AuthorityKeyID is the X.509 key identifier that an authority with this
// fingerprint carries: its first 20 bytes. bootstrap/pki sets it as the subject
// key id of every CA it makes, so a leaf names its signer without the CA at
// hand. Nil when the fingerprint is malformed.
func AuthorityKeyID(fingerprint string) []byte {
	sum, err := hex.DecodeString(fingerprint)
	if err != nil || len(sum) != sha256.Size {
		return nil
	}
	return sum[:20]
}
