package storage

import (
	"context"
	"fmt"
	"math/rand/v2"
	"path"
	"sync"
	"time"

	"go.etcd.io/etcd/client/pkg/v3/transport"
	clientv3 "go.etcd.io/etcd/client/v3"
	"go.etcd.io/etcd/client/v3/kubernetes"
	"go.uber.org/zap"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/etcd3/metrics"
	"k8s.io/apiserver/pkg/storage/feature"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/value"
)

// Config says where etcd is and how to be known to it.
type Config struct {
	Endpoints []string // https://host:2379 of every member
	CertFile  string   // client pair, read again for each connection
	KeyFile   string
	CAFile    string
	Prefix    string // under which all objects lie: /registry
	// Encryption is a file with an EncryptionConfiguration of
	// apiserver.config.k8s.io/v1, for what is encrypted in etcd; "": nothing.
	Encryption string
}

// Client is the etcd client that all resources of an API server share: one
// connection for each member, one watch stream for each resource. It is safe
// for concurrent use.
type Client struct {
	config    Config
	etcd      *clientv3.Client
	compactor compactor
	encrypted value.ResourceTransformers
	stop      context.CancelFunc

	probeMu   sync.Mutex
	probedAt  time.Time
	probeErr  error
	closeOnce sync.Once
}

type compactor interface {
	etcd3.Compactor
	Stop()
}

// memberSilence is how long an etcd member's host may be silent before requests
// go to the others.
const memberSilence = 2 * time.Second

// Open makes a client. It does not wait for etcd: requests do, and Healthy
// tells. Like every Kubernetes API server it compacts etcd's history each five
// minutes.
func Open(config Config) (*Client, error) {
	tls, err := transport.TLSInfo{CertFile: config.CertFile, KeyFile: config.KeyFile, TrustedCAFile: config.CAFile}.ClientConfig()
	if err != nil {
		return nil, fmt.Errorf("load etcd client certificates: %w", err)
	}
	etcd, err := clientv3.New(clientv3.Config{
		Endpoints:         config.Endpoints,
		TLS:               tls,
		DialKeepAliveTime: 10 * time.Second,
		// It also bounds how long sent data may go unanswered (TCP_USER_TIMEOUT):
		// a member whose host lost power is given up after this, not after
		// the kernel's quarter of an hour.
		DialKeepAliveTimeout: memberSilence,
		Logger:               zap.NewNop(),
	})
	if err != nil {
		return nil, fmt.Errorf("connect to etcd: %w", err)
	}
	ctx, stop := context.WithCancel(context.Background())
	encrypted, err := encryption(ctx, config.Encryption)
	if err != nil {
		stop()
		// Nothing was asked of it yet.
		_ = etcd.Close()
		return nil, err
	}
	c := &Client{
		encrypted: encrypted,
		stop:      stop,
		config:    config,
		etcd:      etcd,
		compactor: etcd3.StartCompactorPerEndpoint(etcd, storagebackend.DefaultCompactInterval),
	}
	// Consistent reads from cache and streaming lists want to know that every
	// member answers progress requests.
	feature.DefaultFeatureSupportChecker.CheckClient(etcd.Ctx(), etcd, apistorage.RequestWatchProgress)
	metrics.SetStorageMonitorGetter(func() ([]metrics.Monitor, error) { return []metrics.Monitor{monitor{c}}, nil })
	return c, nil
}

// Etcd is the client below, for keys that are no API objects.
func (c *Client) Etcd() *clientv3.Client { return c.etcd }

// Prefix is where all keys lie.
func (c *Client) Prefix() string { return path.Join("/", c.config.Prefix) }

// forResource gives a resource its own watch stream, so that a slow watch of
// one does not hold back the progress of another, on the shared connection.
func (c *Client) forResource() (*kubernetes.Client, func()) {
	own := clientv3.NewCtxClient(c.etcd.Ctx())
	own.KV = etcd3.NewETCDLatencyTracker(c.etcd.KV)
	own.Lease = c.etcd.Lease
	own.Maintenance = c.etcd.Maintenance
	own.Watcher = clientv3.NewWatcher(c.etcd)
	client := &kubernetes.Client{Client: own}
	client.Kubernetes = client
	return client, func() {
		// The error is that of a stream which is already gone.
		_ = own.Watcher.Close()
	}
}

// Healthy reports whether a linearizable read succeeds within two seconds. An
// answer is good for one second, so that probes cannot load etcd.
func (c *Client) Healthy(ctx context.Context) error {
	c.probeMu.Lock()
	defer c.probeMu.Unlock()
	if time.Since(c.probedAt) < time.Second {
		return c.probeErr
	}
	probe, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	_, err := c.etcd.Get(probe, path.Join(c.Prefix(), "health"))
	if err != nil {
		err = fmt.Errorf("read from etcd: %w", err)
	}
	// That one who asked has gone says nothing about etcd to the next.
	if ctx.Err() == nil {
		c.probedAt, c.probeErr = time.Now(), err
	}
	return err
}

// Close ends the compaction and the connections. Stores must not be used
// afterwards.
func (c *Client) Close() {
	c.closeOnce.Do(func() {
		c.stop()
		c.compactor.Stop()
		// The error is the context's, which Close itself cancels.
		_ = c.etcd.Close()
	})
}

// monitor tells the size of the database for the metrics.
type monitor struct{ c *Client }

func (m monitor) Monitor(ctx context.Context) (metrics.StorageMetrics, error) {
	endpoints := m.c.config.Endpoints
	status, err := m.c.etcd.Status(ctx, endpoints[rand.IntN(len(endpoints))])
	if err != nil {
		return metrics.StorageMetrics{}, fmt.Errorf("read status of etcd: %w", err)
	}
	return metrics.StorageMetrics{Size: status.DbSize}, nil
}

// Close does nothing: the client outlives a scrape.
func (m monitor) Close() error { return nil }
