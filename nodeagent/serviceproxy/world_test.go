package serviceproxy

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/netnstest"
)

// world is a node in a network namespace of its own, with two pods on its
// bridge and a client outside:
//
//	client 192.0.2.2 ── 192.0.2.1 node 10.244.0.1 ── pods 10.244.0.2, .3
type world struct {
	t            *testing.T
	node, client netns.NsHandle
	pods         [2]netns.NsHandle
	backend      backend
	ports        map[string][]servicePort // as last applied
}

// modes has a test run with each back end.
func modes(t *testing.T, test func(t *testing.T, w *world)) {
	for _, mode := range []string{hostconfig.ProxyNftables, hostconfig.ProxyIptables} {
		t.Run(mode, func(t *testing.T) { test(t, newWorld(t, mode)) })
	}
}

const (
	nodeAddress = "192.0.2.1"
	clusterAddr = "10.96.0.20:80"
)

func newWorld(t *testing.T, mode string) *world {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making network namespaces needs root")
	}
	for _, program := range []string{"iptables", "iptables-restore"} {
		if _, err := exec.LookPath(program); err != nil {
			t.Skipf("no program %s here", program)
		}
	}
	w := &world{t: t, node: netnstest.Namespace(t), client: netnstest.Namespace(t)}
	w.must(netnstest.Within(w.node, func() error {
		bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "cctl0"}}
		return errors.Join(netlink.LinkAdd(bridge), netnstest.Address(bridge, "10.244.0.1/24"), netnstest.Up("lo"))
	}))
	w.must(netnstest.Cable(w.node, "client", nodeAddress+"/24", w.client, "192.0.2.2/24", nodeAddress))
	for i := range w.pods {
		w.pods[i] = netnstest.Namespace(t)
		name := fmt.Sprintf("pod%d", i)
		w.must(netnstest.Cable(w.node, name, "", w.pods[i], fmt.Sprintf("10.244.0.%d/24", i+2), "10.244.0.1"))
		w.must(netnstest.Within(w.node, func() error { return netnstest.Plug(name, "cctl0") }))
	}
	w.must(netnstest.Within(w.node, func() error {
		for _, name := range []string{"ipv4/ip_forward", "bridge/bridge-nf-call-iptables"} {
			if err := os.WriteFile("/proc/sys/net/"+name, []byte("1"), 0); err != nil {
				t.Skipf("cannot set sysctl: %v", err)
			}
		}
		w.backend = w.newBackend(mode, testLayout)
		// Services' addresses have to be routed somewhere to be rewritten.
		return netlink.RouteAdd(&netlink.Route{Gw: net.ParseIP("192.0.2.2")})
	}))
	return w
}

// addIPv6 gives the node fd00:10:244::1 and the pods ::2 and ::3 of the same
// network, and has the back end serve IPv6.
func (w *world) addIPv6(mode string) {
	w.t.Helper()
	everywhere := &net.IPNet{IP: net.IPv6zero, Mask: net.CIDRMask(0, 128)}
	for i, pod := range w.pods {
		err := netnstest.Within(pod, func() error {
			return netnstest.AddressAndRoute("eth0", fmt.Sprintf("fd00:10:244::%d/64", i+2), "fd00:10:244::1", everywhere)
		})
		if err != nil {
			w.t.Skipf("no IPv6 here: %v", err)
		}
	}
	l := layout{family: ipv6, pods: netip.MustParsePrefix("fd00:10:244::/56"), services: []netip.Prefix{netip.MustParsePrefix("fd00:10:96::/112")}}
	w.must(netnstest.Within(w.node, func() error {
		w.ports, w.backend = nil, w.newBackend(mode, l)
		services := &net.IPNet{IP: l.services[0].Addr().AsSlice(), Mask: net.CIDRMask(l.services[0].Bits(), 128)}
		return netnstest.AddressAndRoute("cctl0", "fd00:10:244::1/64", "fd00:10:244::99", services)
	}))
}

func (w *world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// serve answers TCP clients, and UDP ones, of a pod's port 8080 with the
// pod's number and the address the client has for it, or what it asked.
func (w *world) serve(pod int) {
	w.t.Helper()
	w.must(netnstest.Within(w.pods[pod], func() error {
		listener, err := net.Listen("tcp", ":8080")
		if err != nil {
			return err
		}
		packets, err := net.ListenPacket("udp", ":8080")
		if err != nil {
			return err
		}
		w.t.Cleanup(func() { listener.Close(); packets.Close() })
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				host, _, _ := net.SplitHostPort(conn.RemoteAddr().String())
				fmt.Fprintf(conn, "pod%d %s", pod, host)
				conn.Close()
			}
		}()
		go func() {
			buffer := make([]byte, 100)
			for {
				n, from, err := packets.ReadFrom(buffer)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(fmt.Appendf(nil, "pod%d %s", pod, buffer[:n]), from)
			}
		}()
		return nil
	}))
}

// ask connects from a namespace and returns what the pod answered: its number
// and our address.
func (w *world) ask(ns netns.NsHandle, to string) (pod, source string, err error) {
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
		pod, source, err = w.askFor(30*time.Second, ns, to)
		// A link may be up for seconds before neighbours find each other over it.
		if !errors.Is(err, unix.EHOSTUNREACH) || time.Now().After(deadline) {
			return pod, source, err
		}
	}
}

// silence returns nil if nobody answers at all.
func (w *world) silence(ns netns.NsHandle, to string) error {
	pod, _, err := w.askFor(2*time.Second, ns, to)
	var netErr net.Error
	if errors.As(err, &netErr) && netErr.Timeout() {
		return nil
	}
	return fmt.Errorf("got %q, %v, want silence", pod, err)
}

func (w *world) askFor(patience time.Duration, ns netns.NsHandle, to string) (pod, source string, err error) {
	err = netnstest.Within(ns, func() error {
		conn, err := net.DialTimeout("tcp", to, patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(patience))
		buffer := make([]byte, 100)
		n, err := conn.Read(buffer)
		pod, source, _ = strings.Cut(string(buffer[:n]), " ")
		return err
	})
	return pod, source, err
}

// newBackend returns a back end that knows nothing yet.
func (w *world) newBackend(mode string, l layout) backend {
	if mode == hostconfig.ProxyNftables {
		b := newNftables(l)
		if err := b.probe(); err != nil {
			w.t.Skipf("no nftables here: %v", err)
		}
		return b
	}
	b, err := newIptables(l)
	if err != nil {
		w.t.Skip(err)
	}
	if _, err := b.iptables.List("nat", "PREROUTING"); err != nil {
		w.t.Skipf("no NAT here: %v", err)
	}
	return b
}

// apply gives the node the rules for a service with endpoints, and reports
// whether there was anything to change.
func (w *world) apply(s *corev1.Service, endpoints *discoveryv1.EndpointSlice) bool {
	w.t.Helper()
	return w.applyAll(byName(buildModel([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{endpoints}, here)))
}

func (w *world) applyAll(all map[string][]servicePort) (changed bool) {
	w.t.Helper()
	changes := map[string]change{}
	for name, old := range w.ports {
		changes[name] = change{old: old}
	}
	for name, ports := range all {
		changes[name] = change{old: w.ports[name], new: ports}
	}
	w.ports = all
	w.must(netnstest.Within(w.node, func() (err error) {
		changed, err = w.backend.apply(all, changes)
		return err
	}))
	return changed
}

func refused(err error) bool { return err != nil && strings.Contains(err.Error(), "refused") }
