package linearizability

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/apiserver"
	"clusterctl/controlplane/etcd"
	"clusterctl/controlplane/storage"
	"clusterctl/hostconfig"
	"clusterctl/test/fixture"
)

// role says, in the environment, that this process is not the test but one of
// its servers: "etcd" or "apiserver", with its configuration's path as argument.
const role = "CLUSTERCTL_TEST_ROLE"

func TestMain(m *testing.M) {
	if as := os.Getenv(role); as != "" {
		if err := serve(as, os.Args[1]); err != nil {
			fmt.Fprintln(os.Stderr, as, "ends:", err)
			os.Exit(1)
		}
		return
	}
	// That servers go away is what the test does.
	klog.SetSlogLogger(slog.New(slog.DiscardHandler))
	rest.SetDefaultWarningHandler(rest.NoWarnings{})
	os.Exit(m.Run())
}

// serve runs a server until it is told to end, or the test has ended: then
// standard input does.
func serve(as, path string) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		os.Exit(1)
	}()
	logger := slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))
	klog.SetSlogLogger(logger)
	switch as {
	case "etcd":
		var config hostconfig.Etcd
		if err := hostconfig.Load(path, &config); err != nil {
			return err
		}
		return etcd.Run(ctx, config, logger)
	case "apiserver":
		var config hostconfig.ControlPlane
		if err := hostconfig.Load(path, &config); err != nil {
			return err
		}
		listener, err := net.Listen("tcp", fixture.Loopback(config.Port))
		if err != nil {
			return err
		}
		server, err := apiserver.New(ctx, config, apiserver.Options{Logger: logger, Listener: listener})
		if err != nil {
			return err
		}
		return server.Run(ctx)
	}
	return fmt.Errorf("no such role: %s", as)
}

const members = 3

// system is three API servers over three etcd members.
type system struct {
	members [members]*fixture.Process
	servers [members]*fixture.Process
	configs [members]hostconfig.ControlPlane
	rest    [members]*rest.Config // of an administrator, without limits
	clients [members]kubernetes.Interface
	etcd    *clientv3.Client
}

// address is what a server says of itself: one for documentation (RFC 5737).
func address(i int) string { return fmt.Sprintf("192.0.2.%d", i+1) }

// newSystem starts everything and waits until it serves. It ends with the test.
func newSystem(t *testing.T) *system {
	t.Helper()
	dir := t.TempDir()
	ports, err := fixture.Ports(3 * members)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := &system{}
	process := func(as, name, config string) *fixture.Process {
		return &fixture.Process{Name: name, Path: self, Args: []string{config}, Env: []string{role + "=" + as}, Log: config + ".log"}
	}
	write := func(name string, config any) string {
		path := filepath.Join(dir, name)
		raw, err := hostconfig.Marshal(config)
		if err == nil {
			err = os.WriteFile(path, raw, 0o600)
		}
		if err != nil {
			t.Fatal(err)
		}
		return path
	}
	var endpoints []string
	initial := ""
	for i := range members {
		endpoints = append(endpoints, "https://"+fixture.Loopback(ports[i]))
		initial += fmt.Sprintf(",etcd%d=https://%s", i, fixture.Loopback(ports[members+i]))
	}
	for i := range members {
		s.configs[i] = fixture.ControlPlane(dir, fmt.Sprint("cp", i), address(i), ports[2*members+i], endpoints...)
		name := fmt.Sprint("etcd", i)
		s.members[i] = process("etcd", name, write(name, hostconfig.Etcd{
			Name: name, Address: "127.0.0.1", ClientPort: ports[i], PeerPort: ports[members+i],
			DataDir: filepath.Join(dir, name+".data"), PKIDir: s.configs[i].PKIDir,
			InitialCluster: initial[1:], InitialState: "new", ClusterToken: "test",
		}))
		name = fmt.Sprint("apiserver", i)
		s.servers[i] = process("apiserver", name, write(name, s.configs[i]))
	}
	pki := hostconfig.PKI(s.configs[0].PKIDir)
	authorities, err := fixture.WritePKI(pki)
	if err != nil {
		t.Fatal(err)
	}
	for i, p := range s.all() {
		if err := p.Start(); err != nil {
			t.Fatal(err)
		}
		p.EndWith(t)
		if i >= members {
			continue
		}
		if s.rest[i], err = fixture.Certificate(authorities, s.configs[i].Port, "admin", "system:masters"); err != nil {
			t.Fatal(err)
		}
		if s.clients[i], err = kubernetes.NewForConfig(s.rest[i]); err != nil {
			t.Fatal(err)
		}
	}
	store, err := storage.Open(storage.Config{
		Endpoints: endpoints, CertFile: pki.Cert(hostconfig.PairAPIServerEtcd), KeyFile: pki.Key(hostconfig.PairAPIServerEtcd),
		CAFile: pki.EtcdCA(), Prefix: "/registry",
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(store.Close)
	s.etcd = store.Etcd()
	for i := range members {
		if err := s.awaitServer(i); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func (s *system) all() []*fixture.Process { return append(s.members[:], s.servers[:]...) }

// patience is what starts and elections may take on a busy machine.
const patience = 2 * time.Minute

func await(what string, check func(context.Context) bool) error {
	for deadline := time.Now().Add(patience); ; time.Sleep(50 * time.Millisecond) {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		ok := check(ctx)
		cancel()
		if ok {
			return nil
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s: not within %s", what, patience)
		}
	}
}

func (s *system) awaitServer(i int) error {
	return await(s.servers[i].Name+" to be ready", func(ctx context.Context) bool {
		return s.clients[i].Discovery().RESTClient().Get().AbsPath("/readyz").MaxRetries(0).Do(ctx).Error() == nil
	})
}

// leader is the index of the etcd member that leads and is known to do so by
// all members.
func (s *system) leader(ctx context.Context) (int, bool) {
	found, ids := -1, map[uint64]bool{}
	for i, endpoint := range s.configs[0].Etcd {
		status, err := s.etcd.Status(ctx, endpoint)
		if err != nil || status.Leader == 0 {
			return 0, false
		}
		ids[status.Leader] = true
		if status.Leader == status.Header.MemberId {
			found = i
		}
	}
	return found, found >= 0 && len(ids) == 1
}

func (s *system) awaitLeader() (int, error) {
	found := 0
	err := await("one leader of all etcd members", func(ctx context.Context) (ok bool) {
		found, ok = s.leader(ctx)
		return ok
	})
	return found, err
}
