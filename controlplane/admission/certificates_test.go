package admission

import (
	"context"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

const requests = "certificates.k8s.io/certificatesigningrequests"

func requestFor(signer string, pem []byte) *certificatesv1.CertificateSigningRequest {
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "csr"},
		Spec:       certificatesv1.CertificateSigningRequestSpec{SignerName: signer, Request: pem},
	}
}

func TestCertificateApproval(t *testing.T) {
	old := requestFor("example.com/signer", nil)
	renamed := requestFor("example.org/signer", nil)
	for _, test := range []struct {
		name       string
		authorizer authorizer.Authorizer
		resource   string
		err        string
	}{
		{"nobody", allow(), requests + "/approval", `user not permitted to approve requests with signerName "example.com/signer"`},
		{"signer", allow("approve signers example.com/signer"), requests + "/approval", ""},
		{"domain", allow("approve signers example.com/*"), requests + "/approval", ""},
		{"the new name does not count", allow("approve signers example.org/signer"), requests + "/approval", "user not permitted"},
		{"signing is not approving", allow("sign signers example.com/signer"), requests + "/approval", "user not permitted"},
		{"other subresource", allow(), requests + "/status", ""},
	} {
		p := configure(t, newCertificateApproval, test.authorizer).(certificateApproval)
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Validate(context.Background(), write(admission.Update, anna, test.resource, renamed, old), nil), test.err)
		})
	}
}

func TestCertificateSigning(t *testing.T) {
	old := requestFor("example.com/signer", nil)
	signed := old.DeepCopy()
	signed.Status.Certificate = []byte("x")
	failed := old.DeepCopy()
	failed.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateFailed}}
	message := `user not permitted to sign requests with signerName "example.com/signer"`
	for _, test := range []struct {
		name       string
		authorizer authorizer.Authorizer
		csr        *certificatesv1.CertificateSigningRequest
		err        string
	}{
		{"unchanged", allow(), old, ""},
		{"sign", allow(), signed, message},
		{"fail", allow(), failed, message},
		{"may sign", allow("sign signers example.com/signer"), signed, ""},
		{"may sign in the domain", allow("sign signers example.com/*"), failed, ""},
	} {
		p := configure(t, newCertificateSigning, test.authorizer).(certificateSigning)
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Validate(context.Background(), write(admission.Update, anna, requests+"/status", test.csr, old), nil), test.err)
		})
	}
}

func TestCertificateSubject(t *testing.T) {
	masters := signingRequest(t, "eve", "friends", "system:masters")
	p := configure(t, newCertificateSubject, allow()).(certificateSubject)
	for _, test := range []struct {
		name string
		csr  *certificatesv1.CertificateSigningRequest
		err  string
	}{
		{"plain", requestFor(certificatesv1.KubeAPIServerClientSignerName, signingRequest(t, "eve", "friends")), ""},
		{"masters", requestFor(certificatesv1.KubeAPIServerClientSignerName, masters), "use of kubernetes.io/kube-apiserver-client signer with system:masters group is not allowed"},
		{"masters elsewhere", requestFor("example.com/signer", masters), ""},
		{"garbage", requestFor(certificatesv1.KubeAPIServerClientSignerName, []byte("x")), "failed to parse CSR: PEM block type must be CERTIFICATE REQUEST"},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Validate(context.Background(), write(admission.Create, anna, requests, test.csr, nil), nil), test.err)
		})
	}
}
