package network

import (
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

var silent = slog.New(slog.DiscardHandler)

// node has addresses and pod CIDRs as they are given: one, or two with a comma
// between them.
func node(name, addresses, cidrs string, age time.Duration) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:              name,
		CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age)),
	}}
	if cidrs != "" {
		n.Spec.PodCIDRs = strings.Split(cidrs, ",")
		n.Spec.PodCIDR = n.Spec.PodCIDRs[0]
	}
	n.Status.Addresses = []corev1.NodeAddress{{Type: corev1.NodeHostName, Address: name}}
	for address := range strings.SplitSeq(addresses, ",") {
		n.Status.Addresses = append(n.Status.Addresses, corev1.NodeAddress{Type: corev1.NodeInternalIP, Address: address})
	}
	return n
}

func addrs(texts ...string) map[family]netip.Addr {
	found := map[family]netip.Addr{}
	for _, text := range texts {
		found[familyOf(netip.MustParseAddr(text))] = netip.MustParseAddr(text)
	}
	return found
}

func nets(texts ...string) map[family]netip.Prefix {
	found := map[family]netip.Prefix{}
	for _, text := range texts {
		found[familyOf(netip.MustParsePrefix(text).Addr())] = netip.MustParsePrefix(text)
	}
	return found
}

func ranges(texts ...string) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range texts {
		list = append(list, netip.MustParsePrefix(text))
	}
	return list
}

func TestServiceRanges(t *testing.T) {
	factory := informers.NewSharedInformerFactory(fake.NewClientset(), 0)
	cidrs := factory.Networking().V1().ServiceCIDRs()
	if got := fmt.Sprint(ServiceRanges("10.96.0.0/16,fd00:b::/112", nil)); got != "[10.96.0.0/16 fd00:b::/112]" {
		t.Errorf("got %s, want those of the configuration", got)
	}
	for name, networks := range map[string][]string{"kubernetes": {"10.96.0.0/16", "fd00:b::/112"}, "more": {"10.97.0.0/24"}} {
		err := cidrs.Informer().GetStore().Add(&networkingv1.ServiceCIDR{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: networks}})
		if err != nil {
			t.Fatal(err)
		}
	}
	if got := fmt.Sprint(ServiceRanges("10.96.0.0/16,fd00:b::/112", cidrs)); got != "[10.96.0.0/16 10.97.0.0/24 fd00:b::/112]" {
		t.Errorf("got %s, want each network once", got)
	}
}

func TestDraw(t *testing.T) {
	self := node("a", "10.0.0.1", "10.244.0.0/24", 9)
	both := node("a", "10.0.0.1,fd00::1", "10.244.0.0/24,fd00:a::/64", 9)
	peerB := peer{addrs("10.0.0.2"), nets("10.244.1.0/24")}
	dualB := peer{addrs("10.0.0.2", "fd00::2"), nets("10.244.1.0/24", "fd00:a:0:1::/64")}
	tests := []struct {
		name  string
		nodes []*corev1.Node
		want  []peer
		cidr  string
	}{
		{"alone", []*corev1.Node{self}, nil, "10.244.0.0/24"},
		{"no CIDR yet", []*corev1.Node{node("a", "10.0.0.1", "", 0)}, nil, ""},
		{"a peer", []*corev1.Node{node("b", "10.0.0.2", "10.244.1.0/24", 1), self}, []peer{peerB}, "10.244.0.0/24"},
		{"peers that are not ready", []*corev1.Node{self, node("b", "", "10.244.1.0/24", 0), node("c", "10.0.0.3", "", 0)}, nil, "10.244.0.0/24"},
		{"the older of two claims", []*corev1.Node{self,
			node("thief", "10.0.0.3", "10.244.1.0/24", 1), node("b", "10.0.0.2", "10.244.1.0/24", 2)}, []peer{peerB}, "10.244.0.0/24"},
		{"both families", []*corev1.Node{both, node("b", "10.0.0.2,fd00::2", "10.244.1.0/24,fd00:a:0:1::/64", 1)}, []peer{dualB}, "10.244.0.0/24,fd00:a::/64"},
		{"one of two families", []*corev1.Node{both, node("b", "10.0.0.2", "10.244.1.0/24", 1)}, []peer{peerB}, "10.244.0.0/24,fd00:a::/64"},
		{"a second family that another has", []*corev1.Node{both, node("b", "10.0.0.2,fd00::2", "10.244.1.0/24,fd00:a:0:1::/64", 2),
			node("thief", "10.0.0.3,fd00::3", "10.244.2.0/24,fd00:a:0:1::/64", 1)}, []peer{dualB}, "10.244.0.0/24,fd00:a::/64"},
		{"one with our address", []*corev1.Node{self, node("old", "10.0.0.1", "10.244.9.0/24", 0)}, nil, "10.244.0.0/24"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := draw(test.nodes, "a", ipv4, addrs("10.0.0.1"), silent)
			want := picture{Outer: ipv4, Address: addrs("10.0.0.1"), Peers: test.want}
			if test.cidr != "" {
				want.PodCIDR = nets(strings.Split(test.cidr, ",")...)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// TestDrawIPv6 has nodes whose addresses are of IPv6 alone.
func TestDrawIPv6(t *testing.T) {
	nodes := []*corev1.Node{node("a", "fd00::1", "fd00:a::/64", 9), node("b", "fd00::2", "fd00:a:0:1::/64", 8),
		node("thief", "fd00::2", "fd00:a:0:2::/64", 1), node("of another family", "10.0.0.3", "10.244.3.0/24", 1)}
	got := draw(nodes, "a", ipv6, addrs("fd00::1"), silent)
	want := picture{Outer: ipv6, Address: addrs("fd00::1"), PodCIDR: nets("fd00:a::/64"), Peers: []peer{{addrs("fd00::2"), nets("fd00:a:0:1::/64")}}}
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
		cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
		t.Error(diff)
	}
}

// TestOverlayOverIPv6 has the overlay's packets go between IPv6 addresses.
func TestOverlayOverIPv6(t *testing.T) {
	inNamespace(t)
	addSecond(t, "fd00::1/64", 0)
	far, near := netip.MustParseAddr("fd00:9::2"), netip.MustParseAddr("fd00::3")
	want := picture{Outer: ipv6, Address: addrs("fd00::1"), PodCIDR: nets("fd00:a::/64"), Services: ranges("fd00:b::/112"), Peers: []peer{
		{addrs(far.String()), nets("fd00:a:0:1::/64")}, {addrs(near.String()), nets("fd00:a:0:2::/64")}}}
	index := 0
	for range 2 { // the second time nothing changes
		mtu, err := reconcileOverlay(want, false, silent)
		if err != nil {
			t.Fatal(err)
		}
		if mtu != 1330 {
			t.Errorf("MTU is %d, want the uplink's less 70", mtu)
		}
		link, err := netlink.LinkByName(OverlayLink)
		if err != nil {
			t.Fatal(err)
		}
		if index != 0 && link.Attrs().Index != index {
			t.Error("the device was replaced")
		}
		index = link.Attrs().Index
		var ends []string
		entries, err := netlink.NeighList(index, unix.AF_BRIDGE)
		if err != nil {
			t.Fatal(err)
		}
		for _, entry := range entries {
			if entry.IP != nil {
				ends = append(ends, entry.HardwareAddr.String()+" "+entry.IP.String())
			}
		}
		wantEnds := []string{overlayMAC(far).String() + " " + far.String(), overlayMAC(near).String() + " " + near.String()}
		slices.Sort(wantEnds)
		if slices.Sort(ends); !slices.Equal(ends, wantEnds) {
			t.Errorf("the device forwards to %v, want %v", ends, wantEnds)
		}
	}
	if list := strings.Join(state(t), "\n"); !strings.Contains(list, "route to fd00:a:0:1::/64 via fd00:a:0:1:: from fd00:a:: over cctl-vx") ||
		!strings.Contains(list, "route to fd00:a:0:2::/64 via fd00::3 from fd00::1 over uplink") {
		t.Errorf("what leads to other nodes is\n%s", list)
	}
}

func TestInternalIPs(t *testing.T) {
	for addresses, want := range map[string]string{
		"10.0.0.1":                          "[10.0.0.1]",
		"10.0.0.1,fd00::1":                  "[10.0.0.1 fd00::1]",
		"fd00::1,10.0.0.1":                  "[fd00::1 10.0.0.1]",
		"10.0.0.1,10.0.0.2,fd00::1,fd00::2": "[10.0.0.1 fd00::1]",
		"nonsense,10.0.0.1":                 "[10.0.0.1]",
	} {
		if got := fmt.Sprint(InternalIPs(node("a", addresses, "", 0))); got != want {
			t.Errorf("%s: got %s, want %s", addresses, got, want)
		}
	}
}

func TestHeartbeatsDoNotMatter(t *testing.T) {
	before, after := node("a", "10.0.0.1", "10.244.0.0/24", 0), node("a", "10.0.0.1", "10.244.0.0/24", 0)
	after.ResourceVersion = "2"
	if differs(before, after) {
		t.Error("a heartbeat was taken for a change")
	}
	after.Spec.PodCIDR = "10.244.1.0/24"
	if !differs(before, after) {
		t.Error("another CIDR was not taken for a change")
	}
	if !differs(before, node("a", "10.0.0.1,fd00::1", "10.244.0.0/24", 0)) {
		t.Error("a second address was not taken for a change")
	}
}

func TestConflist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni", conflistFile)
	cidrs := []netip.Prefix{netip.MustParsePrefix("10.244.3.0/24"), netip.MustParsePrefix("fd00:a:0:3::/64")}
	if err := writeConflist(path, cidrs, 1450); err != nil {
		t.Fatal(err)
	}
	raw, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var got struct {
		CNIVersion, Name string
		Plugins          []map[string]any
	}
	var addresses struct{ Plugins []struct{ IPAM hostLocal } }
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Plugins) != 1 || got.Plugins[0]["bridge"] != "cctl0" || got.Plugins[0]["mtu"] != 1450.0 ||
		got.Plugins[0]["hairpinMode"] != true {
		t.Errorf("got %s", raw)
	}
	if err := json.Unmarshal(raw, &addresses); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([][]subnet{{{"10.244.3.0/24"}}, {{"fd00:a:0:3::/64"}}}, addresses.Plugins[0].IPAM.Ranges); diff != "" {
		t.Error(diff)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeConflist(path, cidrs, 1450); err != nil {
		t.Fatal(err)
	}
	after, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if !os.SameFile(before, after) {
		t.Error("an unchanged configuration was written again")
	}
}

// inNamespace runs the rest of the test in a network namespace of its own,
// with an uplink that has the address 10.0.0.1.
func inNamespace(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("making a network namespace needs root")
	}
	runtime.LockOSThread()
	original, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	created, err := netns.New()
	if err != nil {
		t.Skipf("cannot make a network namespace: %v", err)
	}
	t.Cleanup(func() {
		created.Close()
		if err := netns.Set(original); err == nil {
			runtime.UnlockOSThread()
		}
		original.Close()
	})
	uplink := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "uplink", MTU: 1400}, PeerName: "far"}
	if err := netlink.LinkAdd(uplink); err != nil {
		t.Skipf("cannot add a link: %v", err)
	}
	address, _ := netlink.ParseAddr("10.0.0.1/24")
	far, err := netlink.LinkByName("far")
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(netlink.AddrAdd(uplink, address), netlink.LinkSetUp(uplink), netlink.LinkSetUp(far)); err != nil {
		t.Fatal(err)
	}
	// What is elsewhere is reached through a router.
	if err := netlink.RouteAdd(&netlink.Route{Dst: ipNet(netip.MustParsePrefix("10.9.0.0/16")), Gw: net.ParseIP("10.0.0.254")}); err != nil {
		t.Fatal(err)
	}
}

// addSecond gives the uplink an IPv6 address.
func addSecond(t *testing.T, text string, flags int) {
	t.Helper()
	uplink, err := netlink.LinkByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	address, err := netlink.ParseAddr(text)
	if err != nil {
		t.Fatal(err)
	}
	address.Flags = flags | unix.IFA_F_NODAD
	if err := netlink.AddrAdd(uplink, address); err != nil {
		t.Skipf("cannot add an IPv6 address: %v", err)
	}
}

// state lists what leads to pods of other nodes, in words.
func state(t *testing.T) []string {
	t.Helper()
	link, err := netlink.LinkByName(OverlayLink)
	if err != nil {
		t.Fatal(err)
	}
	var found []string
	for _, f := range families {
		routes, err := ourRoutes(f)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			over, err := netlink.LinkByIndex(r.LinkIndex)
			if err != nil {
				t.Fatal(err)
			}
			found = append(found, fmt.Sprintf("route to %s via %s from %s over %s", r.Dst, r.Gw, r.Src, over.Attrs().Name))
		}
		neighbours, err := netlink.NeighList(link.Attrs().Index, int(f))
		if err != nil {
			t.Fatal(err)
		}
		for _, n := range neighbours {
			if n.State&netlink.NUD_PERMANENT != 0 {
				found = append(found, "neighbour "+n.IP.String()+" at "+n.HardwareAddr.String())
			}
		}
		addresses, err := netlink.AddrList(link, int(f))
		if err != nil {
			t.Fatal(err)
		}
		for _, a := range addresses {
			if !a.IP.IsLinkLocalUnicast() {
				found = append(found, "address "+a.IPNet.String())
			}
		}
	}
	entries, err := netlink.NeighList(link.Attrs().Index, unix.AF_BRIDGE)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if e.IP != nil {
			found = append(found, "forward "+e.HardwareAddr.String()+" to "+e.IP.String())
		}
	}
	return found
}

func TestOverlayFollowsThePicture(t *testing.T) {
	inNamespace(t)
	addSecond(t, "fd00::1/64", 0)
	b := peer{addrs("10.9.0.2"), nets("10.244.1.0/24")}
	c := peer{addrs("10.9.0.3"), nets("10.244.2.0/24")}
	moved := peer{addrs("10.9.0.9"), b.PodCIDR}
	near := peer{addrs("10.0.0.2"), b.PodCIDR}
	dual := peer{addrs("10.9.0.2"), nets("10.244.1.0/24", "fd00:a:0:1::/64")}
	dualNear := peer{addrs("10.0.0.2", "fd00::2"), dual.PodCIDR}
	single := []string{"address 10.244.0.0/32", "route to 10.96.0.0/16 via <nil> from 10.244.0.0 over cctl-vx"}
	both := append([]string{"address fd00:a::/128", "route to fd00:b::/112 via <nil> from fd00:a:: over cctl-vx"}, single...)
	viaOverlay := []string{
		"route to 10.244.1.0/24 via 10.244.1.0 from 10.244.0.0 over cctl-vx",
		"neighbour 10.244.1.0 at 02:cc:0a:09:00:02",
		"forward 02:cc:0a:09:00:02 to 10.9.0.2",
	}
	bothViaOverlay := append([]string{
		"route to fd00:a:0:1::/64 via fd00:a:0:1:: from fd00:a:: over cctl-vx",
		"neighbour fd00:a:0:1:: at 02:cc:0a:09:00:02",
	}, viaOverlay...)
	// The overlay's entries stay where routes do not lead to it: other nodes may
	// see it otherwise.
	nearOverlay := []string{"neighbour 10.244.1.0 at 02:cc:0a:00:00:02", "forward 02:cc:0a:00:00:02 to 10.0.0.2"}
	straight := append([]string{"route to 10.244.1.0/24 via 10.0.0.2 from 10.0.0.1 over uplink"}, nearOverlay...)
	tests := []struct {
		name   string
		six    bool
		always bool
		peers  []peer
		want   [][]string
	}{
		{"alone", false, false, nil, [][]string{single}},
		{"a node joins", false, false, []peer{b}, [][]string{single, viaOverlay}},
		{"nothing changes", false, false, []peer{b}, [][]string{single, viaOverlay}},
		{"another joins", false, false, []peer{b, c}, [][]string{single, viaOverlay, {
			"route to 10.244.2.0/24 via 10.244.2.0 from 10.244.0.0 over cctl-vx",
			"neighbour 10.244.2.0 at 02:cc:0a:09:00:03",
			"forward 02:cc:0a:09:00:03 to 10.9.0.3"}}},
		{"one leaves", false, false, []peer{b}, [][]string{single, viaOverlay}},
		{"one changes its address", false, false, []peer{moved}, [][]string{single, {
			"route to 10.244.1.0/24 via 10.244.1.0 from 10.244.0.0 over cctl-vx",
			"neighbour 10.244.1.0 at 02:cc:0a:09:00:09",
			"forward 02:cc:0a:09:00:09 to 10.9.0.9"}}},
		{"one moves to our link", false, false, []peer{near}, [][]string{single, straight}},
		{"nothing changes on our link", false, false, []peer{near}, [][]string{single, straight}},
		{"the overlay is for all", false, true, []peer{near}, [][]string{single, nearOverlay, viaOverlay[:1]}},
		{"and then not", false, false, []peer{near}, [][]string{single, straight}},
		{"one moves away", false, false, []peer{b}, [][]string{single, viaOverlay}},
		{"a second family", true, false, []peer{dual}, [][]string{both, bothViaOverlay}},
		{"on our link", true, false, []peer{dualNear}, [][]string{both, straight, {
			"route to fd00:a:0:1::/64 via fd00::2 from fd00::1 over uplink",
			"neighbour fd00:a:0:1:: at 02:cc:0a:00:00:02"}}},
		{"on our link with IPv4 alone", true, false, []peer{{near.Address, dual.PodCIDR}}, [][]string{both, straight, {
			"route to fd00:a:0:1::/64 via fd00:a:0:1:: from fd00:a:: over cctl-vx",
			"neighbour fd00:a:0:1:: at 02:cc:0a:00:00:02"}}},
		{"one without the second family", true, false, []peer{b}, [][]string{both, viaOverlay}},
		{"away again", true, false, []peer{dual}, [][]string{both, bothViaOverlay}},
		{"one family again", false, false, []peer{b}, [][]string{single, viaOverlay}},
		{"all leave", false, false, nil, [][]string{single}},
	}
	var index int
	for _, test := range tests {
		picture := picture{Outer: ipv4, Address: addrs("10.0.0.1", "fd00::1"), Peers: test.peers, PodCIDR: nets("10.244.0.0/24"), Services: ranges("10.96.0.0/16", "fd00:b::/112")}
		if test.six {
			picture.PodCIDR = nets("10.244.0.0/24", "fd00:a::/64")
		}
		mtu, err := reconcileOverlay(picture, test.always, silent)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if mtu != 1350 {
			t.Errorf("%s: MTU is %d, want the uplink's less 50", test.name, mtu)
		}
		sorted := cmpopts.SortSlices(strings.Compare)
		if diff := cmp.Diff(slices.Concat(test.want...), state(t), sorted, cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s: %s", test.name, diff)
		}
		link, err := netlink.LinkByName(OverlayLink)
		if err != nil {
			t.Fatal(err)
		}
		if index != 0 && link.Attrs().Index != index {
			t.Errorf("%s: the device was replaced", test.name)
		}
		index = link.Attrs().Index
		if link.Attrs().HardwareAddr.String() != "02:cc:0a:00:00:01" || link.Attrs().Flags&net.FlagUp == 0 {
			t.Errorf("%s: device is %+v", test.name, link.Attrs())
		}
	}
}

func TestVainNeighboursGo(t *testing.T) {
	inNamespace(t)
	want := picture{Outer: ipv4, Address: addrs("10.0.0.1"), PodCIDR: nets("10.244.0.0/24"), Services: ranges("10.96.0.0/16")}
	if _, err := reconcileOverlay(want, false, silent); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(OverlayLink)
	if err != nil {
		t.Fatal(err)
	}
	mac := net.HardwareAddr{2, 0, 0, 0, 0, 1}
	for _, n := range []netlink.Neigh{{IP: net.IPv4(10, 96, 0, 1), State: netlink.NUD_FAILED}, {IP: net.IPv4(10, 96, 0, 2), State: netlink.NUD_REACHABLE, HardwareAddr: mac}} {
		n.LinkIndex = link.Attrs().Index
		if err := netlink.NeighSet(&n); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := reconcileOverlay(want, false, silent); err != nil {
		t.Fatal(err)
	}
	neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	var left []string
	for _, n := range neighbours {
		if n.State != netlink.NUD_NOARP { // those are for multicast
			left = append(left, n.IP.String())
		}
	}
	if !slices.Equal(left, []string{"10.96.0.2"}) {
		t.Errorf("neighbours are %v, want the one that answers", left)
	}
}

func TestRoutesGoWithTheNetwork(t *testing.T) {
	inNamespace(t)
	addSecond(t, "fd00::1/64", 0)
	before := allRoutes(t)
	want := picture{Outer: ipv4, Address: addrs("10.0.0.1", "fd00::1"), PodCIDR: nets("10.244.0.0/24", "fd00:a::/64"), Peers: []peer{
		{addrs("10.0.0.2", "fd00::2"), nets("10.244.1.0/24", "fd00:a:0:1::/64")}, {addrs("10.9.0.3"), nets("10.244.2.0/24", "fd00:a:0:2::/64")}}}
	if _, err := reconcileOverlay(want, false, silent); err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(before, allRoutes(t)); diff == "" {
		t.Error("no routes")
	}
	for range 2 { // the second time, there is nothing to remove
		if err := errors.Join(removeRoutes(), removeLinks()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff(before, allRoutes(t)); diff != "" {
		t.Errorf("routes are not what they were: %s", diff)
	}
}

func allRoutes(t *testing.T) []string {
	t.Helper()
	var found []string
	for _, f := range families {
		routes, err := netlink.RouteListFiltered(int(f), &netlink.Route{}, 0)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range routes {
			if r.Protocol != unix.RTPROT_KERNEL { // the kernel's own come when it likes
				found = append(found, routeKey(&r))
			}
		}
	}
	slices.Sort(found)
	return found
}

func TestSecondAddress(t *testing.T) {
	inNamespace(t)
	address := netip.MustParseAddr("10.0.0.1")
	if got, ok := SecondAddress(address); ok {
		t.Errorf("got %s of a host that has none", got)
	}
	addSecond(t, "fd00::9/64", 0)
	addSecond(t, "fd00::5/64", 0)
	addSecond(t, "fd00::2/64", unix.IFA_F_DEPRECATED)
	lease := "fd00::1/64"
	addSecond(t, lease, 0)
	uplink, err := netlink.LinkByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	leased, err := netlink.ParseAddr(lease)
	if err != nil {
		t.Fatal(err)
	}
	leased.ValidLft, leased.PreferedLft = 4000, 3000
	deprecated, err := netlink.ParseAddr("fd00::2/64")
	if err != nil {
		t.Fatal(err)
	}
	deprecated.ValidLft, deprecated.PreferedLft = 4000, 0
	if err := errors.Join(netlink.AddrReplace(uplink, leased), netlink.AddrReplace(uplink, deprecated)); err != nil {
		t.Fatal(err)
	}
	if got, ok := SecondAddress(address); !ok || got != netip.MustParseAddr("fd00::5") {
		t.Errorf("got %s, want the first that stays", got)
	}
}

func TestOverlayDeviceIsReplacedWhenTheAddressChanges(t *testing.T) {
	inNamespace(t)
	want := picture{Outer: ipv4, Address: addrs("10.0.0.1"), PodCIDR: nets("10.244.0.0/24")}
	if _, err := reconcileOverlay(want, false, silent); err != nil {
		t.Fatal(err)
	}
	uplink, err := netlink.LinkByName("uplink")
	if err != nil {
		t.Fatal(err)
	}
	address, _ := netlink.ParseAddr("10.0.0.7/24")
	if err := netlink.AddrAdd(uplink, address); err != nil {
		t.Fatal(err)
	}
	want.Address = addrs("10.0.0.7")
	if _, err := reconcileOverlay(want, false, silent); err != nil {
		t.Fatal(err)
	}
	link, err := netlink.LinkByName(OverlayLink)
	if err != nil {
		t.Fatal(err)
	}
	if got := link.(*netlink.Vxlan).SrcAddr.String(); got != "10.0.0.7" {
		t.Errorf("the device sends from %s, want 10.0.0.7", got)
	}
}

func TestRules(t *testing.T) {
	for name, pods := range map[string][2]string{
		"IPv4": {"10.244.0.0/16", "10.244.0.0/24"}, "IPv6": {"fd00:a::/56", "fd00:a::/64"},
	} {
		t.Run(name, func(t *testing.T) {
			inNamespace(t)
			testRules(t, netip.MustParsePrefix(pods[0]), netip.MustParsePrefix(pods[1]))
		})
	}
}

func testRules(t *testing.T, pods, cidr netip.Prefix) {
	f := familyOf(pods.Addr())
	if err := masquerade(f, pods, cidr); err != nil {
		t.Skipf("no nftables here: %v", err)
	}
	r := &rules{family: f, pods: pods}
	if err := r.find(); err != nil || r.tables == nil {
		t.Skipf("no iptables here: %v", err)
	}
	if _, err := r.tables.List("nat", "POSTROUTING"); err != nil {
		t.Skipf("the kernel has no NAT: %v", err)
	}
	// What an earlier version left, and what others have of the same plugin.
	comment := func(network string) []string {
		return []string{"-m", "comment", "--comment", `dnat name: "` + network + `" id: "1"`}
	}
	for _, rule := range [][]string{
		{"nat", chainMasquerade, "-j", "MASQUERADE"},
		{"nat", "POSTROUTING", "-j", chainMasquerade},
		{"nat", "CNI-DN-ours", "-j", "RETURN"},
		{"nat", "CNI-DN-others", "-j", "RETURN"},
		append(append([]string{"nat", portmapDNAT, "-p", "tcp"}, comment("clusterctl")...), "-j", "CNI-DN-ours"),
		append(append([]string{"nat", portmapDNAT, "-p", "tcp"}, comment("others")...), "-j", "CNI-DN-others"),
		{"nat", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", portmapDNAT},
	} {
		if ok, err := r.tables.ChainExists(rule[0], rule[1]); err != nil || !ok {
			if err := r.tables.NewChain(rule[0], rule[1]); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.tables.Append(rule[0], rule[1], rule[2:]...); err != nil {
			t.Fatal(err)
		}
	}
	chains := func(table string) string {
		t.Helper()
		list, err := r.tables.ListChains(table)
		if err != nil {
			t.Fatal(err)
		}
		return strings.Join(list, " ")
	}
	for range 2 { // the second time, nothing is doubled
		if err := r.reconcile(cidr); err != nil {
			t.Fatal(err)
		}
	}
	check := func(table, chain string, want ...string) {
		t.Helper()
		got, err := r.tables.List(table, chain)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got[1:], cmpopts.EquateEmpty()); diff != "" {
			t.Errorf("%s %s: %s", table, chain, diff)
		}
	}
	forward := []string{
		"-A CCTL-FORWARD -j CCTL-REJECT",
		"-A CCTL-FORWARD -s " + pods.String() + " -j ACCEPT",
		"-A CCTL-FORWARD -d " + pods.String() + " -j ACCEPT",
	}
	check("filter", ChainForward, forward...)
	check("filter", "FORWARD", "-A FORWARD -j CCTL-FORWARD")
	check("nat", "POSTROUTING")
	if err := r.tables.Delete("filter", ChainForward, "-s", pods.String(), "-j", "ACCEPT"); err != nil {
		t.Fatal(err)
	}
	if err := r.reconcile(cidr); err != nil {
		t.Fatal(err)
	}
	check("filter", ChainForward, forward...)

	ports := NewHostPorts(silent)
	if err := ports.Restore(nil); err != nil {
		t.Fatal(err)
	}
	if got := chains("nat"); strings.Contains(got, "ours") || !strings.Contains(got, "others") {
		t.Errorf("of another version's port maps, there are %s", got)
	}
	if err := r.tables.Delete("nat", portmapDNAT, append(append([]string{"-p", "tcp"}, comment("others")...), "-j", "CNI-DN-others")...); err != nil {
		t.Fatal(err)
	}
	if err := r.tables.ClearAndDeleteChain("nat", "CNI-DN-others"); err != nil {
		t.Fatal(err)
	}
	// What the service proxy adds.
	if err := r.tables.Append("filter", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", ChainReject); err != nil {
		t.Fatal(err)
	}
	for range 2 { // the second time, there is nothing to remove
		if err := removeRules(silent); err != nil {
			t.Fatal(err)
		}
	}
	check("filter", "INPUT")
	check("nat", "PREROUTING")
	check("filter", "FORWARD")
	for _, table := range []string{"filter", "nat"} {
		if got := chains(table); strings.Contains(got, "CCTL") || strings.Contains(got, "CNI") {
			t.Errorf("table %s still has %s", table, got)
		}
	}
	for _, name := range []string{tableNetwork, tableHostPorts} {
		if exists, err := tableExists(f.table(name)); err != nil || exists {
			t.Errorf("table %s is still there (%v)", name, err)
		}
	}
}

func TestSysctlsAreRestored(t *testing.T) {
	inNamespace(t)
	const name = "net/ipv4/ip_forward"
	if err := writeSysctl(name, "0"); err != nil {
		t.Skipf("sysctls cannot be written here: %v", err)
	}
	dir := t.TempDir()
	settings := []sysctl{{name: name, value: "1"}, {name: "net/none", value: "1", optional: "nothing"}}
	const room = "net/core/somaxconn"
	if err := writeSysctl(room, "200"); err != nil {
		t.Fatal(err)
	}
	settings = append(settings, sysctl{name: room, value: "100", least: true})
	for range 2 {
		if err := setSysctls(dir, settings, silent); err != nil {
			t.Fatal(err)
		}
	}
	if value, _ := readSysctl(name); value != "1" {
		t.Errorf("%s is %s, want 1", name, value)
	}
	if value, _ := readSysctl(room); value != "200" {
		t.Errorf("%s is %s, want it left at the larger 200", room, value)
	}
	settings[len(settings)-1].value = "300"
	if err := setSysctls(dir, settings, silent); err != nil {
		t.Fatal(err)
	}
	if value, _ := readSysctl(room); value != "300" {
		t.Errorf("%s is %s, want 300", room, value)
	}
	for range 2 {
		if err := restoreSysctls(dir, silent); err != nil {
			t.Fatal(err)
		}
	}
	if value, _ := readSysctl(name); value != "0" {
		t.Errorf("%s is %s after a restore, want 0", name, value)
	}
	if value, _ := readSysctl(room); value != "200" {
		t.Errorf("%s is %s after a restore, want 200", room, value)
	}
}

func TestRoomForConnections(t *testing.T) {
	for cpus, want := range map[int]string{1: "131072", 4: "131072", 8: "262144", 64: "1048576"} {
		if got := connectionSysctls(cpus)[0].value; got != want {
			t.Errorf("%d CPUs: room for %s connections, want %s", cpus, got, want)
		}
	}
}
