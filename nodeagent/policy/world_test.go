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

func newWorld(t *testing.T) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	w := &world{t: t, nodes: map[string]netns.NsHandle{}, pods: map[string]netns.NsHandle{}, kernels: map[string]*kernel{}}
	gates := map[string]string{"one": "10.244.0.1", "two": "10.244.1.1"}
	for node, gate := range gates {
		ns := netnstest.Namespace(t)
		w.nodes[node], w.kernels[node] = ns, &kernel{netns: int(ns)}
		if _, err := w.kernels[node].exists(); err != nil {
			t.Skipf("no nftables here: %v", err)
		}
		w.must(netnstest.Within(ns, func() error {
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
	w.must(netnstest.Within(w.nodes["one"], func() error {
		return netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "out"}, PeerName: "out", PeerNamespace: netlink.NsFd(w.nodes["two"])})
	}))
	w.must(netnstest.Within(w.nodes["one"], func() error { return errors.Join(up("out", "192.0.2.1/24"), route("10.244.1.0/24", "192.0.2.2")) }))
	w.must(netnstest.Within(w.nodes["two"], func() error { return errors.Join(up("out", "192.0.2.2/24"), route("10.244.0.0/24", "192.0.2.1")) }))
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
			return errors.Join(up("lo"), up("eth0", pod.Status.PodIP+"/24"), route("0.0.0.0/0", gates[pod.Spec.NodeName]), policytest.Serve(w.t))
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

// Allowed connections have plenty of time on a machine that is busy; denied
// ones are watched for a moment.
const (
	plenty = 30 * time.Second
	moment = 250 * time.Millisecond
)

// try makes a connection and uses it.
func (w *world) try(c policytest.Connection, patience time.Duration) error {
	from := w.nodes["one"]
	for node, addr := range nodeAddrs {
		if c.From == nil && addr == c.Source {
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
