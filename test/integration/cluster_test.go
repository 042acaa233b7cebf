package integration

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"clusterctl/bootstrap/encryption"
	"clusterctl/bootstrap/pki"
	"clusterctl/controlplane/apiserver"
	"clusterctl/controlplane/etcd"
	"clusterctl/hostconfig"
	"clusterctl/test/fixture"
)

// Cluster is an API server over an etcd member.
type Cluster struct {
	Config hostconfig.ControlPlane
	Server *apiserver.Server
	CA     pki.Bundle

	Admin   *rest.Config // group system:masters, by client certificate over TLS
	Client  kubernetes.Interface
	Dynamic dynamic.Interface
}

// shared is started once for the package; see Start.
var shared *Cluster

func TestMain(m *testing.M) {
	os.Exit(run(m))
}

func run(m *testing.M) int {
	dir, err := os.MkdirTemp("", "clusterctl-integration-")
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(dir)
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	klog.SetSlogLogger(logger)
	ctx, cancel := context.WithCancel(context.Background())
	cluster, wait, err := start(ctx, dir, logger)
	if err == nil {
		shared = cluster
		code := m.Run()
		cancel()
		if err = wait(); err == nil {
			return code
		}
	}
	cancel()
	fmt.Fprintln(os.Stderr, "integration:", err)
	return 1
}

// Start returns the cluster that the package's tests share. Tests keep out of
// each other's way with namespaces of their own (see namespace).
func Start(t *testing.T) *Cluster {
	t.Helper()
	return shared
}

// start brings up etcd and the API server in dir. wait, called after ctx has
// ended, returns when both have stopped.
func start(ctx context.Context, dir string, logger *slog.Logger) (cluster *Cluster, wait func() error, err error) {
	ports, err := freePorts(3)
	if err != nil {
		return nil, nil, err
	}
	config := fixture.ControlPlane(dir, "cp1", advertised, ports[0], "https://"+loopback(ports[1]))
	config.AuditLog = filepath.Join(dir, "audit", "audit.log")
	config.Encryption = hostconfig.PKI(config.PKIDir).Encryption()
	authorities, err := fixture.WritePKI(hostconfig.PKI(config.PKIDir))
	if err != nil {
		return nil, nil, err
	}
	keys, err := encryption.New(false).Marshal()
	if err != nil {
		return nil, nil, err
	}
	if err := os.WriteFile(config.Encryption, keys, 0o600); err != nil {
		return nil, nil, err
	}
	member, err := etcd.Start(hostconfig.Etcd{
		Name: "cp1", Address: "127.0.0.1", ClientPort: ports[1], PeerPort: ports[2],
		DataDir: filepath.Join(dir, "etcd"), PKIDir: config.PKIDir,
		InitialCluster: "cp1=https://" + loopback(ports[2]), InitialState: "new", ClusterToken: "test",
	}, logger)
	if err != nil {
		return nil, nil, err
	}
	// etcd outlives the API server, which takes its leave in it.
	etcdCtx, stopEtcd := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan error, 2)
	go func() { done <- member.Wait(etcdCtx) }()

	server, err := newServer(ctx, config, logger)
	if err != nil {
		stopEtcd()
		return nil, nil, errors.Join(err, <-done)
	}
	go func() {
		err := server.Run(ctx)
		stopEtcd()
		done <- err
	}()
	wait = func() error { return errors.Join(<-done, <-done) }
	select {
	case <-server.Ready():
	case <-time.After(fixture.Patience):
		return nil, nil, fmt.Errorf("the API server is not ready after %s", fixture.Patience)
	}
	cluster = &Cluster{Config: config, Server: server, CA: authorities}
	if cluster.Admin, err = cluster.Certificate("admin", "system:masters"); err != nil {
		return nil, nil, err
	}
	if cluster.Client, err = kubernetes.NewForConfig(cluster.Admin); err != nil {
		return nil, nil, err
	}
	if cluster.Dynamic, err = dynamic.NewForConfig(cluster.Admin); err != nil {
		return nil, nil, err
	}
	return cluster, wait, nil
}

// advertised is an address for documentation (RFC 5737): the endpoints of a
// service may not be loopback, which is where the tests' server listens.
const advertised = "192.0.2.1"

func newServer(ctx context.Context, config hostconfig.ControlPlane, logger *slog.Logger) (*apiserver.Server, error) {
	listener, err := net.Listen("tcp", loopback(config.Port))
	if err != nil {
		return nil, err
	}
	return apiserver.New(ctx, config, apiserver.Options{Logger: logger, Listener: listener})
}

// Anonymous is a configuration over TLS without credentials.
func (c *Cluster) Anonymous() *rest.Config {
	return fixture.Anonymous(c.CA, c.Config.Port)
}

// Certificate is a configuration with a client certificate of user in groups.
func (c *Cluster) Certificate(user string, groups ...string) (*rest.Config, error) {
	return fixture.Certificate(c.CA, c.Config.Port, user, groups...)
}

// Token is a configuration with a bearer token.
func (c *Cluster) Token(token string) *rest.Config {
	config := c.Anonymous()
	config.BearerToken = token
	return config
}

func freePorts(n int) ([]int, error) { return fixture.Ports(n) }

func loopback(port int) string { return fixture.Loopback(port) }
