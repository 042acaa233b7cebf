package etcd

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/url"
	"os"
	"strconv"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"
	"google.golang.org/grpc"

	"clusterctl/hostconfig"
)

// Timing that holds on small, busy machines: a member that is not heard of for
// two seconds loses the lead, and one that waits 100 ms for its disk keeps it.
const (
	heartbeatMillis = 200
	electionMillis  = 2000
	slow            = time.Second // requests that take longer are logged
)

// Member is a running etcd server.
type Member struct {
	etcd *embed.Etcd
	log  *core

	mu      sync.Mutex
	servers []*grpc.Server // one for each address that clients reach it at
}

// Run starts a member and keeps it until ctx ends or it fails.
func Run(ctx context.Context, config hostconfig.Etcd, logger *slog.Logger) error {
	member, err := Start(config, logger)
	if err != nil {
		return err
	}
	return member.Wait(ctx)
}

// Start starts a member: when it returns, the member listens, and takes part as
// soon as a quorum of members is there. Wait must follow.
func Start(config hostconfig.Etcd, logger *slog.Logger) (*Member, error) {
	if err := os.MkdirAll(config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("make etcd data directory: %w", err)
	}
	if err := os.Chmod(config.DataDir, 0o700); err != nil {
		return nil, fmt.Errorf("close etcd data directory to others: %w", err)
	}
	settings := settings(config)
	m := &Member{log: newCore(logger)}
	settings.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(m.log))
	settings.ServiceRegister = func(server *grpc.Server) {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.servers = append(m.servers, server)
	}
	var err error
	if m.etcd, err = embed.StartEtcd(settings); err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	return m, nil
}

// Ready is closed once the member is known to a quorum and serves clients.
func (m *Member) Ready() <-chan struct{} { return m.etcd.Server.ReadyNotify() }

// Wait returns when ctx has ended and the member has stopped, having handed
// over the lead if it had it; or, with an error, when the member failed or was
// removed from its cluster.
func (m *Member) Wait(ctx context.Context) error {
	defer m.etcd.Close()
	defer m.letGo()
	select {
	case <-ctx.Done():
		m.log.stop()
		return nil
	case err := <-m.etcd.Err():
		return fmt.Errorf("run etcd: %w", err)
	case <-m.etcd.Server.StopNotify():
		return fmt.Errorf("run etcd: member %s was stopped or removed from its cluster", m.etcd.Config().Name)
	}
}

// letGo ends the clients' connections: etcd itself would wait for their watches,
// which do not end, for as long as a request may take.
func (m *Member) letGo() {
	m.mu.Lock()
	defer m.mu.Unlock()
	for _, server := range m.servers {
		server.Stop()
	}
}

// settings are etcd's own for config.
func settings(config hostconfig.Etcd) *embed.Config {
	s := embed.NewConfig()
	s.Name, s.Dir = config.Name, config.DataDir
	pki := hostconfig.PKI(config.PKIDir)
	tls := transport.TLSInfo{
		CertFile:       pki.Cert(hostconfig.PairEtcd),
		KeyFile:        pki.Key(hostconfig.PairEtcd),
		TrustedCAFile:  pki.EtcdCA(),
		ClientCertAuth: true,
	}
	s.ClientTLSInfo, s.PeerTLSInfo = tls, tls

	clientPort := cmp.Or(config.ClientPort, hostconfig.PortEtcdClient)
	peerPort := cmp.Or(config.PeerPort, hostconfig.PortEtcdPeer)
	s.ListenClientUrls = []url.URL{https(config.Address, clientPort)}
	if config.Address != loopback {
		s.ListenClientUrls = append(s.ListenClientUrls, https(loopback, clientPort))
	}
	// With a listener of its own for HTTP, which nobody uses, gRPC has its ports to
	// itself, and is served by its own HTTP/2, not by that of net/http: a request
	// costs a quarter less. The name is abstract, so there is no file.
	s.ListenClientHttpUrls = []url.URL{{Scheme: "unixs", Path: "@clusterctl-etcd-" + strconv.Itoa(clientPort)}}
	s.AdvertiseClientUrls = []url.URL{https(config.Address, clientPort)}
	s.ListenPeerUrls = []url.URL{https(config.Address, peerPort)}
	s.AdvertisePeerUrls = s.ListenPeerUrls

	s.InitialCluster = config.InitialCluster
	s.InitialClusterToken = config.ClusterToken
	s.ClusterState = config.InitialState
	s.QuotaBackendBytes = config.QuotaBytes
	s.TickMs, s.ElectionMs = heartbeatMillis, electionMillis
	s.EnableGRPCGateway = false
	s.WarningApplyDuration, s.WarningUnaryRequestDuration = slow, slow
	// The API servers compact, since they know what watches still need.
	s.AutoCompactionRetention = "0"
	// Fewer entries kept in memory than by default: members that fall further
	// behind get a snapshot.
	s.SnapshotCount, s.SnapshotCatchUpEntries = 10_000, 5_000
	return s
}

const loopback = "127.0.0.1"

func https(host string, port int) url.URL {
	return url.URL{Scheme: "https", Host: net.JoinHostPort(host, strconv.Itoa(port))}
}
