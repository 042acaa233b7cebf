package announce

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"

	"clusterctl/nodeagent/netnstest"
)

// lan is a client and two nodes, in network namespaces of their own, on one
// Ethernet:
//
//	client 192.0.2.9 ── bridge ── one 192.0.2.1, two 192.0.2.2
type lan struct {
	client netns.NsHandle
	nodes  map[string]netns.NsHandle
	macs   map[string]string // names of nodes by the MAC addresses of their links
	v6     bool
}

func newLAN(t *testing.T) *lan {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	l := &lan{client: netnstest.Namespace(t), nodes: map[string]netns.NsHandle{"one": netnstest.Namespace(t), "two": netnstest.Namespace(t)}, macs: map[string]string{}, v6: true}
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	// Addresses are to be of use at once.
	quick := func() error {
		if os.WriteFile("/proc/sys/net/ipv6/conf/default/accept_dad", []byte("0"), 0) != nil {
			l.v6 = false
		}
		return nil
	}
	up := func(name string, addresses ...string) (netlink.Link, error) {
		link, err := netlink.LinkByName(name)
		if err != nil {
			return nil, err
		}
		for _, text := range addresses {
			a, err := netlink.ParseAddr(text)
			if err != nil {
				return nil, err
			}
			if err := netlink.AddrAdd(link, a); err != nil && a.IP.To4() == nil {
				l.v6 = false
			} else if err != nil {
				return nil, err
			}
		}
		return link, netlink.LinkSetUp(link)
	}
	must(netnstest.Within(l.client, func() error {
		err := errors.Join(quick(), netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "lan"}}))
		_, failed := up("lan", "192.0.2.9/24", "2001:db8::9/64")
		return errors.Join(err, failed)
	}))
	for name, ns := range l.nodes {
		must(netnstest.Within(ns, quick))
		must(netnstest.Within(l.client, func() error {
			port := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: "eth0", PeerNamespace: netlink.NsFd(ns)}
			if err := netlink.LinkAdd(port); err != nil {
				return err
			}
			bridge, err := netlink.LinkByName("lan")
			if err != nil {
				return err
			}
			_, failed := up(name)
			return errors.Join(netlink.LinkSetMaster(port, bridge), failed)
		}))
		must(netnstest.Within(ns, func() error {
			number := map[string]string{"one": "1", "two": "2"}[name]
			link, err := up("eth0", "192.0.2."+number+"/24", "2001:db8::"+number+"/64")
			if err == nil {
				l.macs[link.Attrs().HardwareAddr.String()] = name
			}
			return err
		}))
	}
	return l
}

// announce runs a node's announcer; stop kills it.
func (l *lan) announce(t *testing.T, node string, ips ...string) (stop func()) {
	t.Helper()
	client := fake.NewClientset(balanced(ips...), readyNode("one"), readyNode("two"))
	factory := informers.NewSharedInformerFactory(client, 0)
	config := Config{
		NodeName: node, Services: factory.Core().V1().Services(), Slices: factory.Discovery().V1().EndpointSlices(), Nodes: factory.Core().V1().Nodes(),
		Log: slog.New(slog.NewTextHandler(t.Output(), nil)).With("node", node),
	}
	config.Services.Informer()
	config.Slices.Informer()
	config.Nodes.Informer()
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	factory.Start(ctx.Done())
	go func() { done <- netnstest.Within(l.nodes[node], func() error { return Run(ctx, config) }) }()
	stopped := false
	stop = func() {
		if !stopped {
			stopped = true
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			factory.Shutdown()
		}
	}
	t.Cleanup(stop)
	return stop
}

// owner is the node that the client's kernel sends packets for an address to;
// "": it found none. It asks anew if forget.
func (l *lan) owner(t *testing.T, ip string, forget bool) string {
	t.Helper()
	name := ""
	err := netnstest.Within(l.client, func() error {
		link, err := netlink.LinkByName("lan")
		if err != nil {
			return err
		}
		index, address := link.Attrs().Index, net.ParseIP(ip)
		if forget {
			_ = netlink.NeighDel(&netlink.Neigh{LinkIndex: index, IP: address}) // there may be none
		}
		conn, err := net.Dial("udp", net.JoinHostPort(ip, "9"))
		if err != nil {
			return err
		}
		defer conn.Close()
		_, _ = conn.Write([]byte("x")) // what makes the kernel ask
		time.Sleep(100 * time.Millisecond)
		all, err := netlink.NeighList(index, netlink.FAMILY_ALL)
		for _, n := range all {
			if n.IP.Equal(address) {
				name = l.macs[n.HardwareAddr.String()]
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return name
}

func (l *lan) awaitOwner(t *testing.T, ip string, forget bool, is func(string) bool) string {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; {
		name := l.owner(t, ip, forget)
		if is(name) {
			return name
		}
		if time.Now().After(deadline) {
			t.Fatalf("packets for %s go to %q", ip, name)
		}
	}
}

// settles waits until a node alone answers for an address, and fails if the node is
// another in the end. A machine that stands still for seconds, as a busy one may,
// makes the other node answer for a moment, as it should.
func (l *lan) settles(t *testing.T, ip, want string) {
	t.Helper()
	alone := 0 // answers without any of the other
	l.awaitOwner(t, ip, true, func(name string) bool {
		switch name {
		case "":
		case want:
			alone++
		default:
			alone = 0
		}
		return alone == 20
	})
}

// The client's kernel is told who has an address, asks for it, and follows it
// when its node dies and comes back.
func TestAddressesAreAnswered(t *testing.T) {
	l := newLAN(t)
	ips := []string{"192.0.2.200"}
	if l.v6 {
		ips = append(ips, "2001:db8::200")
	} else {
		t.Log("no IPv6 here: only ARP is tried")
	}
	for _, ip := range ips {
		t.Run(ip, func(t *testing.T) {
			stops := map[string]func(){}
			for name := range l.nodes {
				stops[name] = l.announce(t, name, ip)
			}
			first := "one"
			if rank("two", []string{"one", "two"}, netip.MustParseAddr(ip)) == 0 {
				first = "two"
			}
			// Asked for, not only heard.
			l.awaitOwner(t, ip, true, func(name string) bool { return name != "" })
			time.Sleep(2 * silence) // both have had the time for a mistake
			l.settles(t, ip, first)
			stops[first]()
			died := time.Now()
			second := l.awaitOwner(t, ip, false, func(name string) bool { return name != "" && name != first })
			t.Logf("%s took over %s after its death", second, time.Since(died).Round(100*time.Millisecond))
			l.settles(t, ip, second)
			stops[first] = l.announce(t, first, ip)
			l.awaitOwner(t, ip, false, func(name string) bool { return name == first })
			l.settles(t, ip, first) // who lets go answers no more
			for _, stop := range stops {
				stop()
			}
		})
	}
}
