package host

import (
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/hostop/certcheck"
)

func TestUnitsAndServices(t *testing.T) {
	init := newFakeInit()
	root := t.TempDir()
	h := New(Options{Root: root, Init: init})
	unit := &hostop.Unit{Name: hostconfig.UnitNodeAgent, Content: []byte("[Unit]\n")}
	service := &hostop.Service{Name: unit.Name, Fingerprint: "1"}
	apply := func(op hostop.Op, want ...string) {
		t.Helper()
		changed, err := h.Apply(t.Context(), op, ignore)
		if err != nil {
			t.Fatal(err)
		}
		if got := init.took(); strings.Join(got, ",") != strings.Join(want, ",") || changed != (len(want) > 0) {
			t.Errorf("%s: did %q (changed %v), want %q", op.Describe(), got, changed, want)
		}
	}
	apply(unit, "enable clusterctl-nodeagent", "reload")
	apply(unit)
	apply(service, "restart clusterctl-nodeagent")
	apply(service)
	service.Fingerprint = "2" // a new binary
	apply(service, "restart clusterctl-nodeagent")
	apply(service)
	init.unit(unit.Name).Active = "failed"
	apply(service, "restart clusterctl-nodeagent")
	init.unit(unit.Name).Stale = true // written, and killed before the reload
	apply(unit, "enable clusterctl-nodeagent", "reload")

	// A start that fails tells why, and is not recorded.
	init.broken[unit.Name] = "no such configuration\nexiting"
	service.Fingerprint = "3"
	_, err := h.Apply(t.Context(), service, ignore)
	if err == nil || !strings.Contains(err.Error(), "the last it said:\n    no such configuration\n    exiting") {
		t.Errorf("got %v", err)
	}
	delete(init.broken, unit.Name)
	init.took()
	apply(service, "restart clusterctl-nodeagent")
	if err := os.WriteFile(root+servicesFile, []byte("{damaged"), 0o600); err != nil {
		t.Fatal(err)
	}
	apply(service, "restart clusterctl-nodeagent")
	apply(service)
}

func TestEncryptionKeys(t *testing.T) {
	root := t.TempDir()
	h := New(Options{Root: root, Init: newFakeInit()})
	file := root + hostconfig.PKI(hostconfig.PKIDir).Encryption()
	check := func(o *hostop.Encryption, want string) {
		t.Helper()
		o.PKIDir = hostconfig.PKIDir
		if differs, err := h.Check(t.Context(), o); err != nil || differs != want {
			t.Errorf("check: %q, %v; want %q", differs, err, want)
		}
	}
	apply := func(o *hostop.Encryption) {
		t.Helper()
		o.PKIDir = hostconfig.PKIDir
		if _, err := h.Apply(t.Context(), o, ignore); err != nil {
			t.Fatalf("apply: %v", err)
		}
		wantMode(t, file, 0o600)
	}
	if got, err := h.readEncryption(); err != nil || len(got) != 0 {
		t.Errorf("read where there is none: %q, %v", got, err)
	}
	check(&hostop.Encryption{}, "are absent")
	if _, err := h.Apply(t.Context(), &hostop.Encryption{PKIDir: hostconfig.PKIDir}, ignore); err == nil {
		t.Error("keys that were not sent were written")
	}
	apply(&hostop.Encryption{Content: []byte("one")})
	check(&hostop.Encryption{Content: []byte("two")}, "")
	check(&hostop.Encryption{Content: []byte("two"), Replace: true}, "has other content")
	if err := os.Chmod(file, 0o644); err != nil {
		t.Fatal(err)
	}
	check(&hostop.Encryption{}, "has mode 0644, not 0600")
	apply(&hostop.Encryption{Content: []byte("two")})
	wantContent(t, file, "one") // keys in use are never lost to an `up`
	apply(&hostop.Encryption{Content: []byte("two"), Replace: true})
	if got, err := h.readEncryption(); err != nil || string(got) != "two" {
		t.Errorf("read: %q, %v", got, err)
	}
}

func TestAuthorities(t *testing.T) {
	root := t.TempDir()
	h := New(Options{Root: root, Init: newFakeInit()})
	first, second := newAuthority(t), newAuthority(t)
	bundle := func(a *authority) map[string][]byte { return map[string][]byte{"cluster.crt": a.pem} }
	prints := func(a *authority) map[string]string {
		p, err := certcheck.FingerprintFiles(bundle(a))
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	dir := root + hostconfig.PKI(hostconfig.PKIDir).AuthorityDir()
	check := func(o *hostop.Authorities, want string) {
		t.Helper()
		o.PKIDir = hostconfig.PKIDir
		if differs, err := h.Check(t.Context(), o); err != nil || differs != want {
			t.Errorf("check: %q, %v; want %q", differs, err, want)
		}
	}
	check(&hostop.Authorities{}, "are absent")
	// What a killed run left half-written is swept away.
	write(t, dir+".new/cluster.key", "old", 0o600)
	for _, a := range []*authority{first, second} {
		o := &hostop.Authorities{PKIDir: hostconfig.PKIDir, Keys: prints(a), Bundle: bundle(a)}
		if changed, err := h.Apply(t.Context(), o, ignore); err != nil || !changed {
			t.Fatalf("apply: %v, %v", changed, err)
		}
		wantMode(t, dir, os.ModeDir|0o700)
		wantMode(t, dir+"/cluster.crt", 0o600)
		wantContent(t, dir+"/cluster.crt", string(a.pem))
		wantAbsent(t, dir+".new")
		wantAbsent(t, dir+"/cluster.key")
	}
	check(&hostop.Authorities{Keys: prints(second)}, "")
	check(&hostop.Authorities{Keys: prints(first)}, "are others")
	check(&hostop.Authorities{Bundle: bundle(second)}, "")
	check(&hostop.Authorities{}, "the cluster has none yet")
	if got, err := h.readAuthorities(); err != nil || string(got["cluster.crt"]) != string(second.pem) {
		t.Errorf("read: %q, %v", got, err)
	}
}

func TestCertificate(t *testing.T) {
	root := t.TempDir()
	h := New(Options{Root: root, Init: newFakeInit()})
	a := newAuthority(t)
	cert, key := a.pair(t, "one")
	want := hostop.Certificate{PKIDir: hostconfig.PKIDir, Pair: hostconfig.PairEtcd, CommonName: "one", IPs: []string{"127.0.0.1"}, Client: true, Server: true}
	pki := hostconfig.PKI(root + hostconfig.PKIDir)

	wrong := want
	wrong.Cert, wrong.Key, wrong.CommonName = cert, key, "two"
	if _, err := h.Apply(t.Context(), &wrong, ignore); err == nil || !strings.Contains(err.Error(), `is for "one", not "two"`) {
		t.Errorf("a pair for another: %v", err)
	}
	wantAbsent(t, pki.Key(hostconfig.PairEtcd))

	sent := want
	sent.Cert, sent.Key = cert, key
	if changed, err := h.Apply(t.Context(), &sent, ignore); err != nil || !changed {
		t.Fatalf("apply: %v, %v", changed, err)
	}
	wantMode(t, pki.Key(hostconfig.PairEtcd), 0o600)
	wantMode(t, string(pki), os.ModeDir|0o700)

	check := func(change func(*hostop.Certificate), want string) {
		t.Helper()
		o := sent
		o.Cert, o.Key = nil, nil
		change(&o)
		if differs, err := h.Check(t.Context(), &o); err != nil || !strings.HasPrefix(differs, want) {
			t.Errorf("check: %q, %v; want %q", differs, err, want)
		}
	}
	check(func(*hostop.Certificate) {}, "the cluster has no authority yet")
	check(func(o *hostop.Certificate) { o.RenewBefore = 24 * time.Hour }, "expires ")
	check(func(o *hostop.Certificate) { o.AuthorityKey = strings.Repeat("ab", 32) }, "signed by another authority")
	// A run killed between key and certificate.
	_, otherKey := a.pair(t, "one")
	write(t, pki.Key(hostconfig.PairEtcd), string(otherKey), 0o600)
	check(func(*hostop.Certificate) {}, "key and certificate do not belong together")
}

func TestReady(t *testing.T) {
	var calls atomic.Int32
	server := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if calls.Add(1) < 3 {
			http.Error(w, "not yet:\n etcd", http.StatusServiceUnavailable)
		}
	}))
	defer server.Close()
	root := t.TempDir()
	anchor := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: server.Certificate().Raw})
	write(t, root+"/ca.crt", string(anchor), 0o644)
	h := New(Options{Root: root, Init: newFakeInit()})
	var told []string
	o := &hostop.Ready{URL: server.URL + "/readyz", CAFile: "/ca.crt", Timeout: 5 * time.Second}
	changed, err := h.Apply(t.Context(), o, func(s string) { told = append(told, s) })
	if err != nil || !changed || len(told) == 0 || told[0] != "answers 503 Service Unavailable: not yet: etcd" {
		t.Errorf("changed %v, %v, told %q", changed, err, told)
	}
	if changed, err := h.Apply(t.Context(), o, ignore); err != nil || changed {
		t.Errorf("ready: changed %v, %v", changed, err)
	}
	server.Close()
	o.Timeout = 500 * time.Millisecond
	if _, err := h.Apply(t.Context(), o, ignore); err == nil || !strings.Contains(err.Error(), "not so within 500ms: does not answer") {
		t.Errorf("gone: %v", err)
	}
	if _, err := h.Apply(t.Context(), &hostop.Ready{URL: o.URL, CAFile: "/none", Timeout: time.Second}, ignore); err == nil || !strings.Contains(err.Error(), "read CA") {
		t.Errorf("no CA: %v", err)
	}
}

func TestReadyGivesUpOnAFallingService(t *testing.T) {
	root := t.TempDir()
	a := newAuthority(t)
	write(t, root+"/ca.crt", string(a.pem), 0o644)
	init := newFakeInit()
	init.broken[hostconfig.UnitControlPlane] = "cannot read configuration"
	*init.unit(hostconfig.UnitControlPlane) = UnitStatus{Installed: true, Active: "failed"}
	h := New(Options{Root: root, Init: init})
	_, err := h.Apply(t.Context(), &hostop.Ready{URL: "https://127.0.0.1:6443/readyz", CAFile: "/ca.crt", Timeout: time.Minute}, ignore)
	if err == nil || !strings.Contains(err.Error(), "does not stay up") || !strings.Contains(err.Error(), "cannot read configuration") {
		t.Errorf("got %v", err)
	}
}

func TestResetStopsUnitsInOrder(t *testing.T) {
	root := t.TempDir()
	init := newFakeInit()
	h := New(Options{Root: root, Init: init})
	for _, unit := range units {
		if _, err := h.Apply(t.Context(), &hostop.Unit{Name: unit, Content: []byte("x")}, ignore); err != nil {
			t.Fatal(err)
		}
	}
	write(t, root+"/var/lib/cni/results/ours", `{"netns":"/run/clusterctl/containerd/netns/cni-1"}`, 0o600)
	write(t, root+"/var/lib/cni/results/theirs", `{"netns":"/var/run/netns/cni-2"}`, 0o600)
	write(t, root+"/var/tmp/clusterctl-hand-0123/nodeagent", "x", 0o700)
	write(t, root+"/etc/hosts", "theirs", 0o644)
	for _, directory := range ours {
		write(t, root+directory+"/deep/file", "x", 0o600)
	}
	init.took()
	var told []string
	if err := h.Reset(t.Context(), func(s string) { told = append(told, s) }); err != nil {
		t.Fatal(err)
	}
	var stops []string
	for _, did := range init.took() {
		if name, ok := strings.CutPrefix(did, "stop clusterctl-"); ok {
			stops = append(stops, name)
		}
	}
	if got := strings.Join(stops, " "); got != "nodeagent controlplane containerd etcd" {
		t.Errorf("stopped %s", got)
	}
	for _, path := range append([]string{"/var/tmp/clusterctl-hand-0123", "/var/lib/cni/results/ours"}, ours...) {
		wantAbsent(t, root+path)
	}
	if left, _ := filepath.Glob(root + hostconfig.UnitDir + "/*"); len(left) > 0 {
		t.Errorf("left %v", left)
	}
	wantContent(t, root+"/etc/hosts", "theirs")
	wantContent(t, root+"/var/lib/cni/results/theirs", `{"netns":"/var/run/netns/cni-2"}`)
	if len(told) == 0 {
		t.Error("nothing was told")
	}
	told = nil
	if err := h.Reset(t.Context(), func(s string) { told = append(told, s) }); err != nil || len(told) != 0 {
		t.Errorf("the second reset: %v, told %q", err, told)
	}
}

func TestParseMount(t *testing.T) {
	for _, c := range []struct {
		line string
		want mount
		ok   bool
	}{
		{`36 35 98:0 / /mnt\040a rw,noatime master:1 - ext3 /dev/root rw,errors=continue`, mount{"/mnt a", "ext3", "rw,errors=continue"}, true},
		{`36 35 98:0 / /mnt rw - cgroup cgroup rw,cpu,cpuacct`, mount{"/mnt", "cgroup", "rw,cpu,cpuacct"}, true},
		{`garbage`, mount{}, false},
	} {
		if got, ok := parseMount(c.line); got != c.want || ok != c.ok {
			t.Errorf("%s: %+v, %v", c.line, got, ok)
		}
	}
}
