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
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	"go.etcd.io/etcd/server/v3/embed"
	"go.uber.org/zap"

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
	log := newCore(logger)
	settings.ZapLoggerBuilder = embed.NewZapLoggerBuilder(zap.New(log))
	etcd, err := embed.StartEtcd(settings)
	if err != nil {
		return nil, fmt.Errorf("start etcd: %w", err)
	}
	return &Member{etcd: etcd, log: log}, nil
}

// Ready is closed once the member is known to a quorum and serves clients.
func (m *Member) Ready() <-chan struct{} { return m.etcd.Server.ReadyNotify() }

// Wait returns when ctx has ended and the member has stopped, having handed
// over the lead if it had it; or, with an error, when the member failed or was
// removed from its cluster.
func (m *Member) Wait(ctx context.Context) error {
	defer m.etcd.Close()
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
