package pki

import (
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"slices"
	"time"

	"clusterctl/hostconfig"
	"clusterctl/hostop/certcheck"
)

// How long certificates live. A leaf is renewed by any `up` in its last month,
// and by the node agent on its own.
const (
	AuthorityLifetime = 10 * 365 * 24 * time.Hour
	LeafLifetime      = 365 * 24 * time.Hour
	// Backdate tolerates hosts whose clocks lag behind the workstation's.
	Backdate = 10 * time.Minute
)

// File names inside hostconfig.PKI.AuthorityDir that are no CA pair.
const (
	ServiceAccountKeyFile = "service-account.key"
	ServiceAccountPubFile = "service-account.pub"
)

var authorities = []string{
	hostconfig.AuthorityCluster, hostconfig.AuthorityEtcd, hostconfig.AuthorityFrontProxy,
}

// Bundle is the content of hostconfig.PKI.AuthorityDir: file name to PEM. It
// holds every secret of a cluster.
type Bundle map[string][]byte

// Files are the names that a whole bundle holds, sorted.
func Files() []string {
	names := []string{ServiceAccountKeyFile, ServiceAccountPubFile}
	for _, authority := range authorities {
		names = append(names, authority+".crt", authority+".key")
	}
	slices.Sort(names)
	return names
}

// NewBundle makes the authorities of a new cluster.
func NewBundle(cluster string, now time.Time) (Bundle, error) {
	bundle := Bundle{}
	for _, authority := range authorities {
		key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
		if err != nil {
			return nil, fmt.Errorf("make %s CA key: %w", authority, err)
		}
		serial, err := serialNumber()
		if err != nil {
			return nil, err
		}
		template := &x509.Certificate{
			SerialNumber:          serial,
			Subject:               pkix.Name{CommonName: cluster + " " + authority + " CA"},
			NotBefore:             now.Add(-Backdate),
			NotAfter:              now.Add(AuthorityLifetime),
			KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
			BasicConstraintsValid: true,
			IsCA:                  true,
			SubjectKeyId:          certcheck.AuthorityKeyID(certcheck.Fingerprint(key.Public())),
		}
		der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
		if err != nil {
			return nil, fmt.Errorf("sign %s CA: %w", authority, err)
		}
		bundle[authority+".crt"] = pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
		if bundle[authority+".key"], err = encodeKey(key); err != nil {
			return nil, err
		}
	}
	return bundle, bundle.addServiceAccountKey()
}

func (b Bundle) addServiceAccountKey() error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return fmt.Errorf("make service-account key: %w", err)
	}
	if b[ServiceAccountKeyFile], err = encodeKey(key); err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return fmt.Errorf("encode service-account public key: %w", err)
	}
	b[ServiceAccountPubFile] = pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: der})
	return nil
}

// ParseBundle checks that files hold a whole set of authorities, each
// certificate beside its own key and valid at now.
func ParseBundle(files map[string][]byte, now time.Time) (Bundle, error) {
	bundle := Bundle{}
	for _, name := range Files() {
		raw, ok := files[name]
		if !ok {
			return nil, fmt.Errorf("certificate authorities lack %s", name)
		}
		bundle[name] = raw
	}
	prints, err := bundle.Fingerprints()
	if err != nil {
		return nil, err
	}
	if prints[ServiceAccountKeyFile] != prints[ServiceAccountPubFile] {
		return nil, errors.New("the service-account key and its public key do not belong together")
	}
	for _, authority := range authorities {
		cert, _, err := bundle.authority(authority)
		if err != nil {
			return nil, err
		}
		if prints[authority+".crt"] != prints[authority+".key"] {
			return nil, fmt.Errorf("the %s CA and its key do not belong together", authority)
		}
		if now.After(cert.NotAfter) {
			return nil, fmt.Errorf("the %s CA expired on %s", authority, cert.NotAfter.Format(time.DateOnly))
		}
	}
	return bundle, nil
}

// Fingerprints are the public-key fingerprints by file name, as a hand reports
// them in hostop.Facts.
func (b Bundle) Fingerprints() (map[string]string, error) { return certcheck.FingerprintFiles(b) }

// Certificate is the CA certificate of an authority, PEM; nil when the bundle
// lacks it.
func (b Bundle) Certificate(authority string) []byte { return b[authority+".crt"] }

func (b Bundle) authority(name string) (*x509.Certificate, crypto.Signer, error) {
	block, _ := pem.Decode(b[name+".crt"])
	if block == nil {
		return nil, nil, fmt.Errorf("read %s CA: no PEM block", name)
	}
	cert, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parse %s CA: %w", name, err)
	}
	block, _ = pem.Decode(b[name+".key"])
	if block == nil {
		return nil, nil, fmt.Errorf("read %s CA key: no PEM block", name)
	}
	key, err := x509.ParsePKCS8PrivateKey(block.Bytes)
	if err != nil {
		return nil, nil, fmt.Errorf("parse %s CA key: %w", name, err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, fmt.Errorf("the %s CA key cannot sign", name)
	}
	return cert, signer, nil
}

func encodeKey(key *ecdsa.PrivateKey) ([]byte, error) {
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("encode key: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}), nil
}

func serialNumber() (*big.Int, error) {
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("draw a serial number: %w", err)
	}
	return serial.Add(serial, big.NewInt(1)), nil
}
