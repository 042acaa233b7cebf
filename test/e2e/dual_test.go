package e2e

import (
	"context"
	"crypto/tls"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/netnstest"
	"clusterctl/nodeagent/policy/policytest"
)

// hostPort leads to a pod of worker1.
const hostPort = 18080

// dualNodes are the cluster's, in the order in which they hang on its two links
// in turn.
var dualNodes = []string{"cp1", "worker1", "worker2", "worker3"}

// TestDualStack tries a cluster whose pods and services have addresses of both
// families, and whose hosts are on two links with a router between them, with
// pods that do nothing as in TestNetwork.
func TestDualStack(t *testing.T) {
	c := newLab(t, "e2e-dual", 1, 3, 0, "--links", "2")
	c.amend(t, func(cluster map[string]any, _ string) {
		cluster["podCIDR"], cluster["serviceCIDR"] = "10.244.0.0/16,fd00:10:244::/56", "10.96.0.0/16,fd00:10:96::/112"
	})
	t.Logf("up took %s", c.up(t).Round(100*time.Millisecond))
	c.wantNodesReady(t, len(dualNodes))
	w := c.familyWorld(t, "46", "10.96.0.10", dualNodes)
	t.Run("certificates", w.testCertificates)
	t.Run("links", w.testLinks)
	t.Run("services", w.testServices)
	t.Run("overlay", w.testOverlay)
	t.Run("policies", c.testPolicies)
}

// familyWorld is a pod on each node of a cluster whose addresses are of one family
// or two.
type familyWorld struct {
	*cluster
	families  string // "46", or one of the two
	dns       string // the DNS server's address
	nodes     []string
	networks  networks
	pods      []*v1.Pod
	addresses map[string][]string // of nodes
}

// familyWorld starts a pod on each node, with servers that are the test's own, and
// says that everything has addresses of the families.
func (c *cluster) familyWorld(t *testing.T, families, dns string, on []string) *familyWorld {
	t.Helper()
	w := &familyWorld{cluster: c, families: families, dns: dns, nodes: on, addresses: map[string][]string{}}
	client := c.client(t, "")
	nodes, err := client.CoreV1().Nodes().List(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	for _, node := range nodes.Items {
		for _, a := range node.Status.Addresses {
			if a.Type == v1.NodeInternalIP {
				w.addresses[node.Name] = append(w.addresses[node.Name], a.Address)
			}
		}
		w.wantFamilies(t, node.Name+"'s addresses", w.addresses[node.Name])
		w.wantFamilies(t, node.Name+"'s pod CIDRs", node.Spec.PodCIDRs)
	}
	c.namespace(t, "dual", nil)
	web := map[string]string{"app": "web"}
	var specs []*v1.Pod
	for _, node := range on {
		pod := policytest.Pod("dual", "on-"+node, node, "", 8080, web)
		if node == "worker1" {
			pod.Spec.Containers[0].Ports[0].HostPort = hostPort
		}
		specs = append(specs, pod)
	}
	w.pods, w.networks = c.startPods(t, specs...), c.networks(t, on...)
	for _, pod := range w.pods {
		var ips, hosts []string
		for _, ip := range pod.Status.PodIPs {
			ips = append(ips, ip.IP)
		}
		for _, ip := range pod.Status.HostIPs {
			hosts = append(hosts, ip.IP)
		}
		w.wantFamilies(t, pod.Name+"'s addresses", ips)
		if !slices.Equal(hosts, w.addresses[pod.Spec.NodeName]) {
			t.Errorf("%s's node has %v, and its status says %v", pod.Name, w.addresses[pod.Spec.NodeName], hosts)
		}
		if err := netnstest.Within(w.networks[pod.Status.PodIP], func() error { return policytest.Serve(t) }); err != nil {
			t.Fatal(err)
		}
	}
	return w
}

// wantFamilies says that a list is of one address of each family.
func (w *familyWorld) wantFamilies(t *testing.T, what string, list []string) {
	t.Helper()
	found := ""
	for _, address := range list {
		if strings.Contains(address, ":") {
			found += "6"
		} else {
			found += "4"
		}
	}
	if found != w.families {
		t.Errorf("%s are %v, want them of families %s", what, list, w.families)
	}
}

// reaches tries connections to an address from everywhere: pods and hosts.
func (w *familyWorld) reaches(t *testing.T, what, address string, port int) {
	t.Helper()
	everywhere := slices.Clone(w.nodes)
	for _, pod := range w.pods {
		everywhere = append(everywhere, pod.Status.PodIP)
	}
	for _, from := range everywhere {
		to := net.JoinHostPort(address, strconv.Itoa(port))
		eventually(t, time.Minute, fmt.Sprintf("%s at %s from %s", what, to, from), func(context.Context) error {
			conn, err := policytest.Dial(w.networks[from], "tcp", to, 2*time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			return policytest.Echo(conn, 2*time.Second)
		})
	}
}

func (w *familyWorld) reachesPods(t *testing.T) {
	t.Helper()
	for _, pod := range w.pods {
		for _, ip := range policytest.Addresses(pod) {
			w.reaches(t, "pod "+pod.Name, ip.String(), 8080)
		}
	}
}

// testCertificates has agents serve with certificates of all their addresses: they
// ask for those themselves, since inventories name one.
func (w *familyWorld) testCertificates(t *testing.T) {
	for node, list := range w.addresses {
		for _, ip := range list {
			eventually(t, time.Minute, fmt.Sprintf("a certificate of %s for %s", node, ip), func(ctx context.Context) error {
				raw, err := policytest.Dial(w.networks[node], "tcp", net.JoinHostPort(ip, strconv.Itoa(hostconfig.PortNodeAgent)), 5*time.Second)
				if err != nil {
					return err
				}
				defer raw.Close()
				conn := tls.Client(raw, &tls.Config{InsecureSkipVerify: true}) // whom it is for is all that counts here
				if err := conn.HandshakeContext(ctx); err != nil {
					return err
				}
				return conn.ConnectionState().PeerCertificates[0].VerifyHostname(ip)
			})
		}
	}
}

func (w *familyWorld) testServices(t *testing.T) {
	w.reachesPods(t)
	service, err := w.client(t, "").CoreV1().Services("dual").Create(t.Context(), &v1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: v1.ServiceSpec{
			Type: v1.ServiceTypeNodePort, IPFamilyPolicy: new(v1.IPFamilyPolicyPreferDualStack), Selector: map[string]string{"app": "web"},
			Ports: []v1.ServicePort{{Port: 80, TargetPort: intstr.FromInt32(8080)}},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	w.wantFamilies(t, "the service's addresses", service.Spec.ClusterIPs)
	for _, ip := range service.Spec.ClusterIPs {
		w.reaches(t, "the service", ip, 80)
	}
	for node, list := range w.addresses {
		for _, ip := range list {
			w.reaches(t, "the node port of "+node, ip, int(service.Spec.Ports[0].NodePort))
		}
	}
	for _, ip := range w.addresses["worker1"] {
		w.reaches(t, "the host port", ip, hostPort)
	}
	resolver := &net.Resolver{PreferGo: true, Dial: func(_ context.Context, network, _ string) (net.Conn, error) {
		return policytest.Dial(w.networks[w.pods[0].Status.PodIP], network, net.JoinHostPort(w.dns, "53"), 5*time.Second)
	}}
	eventually(t, time.Minute, "the addresses of the service's name", func(ctx context.Context) error {
		found, err := resolver.LookupNetIP(ctx, "ip", "web.dual.svc.cluster.local.")
		if err != nil {
			return err
		}
		for _, ip := range service.Spec.ClusterIPs {
			if !slices.ContainsFunc(found, func(a netip.Addr) bool { return a.Unmap().String() == ip }) {
				return fmt.Errorf("found %v, want %v", found, service.Spec.ClusterIPs)
			}
		}
		return nil
	})
}

// testOverlay has nodes that share a link change over to VXLAN and back. Each of
// the four shares one with one other.
func (w *familyWorld) testOverlay(t *testing.T) {
	routes := func() string {
		return w.hosts(t, "{ ip route; ip -6 route; } | grep 'proto 204' | grep via | sort")
	}
	const all, straight = 4 * 3 * 2, 4 * 1 * 2 // each node to its peers, in both families
	wantRoutes := func(straight int) error {
		if now := routes(); strings.Count(now, "dev eth0") != straight || strings.Count(now, "dev cctl-vx") != all-straight {
			return fmt.Errorf("%d routes of %d should be straight:\n%s", straight, all, now)
		}
		return nil
	}
	eventually(t, time.Minute, "routes as nodes share links", func(context.Context) error { return wantRoutes(straight) })
	before := routes()
	for _, round := range []struct {
		overlay  string
		straight int
	}{{"always", 0}, {"auto", straight}} {
		w.amend(t, func(cluster map[string]any, _ string) { cluster["overlay"] = round.overlay })
		w.up(t)
		eventually(t, time.Minute, "routes for overlay "+round.overlay, func(context.Context) error { return wantRoutes(round.straight) })
		w.reachesPods(t)
	}
	if after := routes(); after != before {
		t.Errorf("routes are not what they were:\n%s\nthey are:\n%s", before, after)
	}
}
