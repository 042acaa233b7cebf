package announce

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/hostconfig"
)

func balanced(ips ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "web", Annotations: map[string]string{hostconfig.AnnotationAddressFrom: "lan"}},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer},
	}
	for _, ip := range ips {
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: ip})
	}
	return s
}

func readyNode(name string) *corev1.Node {
	return &corev1.Node{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Status:     corev1.NodeStatus{Conditions: []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}}},
	}
}

func TestWhatIsAnnounced(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*corev1.Service)
		want   int
	}{
		"ours":        {func(*corev1.Service) {}, 2},
		"another's":   {func(s *corev1.Service) { s.Annotations = nil }, 0},
		"no balancer": {func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeNodePort }, 0},
		"a name":      {func(s *corev1.Service) { s.Status.LoadBalancer.Ingress[0] = corev1.LoadBalancerIngress{Hostname: "x"} }, 1},
	} {
		s := balanced("192.0.2.200", "2001:db8::1")
		test.change(s)
		if got := addresses(s); len(got) != test.want {
			t.Errorf("%s: %v, want %d", name, got, test.want)
		}
	}
}

func TestWhoMayAnnounce(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*corev1.Node)
		want   bool
	}{
		"ready":     {func(*corev1.Node) {}, true},
		"cordoned":  {func(n *corev1.Node) { n.Spec.Unschedulable = true }, true},
		"not ready": {func(n *corev1.Node) { n.Status.Conditions[0].Status = corev1.ConditionUnknown }, false},
		"excluded":  {func(n *corev1.Node) { n.Labels = map[string]string{corev1.LabelNodeExcludeBalancers: ""} }, false},
		"leaving":   {func(n *corev1.Node) { n.DeletionTimestamp = ptr.To(metav1.Now()) }, false},
	} {
		n := readyNode("one")
		test.change(n)
		if got := mayAnnounce(n); got != test.want {
			t.Errorf("%s: %t", name, got)
		}
	}
}

func TestNodesWithEndpoints(t *testing.T) {
	endpoint := func(node string, ready, serving bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{NodeName: &node, Conditions: discoveryv1.EndpointConditions{Ready: &ready, Serving: &serving}}
	}
	for name, test := range map[string]struct {
		endpoints []discoveryv1.Endpoint
		want      map[string]bool
	}{
		"none":             {nil, map[string]bool{}},
		"ready":            {[]discoveryv1.Endpoint{endpoint("a", true, true), endpoint("b", false, false)}, map[string]bool{"a": true}},
		"not the ending":   {[]discoveryv1.Endpoint{endpoint("a", true, true), endpoint("b", false, true)}, map[string]bool{"a": true}},
		"only the ending":  {[]discoveryv1.Endpoint{endpoint("a", false, false), endpoint("b", false, true)}, map[string]bool{"b": true}},
		"nothing is known": {[]discoveryv1.Endpoint{{NodeName: ptr.To("a")}, {}}, map[string]bool{"a": true}},
	} {
		got := withEndpoints([]*discoveryv1.EndpointSlice{{Endpoints: test.endpoints}})
		if fmt.Sprint(got) != fmt.Sprint(test.want) {
			t.Errorf("%s: %v, want %v", name, got, test.want)
		}
	}
}

// Every node finds a place of its own, and when a node goes only its addresses
// move.
func TestRanks(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		nodes := rapid.SliceOfNDistinct(rapid.StringMatching(`[a-z]{1,3}`), 2, 9, rapid.ID[string]).Draw(t, "nodes")
		address := netip.AddrFrom4([4]byte{192, 0, 2, rapid.Byte().Draw(t, "address")})
		place := map[int]string{}
		for _, n := range nodes {
			place[rank(n, nodes, address)] = n
		}
		for i := range nodes {
			if place[i] == "" {
				t.Fatalf("nobody has place %d of %v", i, nodes)
			}
		}
		if rank("UPPER", nodes, address) != -1 {
			t.Fatal("a stranger has a place")
		}
		var rest []string
		gone := place[rapid.IntRange(1, len(nodes)-1).Draw(t, "gone")]
		for _, n := range nodes {
			if n != gone {
				rest = append(rest, n)
			}
		}
		if rank(place[0], rest, address) != 0 {
			t.Fatalf("%s moved from %s when %s went", address, place[0], gone)
		}
	})
}

func TestAddressesAreSpread(t *testing.T) {
	nodes, count := []string{"web01", "web02", "web03", "web04"}, map[string]int{}
	for i := range 256 {
		for _, n := range nodes {
			if rank(n, nodes, netip.AddrFrom4([4]byte{192, 0, 2, byte(i)})) == 0 {
				count[n]++
			}
		}
	}
	for _, n := range nodes {
		if count[n] < 32 || count[n] > 128 {
			t.Errorf("%s announces %d of 256 addresses: %v", n, count[n], count)
		}
	}
}

// Nodes die and come back at random; while nothing happens, exactly one living
// node announces the address, and it takes no longer than the ranks allow.
func TestTurns(t *testing.T) {
	address := netip.MustParseAddr("192.0.2.200")
	rapid.Check(t, func(t *rapid.T) {
		const n = 4
		ranks := rapid.Permutation([]int{0, 1, 2, 3}).Draw(t, "ranks")
		nodes, alive := [n]turns{}, [n]bool{}
		now := time.Unix(0, 0)
		start := func(i int) {
			alive[i], nodes[i] = true, turns{}
			nodes[i].follow(map[netip.Addr]int{address: ranks[i]}, now)
		}
		for i := range n {
			start(i)
		}
		for range rapid.IntRange(1, 6).Draw(t, "events") {
			i := rapid.IntRange(0, n-1).Draw(t, "node")
			if alive[i] {
				alive[i] = false
			} else {
				start(i)
			}
			calm := rapid.IntRange(0, 40).Draw(t, "quarter seconds")
			for step := range calm {
				now = now.Add(beat / 4)
				for i := range n {
					if !alive[i] {
						continue
					}
					nodes[i].pass(now)
					if nodes[i].mine()[address] {
						for j := range n {
							if j != i && alive[j] {
								nodes[j].heard(address, now)
							}
						}
					}
				}
				var who []int
				living := 0
				for i := range n {
					if alive[i] {
						living++
						if nodes[i].mine()[address] {
							who = append(who, i)
						}
					}
				}
				if settled := silence + n*stagger; time.Duration(step)*beat/4 > settled && living > 0 && len(who) != 1 {
					t.Fatalf("%v announce it, of %v with ranks %v", who, alive, ranks)
				}
			}
		}
	})
}

func TestLeavingTheRanking(t *testing.T) {
	address, now := netip.MustParseAddr("192.0.2.200"), time.Unix(0, 0)
	all := turns{}
	all.follow(map[netip.Addr]int{address: 0}, now)
	if !all.mine()[address] {
		t.Error("the first waits")
	}
	all.follow(map[netip.Addr]int{address: 2}, now)
	if !all.mine()[address] {
		t.Error("lets go before another has claimed it")
	}
	all.heard(address, now)
	if all.mine()[address] {
		t.Error("goes on beside another")
	}
	all.follow(nil, now)
	if len(all) != 0 {
		t.Errorf("still has %v", all)
	}
}

func TestLinkOf(t *testing.T) {
	address := func(link int, text string) netlink.Addr {
		ip, network, err := net.ParseCIDR(text)
		if err != nil {
			t.Fatal(err)
		}
		network.IP = ip
		return netlink.Addr{IPNet: network, LinkIndex: link}
	}
	all := []netlink.Addr{
		address(1, "127.0.0.1/8"), address(2, "192.0.2.7/24"), address(3, "192.0.2.129/25"), address(4, "2001:db8::7/64"), address(5, "203.0.113.5/32"),
	}
	for text, want := range map[string]int{"192.0.2.9": 2, "192.0.2.200": 3, "2001:db8::1": 4, "203.0.113.5": 2, "198.51.100.1": 2} {
		if got := linkOf(netip.MustParseAddr(text), all, "192.0.2.7"); got != want {
			t.Errorf("%s: link %d, want %d", text, got, want)
		}
	}
	if got := linkOf(netip.MustParseAddr("198.51.100.1"), all, "192.0.2.8"); got != 0 {
		t.Errorf("link %d leads to it", got)
	}
}
