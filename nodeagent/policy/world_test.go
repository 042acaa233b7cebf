package policy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
)

// world is two nodes in network namespaces of their own, each with its pods
// on a bridge:
//
//	10.244.0.2-4 ── node one 192.0.2.1 ── 192.0.2.2 node two ── 10.244.1.2-3
type world struct {
	t       *testing.T
	nodes   map[string]netns.NsHandle
	pods    map[string]netns.NsHandle
	kernels map[string]*kernel
}

// within runs f on a thread inside a network namespace.
func within(ns netns.NsHandle, f func() error) error {
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with us
		err := netns.Set(ns)
		if err == nil {
			err = f()
		}
		result <- err
	}()
	return <-result
}

func newNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	created := make(chan netns.NsHandle)
	go func() {
		runtime.LockOSThread()
		ns, err := netns.New()
		if err != nil {
			ns = netns.None()
		}
		created <- ns
	}()
	ns := <-created
	if !ns.IsOpen() {
		t.Skip("cannot make a network namespace")
	}
	t.Cleanup(func() { ns.Close() })
	return ns
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	w := &world{t: t, nodes: map[string]netns.NsHandle{}, pods: map[string]netns.NsHandle{}, kernels: map[string]*kernel{}}
	gates := map[string]string{"one": "10.244.0.1", "two": "10.244.1.1"}
	for node, gate := range gates {
		ns := newNamespace(t)
		w.nodes[node], w.kernels[node] = ns, &kernel{netns: int(ns)}
		if _, err := w.kernels[node].exists(); err != nil {
			t.Skipf("no nftables here: %v", err)
		}
		w.must(within(ns, func() error {
			for _, name := range []string{"ipv4/ip_forward", "bridge/bridge-nf-call-iptables"} {
				if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
					t.Skipf("cannot set sysctl: %v", err)
				}
			}
			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cctl0"}}
			// Connections are tracked from the start, as they are where services
			// are.
			if err := translate("10.96.0.1", 80, podAddr(3), 8080); err != nil {
				t.Skipf("no NAT here: %v", err)
			}
			return errors.Join(netlink.LinkAdd(bridge), up("lo"), up("cctl0", gate+"/24"))
		}))
	}
	w.must(within(w.nodes["one"], func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out"}, PeerName: "out", PeerNamespace: netlink.NsFd(w.nodes["two"])})
	}))
	w.must(within(w.nodes["one"], func() error { return errors.Join(up("out", "192.0.2.1/24"), route("10.244.1.0/24", "192.0.2.2")) }))
	w.must(within(w.nodes["two"], func() error { return errors.Join(up("out", "192.0.2.2/24"), route("10.244.0.0/24", "192.0.2.1")) }))
	for _, pod := range testPods {
		ns := newNamespace(t)
		w.pods[pod.Name] = ns
		w.must(within(w.nodes[pod.Spec.NodeName], func() error {
			link := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: pod.Name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
			if err := netlink.LinkAdd(link); err != nil {
				return err
			}
			bridge, err := netlink.LinkByName("cctl0")
			if err != nil {
				return err
			}
			return errors.Join(netlink.LinkSetMaster(link, bridge), netlink.LinkSetHairpin(link, true), up(pod.Name))
		}))
		w.must(within(ns, func() error {
			return errors.Join(up("lo"), up("eth0", pod.Status.PodIP+"/24"), route("0.0.0.0/0", gates[pod.Spec.NodeName]), w.serve())
		}))
	}
	return w
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// up gives a link addresses and switches it on.
func up(name string, addresses ...string) error {
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	for _, text := range addresses {
		a, err := netlink.ParseAddr(text)
		if err != nil {
			return err
		}
		if err := netlink.AddrAdd(link, a); err != nil {
			return err
		}
	}
	return netlink.LinkSetUp(link)
}

func route(to, via string) error {
	prefix, err := netlink.ParseIPNet(to)
	if err != nil {
		return err
	}
	return netlink.RouteAdd(&netlink.Route{Dst: prefix, Gw: net.ParseIP(via)})
}

// serve echoes what comes to the test's ports of the thread's namespace.
func (w *world) serve() error {
	for _, port := range testPorts {
		listener, err := net.Listen("tcp4", ":"+strconv.Itoa(int(port)))
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { listener.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go func() {
					defer conn.Close()
					buffer := make([]byte, 10)
					for {
						n, err := conn.Read(buffer)
						if err != nil {
							return
						}
						if _, err := conn.Write(buffer[:n]); err != nil {
							return
						}
					}
				}()
			}
		}()
	}
	packets, err := net.ListenPacket("udp4", ":8080")
	if err != nil {
		return err
	}
	w.t.Cleanup(func() { packets.Close() })
	go func() {
		buffer := make([]byte, 10)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			_, _ = packets.WriteTo(buffer[:n], from)
		}
	}()
	return nil
}

// dial connects from a namespace; the caller closes the connection.
func dial(ns netns.NsHandle, network, to string, patience time.Duration) (conn net.Conn, err error) {
	err = within(ns, func() (err error) {
		conn, err = net.DialTimeout(network, to, patience)
		return err
	})
	return conn, err
}

// echo sends something through a connection until it comes back.
func echo(conn net.Conn, patience time.Duration) error {
	buffer := make([]byte, 10)
	end := time.Now().Add(patience)
	for {
		_ = conn.SetDeadline(earlier(end, time.Now().Add(300*time.Millisecond)))
		_, err := conn.Write([]byte("x"))
		if err == nil {
			if _, err = conn.Read(buffer); err == nil {
				return nil
			}
		}
		if !time.Now().Before(end) {
			return err
		}
	}
}

func earlier(a, b time.Time) time.Time {
	if a.Before(b) {
		return a
	}
	return b
}

// Allowed connections have plenty of time on a machine that is busy; denied
// ones are watched for a moment.
const (
	plenty = 30 * time.Second
	moment = 250 * time.Millisecond
)

// try makes a connection and uses it.
func (w *world) try(c connection, patience time.Duration) error {
	from := w.nodes["one"]
	for node, addr := range nodeAddrs {
		if c.from == nil && addr == c.source {
			from = w.nodes[node]
		}
	}
	if c.from != nil {
		from = w.pods[c.from.Name]
	}
	network := "tcp4"
	if c.protocol == corev1.ProtocolUDP {
		network = "udp4"
	}
	conn, err := dial(from, network, net.JoinHostPort(c.to.Status.PodIP, strconv.Itoa(int(c.port))), patience)
	if err != nil {
		return err
	}
	defer conn.Close()
	return echo(conn, patience)
}

// apply gives both nodes the rules for the policies.
func (w *world) apply(policies ...*networkingv1.NetworkPolicy) {
	w.t.Helper()
	for node, k := range w.kernels {
		if _, err := k.apply(paint(on(node, policies))); err != nil {
			w.t.Fatalf("node %s: %v", node, err)
		}
	}
}

// judge tries every connection and compares with the model.
func (w *world) judge(name string, policies []*networkingv1.NetworkPolicy) (passed, denied int) {
	w.t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	for batch := range slices.Chunk(connections(), 60) {
		for _, c := range batch {
			want := allowed(policies, testNamespaces, c)
			patience := moment
			if want {
				patience = plenty
			}
			group.Go(func() {
				err := w.try(c, patience)
				mu.Lock()
				defer mu.Unlock()
				if want {
					passed++
				} else {
					denied++
				}
				if want && err != nil {
					w.t.Errorf("%s: %v is allowed, got %v", name, c, err)
				}
				if !want && err == nil {
					w.t.Errorf("%s: %v is not allowed and went through", name, c)
				}
			})
		}
		group.Wait()
	}
	return passed, denied
}

func podAddr(i int) netip.Addr { return netip.MustParseAddr(testPods[i].Status.PodIP) }

// translate sends what goes to a service's address to a pod, as the service
// proxy does.
func translate(service string, port int, pod netip.Addr, podPort int) error {
	tables, err := iptables.New(iptables.Timeout(10))
	if err != nil {
		return err
	}
	return tables.Append("nat", "PREROUTING", "-d", service, "-p", "tcp", "--dport", strconv.Itoa(port),
		"-j", "DNAT", "--to-destination", netip.AddrPortFrom(pod, uint16(podPort)).String())
}
