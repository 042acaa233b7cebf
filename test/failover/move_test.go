package failover

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"clusterctl/nodeagent/apilb"
	"clusterctl/test/fixture"
)

// TestWatchersMoveOn stops one API server after the other. A client behind a
// node's balancer has to watch on at another at once: one that is told to come
// back later is blind until then, and a node would send traffic to the dead.
func TestWatchersMoveOn(t *testing.T) {
	members := start(t)
	asked := &patience{}
	client := throughBalancer(t, members, asked)
	ctx, cancel := context.WithCancel(t.Context())
	var watching []informers.SharedInformerFactory
	defer func() {
		cancel()
		for _, f := range watching {
			f.Shutdown()
		}
	}()
	// As many as a few nodes have: a server ends them one after the other.
	for range 60 {
		factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace("default"))
		factory.Core().V1().ConfigMaps().Informer()
		factory.Start(ctx.Done())
		factory.WaitForCacheSync(ctx.Done())
		watching = append(watching, factory)
	}

	for i, m := range members {
		// Informers take a watch that ends within its first second for a failed one.
		time.Sleep(1100 * time.Millisecond)
		if err := m.End(syscall.SIGTERM); err != nil {
			t.Fatal(err)
		}
		name := fmt.Sprint("without-", m.Config.NodeName)
		other := members[(i+1)%len(members)].Client
		began := time.Now()
		if _, err := other.CoreV1().ConfigMaps("default").Create(t.Context(), &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: name}}, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
		fixture.Eventually(t, name+" to be seen by all", func(context.Context) error {
			for _, f := range watching {
				if _, err := f.Core().V1().ConfigMaps().Lister().ConfigMaps("default").Get(name); err != nil {
					return err
				}
			}
			return nil
		})
		t.Logf("%s seen after %s", name, time.Since(began).Round(time.Millisecond))
		if err := m.Start(); err != nil {
			t.Fatal(err)
		}
		m.AwaitReady(t)
	}
	if s := asked.seconds.Load(); s > 1 {
		t.Errorf("a client was asked to wait for %d s; another server would have answered", s)
	}
}

// throughBalancer is a client of all members, as a node's programs are.
func throughBalancer(t *testing.T, members []*fixture.Member, asked *patience) kubernetes.Interface {
	t.Helper()
	ports, err := fixture.Ports(1)
	if err != nil {
		t.Fatal(err)
	}
	listen := fixture.Loopback(ports[0])
	var servers []string
	for _, m := range members {
		servers = append(servers, fixture.Loopback(m.Config.Port))
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- apilb.Run(ctx, listen, servers, nil, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	fixture.Eventually(t, "the balancer to listen", func(context.Context) error {
		conn, err := net.Dial("tcp", listen)
		if err == nil {
			err = conn.Close()
		}
		return err
	})
	config := rest.CopyConfig(members[0].Admin)
	config.Host = "https://" + listen
	config.Wrap(func(next http.RoundTripper) http.RoundTripper { asked.next = next; return asked })
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return client
}

// patience is the longest time for which a server asked a client to wait.
type patience struct {
	next    http.RoundTripper
	seconds atomic.Int64
}

// RoundTrip implements http.RoundTripper.
func (p *patience) RoundTrip(r *http.Request) (*http.Response, error) {
	response, err := p.next.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	if s, err := strconv.ParseInt(response.Header.Get("Retry-After"), 10, 64); err == nil {
		p.seconds.Store(max(s, p.seconds.Load()))
	}
	return response, nil
}
