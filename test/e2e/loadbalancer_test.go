package e2e

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// testLoadBalancer asks for services at their load-balancer addresses, from the
// machine on the lab's bridge, and goes on when the node that announces some of
// them has died.
func (c *cluster) testLoadBalancer(t *testing.T) {
	const namespace = "balanced"
	c.namespace(t, namespace, nil)
	pods := c.startPods(t, &v1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "web", Labels: map[string]string{"app": "web"}},
		Spec:       v1.PodSpec{NodeName: "cp1", Containers: []v1.Container{{}}},
	})
	serve(t, c.networks(t, "cp1"), pods[0], func(w http.ResponseWriter, r *http.Request) { fmt.Fprint(w, "hello") })
	client := c.client(t, "")
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	hosts := map[string]string{} // nodes' names by MAC address
	for _, node := range nodes.Items {
		for _, a := range node.Status.Addresses {
			if a.Type == v1.NodeInternalIP {
				// Whom one talks to is a known neighbour.
				conn, err := net.DialTimeout("tcp", net.JoinHostPort(a.Address, "22"), 10*time.Second)
				if err != nil {
					t.Fatal(err)
				}
				conn.Close()
				mac, err := neighbour(a.Address)
				if err != nil {
					t.Fatal(err)
				}
				hosts[mac] = node.Name
			}
		}
	}
	// answering is who announces an address that says hello.
	answering := func(ctx context.Context, address string) (string, error) {
		ctx, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		answer, err := ask(ctx, address, "http", "web.example", "/")
		if err != nil || answer != "hello" {
			return "", fmt.Errorf("%s answers %q: %w", address, answer, cmp.Or(err, errors.New("not hello")))
		}
		mac, err := neighbour(address)
		return hosts[mac], err
	}

	// Who announces an address is settled by its hash: some are worker1's.
	services := client.CoreV1().Services(namespace)
	announcers := map[string]string{}
	started, workers := time.Now(), 0
	for len(announcers) < balancerAddresses && (len(announcers) < 4 || workers == 0) {
		name := fmt.Sprint("web", len(announcers))
		_, err := services.Create(t.Context(), &v1.Service{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			Spec: v1.ServiceSpec{
				Type: v1.ServiceTypeLoadBalancer, Selector: pods[0].Labels, AllocateLoadBalancerNodePorts: new(false),
				Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
			},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Minute, name+" to answer", func(ctx context.Context) error {
			s, err := services.Get(ctx, name, metav1.GetOptions{})
			if err != nil {
				return err
			}
			if len(s.Status.LoadBalancer.Ingress) == 0 {
				return errors.New("it has no address")
			}
			address := s.Status.LoadBalancer.Ingress[0].IP
			node, err := answering(ctx, address)
			if err == nil && node == "worker1" {
				workers++
			}
			if err == nil {
				announcers[address] = node
			}
			return err
		})
	}
	t.Logf("%d services answer after %s: %v", len(announcers), time.Since(started).Round(100*time.Millisecond), announcers)
	if workers == 0 {
		t.Fatal("worker1 announces none of them")
	}

	c.run(t, "lab", "kill", "--name", c.name, "worker1")
	// The cluster itself learns of the death after forty seconds only. And the
	// kernel carries packets for a while after all of a host's processes ended, so
	// that an answer alone says nothing.
	took := eventually(t, 30*time.Second, "all addresses answer without worker1", func(ctx context.Context) error {
		for address := range announcers {
			node, err := answering(ctx, address)
			if err != nil {
				return err
			}
			if node != "cp1" {
				return fmt.Errorf("%s is still announced by %q", address, node)
			}
		}
		return nil
	})
	t.Logf("the %d addresses of worker1 answer elsewhere %s after it was killed", workers, took.Round(100*time.Millisecond))
}

// neighbour is the MAC address that this machine sends packets for an address to.
func neighbour(address string) (string, error) {
	all, err := netlink.NeighList(0, netlink.FAMILY_V4)
	if err != nil {
		return "", fmt.Errorf("list neighbours: %w", err)
	}
	for _, n := range all {
		if n.IP.Equal(net.ParseIP(address)) && len(n.HardwareAddr) > 0 {
			return n.HardwareAddr.String(), nil
		}
	}
	return "", fmt.Errorf("nobody is known to have %s", address)
}
