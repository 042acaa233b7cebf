package policy

import (
	"errors"
	"net"
	"net/netip"
	"os"
	"slices"
	"strconv"
	"sync"
	"testing"
	"time"

	"clusterctl/nodeagent/netnstest"
	"clusterctl/nodeagent/policy/policytest"

	"github.com/coreos/go-iptables/iptables"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	networkingv1 "k8s.io/api/networking/v1"
)

// world is two nodes in network namespaces of their own, each with its pods
// on a bridge:
//
//	10.244.0.2-4 ── node one 192.0.2.1 ── 192.0.2.2 node two ── 10.244.1.2-3
//
// and likewise with IPv6 addresses, see model_test.go.
type world struct {
	t       *testing.T
	nodes   map[string]netns.NsHandle
	pods    map[string]netns.NsHandle
	kernels map[string][]*kernel // one of each family
}

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	w := &world{t: t, nodes: map[string]netns.NsHandle{}, pods: map[string]netns.NsHandle{}, kernels: map[string][]*kernel{}}
	gates := map[string][2]string{"one": {"10.244.0.1", "fd00:a::1"}, "two": {"10.244.1.1", "fd00:a:0:1::1"}}
	for node, gate := range gates {
		ns := netnstest.Namespace(t)
		w.nodes[node] = ns
		for _, f := range families {
			k := &kernel{family: f, netns: int(ns)}
			w.kernels[node] = append(w.kernels[node], k)
			if _, err := k.exists(); err != nil {
				t.Skipf("no nftables here: %v", err)
			}
		}
		w.must(netnstest.Within(ns, func() error {
			for name, value := range map[string]string{
				"ipv4/ip_forward": "1", "bridge/bridge-nf-call-iptables": "1", "ipv6/conf/all/forwarding": "1", "bridge/bridge-nf-call-ip6tables": "1",
				"ipv6/conf/default/accept_dad": "0", // links ask for neighbours from the start
			} {
				if err := os.WriteFile("/proc/sys/net/"+name, []byte(value), 0); err != nil {
					t.Skipf("cannot set sysctl: %v", err)
				}
			}
			bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cctl0"}}
			// Connections are tracked from the start, as they are where services
			// are.
			if err := translate("10.96.0.1", 80, podAddr(3), 8080); err != nil {
				t.Skipf("no NAT here: %v", err)
			}
			return errors.Join(netlink.LinkAdd(bridge), up("lo"), up("cctl0", gate[0]+"/24", gate[1]+"/64"))
		}))
	}
	w.must(netnstest.Within(w.nodes["one"], func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out"}, PeerName: "out", PeerNamespace: netlink.NsFd(w.nodes["two"])})
	}))
	w.must(netnstest.Within(w.nodes["one"], func() error {
		return errors.Join(up("out", "192.0.2.1/24", "2001:db8::1/64"), route("10.244.1.0/24", "192.0.2.2"), route("fd00:a:0:1::/64", "2001:db8::2"))
	}))
	w.must(netnstest.Within(w.nodes["two"], func() error {
		return errors.Join(up("out", "192.0.2.2/24", "2001:db8::2/64"), route("10.244.0.0/24", "192.0.2.1"), route("fd00:a::/64", "2001:db8::1"))
	}))
	for _, pod := range testPods {
		ns := netnstest.Namespace(t)
		w.pods[pod.Name] = ns
		w.must(netnstest.Within(w.nodes[pod.Spec.NodeName], func() error {
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
		w.must(netnstest.Within(ns, func() error {
			gate, ips := gates[pod.Spec.NodeName], pod.Status.PodIPs
			return errors.Join(up("lo"), up("eth0", ips[0].IP+"/24", ips[1].IP+"/64"), route("0.0.0.0/0", gate[0]), route("::/0", gate[1]), policytest.Serve(w.t))
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
		if a.IP.To4() == nil {
			a.Flags = unix.IFA_F_NODAD // it is nobody else's, and to be used at once
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

// Allowed connections have plenty of time on a machine that is busy; denied
// ones are watched for a moment.
const (
	plenty = 30 * time.Second
	moment = 250 * time.Millisecond
)

// try makes a connection and uses it.
func (w *world) try(c policytest.Connection, patience time.Duration) error {
	from := w.nodes["one"]
	for node, addrs := range nodeAddrs {
		if c.From == nil && slices.Contains(addrs, c.Source) {
			from = w.nodes[node]
		}
	}
	if c.From != nil {
		from = w.pods[c.From.Name]
	}
	return policytest.Try(from, c, patience)
}

// apply gives both nodes the rules for the policies.
func (w *world) apply(policies ...*networkingv1.NetworkPolicy) {
	w.t.Helper()
	for node, kernels := range w.kernels {
		for _, k := range kernels {
			if _, err := k.apply(paint(on(node, policies), k.family)); err != nil {
				w.t.Fatalf("node %s: %v", node, err)
			}
		}
	}
}

// judge tries every connection and compares with the model.
func (w *world) judge(name string, policies []*networkingv1.NetworkPolicy) (passed, denied int) {
	w.t.Helper()
	var group sync.WaitGroup
	var mu sync.Mutex
	for batch := range slices.Chunk(policytest.Connections(testPods, nodeAddrs), 60) {
		for _, c := range batch {
			want := policytest.Allowed(policies, testNamespaces, c)
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
