package csrapprove

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"net"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/controlplane/controllers/csr"
)

func request(t *testing.T, name string, serving bool, template x509.CertificateRequest, user string, groups ...string) *certificatesv1.CertificateSigningRequest {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	if template.Subject.CommonName == "" {
		template.Subject = pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes"}}
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &template, key)
	if err != nil {
		t.Fatal(err)
	}
	signer, usage := certificatesv1.KubeAPIServerClientKubeletSignerName, certificatesv1.UsageClientAuth
	if serving {
		signer, usage = certificatesv1.KubeletServingSignerName, certificatesv1.UsageServerAuth
	}
	return &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: name, CreationTimestamp: metav1.Now()},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: signer,
			Usages:     []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, usage},
			Username:   user,
			Groups:     groups,
		},
	}
}

func TestApproval(t *testing.T) {
	type template = x509.CertificateRequest
	own := template{DNSNames: []string{"n1", "n1.example.com"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}
	cases := []struct {
		name string
		csr  *certificatesv1.CertificateSigningRequest
		want bool
	}{
		{"bootstrap", request(t, "bootstrap", false, template{}, "system:bootstrap:abcdef", "system:bootstrappers"), true},
		{"renewal", request(t, "renewal", false, template{}, "system:node:n1", "system:nodes"), true},
		{"another-node", request(t, "another-node", false, template{}, "system:node:n2", "system:nodes"), false},
		{"somebody", request(t, "somebody", false, template{}, "alice", "admins"), false},
		{"names-a-node-without-the-group", request(t, "names-a-node-without-the-group", false, template{}, "system:node:n1", "admins"), false},
		{"client-with-sans", request(t, "client-with-sans", false, own, "system:node:n1", "system:nodes"), false},
		{"not-a-node", request(t, "not-a-node", false, template{Subject: pkix.Name{CommonName: "root", Organization: []string{"system:masters"}}}, "system:bootstrap:abcdef", "system:bootstrappers"), false},
		{"more-groups", request(t, "more-groups", false, template{Subject: pkix.Name{CommonName: "system:node:n1", Organization: []string{"system:nodes", "system:masters"}}}, "system:bootstrap:abcdef", "system:bootstrappers"), false},
		{"serving", request(t, "serving", true, own, "system:node:n1", "system:nodes"), true},
		{"serving-by-bootstrap", request(t, "serving-by-bootstrap", true, own, "system:bootstrap:abcdef", "system:bootstrappers"), false},
		{"serving-foreign-name", request(t, "serving-foreign-name", true, template{DNSNames: []string{"kubernetes.default"}}, "system:node:n1", "system:nodes"), false},
		{"serving-foreign-address", request(t, "serving-foreign-address", true, template{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 2)}}, "system:node:n1", "system:nodes"), false},
		{"serving-mixed", request(t, "serving-mixed", true, template{DNSNames: []string{"n1"}, IPAddresses: []net.IP{net.IPv4(10, 0, 0, 2)}}, "system:node:n1", "system:nodes"), false},
		{"serving-nothing", request(t, "serving-nothing", true, template{}, "system:node:n1", "system:nodes"), false},
		{"serving-email", request(t, "serving-email", true, template{DNSNames: []string{"n1"}, EmailAddresses: []string{"a@b"}}, "system:node:n1", "system:nodes"), false},
	}
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}, Status: corev1.NodeStatus{Addresses: []corev1.NodeAddress{
		{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}, {Type: corev1.NodeInternalDNS, Address: "n1.example.com"}}}}
	f := controllertest.New(t, node)
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	// One loop works through them in order; the last one approved shows that
	// all before it have been looked at.
	client := f.Client.CertificatesV1().CertificateSigningRequests()
	cases = append(cases, struct {
		name string
		csr  *certificatesv1.CertificateSigningRequest
		want bool
	}{"last", request(t, "last", false, template{}, "system:node:n1", "system:nodes"), true})
	f.Start(t, c)
	for _, test := range cases {
		if _, err := client.Create(context.Background(), test.csr, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	approved := func(name string) bool {
		o, err := client.Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return csr.Has(o, certificatesv1.CertificateApproved)
	}
	controllertest.Eventually(t, "the last to be approved", func() bool { return approved("last") })
	for _, test := range cases {
		if got := approved(test.name); got != test.want {
			t.Errorf("%s: approved %v, want %v", test.name, got, test.want)
		}
	}
}

func TestServingWaitsForTheAddress(t *testing.T) {
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "n1"}}
	o := request(t, "serving", true, x509.CertificateRequest{IPAddresses: []net.IP{net.IPv4(10, 0, 0, 1)}}, "system:node:n1", "system:nodes")
	parsed, err := csr.Parse(o)
	if err != nil {
		t.Fatal(err)
	}
	if v := judge(o, parsed, node); v.refusal == "" || !v.mayChange {
		t.Errorf("verdict on a node without addresses: %+v", v)
	}
	if v := judge(o, parsed, nil); v.refusal == "" || !v.mayChange {
		t.Errorf("verdict without a node: %+v", v)
	}
	node.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeInternalIP, Address: "10.0.0.1"}}
	if v := judge(o, parsed, node); v.refusal != "" {
		t.Errorf("verdict: %+v", v)
	}
}
