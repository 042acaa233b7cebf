package csrclean

import (
	"context"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"

	"clusterctl/controlplane/controllers/csr"
	"clusterctl/controlplane/controllers/reconcile"
)

const (
	period        = 15 * time.Minute
	keepSettled   = time.Hour      // approved, denied or failed
	keepUndecided = 24 * time.Hour // waiting for a decision, or for a signer
)

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	requests := env.Informers.Certificates().V1().CertificateSigningRequests().Lister()
	return reconcile.NewTicker(env, "csrclean", period, func(ctx context.Context) error {
		all, err := requests.List(labels.Everything())
		if err != nil {
			return err
		}
		var errs []error
		for _, o := range all {
			if !stale(o, time.Now()) {
				continue
			}
			err := env.Client.CertificatesV1().CertificateSigningRequests().Delete(ctx, o.Name, metav1.DeleteOptions{Preconditions: metav1.NewUIDPreconditions(string(o.UID))})
			if err != nil && !apierrors.IsNotFound(err) {
				errs = append(errs, fmt.Errorf("delete %s: %w", o.Name, err))
			}
		}
		return errors.Join(errs...)
	}), nil
}

// stale reports whether o has been settled, or has waited, for long enough, or
// holds a certificate that has expired.
func stale(o *certificatesv1.CertificateSigningRequest, now time.Time) bool {
	age := now.Sub(o.CreationTimestamp.Time)
	for _, c := range o.Status.Conditions {
		if !c.LastUpdateTime.IsZero() {
			age = min(age, now.Sub(c.LastUpdateTime.Time))
		}
	}
	switch {
	case csr.Has(o, certificatesv1.CertificateDenied) || csr.Has(o, certificatesv1.CertificateFailed):
		return age > keepSettled
	case csr.Has(o, certificatesv1.CertificateApproved) && len(o.Status.Certificate) > 0:
		return age > keepSettled || expired(o.Status.Certificate, now)
	}
	return age > keepUndecided
}

func expired(chain []byte, now time.Time) bool {
	block, _ := pem.Decode(chain)
	if block == nil {
		return false
	}
	certificate, err := x509.ParseCertificate(block.Bytes)
	return err == nil && now.After(certificate.NotAfter)
}
