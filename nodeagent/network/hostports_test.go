package network

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/google/nftables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/nodeagent/netnstest"
)

var comparable = cmp.Options{cmpopts.EquateComparable(PortMapping{}), cmpopts.EquateEmpty()}

func mapping(protocol corev1.Protocol, hostIP string, hostPort uint16, target string) PortMapping {
	m := PortMapping{Protocol: protocol, HostPort: hostPort, Target: netip.MustParseAddrPort(target)}
	if hostIP != "" {
		m.HostIP = netip.MustParseAddr(hostIP)
	}
	return m
}

func TestPortMappings(t *testing.T) {
	const tcp, udp, sctp = corev1.ProtocolTCP, corev1.ProtocolUDP, corev1.ProtocolSCTP
	both := []string{"10.244.0.2", "fd00::2"}
	for name, test := range map[string]struct {
		ports     []corev1.ContainerPort
		addresses []string
		host      bool
		want      []PortMapping
	}{
		"no host port":    {ports: []corev1.ContainerPort{{ContainerPort: 80}}, addresses: both},
		"no address":      {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}},
		"host's network":  {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 80}}, addresses: both, host: true},
		"both families":   {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}, addresses: both, want: []PortMapping{mapping(tcp, "", 81, "10.244.0.2:80"), mapping(tcp, "", 81, "[fd00::2]:80")}},
		"protocols":       {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, Protocol: udp}, {ContainerPort: 80, HostPort: 81, Protocol: sctp}}, addresses: both[:1], want: []PortMapping{mapping(udp, "", 81, "10.244.0.2:80"), mapping(sctp, "", 81, "10.244.0.2:80")}},
		"an address":      {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, HostIP: "127.0.0.1"}}, addresses: both, want: []PortMapping{mapping(tcp, "127.0.0.1", 81, "10.244.0.2:80")}},
		"an IPv6 address": {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, HostIP: "fd01::1"}}, addresses: both, want: []PortMapping{mapping(tcp, "fd01::1", 81, "[fd00::2]:80")}},
		"all of a family": {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, HostIP: "0.0.0.0"}}, addresses: both, want: []PortMapping{mapping(tcp, "", 81, "10.244.0.2:80")}},
		"all of IPv6":     {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81, HostIP: "::"}}, addresses: both, want: []PortMapping{mapping(tcp, "", 81, "[fd00::2]:80")}},
		"the first wins":  {ports: []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}, {ContainerPort: 82, HostPort: 81}}, addresses: both[:1], want: []PortMapping{mapping(tcp, "", 81, "10.244.0.2:80")}},
	} {
		pod := &corev1.Pod{Spec: corev1.PodSpec{HostNetwork: test.host, Containers: []corev1.Container{{Ports: test.ports}}}}
		if diff := cmp.Diff(test.want, PortMappings(pod, test.addresses), comparable); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

func TestStaleFlows(t *testing.T) {
	at := func(address string) front {
		f := front{family: ipv4, protocol: corev1.ProtocolUDP, port: 53}
		if address != "" {
			f.address = netip.MustParseAddr(address)
		}
		return f
	}
	leads := func(address, target string) map[front]netip.AddrPort {
		return map[front]netip.AddrPort{at(address): netip.MustParseAddrPort(target)}
	}
	const pod, other = "10.244.0.2:53", "10.244.0.3:53"
	for name, test := range map[string]struct {
		old, want map[front]netip.AddrPort
		to, at    string
		protocol  uint8
		stale     bool
	}{
		"a mapping went":                {old: leads("", pod), to: "192.0.2.1:53", at: pod, stale: true},
		"a mapping came":                {want: leads("", pod), to: "192.0.2.1:53", at: "192.0.2.1:53", stale: true},
		"it moved":                      {old: leads("", pod), want: leads("", other), to: "192.0.2.1:53", at: pod, stale: true},
		"it moved before the flow":      {old: leads("", pod), want: leads("", other), to: "192.0.2.1:53", at: other},
		"it stayed":                     {old: leads("", pod), want: leads("", pod), to: "192.0.2.1:53", at: other},
		"of an address":                 {old: leads("192.0.2.1", pod), to: "192.0.2.1:53", at: pod, stale: true},
		"of another address":            {old: leads("192.0.2.7", pod), to: "192.0.2.1:53", at: pod},
		"another port":                  {old: leads("", pod), to: "192.0.2.1:54", at: pod},
		"to somebody else":              {old: leads("", pod), to: "198.51.100.1:53", at: pod},
		"TCP":                           {old: leads("", pod), to: "192.0.2.1:53", at: pod, protocol: unix.IPPROTO_TCP},
		"somebody else's, when it went": {old: leads("", pod), to: "192.0.2.1:53", at: other},
	} {
		s := &staleFlows{old: test.old, want: test.want, family: ipv4, own: map[netip.Addr]bool{netip.MustParseAddr("192.0.2.1"): true}}
		to, from := netip.MustParseAddrPort(test.to), netip.MustParseAddrPort(test.at)
		if test.protocol == 0 {
			test.protocol = unix.IPPROTO_UDP
		}
		flow := &netlink.ConntrackFlow{
			Forward: netlink.IPTuple{Protocol: test.protocol, DstIP: to.Addr().AsSlice(), DstPort: to.Port()},
			Reverse: netlink.IPTuple{Protocol: test.protocol, SrcIP: from.Addr().AsSlice(), SrcPort: from.Port()},
		}
		if got := s.MatchConntrackFlow(flow); got != test.stale {
			t.Errorf("%s: stale is %t", name, got)
		}
	}
}

// hostWorld is a node with two pods on its bridge and a client beside it, each in
// a network namespace:
//
//	10.244.0.2-3 ── 10.244.0.1 node 192.0.2.1 ── 192.0.2.2 client
//	fd00:a::2-3  ── fd00:a::1       fd00:b::1 ── fd00:b::2
type hostWorld struct {
	t            *testing.T
	node, client netns.NsHandle
	pods         [2]netns.NsHandle
	ports        *HostPorts
}

func newHostWorld(t *testing.T) *hostWorld {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	w := &hostWorld{t: t, node: netnstest.Namespace(t), client: netnstest.Namespace(t), ports: NewHostPorts(silent)}
	w.must(netnstest.Within(w.node, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: BridgeLink}}
		if err := errors.Join(netlink.LinkAdd(bridge), netnstest.Address(bridge, "10.244.0.1/24"), netnstest.Up("lo")); err != nil {
			return err
		}
		for _, name := range []string{"net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding", "net/bridge/bridge-nf-call-iptables", "net/bridge/bridge-nf-call-ip6tables"} {
			if err := writeSysctl(name, "1"); err != nil {
				t.Skip(err)
			}
		}
		return netnstest.AddressAndRoute(BridgeLink, "fd00:a::1/64", "", nil)
	}))
	w.must(netnstest.Cable(w.node, "client", "192.0.2.1/24", w.client, "192.0.2.2/24", "192.0.2.1"))
	w.must(netnstest.Within(w.node, func() error { return netnstest.AddressAndRoute("client", "fd00:b::1/64", "", nil) }))
	w.must(netnstest.Within(w.client, func() error { return netnstest.AddressAndRoute("eth0", "fd00:b::2/64", "fd00:b::1", nil) }))
	for i := range w.pods {
		w.pods[i] = netnstest.Namespace(t)
		name := fmt.Sprintf("pod%d", i)
		w.must(netnstest.Cable(w.node, name, "", w.pods[i], fmt.Sprintf("10.244.0.%d/24", i+2), "10.244.0.1"))
		w.must(netnstest.Within(w.node, func() error { return netnstest.Plug(name, BridgeLink) }))
		w.must(netnstest.Within(w.pods[i], func() error {
			return netnstest.AddressAndRoute("eth0", fmt.Sprintf("fd00:a::%d/64", i+2), "fd00:a::1", nil)
		}))
		w.serve(w.pods[i], name)
	}
	return w
}

func (w *hostWorld) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve answers clients of port 80 with a name and the address that they have here.
func (w *hostWorld) serve(ns netns.NsHandle, name string) {
	w.t.Helper()
	w.must(netnstest.Within(ns, func() error {
		listener, err := net.Listen("tcp", ":80")
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp", ":80")
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { listener.Close(); packets.Close() })
		answer := func(from net.Addr) []byte {
			address, _ := netip.ParseAddrPort(from.String())
			return []byte(name + " " + address.Addr().Unmap().String())
		}
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				_, _ = conn.Write(answer(conn.RemoteAddr()))
				conn.Close()
			}
		}()
		go func() {
			buffer := make([]byte, 10)
			for {
				_, from, err := packets.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(answer(from), from)
			}
		}()
		return nil
	}))
}

// set gives pod 0 or 1 host ports.
func (w *hostWorld) set(pod int, ports ...PortMapping) {
	w.t.Helper()
	w.must(netnstest.Within(w.node, func() error { return w.ports.Set(types.UID(fmt.Sprint(pod)), ports) }))
}

// ask returns what a server answers, or why none does. On a busy machine a link may
// be up for seconds before neighbours find each other over it.
func (w *hostWorld) ask(from netns.NsHandle, network, to string) string {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		answer := ""
		err := netnstest.Within(from, func() error {
			conn, err := net.DialTimeout(network, to, 20*time.Second)
			if err != nil {
				return err
			}
			defer conn.Close()
			answer, err = talk(conn)
			return err
		})
		switch {
		case err == nil:
			return answer
		case !errors.Is(err, unix.EHOSTUNREACH) || time.Now().After(deadline):
			return err.Error()
		}
	}
}

// talk asks until there is an answer: a packet may be lost.
func talk(conn net.Conn) (string, error) {
	buffer := make([]byte, 100)
	for attempt := 0; ; attempt++ {
		if _, err := conn.Write([]byte("?")); err != nil {
			return "", err
		}
		_ = conn.SetReadDeadline(time.Now().Add(2 * time.Second))
		n, err := conn.Read(buffer)
		if err == nil || attempt > 8 || !errors.Is(err, os.ErrDeadlineExceeded) {
			return string(buffer[:n]), err
		}
	}
}

func (w *hostWorld) expect(what string, from netns.NsHandle, network, to, want string) {
	w.t.Helper()
	if got := w.ask(from, network, to); !strings.Contains(got, want) {
		w.t.Errorf("%s, %s to %s: got %q, want %q", what, network, to, got, want)
	}
}

func TestHostPorts(t *testing.T) {
	w := newHostWorld(t)
	const tcp, udp = corev1.ProtocolTCP, corev1.ProtocolUDP
	if err := netnstest.Within(w.node, func() error { return w.ports.Restore(nil) }); err != nil {
		t.Skipf("no nftables here: %v", err)
	}
	w.set(0, mapping(tcp, "", 8080, "10.244.0.2:80"), mapping(tcp, "", 8080, "[fd00:a::2]:80"),
		mapping(udp, "", 8080, "10.244.0.2:80"), mapping(udp, "", 8080, "[fd00:a::2]:80"), mapping(tcp, "127.0.0.1", 8081, "10.244.0.2:80"))
	w.set(1, mapping(tcp, "192.0.2.1", 8081, "10.244.0.3:80"))
	for _, network := range []string{"tcp", "udp"} {
		w.expect("from outside", w.client, network, "192.0.2.1:8080", "pod0 192.0.2.2")
		w.expect("from outside", w.client, network, "[fd00:b::1]:8080", "pod0 fd00:b::2")
		w.expect("from another pod", w.pods[1], network, "192.0.2.1:8080", "pod0 10.244.0.1")
		w.expect("from another pod", w.pods[1], network, "[fd00:b::1]:8080", "pod0 fd00:a::1")
		w.expect("from the pod itself", w.pods[0], network, "192.0.2.1:8080", "pod0 10.244.0.1")
		w.expect("from the pod itself", w.pods[0], network, "[fd00:b::1]:8080", "pod0 fd00:a::1")
		w.expect("from the host", w.node, network, "192.0.2.1:8080", "pod0 192.0.2.1")
		w.expect("from the host", w.node, network, "[fd00:b::1]:8080", "pod0 fd00:b::1")
		w.expect("from the host's loopback", w.node, network, "127.0.0.1:8080", "pod0 10.244.0.1")
	}
	w.expect("IPv6's loopback", w.node, "tcp", "[::1]:8080", "refused")
	w.expect("an address of the host", w.client, "tcp", "192.0.2.1:8081", "pod1 192.0.2.2")
	w.expect("the loopback address", w.node, "tcp", "127.0.0.1:8081", "pod0")
	w.expect("another port", w.client, "tcp", "192.0.2.1:80", "refused")

	t.Run("loopback addresses are nobody else's", func(t *testing.T) {
		w.must(netnstest.Within(w.client, func() error {
			lo, err := netlink.LinkByName("lo")
			if err != nil {
				return err
			}
			own, err := netlink.ParseAddr("127.0.0.1/8")
			if err != nil {
				return err
			}
			return errors.Join(netlink.AddrDel(lo, own), writeSysctl("net/ipv4/conf/all/route_localnet", "1"),
				netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("127.0.0.1/32")), Gw: net.ParseIP("192.0.2.1")}))
		}))
		err := netnstest.Within(w.client, func() error {
			conn, err := net.DialTimeout("tcp", "127.0.0.1:8081", 2*time.Second)
			if err == nil {
				conn.Close()
			}
			return err
		})
		var netErr net.Error
		if !errors.As(err, &netErr) || !netErr.Timeout() {
			t.Errorf("a host port of the loopback address: got %v for a client elsewhere, want silence", err)
		}
	})
	t.Run("a pod that came later has the port", func(t *testing.T) {
		w.set(1, mapping(tcp, "", 8080, "10.244.0.3:80"))
		w.expect("from outside", w.client, "tcp", "192.0.2.1:8080", "pod1")
		w.set(0)
		w.expect("from outside", w.client, "tcp", "192.0.2.1:8080", "pod1")
		w.expect("of the pod that went", w.client, "tcp", "[fd00:b::1]:8080", "refused")
	})
	t.Run("restart of the agent", func(t *testing.T) {
		w.set(0, mapping(tcp, "", 8081, "10.244.0.2:80"))
		w.ports = NewHostPorts(silent)
		w.must(netnstest.Within(w.node, func() error {
			return w.ports.Restore(map[types.UID][]PortMapping{"1": {mapping(tcp, "", 8080, "10.244.0.3:80")}})
		}))
		w.expect("of a pod that is still there", w.client, "tcp", "192.0.2.1:8080", "pod1")
		w.expect("of a pod that went", w.client, "tcp", "192.0.2.1:8081", "refused")
	})
	t.Run("others remove the table", func(t *testing.T) {
		w.must(netnstest.Within(w.node, func() error { return removeTable(ipv4.table(tableHostPorts)) }))
		w.expect("without rules", w.client, "tcp", "192.0.2.1:8080", "refused")
		w.must(netnstest.Within(w.node, w.ports.inspect))
		w.expect("after inspection", w.client, "tcp", "192.0.2.1:8080", "pod1")
	})
	t.Run("nothing is left", func(t *testing.T) {
		w.set(1)
		w.must(netnstest.Within(w.node, func() error {
			conn, err := nftables.New()
			if err != nil {
				return err
			}
			tables, err := conn.ListTables()
			if len(tables) > 0 {
				return fmt.Errorf("there is table %s", tables[0].Name)
			}
			return err
		}))
		w.expect("from outside", w.client, "tcp", "192.0.2.1:8080", "refused")
	})
	t.Run("nothing is taken over on a host that has just come up", func(t *testing.T) {
		w.ports = NewHostPorts(silent)
		w.must(netnstest.Within(w.node, func() error {
			return w.ports.Restore(map[types.UID][]PortMapping{"1": {mapping(tcp, "", 8080, "10.244.0.3:80")}})
		}))
		w.expect("from outside", w.client, "tcp", "192.0.2.1:8080", "refused")
	})
}

func TestUDPFlowsFollowHostPorts(t *testing.T) {
	w := newHostWorld(t)
	if err := netnstest.Within(w.node, func() error { return w.ports.Restore(nil) }); err != nil {
		t.Skipf("no nftables here: %v", err)
	}
	w.serve(w.node, "node")
	var conn net.Conn // which keeps its port
	w.must(netnstest.Within(w.client, func() (err error) {
		conn, err = net.Dial("udp", "192.0.2.1:80")
		return err
	}))
	defer conn.Close()
	// Flows are known from the first rule on that asks for them.
	w.set(1, mapping(corev1.ProtocolTCP, "", 9999, "10.244.0.3:80"))
	for _, step := range []struct{ pod, answers string }{{"", "node"}, {"10.244.0.2:80", "pod0"}, {"10.244.0.3:80", "pod1"}, {"", "node"}} {
		if step.pod == "" {
			w.set(0)
		} else {
			w.set(0, mapping(corev1.ProtocolUDP, "", 80, step.pod))
		}
		if got, err := talk(conn); err != nil || !strings.HasPrefix(got, step.answers) {
			t.Errorf("mapped to %q: got %q, %v, want %s", step.pod, got, err, step.answers)
		}
	}
}

func TestMasquerade(t *testing.T) {
	w := newHostWorld(t)
	w.serve(w.client, "client")
	for name, test := range map[string]struct {
		f                               family
		cluster, outside, pod, from, to string
	}{
		"IPv4": {ipv4, "10.244.0.0/16", "192.0.2.2:80", "10.244.0.3:80", "192.0.2.1", "10.244.0.2"},
		"IPv6": {ipv6, "fd00:a::/56", "[fd00:b::2]:80", "[fd00:a::3]:80", "fd00:b::1", "fd00:a::2"},
	} {
		t.Run(name, func(t *testing.T) {
			w.expect("before", w.pods[0], "tcp", test.outside, "client "+test.to)
			var chains []string
			for _, own := range []string{test.cluster, "198.51.100.0/24", test.cluster, test.cluster} {
				if test.f == ipv6 && own != test.cluster {
					own = "2001:db8::/64"
				}
				w.must(netnstest.Within(w.node, func() error {
					if err := masquerade(test.f, netip.MustParsePrefix(test.cluster), netip.MustParsePrefix(own)); err != nil {
						return err
					}
					conn, err := nftables.New()
					if err != nil {
						return err
					}
					chains, err = chainsOf(conn, test.f.table(tableNetwork))
					return err
				}))
				if len(chains) != 1 {
					t.Errorf("chains are %v, want one", chains)
				}
				want := test.from
				if own != test.cluster {
					want = test.to
				}
				w.expect("of "+own, w.pods[0], "tcp", test.outside, "client "+want)
				w.expect("to a pod", w.pods[0], "tcp", test.pod, "pod1 "+test.to)
			}
		})
	}
}
