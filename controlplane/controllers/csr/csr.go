package csr

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

const (
	nodesGroup = "system:nodes"
	nodePrefix = "system:node:"
)

// Parse returns the PKCS #10 request of a CSR, its signature checked.
func Parse(csr *certificatesv1.CertificateSigningRequest) (*x509.CertificateRequest, error) {
	block, rest := pem.Decode(csr.Spec.Request)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("request is no PEM block of type CERTIFICATE REQUEST")
	}
	if len(strings.TrimSpace(string(rest))) > 0 {
		return nil, errors.New("request has more than one PEM block")
	}
	request, err := x509.ParseCertificateRequest(block.Bytes)
	if err != nil {
		return nil, fmt.Errorf("parse request: %w", err)
	}
	if err := request.CheckSignature(); err != nil {
		return nil, fmt.Errorf("check the request's signature: %w", err)
	}
	return request, nil
}

// Check says whether request is one that its signer may sign at all. It
// returns an error for a signer that is not known here.
func Check(csr *certificatesv1.CertificateSigningRequest, request *x509.CertificateRequest) error {
	switch csr.Spec.SignerName {
	case certificatesv1.KubeAPIServerClientSignerName:
		return checkUsages(csr, certificatesv1.UsageClientAuth)
	case certificatesv1.KubeAPIServerClientKubeletSignerName:
		if err := checkNode(request); err != nil {
			return err
		}
		if len(request.DNSNames)+len(request.IPAddresses) > 0 {
			return errors.New("a node's client certificate has no subject alternative names")
		}
		return checkUsages(csr, certificatesv1.UsageClientAuth)
	case certificatesv1.KubeletServingSignerName:
		if err := checkNode(request); err != nil {
			return err
		}
		if len(request.DNSNames)+len(request.IPAddresses) == 0 {
			return errors.New("a node's serving certificate needs a DNS name or an IP address")
		}
		return checkUsages(csr, certificatesv1.UsageServerAuth)
	}
	return fmt.Errorf("signer %q is not known", csr.Spec.SignerName)
}

// checkNode checks what client and serving certificates of nodes share.
func checkNode(request *x509.CertificateRequest) error {
	switch {
	case !slices.Equal(request.Subject.Organization, []string{nodesGroup}):
		return fmt.Errorf("organization is %q, want %q", request.Subject.Organization, nodesGroup)
	case NodeName(request) == "":
		return fmt.Errorf("common name is %q, want %sNAME", request.Subject.CommonName, nodePrefix)
	case len(request.EmailAddresses)+len(request.URIs) > 0:
		return errors.New("email addresses and URIs are not allowed")
	}
	return nil
}

// checkUsages wants the one extended usage and, of nodes, the digital
// signature; key encipherment may be there for RSA keys, and nothing else.
func checkUsages(csr *certificatesv1.CertificateSigningRequest, extended certificatesv1.KeyUsage) error {
	for _, usage := range csr.Spec.Usages {
		switch usage {
		case extended, certificatesv1.UsageDigitalSignature, certificatesv1.UsageKeyEncipherment:
		default:
			return fmt.Errorf("usage %q is not allowed", usage)
		}
	}
	if !slices.Contains(csr.Spec.Usages, extended) {
		return fmt.Errorf("usage %q is missing", extended)
	}
	if csr.Spec.SignerName != certificatesv1.KubeAPIServerClientSignerName && !slices.Contains(csr.Spec.Usages, certificatesv1.UsageDigitalSignature) {
		return fmt.Errorf("usage %q is missing", certificatesv1.UsageDigitalSignature)
	}
	return nil
}

// NodeName is the node whose identity request asks for, or "".
func NodeName(request *x509.CertificateRequest) string {
	name, ok := strings.CutPrefix(request.Subject.CommonName, nodePrefix)
	if !ok {
		return ""
	}
	return name
}

// Has reports whether csr has a condition of that type.
func Has(csr *certificatesv1.CertificateSigningRequest, kind certificatesv1.RequestConditionType) bool {
	return slices.ContainsFunc(csr.Status.Conditions, func(c certificatesv1.CertificateSigningRequestCondition) bool { return c.Type == kind })
}
