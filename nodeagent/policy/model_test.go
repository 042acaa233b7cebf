package policy

import (
	"fmt"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
	"pgregory.net/rapid"
)

// connection is what policies judge. from is nil for what is no pod.
type connection struct {
	source   netip.Addr
	from, to *corev1.Pod
	protocol corev1.Protocol
	port     uint16
}

func (c connection) String() string {
	return fmt.Sprintf("%s to %s %s %d", c.source, c.to.Name, c.protocol, c.port)
}

// allowed is the model: what the API says of a connection, read off the
// policies one by one.
func allowed(policies []*networkingv1.NetworkPolicy, namespaces []*corev1.Namespace, c connection) bool {
	if c.from == c.to {
		return true
	}
	m := model{namespaces, c}
	out, in := c.from == nil, false
	outIsolated, inIsolated := false, false
	for _, p := range policies {
		if c.from != nil && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && selects(p, c.from) {
			outIsolated = true
			for _, r := range p.Spec.Egress {
				out = out || m.peer(p.Namespace, r.To, c.to, netip.MustParseAddr(c.to.Status.PodIP)) && m.port(r.Ports)
			}
		}
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && selects(p, c.to) {
			inIsolated = true
			for _, r := range p.Spec.Ingress {
				in = in || m.peer(p.Namespace, r.From, c.from, c.source) && m.port(r.Ports)
			}
		}
	}
	return (out || !outIsolated) && (in || !inIsolated)
}

func selects(p *networkingv1.NetworkPolicy, pod *corev1.Pod) bool {
	return p.Namespace == pod.Namespace && matches(&p.Spec.PodSelector, pod.Labels)
}

func matches(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(set))
}

type model struct {
	namespaces []*corev1.Namespace
	connection
}

func (m model) peer(home string, peers []networkingv1.NetworkPolicyPeer, pod *corev1.Pod, addr netip.Addr) bool {
	for _, p := range peers {
		if p.IPBlock != nil {
			in := netip.MustParsePrefix(p.IPBlock.CIDR).Contains(addr)
			for _, e := range p.IPBlock.Except {
				in = in && !netip.MustParsePrefix(e).Contains(addr)
			}
			if in {
				return true
			}
			continue
		}
		if pod == nil || p.PodSelector != nil && !matches(p.PodSelector, pod.Labels) {
			continue
		}
		if p.NamespaceSelector == nil && pod.Namespace == home {
			return true
		}
		for _, n := range m.namespaces {
			if p.NamespaceSelector != nil && n.Name == pod.Namespace && matches(p.NamespaceSelector, n.Labels) {
				return true
			}
		}
	}
	return len(peers) == 0
}

func (m model) port(ports []networkingv1.NetworkPolicyPort) bool {
	for _, p := range ports {
		if p.Protocol == nil && m.protocol != corev1.ProtocolTCP || p.Protocol != nil && *p.Protocol != m.protocol {
			continue
		}
		if p.Port == nil {
			return true
		}
		low, high := p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			high = *p.EndPort
		}
		if p.Port.Type == intstr.String {
			low, high = 1, 0
			for _, c := range m.to.Spec.Containers[0].Ports {
				if c.Name == p.Port.StrVal && c.Protocol == m.protocol {
					low, high = c.ContainerPort, c.ContainerPort
				}
			}
		}
		if low <= int32(m.connection.port) && int32(m.connection.port) <= high {
			return true
		}
	}
	return len(ports) == 0
}

// The pods of two nodes, in two namespaces. What they call http differs.
var (
	testNamespaces = []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"team": "red"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "y", Labels: map[string]string{"team": "blue"}}},
	}
	testPods = []*corev1.Pod{
		testPod("x", "one-0", "one", "10.244.0.2", 8080, map[string]string{"app": "web", "tier": "front"}),
		testPod("x", "one-1", "one", "10.244.0.3", 8081, map[string]string{"app": "db"}),
		testPod("y", "one-2", "one", "10.244.0.4", 8080, map[string]string{"app": "web"}),
		testPod("x", "two-0", "two", "10.244.1.2", 8082, map[string]string{"app": "web"}),
		testPod("y", "two-1", "two", "10.244.1.3", 8081, map[string]string{"app": "db", "tier": "front"}),
	}
	testPorts = []uint16{8080, 8081, 8082}
	// nodeAddrs are those of the nodes, which are no pods.
	nodeAddrs = map[string]netip.Addr{"one": netip.MustParseAddr("192.0.2.1"), "two": netip.MustParseAddr("192.0.2.2")}
)

func testPod(namespace, name, node, ip string, http int32, set map[string]string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name, Labels: set},
		Spec: corev1.PodSpec{NodeName: node, Containers: []corev1.Container{{Ports: []corev1.ContainerPort{
			{Name: "http", Protocol: corev1.ProtocolTCP, ContainerPort: http},
			{Name: "dns", Protocol: corev1.ProtocolUDP, ContainerPort: 8080},
		}}}},
		Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip},
	}
}

// on is what the rules of a node depend on.
func on(node string, policies []*networkingv1.NetworkPolicy) cluster {
	c := cluster{policies: policies, pods: testPods, namespaces: testNamespaces}
	for _, pod := range testPods {
		if pod.Spec.NodeName == node {
			c.own = append(c.own, pod)
		}
	}
	return c
}

// connections are all that there can be, but for what pods do with their own
// node.
func connections() []connection {
	var all []connection
	for _, to := range testPods {
		for _, port := range append(testPorts, 0) {
			c := connection{to: to, protocol: corev1.ProtocolTCP, port: port}
			if port == 0 {
				c.protocol, c.port = corev1.ProtocolUDP, 8080
			}
			for _, from := range testPods {
				c.from, c.source = from, netip.MustParseAddr(from.Status.PodIP)
				all = append(all, c)
			}
			for node, addr := range nodeAddrs {
				if node != to.Spec.NodeName {
					c.from, c.source = nil, addr
					all = append(all, c)
				}
			}
		}
	}
	return all
}

func selectors() *rapid.Generator[metav1.LabelSelector] {
	return rapid.SampledFrom([]metav1.LabelSelector{
		{},
		{MatchLabels: map[string]string{"app": "web"}},
		{MatchLabels: map[string]string{"app": "db"}},
		{MatchLabels: map[string]string{"team": "red"}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "tier", Operator: metav1.LabelSelectorOpExists}}},
		{MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "team", Operator: metav1.LabelSelectorOpNotIn, Values: []string{"red"}}}},
	})
}

func peerLists() *rapid.Generator[[]networkingv1.NetworkPolicyPeer] {
	blocks := rapid.SampledFrom([]networkingv1.IPBlock{
		{CIDR: "0.0.0.0/0"},
		{CIDR: "0.0.0.0/0", Except: []string{"10.244.0.2/32", "10.244.1.0/24"}},
		{CIDR: "10.244.0.0/24", Except: []string{"10.244.0.0/30"}},
		{CIDR: "10.244.1.2/31"},
		{CIDR: "192.0.2.0/24"},
		{CIDR: "128.0.0.0/1", Except: []string{"192.0.2.1/32"}},
		{CIDR: "fd00::/8"},
	})
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) networkingv1.NetworkPolicyPeer {
		var p networkingv1.NetworkPolicyPeer
		switch rapid.IntRange(0, 3).Draw(t, "peer") {
		case 0:
			p.IPBlock = new(blocks.Draw(t, "block"))
		case 1:
			p.PodSelector = new(selectors().Draw(t, "pods"))
		case 2:
			p.NamespaceSelector = new(selectors().Draw(t, "namespaces"))
		default:
			p.PodSelector, p.NamespaceSelector = new(selectors().Draw(t, "pods")), new(selectors().Draw(t, "namespaces"))
		}
		return p
	}), 0, 3)
}

func portLists() *rapid.Generator[[]networkingv1.NetworkPolicyPort] {
	return rapid.SliceOfN(rapid.SampledFrom([]networkingv1.NetworkPolicyPort{
		{},
		{Protocol: new(corev1.ProtocolUDP)},
		{Port: new(intstr.FromInt32(8080))},
		{Port: new(intstr.FromInt32(8081)), EndPort: new(int32(8082))},
		{Port: new(intstr.FromString("http")), Protocol: new(corev1.ProtocolTCP)},
		{Port: new(intstr.FromString("dns")), Protocol: new(corev1.ProtocolUDP)},
		{Port: new(intstr.FromString("dns"))},
		{Port: new(intstr.FromInt32(8080)), Protocol: new(corev1.ProtocolSCTP)},
	}), 0, 2)
}

func policyLists() *rapid.Generator[[]*networkingv1.NetworkPolicy] {
	return rapid.SliceOfN(rapid.Custom(func(t *rapid.T) *networkingv1.NetworkPolicy {
		p := &networkingv1.NetworkPolicy{}
		p.Name = rapid.SampledFrom([]string{"a", "b", "c", "d", "e", "f"}).Draw(t, "name")
		p.Namespace = rapid.SampledFrom([]string{"x", "y"}).Draw(t, "namespace")
		p.Spec.PodSelector = selectors().Draw(t, "selects")
		p.Spec.PolicyTypes = rapid.SampledFrom([][]networkingv1.PolicyType{
			{networkingv1.PolicyTypeIngress}, {networkingv1.PolicyTypeEgress}, {networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress},
		}).Draw(t, "types")
		for range rapid.IntRange(0, 2).Draw(t, "ingress") {
			p.Spec.Ingress = append(p.Spec.Ingress, networkingv1.NetworkPolicyIngressRule{From: peerLists().Draw(t, "from"), Ports: portLists().Draw(t, "ports")})
		}
		for range rapid.IntRange(0, 2).Draw(t, "egress") {
			p.Spec.Egress = append(p.Spec.Egress, networkingv1.NetworkPolicyEgressRule{To: peerLists().Draw(t, "to"), Ports: portLists().Draw(t, "ports")})
		}
		return p
	}), 0, 4).Filter(func(list []*networkingv1.NetworkPolicy) bool {
		seen := map[string]bool{}
		for _, p := range list {
			seen[p.Namespace+"/"+p.Name] = true
		}
		return len(seen) == len(list)
	})
}

// passes is what the kernel does with a picture.
func passes(p *picture, c connection) bool {
	if p == nil {
		return true
	}
	to := netip.MustParseAddr(c.to.Status.PodIP)
	if _, self := p.sets[setSelf].members[member{addr: c.source}]; self && c.source == to {
		return true
	}
	judge := func(way string, pod, peer netip.Addr) bool {
		for m := range p.sets[way].members {
			if m.addr == pod {
				return slices.ContainsFunc(p.chains[m.chain].rules, func(r rule) bool {
					_, socket := p.sets[r.sockets].members[member{addr: to, port: c.port}]
					return (r.peers == "" || holds(p.sets[r.peers], peer)) &&
						(r.protocol == "" || r.protocol == c.protocol) &&
						(r.from == 0 || r.from <= c.port && c.port <= r.to) &&
						(r.sockets == "" || socket)
				})
			}
		}
		return true
	}
	return judge(setEgress, c.source, to) && judge(setIngress, to, c.source)
}

func holds(s set, addr netip.Addr) bool {
	for m := range s.members {
		if m.addr == addr || s.kind == blocks && m.addr.Compare(addr) <= 0 && addr.Compare(m.last) <= 0 {
			return true
		}
	}
	return false
}

func TestPictureAgreesWithTheModel(t *testing.T) {
	all := connections()
	rapid.Check(t, func(t *rapid.T) {
		policies := policyLists().Draw(t, "policies")
		one, two := paint(on("one", policies)), paint(on("two", policies))
		for _, c := range all {
			want := allowed(policies, testNamespaces, c)
			if got := passes(one, c) && passes(two, c); got != want {
				t.Fatalf("%v: passes %v, want %v", c, got, want)
			}
		}
		for node, p := range map[string]*picture{"one": one, "two": two} {
			if c := on(node, policies); isolated(policies, c.own) != (p != nil) {
				t.Fatalf("node %s: isolated %v, but picture %v", node, p == nil, p)
			}
		}
	})
}

func TestHostNetworkAndEndedPodsAreNeitherSelectedNorPeers(t *testing.T) {
	all := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "all"}}
	all.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	all.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
	host := testPod("x", "host", "one", "192.0.2.1", 8080, nil)
	host.Spec.HostNetwork = true
	done := testPod("x", "done", "one", "10.244.0.9", 8080, nil)
	done.Status.Phase = corev1.PodSucceeded
	outside := []*corev1.Pod{host, done, testPod("x", "new", "one", "", 8080, nil)}
	policies := []*networkingv1.NetworkPolicy{all}
	if p := paint(cluster{policies: policies, own: outside, pods: outside, namespaces: testNamespaces}); p != nil {
		t.Errorf("got %v, want nothing isolated", p)
	}
	if isolated(policies, outside[:2]) {
		t.Error("pods that no policy can select count as isolated")
	}
	p := paint(cluster{policies: policies, own: testPods[:1], pods: append(outside, testPods...), namespaces: testNamespaces})
	for name, s := range p.sets {
		if s.kind == addresses && len(s.members) != 3 {
			t.Errorf("set %s: got %v, want the three pods of x", name, s.members)
		}
	}
}

func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A small corner at either end of all addresses.
		base := rapid.SampledFrom([]string{"0.0.0.", "255.255.255."}).Draw(t, "base")
		cidr := rapid.Custom(func(t *rapid.T) string {
			a := netip.MustParseAddr(fmt.Sprintf("%s%d", base, rapid.IntRange(0, 255).Draw(t, "last")))
			return netip.PrefixFrom(a, rapid.IntRange(24, 32).Draw(t, "bits")).Masked().String()
		})
		var blocks []networkingv1.IPBlock
		for range rapid.IntRange(0, 4).Draw(t, "blocks") {
			blocks = append(blocks, networkingv1.IPBlock{CIDR: cidr.Draw(t, "cidr"), Except: rapid.SliceOfN(cidr, 0, 3).Draw(t, "except")})
		}
		ranges := rangesOf(blocks)
		for i := 1; i < len(ranges); i++ {
			if uint64(ranges[i].first) <= uint64(ranges[i-1].last)+1 {
				t.Fatalf("%v touch", ranges)
			}
		}
		for last := range 256 {
			addr := netip.MustParseAddr(fmt.Sprintf("%s%d", base, last))
			want := len(blocks) > 0 && model{}.peer("", peersOf(blocks), nil, addr)
			got := slices.ContainsFunc(ranges, func(r addrRange) bool { return r.first <= number(addr) && number(addr) <= r.last })
			if got != want {
				t.Fatalf("%s: in ranges %v, want %v", addr, got, want)
			}
		}
	})
}

func peersOf(blocks []networkingv1.IPBlock) (peers []networkingv1.NetworkPolicyPeer) {
	for _, b := range blocks {
		peers = append(peers, networkingv1.NetworkPolicyPeer{IPBlock: &b})
	}
	return peers
}
