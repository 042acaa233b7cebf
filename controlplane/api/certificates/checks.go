package certificates

import (
	"bytes"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

// legacySigner is the signer of requests that name none, in versions before v1.
const legacySigner = "kubernetes.io/legacy-unknown"

// usages are all that a certificate can be requested for, sorted.
var usages = []certificatesv1.KeyUsage{
	certificatesv1.UsageAny, certificatesv1.UsageCertSign, certificatesv1.UsageClientAuth, certificatesv1.UsageCodeSigning,
	certificatesv1.UsageContentCommitment, certificatesv1.UsageCRLSign, certificatesv1.UsageDataEncipherment,
	certificatesv1.UsageDecipherOnly, certificatesv1.UsageDigitalSignature, certificatesv1.UsageEmailProtection,
	certificatesv1.UsageEncipherOnly, certificatesv1.UsageIPsecEndSystem, certificatesv1.UsageIPsecTunnel,
	certificatesv1.UsageIPsecUser, certificatesv1.UsageKeyAgreement, certificatesv1.UsageKeyEncipherment,
	certificatesv1.UsageMicrosoftSGC, certificatesv1.UsageNetscapeSGC, certificatesv1.UsageOCSPSigning,
	certificatesv1.UsageSMIME, certificatesv1.UsageServerAuth, certificatesv1.UsageSigning, certificatesv1.UsageTimestamping,
}

// allowance is what a write may do, and which faults it may repeat because
// they are stored already.
type allowance struct {
	mayApprove, maySign bool

	legacySigner, unknownUsages, duplicateUsages bool
	emptyType, duplicateTypes, approvedAndDenied bool
	anyCertificate                               bool
}

// tolerated finds the faults that old has; it is nil on create.
func tolerated(csr, old *certificatesv1.CertificateSigningRequest) (a allowance) {
	if old == nil {
		return a
	}
	a.legacySigner = old.Spec.SignerName == legacySigner
	seenUsages := map[certificatesv1.KeyUsage]bool{}
	for _, usage := range old.Spec.Usages {
		a.unknownUsages = a.unknownUsages || !slices.Contains(usages, usage)
		a.duplicateUsages = a.duplicateUsages || seenUsages[usage]
		seenUsages[usage] = true
	}
	seenTypes := map[certificatesv1.RequestConditionType]bool{}
	for _, c := range old.Status.Conditions {
		a.emptyType = a.emptyType || c.Type == ""
		a.duplicateTypes = a.duplicateTypes || seenTypes[c.Type]
		seenTypes[c.Type] = true
	}
	a.approvedAndDenied = seenTypes[certificatesv1.CertificateApproved] && seenTypes[certificatesv1.CertificateDenied]
	a.anyCertificate = bytes.Equal(csr.Status.Certificate, old.Status.Certificate) || checkCertificate(old.Status.Certificate) != nil
	return a
}

// ParseRequest reads a PKCS#10 request in PEM. It does not check the
// signature.
func ParseRequest(data []byte) (*x509.CertificateRequest, error) {
	block, _ := pem.Decode(data)
	if block == nil || block.Type != "CERTIFICATE REQUEST" {
		return nil, errors.New("PEM block type must be CERTIFICATE REQUEST")
	}
	return x509.ParseCertificateRequest(block.Bytes)
}

func check(csr *certificatesv1.CertificateSigningRequest, a allowance) (errs field.ErrorList) {
	spec := field.NewPath("spec")
	parsed, err := ParseRequest(csr.Spec.Request)
	if err == nil {
		err = parsed.CheckSignature()
	}
	if err != nil {
		errs = append(errs, field.Invalid(spec.Child("request"), csr.Spec.Request, err.Error()))
	}
	errs = append(errs, checkUsages(csr.Spec.Usages, a, spec.Child("usages"))...)
	if csr.Spec.SignerName == legacySigner && !a.legacySigner {
		errs = append(errs, field.Invalid(spec.Child("signerName"), csr.Spec.SignerName, "the legacy signerName is not allowed via this API version"))
	} else {
		errs = append(errs, checkSignerName(csr.Spec.SignerName, spec.Child("signerName"))...)
	}
	if seconds := csr.Spec.ExpirationSeconds; seconds != nil && *seconds < 600 {
		errs = append(errs, field.Invalid(spec.Child("expirationSeconds"), *seconds, "may not specify a duration less than 600 seconds (10 minutes)"))
	}
	errs = append(errs, checkConditions(csr.Status.Conditions, a, field.NewPath("status", "conditions"))...)
	if !a.anyCertificate {
		if err := checkCertificate(csr.Status.Certificate); err != nil {
			errs = append(errs, field.Invalid(field.NewPath("status", "certificate"), "<certificate data>", err.Error()))
		}
	}
	return errs
}

func checkUsages(requested []certificatesv1.KeyUsage, a allowance, path *field.Path) (errs field.ErrorList) {
	if len(requested) == 0 {
		errs = append(errs, field.Required(path, ""))
	}
	seen := map[certificatesv1.KeyUsage]bool{}
	for i, usage := range requested {
		if !a.unknownUsages && !slices.Contains(usages, usage) {
			errs = append(errs, field.NotSupported(path.Index(i), usage, usages))
		}
		if !a.duplicateUsages && seen[usage] {
			errs = append(errs, field.Duplicate(path.Index(i), usage))
		}
		seen[usage] = true
	}
	return errs
}

// checkSignerName wants "domain/path", where the domain has more than one
// segment and the path is of domains' segments joined by dots.
func checkSignerName(name string, path *field.Path) (errs field.ErrorList) {
	if name == "" {
		return field.ErrorList{field.Required(path, "")}
	}
	segments := strings.Split(name, "/")
	if len(segments) != 2 {
		return field.ErrorList{field.Invalid(path, name, "must be a fully qualified domain and path of the form 'example.com/signer-name'")}
	}
	domain, signer := segments[0], segments[1]
	if len(domain) > validation.DNS1123SubdomainMaxLength {
		errs = append(errs, field.TooLong(path, domain, validation.DNS1123SubdomainMaxLength))
	}
	labels := strings.Split(domain, ".")
	errs = append(errs, firstInvalid(labels, domain, validation.IsDNS1123Label, path)...)
	if len(labels) < 2 {
		errs = append(errs, field.Invalid(path, domain, "should be a domain with at least two segments separated by dots"))
	}
	errs = append(errs, firstInvalid(strings.Split(signer, "."), signer, validation.IsDNS1123Subdomain, path)...)
	const longest = validation.DNS1123SubdomainMaxLength + validation.DNS1123LabelMaxLength + 1
	if len(signer) > longest {
		errs = append(errs, field.TooLong(path, signer, longest))
	}
	return errs
}

// firstInvalid reports the faults of the first label that has any.
func firstInvalid(labels []string, whole string, check func(string) []string, path *field.Path) (errs field.ErrorList) {
	for _, label := range labels {
		for _, message := range check(label) {
			errs = append(errs, field.Invalid(path, whole, fmt.Sprintf("validating label %q: %s", label, message)))
		}
		if len(errs) > 0 {
			return errs
		}
	}
	return nil
}

func checkConditions(conditions []certificatesv1.CertificateSigningRequestCondition, a allowance, path *field.Path) (errs field.ErrorList) {
	seen := map[certificatesv1.RequestConditionType]bool{}
	for i, c := range conditions {
		if c.Type == "" && !a.emptyType {
			errs = append(errs, field.Required(path.Index(i).Child("type"), ""))
		}
		allowed := []corev1.ConditionStatus{corev1.ConditionFalse, corev1.ConditionTrue, corev1.ConditionUnknown}
		switch c.Type {
		case certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed:
			allowed = []corev1.ConditionStatus{corev1.ConditionTrue}
		}
		if c.Status == "" {
			errs = append(errs, field.Required(path.Index(i).Child("status"), ""))
		} else if !slices.Contains(allowed, c.Status) {
			errs = append(errs, field.NotSupported(path.Index(i).Child("status"), c.Status, allowed))
		}
		opposite := map[certificatesv1.RequestConditionType]certificatesv1.RequestConditionType{
			certificatesv1.CertificateApproved: certificatesv1.CertificateDenied,
			certificatesv1.CertificateDenied:   certificatesv1.CertificateApproved,
		}
		if seen[opposite[c.Type]] && !a.approvedAndDenied {
			errs = append(errs, field.Invalid(path, c.Type, "Approved and Denied conditions are mutually exclusive"))
		}
		if seen[c.Type] && !a.duplicateTypes {
			errs = append(errs, field.Duplicate(path.Index(i).Child("type"), c.Type))
		}
		seen[c.Type] = true
	}
	return errs
}

// checkCertificate wants nothing, or a chain of certificates in PEM.
func checkCertificate(data []byte) error {
	if len(data) == 0 {
		return nil
	}
	blocks := 0
	for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("only CERTIFICATE PEM blocks are allowed, found %q", block.Type)
		}
		if len(block.Headers) != 0 {
			return errors.New("no PEM block headers are permitted")
		}
		blocks++
		certs, err := x509.ParseCertificates(block.Bytes)
		if err != nil {
			return err
		}
		if len(certs) == 0 {
			return errors.New("found CERTIFICATE PEM block containing 0 certificates")
		}
	}
	if blocks == 0 {
		return errors.New("must contain at least one CERTIFICATE PEM block")
	}
	return nil
}

func checkMetaUpdate(csr, old *certificatesv1.CertificateSigningRequest) field.ErrorList {
	return apivalidation.ValidateObjectMetaUpdate(&csr.ObjectMeta, &old.ObjectMeta, field.NewPath("metadata"))
}

// checkUpdate checks what changed; the object's metadata is the store's to
// check.
func checkUpdate(csr, old *certificatesv1.CertificateSigningRequest, a allowance) field.ErrorList {
	errs := check(csr, a)
	path := field.NewPath("status", "conditions")
	for _, kind := range []certificatesv1.RequestConditionType{certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed} {
		now, before := conditionsOf(csr, kind), conditionsOf(old, kind)
		switch {
		case len(now) < len(before):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not remove a condition of type %q", kind)))
		case a.mayApprove || kind == certificatesv1.CertificateFailed:
		case len(now) > len(before):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not add a condition of type %q", kind)))
		case !apiequality.Semantic.DeepEqual(now, before):
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("updates may not modify a condition of type %q\n%v", kind, diff.Diff(api.Shown(before), api.Shown(now)))))
		}
	}
	if !bytes.Equal(csr.Status.Certificate, old.Status.Certificate) {
		certificate := field.NewPath("status", "certificate")
		if !a.maySign {
			errs = append(errs, field.Forbidden(certificate, "updates may not set certificate content"))
		} else if len(old.Status.Certificate) > 0 {
			errs = append(errs, field.Forbidden(certificate, "updates may not modify existing certificate content"))
		}
	}
	return errs
}
