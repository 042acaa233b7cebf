package network

import (
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var silent = slog.New(slog.DiscardHandler)

func node(name, address, cidr string, age time.Duration) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{
		Name:              name,
		CreationTimestamp: metav1.NewTime(time.Unix(1e9, 0).Add(-age)),
	}}
	if cidr != "" {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	}
	if address != "" {
		n.Status.Addresses = []corev1.NodeAddress{
			{Type: corev1.NodeHostName, Address: name},
			{Type: corev1.NodeInternalIP, Address: address},
		}
	}
	return n
}

func TestDraw(t *testing.T) {
	self := node("a", "10.0.0.1", "10.244.0.0/24", 9)
	peerB := peer{netip.MustParseAddr("10.0.0.2"), netip.MustParsePrefix("10.244.1.0/24")}
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
		{"one with our address", []*corev1.Node{self, node("old", "10.0.0.1", "10.244.9.0/24", 0)}, nil, "10.244.0.0/24"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := draw(test.nodes, "a", "10.0.0.1", silent)
			want := picture{Address: netip.MustParseAddr("10.0.0.1"), Peers: test.want}
			if test.cidr != "" {
				want.PodCIDR = netip.MustParsePrefix(test.cidr)
			}
			if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Addr) bool { return a == b }),
				cmp.Comparer(func(a, b netip.Prefix) bool { return a == b }), cmpopts.EquateEmpty()); diff != "" {
				t.Error(diff)
			}
		})
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
}

func TestConflist(t *testing.T) {
	path := filepath.Join(t.TempDir(), "cni", conflistFile)
	cidr := netip.MustParsePrefix("10.244.3.0/24")
	if err := writeConflist(path, cidr, 1450); err != nil {
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
	if err := json.Unmarshal(raw, &got); err != nil {
		t.Fatal(err)
	}
	if len(got.Plugins) != 2 || got.Plugins[0]["bridge"] != "cctl0" || got.Plugins[0]["mtu"] != 1450.0 ||
		got.Plugins[0]["hairpinMode"] != true || got.Plugins[1]["type"] != "portmap" || !strings.Contains(string(raw), `"10.244.3.0/24"`) {
		t.Errorf("got %s", raw)
	}
	before, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := writeConflist(path, cidr, 1450); err != nil {
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
	if err := errors.Join(netlink.AddrAdd(uplink, address), netlink.LinkSetUp(uplink)); err != nil {
		t.Fatal(err)
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
	routes, err := netlink.RouteListFiltered(netlink.FAMILY_V4, &netlink.Route{LinkIndex: link.Attrs().Index}, netlink.RT_FILTER_OIF)
	if err != nil {
		t.Fatal(err)
	}
	for _, r := range routes {
		found = append(found, "route "+routeKey(&r))
	}
	neighbours, err := netlink.NeighList(link.Attrs().Index, netlink.FAMILY_V4)
	if err != nil {
		t.Fatal(err)
	}
	for _, n := range neighbours {
		if n.State&netlink.NUD_PERMANENT != 0 {
			found = append(found, "neighbour "+n.IP.String()+" at "+n.HardwareAddr.String())
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
	b := peer{netip.MustParseAddr("10.0.0.2"), netip.MustParsePrefix("10.244.1.0/24")}
	c := peer{netip.MustParseAddr("10.0.0.3"), netip.MustParsePrefix("10.244.2.0/24")}
	moved := peer{netip.MustParseAddr("10.0.0.9"), b.PodCIDR}
	picture := picture{
		Address:     netip.MustParseAddr("10.0.0.1"),
		PodCIDR:     netip.MustParsePrefix("10.244.0.0/24"),
		ServiceCIDR: netip.MustParsePrefix("10.96.0.0/16"),
	}
	const services = "route to 10.96.0.0/16 via <nil> from 10.244.0.0"
	onlyB := []string{
		services,
		"route to 10.244.1.0/24 via 10.244.1.0 from 10.244.0.0",
		"neighbour 10.244.1.0 at 02:cc:0a:00:00:02",
		"forward 02:cc:0a:00:00:02 to 10.0.0.2",
	}
	tests := []struct {
		name  string
		peers []peer
		want  []string
	}{
		{"alone", nil, []string{services}},
		{"a node joins", []peer{b}, onlyB},
		{"nothing changes", []peer{b}, onlyB},
		{"another joins", []peer{b, c}, append(onlyB,
			"route to 10.244.2.0/24 via 10.244.2.0 from 10.244.0.0",
			"neighbour 10.244.2.0 at 02:cc:0a:00:00:03",
			"forward 02:cc:0a:00:00:03 to 10.0.0.3")},
		{"one leaves", []peer{b}, onlyB},
		{"one changes its address", []peer{moved}, []string{
			services,
			"route to 10.244.1.0/24 via 10.244.1.0 from 10.244.0.0",
			"neighbour 10.244.1.0 at 02:cc:0a:00:00:09",
			"forward 02:cc:0a:00:00:09 to 10.0.0.9"}},
		{"all leave", nil, []string{services}},
	}
	var index int
	for _, test := range tests {
		picture.Peers = test.peers
		mtu, err := reconcileOverlay(picture, silent)
		if err != nil {
			t.Fatalf("%s: %v", test.name, err)
		}
		if mtu != 1350 {
			t.Errorf("%s: MTU is %d, want the uplink's less 50", test.name, mtu)
		}
		sorted := cmpopts.SortSlices(strings.Compare)
		if diff := cmp.Diff(test.want, state(t), sorted, cmpopts.EquateEmpty()); diff != "" {
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

func TestOverlayDeviceIsReplacedWhenTheAddressChanges(t *testing.T) {
	inNamespace(t)
	want := picture{Address: netip.MustParseAddr("10.0.0.1"), PodCIDR: netip.MustParsePrefix("10.244.0.0/24")}
	if _, err := reconcileOverlay(want, silent); err != nil {
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
	want.Address = netip.MustParseAddr("10.0.0.7")
	if _, err := reconcileOverlay(want, silent); err != nil {
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
	inNamespace(t)
	r, err := newRules()
	if err != nil {
		t.Skipf("no iptables here: %v", err)
	}
	if _, err := r.tables.List("nat", "POSTROUTING"); err != nil {
		t.Skipf("the kernel has no NAT: %v", err)
	}
	cidr := netip.MustParsePrefix("10.244.0.0/24")
	for range 2 { // the second time, nothing is doubled
		if err := r.reconcile(cidr, "10.244.0.0/16"); err != nil {
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
		"-A CCTL-FORWARD -s 10.244.0.0/16 -j ACCEPT",
		"-A CCTL-FORWARD -d 10.244.0.0/16 -j ACCEPT",
	}
	check("filter", ChainForward, forward...)
	check("filter", "FORWARD", "-A FORWARD -j CCTL-FORWARD")
	check("nat", "POSTROUTING", "-A POSTROUTING -j CCTL-MASQUERADE")
	if err := r.tables.Delete("filter", ChainForward, "-s", "10.244.0.0/16", "-j", "ACCEPT"); err != nil {
		t.Fatal(err)
	}
	if err := r.reconcile(cidr, "10.244.0.0/16"); err != nil {
		t.Fatal(err)
	}
	check("filter", ChainForward, forward...)

	// What the service proxy adds, and what the portmap plugin leaves.
	for _, rule := range [][]string{
		{"filter", "INPUT", "-m", "conntrack", "--ctstate", "NEW", "-j", ChainReject},
		{"nat", "PREROUTING", "-m", "addrtype", "--dst-type", "LOCAL", "-j", "CNI-HOSTPORT-DNAT"},
	} {
		if rule[0] == "nat" {
			if err := r.tables.NewChain("nat", "CNI-HOSTPORT-DNAT"); err != nil {
				t.Fatal(err)
			}
		}
		if err := r.tables.Append(rule[0], rule[1], rule[2:]...); err != nil {
			t.Fatal(err)
		}
	}
	if err := removeRules(silent); err != nil {
		t.Fatal(err)
	}
	check("filter", "INPUT")
	check("nat", "PREROUTING")
	check("filter", "FORWARD")
	check("nat", "POSTROUTING")
	for _, table := range []string{"filter", "nat"} {
		chains, err := r.tables.ListChains(table)
		if err != nil {
			t.Fatal(err)
		}
		if text := strings.Join(chains, " "); strings.Contains(text, "CCTL") || strings.Contains(text, "CNI") {
			t.Errorf("table %s still has %v", table, chains)
		}
	}
	if err := removeRules(silent); err != nil {
		t.Errorf("second removal: %v", err)
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
	for range 2 {
		if err := setSysctls(dir, settings, silent); err != nil {
			t.Fatal(err)
		}
	}
	if value, _ := readSysctl(name); value != "1" {
		t.Errorf("%s is %s, want 1", name, value)
	}
	for range 2 {
		if err := restoreSysctls(dir, silent); err != nil {
			t.Fatal(err)
		}
	}
	if value, _ := readSysctl(name); value != "0" {
		t.Errorf("%s is %s after a restore, want 0", name, value)
	}
}
