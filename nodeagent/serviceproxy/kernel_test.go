package serviceproxy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/netnstest"
)

func TestConnections(t *testing.T) { modes(t, testConnections) }

func testConnections(t *testing.T, w *world) {
	w.serve(0)
	w.serve(1)
	both := slice(up("10.244.0.2", "here"), up("10.244.0.3", "here"))
	podNames := map[string]bool{"pod0": true, "pod1": true}

	t.Run("cluster IP from pods and the node, spread over endpoints", func(t *testing.T) {
		w.apply(service(), both)
		seen := map[string]bool{}
		for _, from := range []netns.NsHandle{w.pods[0], w.node} {
			for range 20 {
				pod, _, err := w.ask(from, clusterAddr)
				if err != nil {
					t.Fatal(err)
				}
				seen[pod] = true
			}
		}
		if len(seen) != 2 {
			t.Errorf("40 connections went to %v only", seen)
		}
	})
	t.Run("a pod keeps its address towards another", func(t *testing.T) {
		w.apply(service(), slice(up("10.244.0.3", "here")))
		if pod, source, err := w.ask(w.pods[0], clusterAddr); err != nil || pod != "pod1" || source != "10.244.0.2" {
			t.Errorf("got %s from %s, %v", pod, source, err)
		}
	})
	t.Run("hairpin", func(t *testing.T) {
		w.apply(service(), slice(up("10.244.0.2", "here")))
		if pod, source, err := w.ask(w.pods[0], clusterAddr); err != nil || pod != "pod0" || source == "10.244.0.2" {
			t.Errorf("got %s from %s, %v, want pod0, masqueraded", pod, source, err)
		}
	})
	t.Run("no endpoints", func(t *testing.T) {
		w.apply(service(nodePort), slice())
		for _, from := range []netns.NsHandle{w.pods[0], w.node} {
			if _, _, err := w.ask(from, clusterAddr); !refused(err) {
				t.Errorf("got %v, want a refusal", err)
			}
		}
		if _, _, err := w.ask(w.client, nodeAddress+":30080"); !refused(err) {
			t.Errorf("node port: got %v, want a refusal", err)
		}
	})
	t.Run("node port", func(t *testing.T) {
		w.apply(service(nodePort), both)
		pod, source, err := w.ask(w.client, nodeAddress+":30080")
		if err != nil || !podNames[pod] || source != "10.244.0.1" {
			t.Errorf("got %s from %s, %v, want a pod, masqueraded", pod, source, err)
		}
		if _, _, err := w.ask(w.node, nodeAddress+":30080"); err != nil {
			t.Errorf("from the node itself: %v", err)
		}
		if _, _, err := w.ask(w.pods[0], nodeAddress+":30080"); err != nil {
			t.Errorf("from a pod: %v", err)
		}
	})
	t.Run("node port, local", func(t *testing.T) {
		w.apply(service(nodePort, externalLocal), both)
		if _, source, err := w.ask(w.client, nodeAddress+":30080"); err != nil || source != "192.0.2.2" {
			t.Errorf("got source %s, %v, want the client's own", source, err)
		}
		w.apply(service(nodePort, externalLocal), slice(up("10.244.0.2", "there")))
		if err := w.silence(w.client, nodeAddress+":30080"); err != nil {
			t.Errorf("no local endpoint: %v", err)
		}
		if _, _, err := w.ask(w.node, nodeAddress+":30080"); err != nil {
			t.Errorf("no local endpoint, from the node itself: %v", err)
		}
	})
	t.Run("internal local", func(t *testing.T) {
		w.apply(service(internalLocal), slice(up("10.244.0.2", "there"), up("10.244.0.3", "here")))
		for range 10 {
			if pod, _, err := w.ask(w.node, clusterAddr); err != nil || pod != "pod1" {
				t.Fatalf("got %s, %v, want the local pod1", pod, err)
			}
		}
	})
	t.Run("external IP and load balancer", func(t *testing.T) {
		external := service(func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.5"} })
		w.apply(external, both)
		if _, _, err := w.ask(w.client, "203.0.113.5:80"); err != nil {
			t.Errorf("external IP: %v", err)
		}
		ranged := service(balanced)
		ranged.Status.LoadBalancer.Ingress[0].IP = "203.0.113.7"
		ranged.Spec.LoadBalancerSourceRanges = []string{"192.0.2.0/24"}
		w.apply(ranged, both)
		if _, _, err := w.ask(w.client, "203.0.113.7:80"); err != nil {
			t.Errorf("load balancer, from an allowed source: %v", err)
		}
		ranged.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
		w.apply(ranged, both)
		if err := w.silence(w.client, "203.0.113.7:80"); err != nil {
			t.Errorf("load balancer, from another source: %v", err)
		}
	})
	t.Run("session affinity", func(t *testing.T) {
		w.apply(service(affine), both)
		first, _, err := w.ask(w.node, clusterAddr)
		if err != nil {
			t.Fatal(err)
		}
		for range 15 {
			if pod, _, err := w.ask(w.node, clusterAddr); err != nil || pod != first {
				t.Fatalf("got %s, %v after %s", pod, err, first)
			}
		}
	})
}

// TestStraysOfPods has a pod send what belongs to no connection: flags that no
// packet has. Nobody outside sees it, but what follows.
func TestStraysOfPods(t *testing.T) {
	w := newWorld(t, hostconfig.ProxyNftables)
	w.apply(service(), slice(up("10.244.0.2", "here")))
	var client, pod net.PacketConn
	listen := func(ns netns.NsHandle, conn *net.PacketConn) {
		w.must(netnstest.Within(ns, func() (err error) {
			*conn, err = net.ListenPacket("ip4:tcp", "0.0.0.0")
			return err
		}))
		t.Cleanup(func() { (*conn).Close() })
	}
	listen(w.client, &client)
	listen(w.pods[0], &pod)
	const synFin, ack, stray, valid = 0x03, 0x10, 4001, 4002
	send := func(to string, from uint16, flags byte) {
		t.Helper()
		segment := make([]byte, 20)
		binary.BigEndian.PutUint16(segment[0:], from)
		binary.BigEndian.PutUint16(segment[2:], 9999)
		segment[12], segment[13] = 5<<4, flags
		binary.BigEndian.PutUint16(segment[16:], tcpChecksum(netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr(to), segment))
		if _, err := pod.WriteTo(segment, &net.IPAddr{IP: net.ParseIP(to)}); err != nil {
			t.Fatal(err)
		}
	}
	buffer := make([]byte, 100)
	deadline := time.Now().Add(time.Minute)
	for time.Now().Before(deadline) { // a link that has just come up may lose the first ones
		send("192.0.2.2", stray, synFin)
		send("192.0.2.2", valid, ack)
		_ = client.SetReadDeadline(time.Now().Add(time.Second))
		for {
			n, _, err := client.ReadFrom(buffer)
			if err != nil {
				break
			}
			switch port := binary.BigEndian.Uint16(buffer); {
			case n < 20:
			case port == stray:
				t.Fatal("a packet of no connection got out")
			case port == valid:
				return
			}
		}
	}
	t.Fatal("not even a valid packet got out")
}

// tcpChecksum is a segment's between two addresses.
func tcpChecksum(from, to netip.Addr, segment []byte) uint16 {
	sum := uint32(6 + len(segment))
	for _, part := range [][]byte{from.AsSlice(), to.AsSlice(), segment} {
		for i := 0; i < len(part); i += 2 {
			sum += uint32(binary.BigEndian.Uint16(part[i:]))
		}
	}
	for sum > 0xffff {
		sum = sum>>16 + sum&0xffff
	}
	return ^uint16(sum)
}

func TestUDPClientsLeaveAnEndpointThatHasGone(t *testing.T) {
	for _, mode := range []string{hostconfig.ProxyNftables, hostconfig.ProxyIptables} {
		t.Run(mode, func(t *testing.T) {
			w := newWorld(t, mode)
			testUDPClientsLeave(t, w, here, w.pods[1], clusterAddr, "10.244.0.2", "10.244.0.3")
		})
		t.Run(mode+", IPv6", func(t *testing.T) {
			w, six := newWorld(t, mode), here
			six.family = ipv6
			w.addIPv6(mode)
			testUDPClientsLeave(t, w, six, w.node, "[fd00:10:96::14]:80", "fd00:10:244::2", "fd00:10:244::3")
		})
	}
}

// testUDPClientsLeave has a client ask a service at an address while its endpoint
// is one pod, and then the other.
func testUDPClientsLeave(t *testing.T, w *world, here self, client netns.NsHandle, to string, pods ...string) {
	w.serve(0)
	w.serve(1)
	s := service(udp, dual)
	over := func(ip string) *discoveryv1.EndpointSlice {
		e := slice(up(ip, "here"))
		e.Ports[0].Protocol, e.AddressType = ptr(corev1.ProtocolUDP), here.family.addressType()
		return e
	}
	var conn net.Conn
	asked := 0
	ask := func() string {
		buffer := make([]byte, 100)
		var err error
		for range 20 { // a link that has just come up may lose the first ones
			asked++
			question := fmt.Sprintf("who %d", asked)
			_ = conn.SetDeadline(time.Now().Add(500 * time.Millisecond))
			if _, err = conn.Write([]byte(question)); err != nil {
				continue
			}
			for err == nil {
				var n int
				n, err = conn.Read(buffer)
				// Answers to earlier questions may come late.
				if pod, late, _ := strings.Cut(string(buffer[:n]), " "); err == nil && late == question {
					return pod
				}
			}
		}
		return err.Error()
	}
	now := func(ip string) map[string][]servicePort {
		return byName(buildModel([]*corev1.Service{s}, slicesOf(over(ip)), here))
	}
	w.applyAll(now(pods[0]))
	w.must(netnstest.Within(client, func() (err error) {
		conn, err = net.Dial("udp", to)
		return err
	}))
	defer conn.Close()
	if got := ask(); got != "pod0" {
		t.Fatalf("got %s, want pod0", got)
	}
	w.applyAll(now(pods[1]))
	w.must(netnstest.Within(w.node, func() error {
		_, err := forgetFlows(now(pods[1])["home/web"], here.family)
		return err
	}))
	if got := ask(); got != "pod1" {
		t.Errorf("after pod0 has gone the same client got %s, want pod1", got)
	}
}

func TestIptablesChangeOnlyWhenNeeded(t *testing.T) {
	w := newWorld(t, hostconfig.ProxyIptables)
	both := slice(up("10.244.0.2", "here"), up("10.244.0.3", "here"))
	w.apply(service(nodePort), both)
	if w.apply(service(nodePort), both) {
		t.Error("the same rules again changed something")
	}
	w.must(netnstest.Within(w.node, func() error {
		// A new process finds an old one's chains, and removes what is no
		// longer wanted.
		fresh, err := newIptables(testLayout)
		if err != nil {
			return err
		}
		if _, err := fresh.apply(nil, nil); err != nil {
			return err
		}
		chains, err := fresh.iptables.ListChains("nat")
		if err != nil {
			return err
		}
		if text := strings.Join(chains, " "); strings.Contains(text, prefixAll) || strings.Contains(text, prefixTarget) {
			t.Errorf("chains of a service that has gone are still there: %v", chains)
		}
		// Somebody empties the tables.
		if output, err := exec.Command("iptables", "-t", "nat", "-F", "PREROUTING").CombinedOutput(); err != nil {
			return fmt.Errorf("%w: %s", err, output)
		}
		if intact, err := fresh.intact(); err != nil || intact {
			t.Errorf("after a flush: intact %v, %v", intact, err)
		}
		if intact, err := fresh.intact(); err != nil || !intact {
			t.Errorf("mended: intact %v, %v", intact, err)
		}
		for range 2 {
			if err := fresh.remove(); err != nil {
				t.Errorf("remove: %v", err)
			}
		}
		for _, table := range []string{"nat", "filter"} {
			output, err := exec.Command("iptables", "-t", table, "-S").Output()
			if err != nil {
				return err
			}
			if strings.Contains(string(output), chainPrefix) {
				t.Errorf("left in table %s:\n%s", table, output)
			}
		}
		return nil
	}))
}

func TestHealthServers(t *testing.T) {
	listener, err := net.Listen("tcp4", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	port := uint16(listener.Addr().(*net.TCPAddr).Port)
	listener.Close()
	now := time.Unix(0, 0)
	proxy := newProxyHealth(nil, newMeters())
	proxy.now = func() time.Time { return now }
	events := record.NewFakeRecorder(10)
	h := newHealthServers(slog.New(slog.DiscardHandler), events, proxy, nil)
	defer h.close()
	body, weight := "", ""
	status := func() int {
		response, err := http.Get(fmt.Sprintf("http://127.0.0.1:%d/healthz", port))
		if err != nil {
			return 0
		}
		raw, err := io.ReadAll(response.Body)
		if err != nil {
			t.Fatal(err)
		}
		response.Body.Close()
		body, weight = strings.TrimSpace(string(raw)), response.Header.Get("X-Load-Balancing-Endpoint-Weight")
		return response.StatusCode
	}
	one, other := netip.MustParseAddr("10.244.0.2"), netip.MustParseAddr("10.244.0.3")
	for _, test := range []struct {
		name  string
		ports []servicePort
		want  int
	}{
		{"an endpoint here", []servicePort{{service: "home/web", healthPort: port, readyHere: []netip.Addr{one}}}, http.StatusOK},
		{"none", []servicePort{{service: "home/web", healthPort: port}}, http.StatusServiceUnavailable},
		{"another service takes the port", []servicePort{{service: "home/api", healthPort: port, readyHere: []netip.Addr{one, other}}}, http.StatusOK},
		{"no such service", nil, 0},
	} {
		h.update(t.Context(), "here", slices.Values(test.ports))
		if got := status(); got != test.want {
			t.Errorf("%s: got %d, want %d", test.name, got, test.want)
		}
		http.DefaultClient.CloseIdleConnections()
	}
	taken, err := net.Listen("tcp", ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	occupied := uint16(taken.Addr().(*net.TCPAddr).Port)
	h.update(t.Context(), "here", slices.Values([]servicePort{{service: "home/web", healthPort: occupied}}))
	select {
	case got := <-events.Events:
		if want := fmt.Sprintf(`Warning FailedToStartServiceHealthcheck node here failed to start healthcheck "home/web" on port %d: listen tcp`, occupied); !strings.HasPrefix(got, want) {
			t.Errorf("got event %q, want %q", got, want)
		}
	default:
		t.Error("nobody was told that a port is taken")
	}
	// An endpoint counts once, in however many of the service's ports it is.
	h.update(t.Context(), "here", slices.Values([]servicePort{
		{service: "home/web", healthPort: port, readyHere: []netip.Addr{one}},
		{service: "home/web", healthPort: port, readyHere: []netip.Addr{one, other}},
	}))
	if status(); weight != "2" || body != `{"service":{"namespace":"home","name":"web"},"localEndpoints":2,"serviceProxyHealthy":true}` {
		t.Errorf("got weight %q and %s", weight, body)
	}
	proxy.followed(ipv4)
	proxy.queued(ipv4)
	now = now.Add(late)
	if got := status(); got != http.StatusServiceUnavailable || !strings.Contains(body, `"serviceProxyHealthy":false`) {
		t.Errorf("with rules that are late: got %d, %s", got, body)
	}
	http.DefaultClient.CloseIdleConnections()
}

// newProxy is one of a single family that follows what a factory makes informers of,
// and gives it to a back end, until the test ends.
func newProxy(t *testing.T, b backend, config Config, factory informers.SharedInformerFactory) *proxy {
	t.Helper()
	config.Services, config.Slices = factory.Core().V1().Services(), factory.Discovery().V1().EndpointSlices()
	config.Nodes, config.Log = factory.Core().V1().Nodes(), slog.New(slog.DiscardHandler)
	dirt, meters := newDirt(), newMeters()
	meters.mode(b.mode())
	synced, stop, err := watch(config, dirt, meters)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(stop)
	factory.Start(t.Context().Done())
	if !cache.WaitFor(t.Context(), "", synced...) {
		t.Fatal("informers did not sync")
	}
	status := newProxyHealth(nil, meters)
	return &proxy{config: config, status: status, health: newHealthServers(config.Log, nil, status, nil), meters: meters, dirt: dirt,
		halves: []*half{{layout: testLayout, ports: map[string][]servicePort{}, chosen: b}}}
}

func TestSyncFollowsTheInformers(t *testing.T) { modes(t, testSyncFollows) }

func testSyncFollows(t *testing.T, w *world) {
	w.serve(0)
	ctx := t.Context()
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: here.node, Labels: map[string]string{corev1.LabelTopologyZone: here.zone}}}
	client := fake.NewClientset(service(), slice(up("10.244.0.2", "here")), node)
	p := newProxy(t, w.backend, Config{Agent: hostconfig.NodeAgent{NodeName: here.node, Cluster: hostconfig.Cluster{PodCIDR: "10.244.0.0/16"}}},
		informers.NewSharedInformerFactory(client, 0))
	dirt := p.dirt
	sync := func(update bool) {
		t.Helper()
		w.must(netnstest.Within(w.node, func() error { return p.sync(ctx, update) }))
	}
	<-dirt.wake
	sync(true)
	if _, _, err := w.ask(w.node, clusterAddr); err != nil {
		t.Errorf("after the first sync: %v", err)
	}
	w.must(netnstest.Within(w.node, func() error {
		if _, ok := w.backend.(*nftablesBackend); ok {
			return newNftables(testLayout).remove()
		}
		return errors.Join(exec.Command("iptables", "-t", "nat", "-F").Run(), exec.Command("iptables", "-t", "nat", "-X").Run())
	}))
	sync(false)
	if _, _, err := w.ask(w.node, clusterAddr); err != nil {
		t.Errorf("after somebody emptied the table and an inspection: %v", err)
	}
	for len(dirt.wake) > 0 {
		<-dirt.wake
	}
	if err := client.CoreV1().Services("home").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	select {
	case <-dirt.wake:
	case <-time.After(time.Minute):
		t.Fatal("the deletion of a service went unnoticed")
	}
	sync(true)
	if _, _, err := w.ask(w.node, clusterAddr); err == nil {
		t.Error("the service answers though it was deleted")
	}
}
