package host

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/server/v3/embed"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// authority signs certificates of one test.
type authority struct {
	cert *x509.Certificate
	pem  []byte
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) *authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test CA"}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return &authority{cert: cert, key: key, pem: pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})}
}

// pair issues a pair for loopback, both for serving and as a client.
func (a *authority) pair(t *testing.T, name string) (cert, key []byte) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: name}, NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour), IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, private.Public(), a.key)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		t.Fatal(err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: raw})
}

// etcdHost is a host whose clusterctl-etcd unit runs a real etcd in process.
type etcdHost struct {
	*Hand
	name   string
	root   string
	init   *fakeInit
	config hostconfig.Etcd

	mu      sync.Mutex
	running *embed.Etcd
}

func newEtcdHost(t *testing.T, a *authority, name string) *etcdHost {
	t.Helper()
	e := &etcdHost{name: name, root: t.TempDir(), init: newFakeInit()}
	e.Hand = New(Options{Root: e.root, Init: e.init})
	e.config = hostconfig.Etcd{Name: name, Address: "127.0.0.1", DataDir: hostconfig.EtcdDir, PKIDir: hostconfig.PKIDir, ClusterToken: "test", ClientPort: freePort(t), PeerPort: freePort(t)}
	pki := hostconfig.PKI(hostconfig.PKIDir)
	cert, key := a.pair(t, name)
	write(t, e.root+pki.Cert(hostconfig.PairEtcd), string(cert), 0o600)
	write(t, e.root+pki.Key(hostconfig.PairEtcd), string(key), 0o600)
	write(t, e.root+pki.EtcdCA(), string(a.pem), 0o600)
	e.init.start = func(string) error { return e.restart() }
	e.init.stop = func(string) { e.stop() }
	t.Cleanup(e.stop)
	return e
}

func freePort(t *testing.T) int {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().(*net.TCPAddr).Port
}

func (e *etcdHost) stop() {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.running != nil {
		e.running.Close()
		e.running = nil
	}
	e.init.unit(hostconfig.UnitEtcd).Active = "inactive"
}

// restart does what the unit would: runs etcd as EtcdConf says.
func (e *etcdHost) restart() error {
	e.stop()
	var config hostconfig.Etcd
	if err := hostconfig.Load(e.root+hostconfig.EtcdConf, &config); err != nil {
		return err
	}
	pki := hostconfig.PKI(e.root + config.PKIDir)
	c := embed.NewConfig()
	c.Name, c.Dir, c.LogLevel, c.LogOutputs = config.Name, e.root+config.DataDir, "panic", []string{"/dev/null"}
	tls := transport.TLSInfo{CertFile: pki.Cert(hostconfig.PairEtcd), KeyFile: pki.Key(hostconfig.PairEtcd), TrustedCAFile: pki.EtcdCA(), ClientCertAuth: true}
	c.ClientTLSInfo, c.PeerTLSInfo = tls, tls
	address := func(port int) []url.URL {
		return []url.URL{{Scheme: "https", Host: fmt.Sprintf("127.0.0.1:%d", port)}}
	}
	c.ListenClientUrls, c.AdvertiseClientUrls = address(config.ClientPort), address(config.ClientPort)
	c.ListenPeerUrls, c.AdvertisePeerUrls = address(config.PeerPort), address(config.PeerPort)
	c.InitialCluster, c.ClusterState, c.InitialClusterToken = config.InitialCluster, config.InitialState, config.ClusterToken
	c.TickMs, c.ElectionMs = 20, 200
	c.UnsafeNoFsync = true
	running, err := embed.StartEtcd(c)
	if err != nil {
		return err
	}
	e.mu.Lock()
	defer e.mu.Unlock()
	e.running = running
	return nil
}

func (e *etcdHost) url() string { return etcdURL("127.0.0.1", e.config.ClientPort) }

// op is what a planner would say of this host among others.
func (e *etcdHost) op(t *testing.T, found bool, others ...*etcdHost) *hostop.EtcdMember {
	t.Helper()
	raw, err := hostconfig.Marshal(e.config)
	if err != nil {
		t.Fatal(err)
	}
	o := &hostop.EtcdMember{Config: raw, Found: found, Fingerprint: "1", Timeout: 30 * time.Second}
	for _, other := range others {
		o.Peers = append(o.Peers, other.url())
	}
	return o
}

func (e *etcdHost) client(t *testing.T) *clientv3.Client {
	t.Helper()
	client, err := e.etcdClient(hostconfig.PKIDir, hostconfig.PairEtcd, e.url())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

func (e *etcdHost) members(t *testing.T) (voters, learners int) {
	t.Helper()
	list, err := e.client(t).MemberList(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range list.Members {
		if m.IsLearner {
			learners++
		} else {
			voters++
		}
	}
	return voters, learners
}

// errKilled stands for a kill -9 of the hand.
var errKilled = errors.New("killed")

func TestEtcdMembership(t *testing.T) {
	a := newAuthority(t)
	one, two, three := newEtcdHost(t, a, "one"), newEtcdHost(t, a, "two"), newEtcdHost(t, a, "three")
	apply := func(e *etcdHost, o *hostop.EtcdMember) {
		t.Helper()
		changed, err := e.Apply(t.Context(), o, ignore)
		if err != nil || !changed {
			t.Fatalf("%s: changed %v, %v", e.name, changed, err)
		}
		e.init.took()
		if changed, err := e.Apply(t.Context(), o, ignore); err != nil || changed || len(e.init.took()) != 0 {
			t.Fatalf("%s, the second time: changed %v, %v", e.name, changed, err)
		}
	}

	// A founder that was killed before its etcd started founds once more.
	one.init.start = func(string) error { return errKilled }
	if _, err := one.Apply(t.Context(), one.op(t, true, two, three), ignore); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	one.init.start = func(string) error { return one.restart() }
	apply(one, one.op(t, true, two, three))

	// A host that was killed after it was added, but before its etcd started,
	// uses the member that is there.
	two.init.start = func(string) error { return errKilled }
	if _, err := two.Apply(t.Context(), two.op(t, false, one, three), ignore); !errors.Is(err, errKilled) {
		t.Fatal(err)
	}
	if voters, learners := one.members(t); voters != 1 || learners != 1 {
		t.Fatalf("%d voters, %d learners", voters, learners)
	}
	two.init.start = func(string) error { return two.restart() }
	apply(two, two.op(t, false, one, three))

	// A host that was killed after its etcd started, but before it was promoted.
	ctx, cancel := context.WithCancel(t.Context())
	three.init.start = func(string) error {
		err := three.restart()
		cancel()
		return err
	}
	if _, err := three.Apply(ctx, three.op(t, false, one, two), ignore); err == nil {
		t.Fatal("went on though it was stopped")
	}
	if voters, learners := one.members(t); voters != 2 || learners != 1 {
		t.Fatalf("%d voters, %d learners", voters, learners)
	}
	three.init.start = func(string) error { return three.restart() }
	apply(three, three.op(t, false, one, two))

	if voters, learners := three.members(t); voters != 3 || learners != 0 {
		t.Fatalf("%d voters, %d learners", voters, learners)
	}

	t.Run("status", func(t *testing.T) {
		status, err := two.etcdStatus(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		leaders := 0
		for _, m := range status.Members {
			if m.Leader {
				leaders++
			}
			if !m.Healthy || m.Version == "" || m.Name == "" || m.Learner || m.DBSize == 0 || m.Error != "" {
				t.Errorf("member: %+v", m)
			}
		}
		if len(status.Members) != 3 || leaders != 1 {
			t.Errorf("status: %+v", status)
		}
	})

	t.Run("changed fingerprint restarts once", func(t *testing.T) {
		o := two.op(t, false, one, three)
		o.Fingerprint = "2"
		two.init.took()
		if changed, err := two.Apply(t.Context(), o, ignore); err != nil || !changed {
			t.Fatalf("changed %v, %v", changed, err)
		}
		if log := strings.Join(two.init.took(), ","); log != "restart "+hostconfig.UnitEtcd {
			t.Errorf("it did %s", log)
		}
	})

	t.Run("no restart that would lose the quorum", func(t *testing.T) {
		one.stop()
		o := two.op(t, false, one, three)
		o.Fingerprint = "3"
		if _, err := two.Apply(t.Context(), o, ignore); err == nil || !strings.Contains(err.Error(), "would lose its quorum") {
			t.Errorf("got %v", err)
		}
		if err := one.restart(); err != nil {
			t.Fatal(err)
		}
		one.init.unit(hostconfig.UnitEtcd).Active = "active"
		apply(two, o)
	})

	t.Run("lost data is not covered up", func(t *testing.T) {
		three.stop()
		if err := os.RemoveAll(three.root + hostconfig.EtcdDir); err != nil {
			t.Fatal(err)
		}
		if _, err := three.Apply(t.Context(), three.op(t, false, one, two), ignore); err == nil || !strings.Contains(err.Error(), "is gone; remove that member") {
			t.Errorf("got %v", err)
		}
	})

	t.Run("data of a removed member", func(t *testing.T) {
		list, err := one.client(t).MemberList(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range list.Members {
			if m.Name == "three" {
				if _, err := one.client(t).MemberRemove(t.Context(), m.ID); err != nil {
					t.Fatal(err)
				}
			}
		}
		mkdir(t, filepath.Join(three.root+hostconfig.EtcdDir, "member", "wal"))
		if _, err := three.Apply(t.Context(), three.op(t, false, one, two), ignore); err == nil || !strings.Contains(err.Error(), "was removed from the cluster") {
			t.Errorf("got %v", err)
		}
		if err := os.RemoveAll(three.root + hostconfig.EtcdDir); err != nil {
			t.Fatal(err)
		}
		apply(three, three.op(t, false, one, two))
	})

	t.Run("founder without data and without others", func(t *testing.T) {
		for _, e := range []*etcdHost{one, two, three} {
			e.stop()
		}
		if err := os.RemoveAll(one.root + hostconfig.EtcdDir); err != nil {
			t.Fatal(err)
		}
		if _, err := one.Apply(t.Context(), one.op(t, true, two, three), ignore); err == nil || !strings.Contains(err.Error(), "no other member answers") {
			t.Errorf("got %v", err)
		}
	})
}
