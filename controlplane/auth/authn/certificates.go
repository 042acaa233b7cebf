package authn

import (
	"crypto/sha256"
	"crypto/x509"
	"net/http"
	"time"

	"k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	x509request "k8s.io/apiserver/pkg/authentication/request/x509"
)

// How many client certificates are remembered, and for how long.
const (
	certificatesKept = 4096
	certificateKept  = 10 * time.Second
)

// certificateAuthenticator knows callers by their client certificate. It
// remembers those that it has verified for a while, as is done with tokens:
// verifying the signature costs more than all else that a read does.
type certificateAuthenticator struct {
	options x509request.VerifyOptionFunc
	verify  authenticator.Request
	known   *cache.LRUExpireCache // of verified, by the hash of the certificate
	now     func() time.Time
}

type verified struct {
	roots    *x509.CertPool // those it was verified by: others may not trust it
	response *authenticator.Response
}

func newCertificateAuthenticator(options x509request.VerifyOptionFunc) *certificateAuthenticator {
	return &certificateAuthenticator{
		options: options,
		verify:  x509request.NewDynamic(options, x509request.CommonNameUserConversion),
		known:   cache.NewLRUExpireCache(certificatesKept),
		now:     time.Now,
	}
}

// AuthenticateRequest implements authenticator.Request.
func (a *certificateAuthenticator) AuthenticateRequest(request *http.Request) (*authenticator.Response, bool, error) {
	options, ok := a.options()
	// With certificates between it and the root, those would have to be checked too.
	if !ok || request.TLS == nil || len(request.TLS.PeerCertificates) != 1 {
		return a.verify.AuthenticateRequest(request)
	}
	certificate := request.TLS.PeerCertificates[0]
	hash := sha256.Sum256(certificate.Raw)
	if found, ok := a.known.Get(hash); ok && a.now().Before(certificate.NotAfter) {
		if known := found.(verified); known.roots == options.Roots {
			return known.response, true, nil
		}
	}
	response, ok, err := a.verify.AuthenticateRequest(request)
	if ok && err == nil {
		a.known.Add(hash, verified{options.Roots, response}, certificateKept)
	}
	return response, ok, err
}
