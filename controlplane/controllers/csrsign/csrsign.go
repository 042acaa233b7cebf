package csrsign

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"os"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/util/cert"
	"k8s.io/client-go/util/keyutil"

	"clusterctl/controlplane/controllers/csr"
	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 2
	// longest is the life of a certificate that asks for none, and the most
	// that one can ask for.
	longest  = 365 * 24 * time.Hour
	shortest = 10 * time.Minute
	backdate = 5 * time.Minute // for clocks that are behind
)

// New makes the controller. The CA's PEM files are read for every signature, so
// that a renewed CA is used at once and its key is not kept in memory.
func New(env *reconcile.Environment, certFile, keyFile string) (reconcile.Controller, error) {
	requests := env.Informers.Certificates().V1().CertificateSigningRequests()
	loop := reconcile.NewLoop(env, "csrsign", workers, func(ctx context.Context, name string) error {
		cached, err := requests.Lister().Get(name)
		if apierrors.IsNotFound(err) {
			return nil
		}
		if err != nil {
			return err
		}
		if len(cached.Status.Certificate) > 0 || !known(cached.Spec.SignerName) || !csr.Has(cached, certificatesv1.CertificateApproved) ||
			csr.Has(cached, certificatesv1.CertificateDenied) || csr.Has(cached, certificatesv1.CertificateFailed) {
			return nil
		}
		signed := cached.DeepCopy()
		request, err := csr.Parse(cached)
		if err == nil {
			err = csr.Check(cached, request)
		}
		if err != nil {
			signed.Status.Conditions = append(signed.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
				Type:           certificatesv1.CertificateFailed,
				Status:         corev1.ConditionTrue,
				Reason:         "SignerValidationFailure",
				Message:        err.Error(),
				LastUpdateTime: metav1.Now(),
			})
		} else {
			ca, key, err := load(certFile, keyFile)
			if err != nil {
				return err
			}
			signed.Status.Certificate, err = sign(cached, request, ca, key, time.Now())
			if err != nil {
				return err
			}
		}
		if _, err := env.Client.CertificatesV1().CertificateSigningRequests().UpdateStatus(ctx, signed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write certificate: %w", err)
		}
		return nil
	})
	err := reconcile.Watch(env, requests.Informer(), reconcile.Handlers[*certificatesv1.CertificateSigningRequest]{
		Add:    func(o *certificatesv1.CertificateSigningRequest) { loop.AddObject(o) },
		Update: func(_, o *certificatesv1.CertificateSigningRequest) { loop.AddObject(o) },
	})
	if err != nil {
		return nil, err
	}
	return loop, nil
}

func known(signer string) bool {
	switch signer {
	case certificatesv1.KubeAPIServerClientSignerName, certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.KubeletServingSignerName:
		return true
	}
	return false
}

func load(certFile, keyFile string) (*x509.Certificate, crypto.Signer, error) {
	chain, err := cert.CertsFromFile(certFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read CA certificate: %w", err)
	}
	raw, err := os.ReadFile(keyFile)
	if err != nil {
		return nil, nil, fmt.Errorf("read CA key: %w", err)
	}
	key, err := keyutil.ParsePrivateKeyPEM(raw)
	if err != nil {
		return nil, nil, fmt.Errorf("parse CA key: %w", err)
	}
	signer, ok := key.(crypto.Signer)
	if !ok {
		return nil, nil, errors.New("CA key cannot sign")
	}
	return chain[0], signer, nil
}

var (
	keyUsages = map[certificatesv1.KeyUsage]x509.KeyUsage{
		certificatesv1.UsageDigitalSignature: x509.KeyUsageDigitalSignature,
		certificatesv1.UsageKeyEncipherment:  x509.KeyUsageKeyEncipherment,
	}
	extendedUsages = map[certificatesv1.KeyUsage]x509.ExtKeyUsage{
		certificatesv1.UsageClientAuth: x509.ExtKeyUsageClientAuth,
		certificatesv1.UsageServerAuth: x509.ExtKeyUsageServerAuth,
	}
)

// sign returns the certificate as PEM. The request's own extensions are left
// out, but for its subject alternative names.
func sign(o *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest, ca *x509.Certificate, key crypto.Signer, now time.Time) ([]byte, error) {
	life := longest
	if s := o.Spec.ExpirationSeconds; s != nil {
		life = min(longest, max(shortest, time.Duration(*s)*time.Second))
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 127))
	if err != nil {
		return nil, fmt.Errorf("make serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber:          serial,
		Subject:               request.Subject,
		DNSNames:              request.DNSNames,
		IPAddresses:           request.IPAddresses,
		EmailAddresses:        request.EmailAddresses,
		URIs:                  request.URIs,
		NotBefore:             now.Add(-backdate),
		NotAfter:              now.Add(life),
		BasicConstraintsValid: true,
	}
	if template.NotAfter.After(ca.NotAfter) {
		template.NotAfter = ca.NotAfter
	}
	if !template.NotAfter.After(now) {
		return nil, errors.New("the CA has expired")
	}
	for _, usage := range o.Spec.Usages {
		template.KeyUsage |= keyUsages[usage]
		if extended, ok := extendedUsages[usage]; ok {
			template.ExtKeyUsage = append(template.ExtKeyUsage, extended)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, ca, request.PublicKey, key)
	if err != nil {
		return nil, fmt.Errorf("sign certificate: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), nil
}
