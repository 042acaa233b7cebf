package e2e

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// testHostPorts reaches a pod at a port of its host from everywhere, and a server
// outside of the cluster from the pod, on a host without iptables. A restart of the
// agent changes nothing, and the pod's end leaves nothing.
func (c *cluster) testHostPorts(t *testing.T) {
	const namespace, port = "hostports", 8089
	if out := c.hosts(t, "command -v iptables iptables-restore || echo none", "worker1"); !strings.Contains(out, "none") {
		t.Fatalf("the host has iptables:\n%s", out)
	}
	c.namespace(t, namespace, nil)
	pod := func(name, node string, ports ...v1.ContainerPort) *v1.Pod {
		return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}, Spec: v1.PodSpec{NodeName: node, Containers: []v1.Container{{Ports: ports}}}}
	}
	pods := c.startPods(t, pod("server", "worker1", v1.ContainerPort{ContainerPort: 8080, HostPort: port}), pod("near", "worker1"), pod("far", "cp1"))
	networks := c.networks(t, "cp1", "worker1")
	source := func(r *http.Request) string {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		return host
	}
	serve(t, networks, pods[0], func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "server for ", source(r)) })
	host, other := c.address(t, "worker1"), c.address(t, "cp1")
	request := func(ctx context.Context, from netns.NsHandle, address string) (string, error) {
		request, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address, nil)
		if err != nil {
			return "", err
		}
		response, err := clientIn(from).Do(request)
		if err != nil {
			return "", err
		}
		defer response.Body.Close()
		body, err := io.ReadAll(response.Body)
		return string(body), err
	}
	everywhere := func(when string) {
		t.Helper()
		for what, way := range map[string]struct {
			from            netns.NsHandle
			address, source string
		}{
			"another host":    {networks["cp1"], host, other},
			"a pod elsewhere": {networks[pods[2].Status.PodIP], host, other},
			"a pod beside it": {networks[pods[1].Status.PodIP], host, ""},
			"the pod itself":  {networks[pods[0].Status.PodIP], host, ""},
			"its host":        {networks["worker1"], host, ""},
			"loopback":        {networks["worker1"], "127.0.0.1", ""},
		} {
			eventually(t, time.Minute, when+": the host port answers "+what, func(ctx context.Context) error {
				answer, err := request(ctx, way.from, net.JoinHostPort(way.address, fmt.Sprint(port)))
				if err == nil && !strings.HasPrefix(answer, "server for "+way.source) {
					err = fmt.Errorf("got %q, want a client %s", answer, way.source)
				}
				return err
			})
		}
	}
	everywhere("at first")
	c.hosts(t, "systemctl restart clusterctl-nodeagent", "worker1")
	everywhere("while the agent starts")
	c.wantNodesReady(t, 2)
	everywhere("after the agent's restart")

	// The outside is this machine, at the address that hosts have for it.
	outside := host[:strings.LastIndexByte(host, '.')+1] + "1"
	listener, err := net.Listen("tcp", net.JoinHostPort(outside, "0"))
	if err != nil {
		t.Fatal(err)
	}
	server := &http.Server{ReadHeaderTimeout: time.Minute, Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, source(r)) })}
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(func() { _ = server.Close() })
	eventually(t, time.Minute, "the pod reaches the outside as its host", func(ctx context.Context) error {
		answer, err := request(ctx, networks[pods[0].Status.PodIP], listener.Addr().String())
		if err == nil && answer != host {
			err = fmt.Errorf("it came from %s, want %s", answer, host)
		}
		return err
	})

	if err := c.client(t, "").CoreV1().Namespaces().Delete(t.Context(), namespace, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	eventually(t, time.Minute, "nothing is left of the host port", func(context.Context) error {
		if out := c.hosts(t, "nft list tables", "worker1"); strings.Contains(out, "hostports") || !strings.Contains(out, "clusterctl-network") {
			return fmt.Errorf("tables are:\n%s", out)
		}
		return nil
	})
}
