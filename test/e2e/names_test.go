package e2e

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/net/dns/dnsmessage"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/nodeagent/netnstest"
)

// What the inventory says of names that others know, and what those say.
const (
	stubDomain  = "corp.example"
	stubPort    = 5300
	stubAddress = "192.0.2.77" // of every name in it
)

// testNames asks the cluster's DNS server, from a pod, for every kind of name
// that it knows.
func (c *cluster) testNames(t *testing.T) {
	const namespace, suffix = "names", ".names.svc.cluster.local."
	client := c.client(t, "")
	c.namespace(t, namespace, nil)
	pod := func(name, node string) *v1.Pod {
		return &v1.Pod{
			ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: map[string]string{"app": "web", "name": name}},
			Spec:       v1.PodSpec{NodeName: node, Hostname: name, Subdomain: "peers", Containers: []v1.Container{{}}},
		}
	}
	pods := c.startPods(t, pod("a", "cp1"), pod("b", "worker1"))
	a, b := pods[0].Status.PodIP, pods[1].Status.PodIP
	service := func(name string, spec v1.ServiceSpec) *v1.Service {
		s, err := client.CoreV1().Services(namespace).Create(t.Context(), &v1.Service{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: spec}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return s
	}
	ports := []v1.ServicePort{{Name: "http", Port: 8080}}
	web := service("web", v1.ServiceSpec{Selector: pods[0].Labels, Ports: ports}).Spec.ClusterIP
	service("peers", v1.ServiceSpec{Selector: map[string]string{"app": "web"}, Ports: ports, ClusterIP: v1.ClusterIPNone})
	service("elsewhere", v1.ServiceSpec{Type: v1.ServiceTypeExternalName, ExternalName: "host." + stubDomain})

	networks := c.networks(t, "cp1")
	serveStub(t, networks["cp1"])
	server, err := client.CoreV1().Services(metav1.NamespaceSystem).Get(t.Context(), "kube-dns", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	dns := &net.Resolver{PreferGo: true, Dial: func(ctx context.Context, network, _ string) (conn net.Conn, err error) {
		err = netnstest.Within(networks[a], func() error {
			conn, err = (&net.Dialer{}).DialContext(ctx, network, net.JoinHostPort(server.Spec.ClusterIP, "53"))
			return err
		})
		return conn, err
	}}
	addresses := func(name string) func(context.Context) ([]string, error) {
		return func(ctx context.Context) ([]string, error) { return dns.LookupHost(ctx, name) }
	}
	owners := func(address string) func(context.Context) ([]string, error) {
		return func(ctx context.Context) ([]string, error) { return dns.LookupAddr(ctx, address) }
	}
	ends := func(name string) func(context.Context) ([]string, error) {
		return func(ctx context.Context) (found []string, err error) {
			_, records, err := dns.LookupSRV(ctx, "http", "tcp", name)
			for _, r := range records {
				found = append(found, fmt.Sprint(r.Target, r.Port))
			}
			return found, err
		}
	}
	for _, test := range []struct {
		what string
		ask  func(context.Context) ([]string, error)
		want []string
	}{
		{"a service", addresses("web" + suffix), []string{web}},
		{"a headless service", addresses("peers" + suffix), []string{a, b}},
		{"a pod of a headless service", addresses("a.peers" + suffix), []string{a}},
		{"a service's ports", ends("web" + suffix), []string{"web" + suffix + "8080"}},
		{"a headless service's ports", ends("peers" + suffix), []string{"a.peers" + suffix + "8080", "b.peers" + suffix + "8080"}},
		{"the name of a service's address", owners(web), []string{"web" + suffix}},
		{"the name of a pod's address", owners(b), []string{"b.peers" + suffix}},
		{"a name elsewhere", func(ctx context.Context) ([]string, error) {
			name, err := dns.LookupCNAME(ctx, "elsewhere"+suffix)
			return []string{name}, err
		}, []string{"host." + stubDomain + "."}},
		{"the address of a name elsewhere", addresses("elsewhere" + suffix), []string{stubAddress}},
		{"a name of a stub domain", addresses("host." + stubDomain + "."), []string{stubAddress}},
	} {
		slices.Sort(test.want)
		// That there is no such name yet may be remembered for a while.
		eventually(t, 2*time.Minute, test.what, func(ctx context.Context) error {
			got, err := test.ask(ctx)
			if slices.Sort(got); err == nil && !slices.Equal(got, test.want) {
				err = fmt.Errorf("got %q, want %q", got, test.want)
			}
			return err
		})
	}

	// Two nodes have two DNS servers, one each.
	eventually(t, 2*time.Minute, "a DNS server on each node", func(ctx context.Context) error {
		list, err := client.CoreV1().Pods(metav1.NamespaceSystem).List(ctx, metav1.ListOptions{LabelSelector: "k8s-app=kube-dns", FieldSelector: "status.phase=Running"})
		if err != nil {
			return err
		}
		var nodes []string
		for _, p := range list.Items {
			nodes = append(nodes, p.Spec.NodeName)
		}
		if slices.Sort(nodes); !slices.Equal(nodes, []string{"cp1", "worker1"}) {
			return fmt.Errorf("they are on %q", nodes)
		}
		return nil
	})
}

// serveStub is a nameserver of the stub domain, on a host.
func serveStub(t *testing.T, host netns.NsHandle) {
	t.Helper()
	var conn net.PacketConn
	err := netnstest.Within(host, func() (err error) {
		conn, err = net.ListenPacket("udp4", fmt.Sprint(":", stubPort))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buffer := make([]byte, 1500)
		for {
			n, from, err := conn.ReadFrom(buffer)
			if err != nil {
				return
			}
			var question dnsmessage.Message
			if question.Unpack(buffer[:n]) != nil || len(question.Questions) != 1 {
				continue
			}
			q := question.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: question.ID, Response: true, Authoritative: true}, Questions: question.Questions}
			if q.Type == dnsmessage.TypeA && strings.HasSuffix(q.Name.String(), "."+stubDomain+".") {
				answer.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Class: dnsmessage.ClassINET, TTL: 5},
					Body:   &dnsmessage.AResource{A: [4]byte(net.ParseIP(stubAddress).To4())},
				}}
			}
			if raw, err := answer.Pack(); err == nil {
				_, _ = conn.WriteTo(raw, from)
			}
		}
	}()
}
