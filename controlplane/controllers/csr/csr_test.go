package csr

import (
	"strings"
	"testing"

	certificatesv1 "k8s.io/api/certificates/v1"
)

func TestParseRefusesGarbage(t *testing.T) {
	for name, test := range map[string]struct{ request, want string }{
		"nothing":        {"", "no PEM block"},
		"another type":   {"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no PEM block"},
		"no PKCS10":      {"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\n", "parse request"},
		"something more": {"-----BEGIN CERTIFICATE REQUEST-----\nAAAA\n-----END CERTIFICATE REQUEST-----\nmore", "more than one"},
	} {
		t.Run(name, func(t *testing.T) {
			o := &certificatesv1.CertificateSigningRequest{}
			o.Spec.Request = []byte(test.request)
			if _, err := Parse(o); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("got %v, want %q", err, test.want)
			}
		})
	}
}

func TestUsages(t *testing.T) {
	const (
		signature = certificatesv1.UsageDigitalSignature
		cipher    = certificatesv1.UsageKeyEncipherment
		client    = certificatesv1.UsageClientAuth
		server    = certificatesv1.UsageServerAuth
	)
	for _, test := range []struct {
		signer string
		usages []certificatesv1.KeyUsage
		ok     bool
	}{
		{certificatesv1.KubeAPIServerClientSignerName, []certificatesv1.KeyUsage{client}, true},
		{certificatesv1.KubeAPIServerClientSignerName, []certificatesv1.KeyUsage{client, signature, cipher}, true},
		{certificatesv1.KubeAPIServerClientSignerName, []certificatesv1.KeyUsage{client, server}, false},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, []certificatesv1.KeyUsage{client, signature}, true},
		{certificatesv1.KubeAPIServerClientKubeletSignerName, []certificatesv1.KeyUsage{client}, false},
		{certificatesv1.KubeletServingSignerName, []certificatesv1.KeyUsage{signature, cipher, server}, true},
		{certificatesv1.KubeletServingSignerName, []certificatesv1.KeyUsage{signature, client}, false},
	} {
		o := &certificatesv1.CertificateSigningRequest{}
		o.Spec.SignerName, o.Spec.Usages = test.signer, test.usages
		extended := client
		if test.signer == certificatesv1.KubeletServingSignerName {
			extended = server
		}
		if err := checkUsages(o, extended); (err == nil) != test.ok {
			t.Errorf("%s %v: %v", test.signer, test.usages, err)
		}
	}
}
