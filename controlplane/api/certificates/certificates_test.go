package certificates

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"math/big"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/utils/ptr"
)

type csrType = certificatesv1.CertificateSigningRequest

var ctx = context.Background()

// key signs everything in the tests; making one takes time.
var key = func() *ecdsa.PrivateKey {
	k, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		panic(err)
	}
	return k
}()

func block(kind string, der []byte) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der})
}

func pkcs10(t *testing.T) []byte {
	t.Helper()
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{Subject: pkix.Name{CommonName: "eve"}}, key)
	if err != nil {
		t.Fatal(err)
	}
	return der
}

func certificate(t *testing.T) []byte {
	t.Helper()
	template := &x509.Certificate{SerialNumber: big.NewInt(1)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	return block("CERTIFICATE", der)
}

func newRequest(t *testing.T) *csrType {
	return &csrType{
		ObjectMeta: metav1.ObjectMeta{Name: "csr", ResourceVersion: "1"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    block("CERTIFICATE REQUEST", pkcs10(t)),
			SignerName: "example.com/signer.sub",
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth, certificatesv1.UsageDigitalSignature},
		},
	}
}

func condition(kind certificatesv1.RequestConditionType) certificatesv1.CertificateSigningRequestCondition {
	return certificatesv1.CertificateSigningRequestCondition{Type: kind, Status: corev1.ConditionTrue}
}

// messages checks the beginnings of the errors' texts.
func messages(t *testing.T, errs field.ErrorList, want ...string) {
	t.Helper()
	var got []string
	for _, err := range errs {
		got = append(got, err.Error())
	}
	if !slices.EqualFunc(got, want, strings.HasPrefix) {
		t.Errorf("errors %q, want %q", got, want)
	}
}

func TestInvalidRequests(t *testing.T) {
	broken := pkcs10(t)
	broken[len(broken)-1] ^= 1
	for _, test := range []struct {
		change func(*csrType)
		want   []string
	}{
		{func(*csrType) {}, nil},
		{func(c *csrType) { c.Spec.Request = []byte("x") }, []string{`spec.request: Invalid value:`}},
		{func(c *csrType) { c.Spec.Request = block("CERTIFICATE REQUEST", broken) }, []string{"spec.request: Invalid value:"}},
		{func(c *csrType) { c.Spec.Usages = nil }, []string{"spec.usages: Required value"}},
		{func(c *csrType) {
			c.Spec.Usages = []certificatesv1.KeyUsage{"client auth", "client auth"}
		}, []string{`spec.usages[1]: Duplicate value: "client auth"`}},
		{func(c *csrType) { c.Spec.Usages = []certificatesv1.KeyUsage{"magic"} },
			[]string{`spec.usages[0]: Unsupported value: "magic": supported values: "any", "cert sign", "client auth", "code signing", "content commitment", "crl sign"`}},
		{func(c *csrType) { c.Spec.SignerName = "" }, []string{"spec.signerName: Required value"}},
		{func(c *csrType) { c.Spec.SignerName = "kubernetes.io/legacy-unknown" },
			[]string{`spec.signerName: Invalid value: "kubernetes.io/legacy-unknown": the legacy signerName is not allowed via this API version`}},
		{func(c *csrType) { c.Spec.SignerName = "signer" },
			[]string{`spec.signerName: Invalid value: "signer": must be a fully qualified domain and path of the form 'example.com/signer-name'`}},
		{func(c *csrType) { c.Spec.SignerName = "local/signer" },
			[]string{`spec.signerName: Invalid value: "local": should be a domain with at least two segments separated by dots`}},
		{func(c *csrType) { c.Spec.SignerName = "A.com/B" },
			[]string{`spec.signerName: Invalid value: "A.com": validating label "A":`, `spec.signerName: Invalid value: "B": validating label "B":`}},
		{func(c *csrType) { c.Spec.ExpirationSeconds = ptr.To[int32](599) },
			[]string{"spec.expirationSeconds: Invalid value: 599: may not specify a duration less than 600 seconds (10 minutes)"}},
	} {
		csr := newRequest(t)
		test.change(csr)
		messages(t, signingRequest.Validate(ctx, csr), test.want...)
	}
}

// Messages list the usages as they stand here.
func TestUsagesAreSorted(t *testing.T) {
	if len(usages) != 23 || !slices.IsSorted(usages) || len(slices.Compact(slices.Clone(usages))) != 23 {
		t.Errorf("usages %q", usages)
	}
}

func TestRequesterIsRecorded(t *testing.T) {
	csr := newRequest(t)
	csr.Spec.Username, csr.Spec.Groups = "root", []string{"system:masters"}
	csr.Spec.Extra = map[string]certificatesv1.ExtraValue{"forged": {"x"}}
	who := &user.DefaultInfo{Name: "eve", UID: "7", Groups: []string{"friends"}, Extra: map[string][]string{"k": {"v"}}}
	signingRequest.PrepareForCreate(request.WithUser(ctx, who), csr)
	if csr.Spec.Username != "eve" || csr.Spec.UID != "7" || !slices.Equal(csr.Spec.Groups, []string{"friends"}) ||
		!reflect.DeepEqual(csr.Spec.Extra, map[string]certificatesv1.ExtraValue{"k": {"v"}}) {
		t.Errorf("requester %+v", csr.Spec)
	}
	changed := csr.DeepCopy()
	changed.Spec.Username, changed.Spec.SignerName = "root", "example.org/other"
	if signingRequest.PrepareForUpdate(ctx, changed, csr); !reflect.DeepEqual(changed.Spec, csr.Spec) {
		t.Errorf("an update changed the spec to %+v", changed.Spec)
	}
}

// TestUpdates tells what each of the three ways to write may do.
func TestUpdates(t *testing.T) {
	approval := approvalStrategyOf(t)
	pem := certificate(t)
	set := func(conditions ...certificatesv1.CertificateSigningRequestCondition) func(*csrType) {
		return func(c *csrType) { c.Status.Conditions = conditions }
	}
	const approved, denied, failed = certificatesv1.CertificateApproved, certificatesv1.CertificateDenied, certificatesv1.CertificateFailed
	nothing := func(*csrType) {}
	sign := func(c *csrType) { c.Status.Certificate = pem }
	for _, test := range []struct {
		name                 string
		old, now             func(*csrType)
		main, status, approv []string
	}{
		{"nothing", nothing, nothing, nil, nil, nil},
		{"approve", nothing, set(condition(approved)),
			[]string{`status.conditions: Forbidden: updates may not add a condition of type "Approved"`},
			[]string{`status.conditions: Forbidden: updates may not add a condition of type "Approved"`}, nil},
		{"take approval back", set(condition(approved)), set(),
			[]string{`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`},
			[]string{`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`},
			[]string{`status.conditions: Forbidden: updates may not remove a condition of type "Approved"`}},
		{"approve and deny", nothing, set(condition(approved), condition(denied)),
			[]string{"status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
				"status.conditions: Forbidden: updates may not add", "status.conditions: Forbidden: updates may not add"},
			[]string{"status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive",
				"status.conditions: Forbidden: updates may not add", "status.conditions: Forbidden: updates may not add"},
			[]string{"status.conditions: Invalid value: \"Denied\": Approved and Denied conditions are mutually exclusive"}},
		{"fail", nothing, set(condition(failed)), nil, nil, nil},
		{"sign", nothing, sign, []string{"status.certificate: Forbidden: updates may not set certificate content"}, nil,
			[]string{"status.certificate: Forbidden: updates may not set certificate content"}},
		{"sign again", sign, func(c *csrType) { c.Status.Certificate = append(slices.Clone(pem), pem...) },
			[]string{"status.certificate: Forbidden: updates may not set certificate content"},
			[]string{"status.certificate: Forbidden: updates may not modify existing certificate content"},
			[]string{"status.certificate: Forbidden: updates may not set certificate content"}},
		{"sign with garbage", nothing, func(c *csrType) { c.Status.Certificate = []byte("x") },
			[]string{`status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`, "status.certificate: Forbidden"},
			[]string{`status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`},
			[]string{`status.certificate: Invalid value: "<certificate data>": must contain at least one CERTIFICATE PEM block`, "status.certificate: Forbidden"}},
		{"approve with a doubt", nothing, set(certificatesv1.CertificateSigningRequestCondition{Type: approved, Status: corev1.ConditionUnknown}),
			[]string{`status.conditions[0].status: Unsupported value: "Unknown": supported values: "True"`, "status.conditions: Forbidden"},
			[]string{`status.conditions[0].status: Unsupported value: "Unknown": supported values: "True"`, "status.conditions: Forbidden"},
			[]string{`status.conditions[0].status: Unsupported value: "Unknown": supported values: "True"`}},
		{"conditions that say nothing", nothing, set(certificatesv1.CertificateSigningRequestCondition{}),
			[]string{"status.conditions[0].type: Required value", "status.conditions[0].status: Required value"},
			[]string{"status.conditions[0].type: Required value", "status.conditions[0].status: Required value"},
			[]string{"status.conditions[0].type: Required value", "status.conditions[0].status: Required value"}},
		{"what is stored wrong may stay", func(c *csrType) { c.Spec.Usages = append(c.Spec.Usages, "magic", "magic") },
			func(c *csrType) { c.Spec.Usages = append(c.Spec.Usages, "magic", "magic") }, nil, nil, nil},
	} {
		t.Run(test.name, func(t *testing.T) {
			old := newRequest(t)
			now := old.DeepCopy()
			test.old(old)
			test.now(now)
			messages(t, signingRequest.ValidateUpdate(ctx, now, old), test.main...)
			messages(t, signingRequest.Status.Validate(ctx, now, old), test.status...)
			messages(t, approval.ValidateUpdate(ctx, now, old), test.approv...)
		})
	}
}

func approvalStrategyOf(t *testing.T) approvalStrategy {
	t.Helper()
	storages, err := signingRequest.Extend(nil, nil, &registry.Store{})
	if err != nil || storages["certificatesigningrequests/approval"] == nil {
		t.Fatalf("no approval: %v, %v", storages, err)
	}
	return approvalStrategy{}
}

func TestApprovalKeepsTheRest(t *testing.T) {
	old := newRequest(t)
	old.Status.Certificate = []byte("stored")
	csr := old.DeepCopy()
	csr.Spec.SignerName = "example.org/other"
	csr.Status.Certificate = nil
	csr.Status.Conditions = append(csr.Status.Conditions, condition(certificatesv1.CertificateApproved))
	approvalStrategy{}.PrepareForUpdate(ctx, csr, old)
	if csr.Spec.SignerName != "example.com/signer.sub" || string(csr.Status.Certificate) != "stored" {
		t.Errorf("approval changed the request to %+v", csr)
	}
	if c := csr.Status.Conditions[0]; c.LastUpdateTime.IsZero() || c.LastTransitionTime.IsZero() {
		t.Errorf("condition without times: %+v", c)
	}
}

func TestStatusKeepsApproval(t *testing.T) {
	before := metav1.NewTime(time.Unix(1000, 0))
	old := newRequest(t)
	approved := condition(certificatesv1.CertificateApproved)
	approved.Reason, approved.LastTransitionTime, approved.LastUpdateTime = "Because", before, before
	old.Status.Conditions = append(old.Status.Conditions, approved)
	csr := old.DeepCopy()
	csr.Status.Conditions[0].Reason = "Forged"
	csr.Status.Conditions = append(csr.Status.Conditions, condition(certificatesv1.CertificateFailed))
	signingRequest.Status.Prepare(ctx, csr, old)
	if got := csr.Status.Conditions[0]; got.Reason != "Because" || !got.LastTransitionTime.Equal(&before) {
		t.Errorf("approval became %+v", got)
	}
	if got := csr.Status.Conditions[1]; got.LastTransitionTime.IsZero() {
		t.Errorf("failure without a time: %+v", got)
	}
}

func TestRow(t *testing.T) {
	csr := newRequest(t)
	csr.Spec.Username, csr.Spec.ExpirationSeconds = "eve", ptr.To[int32](7200)
	csr.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{condition(certificatesv1.CertificateApproved)}
	csr.Status.Certificate = []byte("x")
	row := signingRequest.Row(csr)
	if want := []any{"csr", "<unknown>", "example.com/signer.sub", "eve", "120m", "Approved,Issued"}; !slices.Equal(row, want) || len(row) != len(signingRequest.Columns) {
		t.Errorf("row %q, want %q", row, want)
	}
	if got := state(newRequest(t)); got != "Pending" {
		t.Errorf("state %q of a new request", got)
	}
}
