package pki

import (
	"crypto/x509"
	"encoding/pem"
	"strings"
	"testing"
	"time"

	"k8s.io/client-go/tools/clientcmd"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/hostop/certcheck"
)

var now = time.Date(2026, 3, 1, 12, 0, 0, 0, time.UTC)

func newBundle(t *testing.T) Bundle {
	t.Helper()
	bundle, err := NewBundle("demo", now)
	if err != nil {
		t.Fatal(err)
	}
	return bundle
}

var serving = hostop.Certificate{
	Pair: hostconfig.PairAPIServer, Authority: hostconfig.AuthorityCluster, CommonName: "kube-apiserver",
	DNSNames: []string{"kubernetes", "cp1"}, IPs: []string{"10.96.0.1", "127.0.0.1"}, Server: true,
	RenewBefore: 30 * 24 * time.Hour,
}

func TestIssueVerifies(t *testing.T) {
	bundle := newBundle(t)
	cert, key, err := bundle.Issue(serving, now)
	if err != nil {
		t.Fatal(err)
	}
	prints, err := bundle.Fingerprints()
	if err != nil {
		t.Fatal(err)
	}
	want := serving
	want.AuthorityKey = prints["cluster.crt"]
	if differs := certcheck.Check(cert, key, want, now); differs != "" {
		t.Errorf("a fresh certificate differs: %s", differs)
	}
	block, _ := pem.Decode(cert)
	leaf, err := x509.ParseCertificate(block.Bytes)
	if err != nil {
		t.Fatal(err)
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(bundle.Certificate(hostconfig.AuthorityCluster))
	options := x509.VerifyOptions{Roots: roots, DNSName: "10.96.0.1", CurrentTime: now,
		KeyUsages: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth}}
	if _, err := leaf.Verify(options); err != nil {
		t.Errorf("verify with its authority: %v", err)
	}
	options.Roots = x509.NewCertPool()
	options.Roots.AppendCertsFromPEM(bundle.Certificate(hostconfig.AuthorityEtcd))
	if _, err := leaf.Verify(options); err == nil {
		t.Error("verified with another authority")
	}
}

func TestCheckDiffers(t *testing.T) {
	bundle := newBundle(t)
	cert, key, err := bundle.Issue(serving, now)
	if err != nil {
		t.Fatal(err)
	}
	_, otherKey, err := bundle.Issue(serving, now)
	if err != nil {
		t.Fatal(err)
	}
	prints, err := bundle.Fingerprints()
	if err != nil {
		t.Fatal(err)
	}
	edit := func(change func(*hostop.Certificate)) hostop.Certificate {
		want := serving
		change(&want)
		return want
	}
	tests := []struct {
		name      string
		cert, key []byte
		want      hostop.Certificate
		now       time.Time
		differs   string
	}{
		{"in place", cert, key, serving, now, ""},
		{"fewer names wanted", cert, key, edit(func(c *hostop.Certificate) { c.DNSNames = nil }), now, ""},
		{"missing", nil, nil, serving, now, "no certificate"},
		{"key missing", cert, nil, serving, now, "unreadable key"},
		{"foreign key", cert, otherKey, serving, now, "do not belong together"},
		{"expiring", cert, key, serving, now.Add(LeafLifetime - 29*24*time.Hour), "expires 2027-03-01"},
		{"month left", cert, key, serving, now.Add(LeafLifetime - 31*24*time.Hour), ""},
		{"clock behind", cert, key, serving, now.Add(-time.Hour), "not valid before"},
		{"new control plane", cert, key, edit(func(c *hostop.Certificate) { c.DNSNames = []string{"cp4"} }), now, "lacks name cp4"},
		{"new address", cert, key, edit(func(c *hostop.Certificate) { c.IPs = []string{"10.0.0.9"} }), now, "lacks address 10.0.0.9"},
		{"other name", cert, key, edit(func(c *hostop.Certificate) { c.CommonName = "x" }), now, `is for "kube-apiserver", not "x"`},
		{"organization", cert, key, edit(func(c *hostop.Certificate) { c.Organization = []string{"o"} }), now, "lacks organization o"},
		{"usage", cert, key, edit(func(c *hostop.Certificate) { c.Client = true }), now, "not for clients"},
		{"right authority", cert, key, edit(func(c *hostop.Certificate) { c.AuthorityKey = prints["cluster.key"] }), now, ""},
		{"wrong authority", cert, key, edit(func(c *hostop.Certificate) { c.AuthorityKey = prints["etcd.crt"] }), now, "another authority"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := certcheck.Check(test.cert, test.key, test.want, test.now)
			if test.differs == "" && got != "" || !strings.Contains(got, test.differs) {
				t.Errorf("Check says %q, want %q", got, test.differs)
			}
		})
	}
}

func TestParseBundle(t *testing.T) {
	bundle, other := newBundle(t), newBundle(t)
	if _, err := ParseBundle(bundle, now); err != nil {
		t.Fatalf("a fresh bundle: %v", err)
	}
	with := func(name string, raw []byte) map[string][]byte {
		changed := map[string][]byte{}
		for k, v := range bundle {
			changed[k] = v
		}
		changed[name] = raw
		return changed
	}
	missing := with("x", nil)
	delete(missing, "etcd.key")
	tests := []struct {
		name  string
		files map[string][]byte
		now   time.Time
		want  string
	}{
		{"missing", missing, now, "lack etcd.key"},
		{"foreign key", with("etcd.key", other["etcd.key"]), now, "the etcd CA and its key do not belong together"},
		{"foreign public key", with(ServiceAccountPubFile, other[ServiceAccountPubFile]), now, "do not belong together"},
		{"no PEM", with("cluster.crt", []byte("x")), now, "no PEM block"},
		{"expired", bundle, now.Add(AuthorityLifetime + time.Hour), "expired"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := ParseBundle(test.files, test.now)
			if err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("ParseBundle: %v, want %q", err, test.want)
			}
		})
	}
}

func TestKubeconfigs(t *testing.T) {
	bundle := newBundle(t)
	raw, err := bundle.AdminKubeconfig("demo", "https://10.0.0.1:6443", now)
	if err != nil {
		t.Fatal(err)
	}
	config, err := clientcmd.RESTConfigFromKubeConfig(raw)
	if err != nil {
		t.Fatal(err)
	}
	if config.Host != "https://10.0.0.1:6443" {
		t.Errorf("server %s", config.Host)
	}
	if differs := certcheck.Check(config.CertData, config.KeyData, AdminCertificate(), now); differs != "" {
		t.Errorf("its certificate %s", differs)
	}
	raw, err = HostKubeconfig("demo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(raw), "data:") {
		t.Errorf("the host's kubeconfig carries data:\n%s", raw)
	}
	if !strings.Contains(string(raw), "/etc/clusterctl/pki/admin.key") {
		t.Errorf("the host's kubeconfig does not name the key:\n%s", raw)
	}
}
