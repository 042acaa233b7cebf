package policy

import (
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"clusterctl/nodeagent/policy/policytest"
)

// The pods of two nodes, in two namespaces. What they call http differs.
var (
	testNamespaces = []*corev1.Namespace{
		{ObjectMeta: metav1.ObjectMeta{Name: "x", Labels: map[string]string{"team": "red"}}},
		{ObjectMeta: metav1.ObjectMeta{Name: "y", Labels: map[string]string{"team": "blue"}}},
	}
	testPods = []*corev1.Pod{
		policytest.Pod("x", "one-0", "one", "10.244.0.2,fd00:a:0:0::2", 8080, map[string]string{"app": "web", "tier": "front"}),
		policytest.Pod("x", "one-1", "one", "10.244.0.3,fd00:a:0:0::3", 8081, map[string]string{"app": "db"}),
		policytest.Pod("y", "one-2", "one", "10.244.0.4,fd00:a:0:0::4", 8080, map[string]string{"app": "web"}),
		policytest.Pod("x", "two-0", "two", "10.244.1.2,fd00:a:0:1::2", 8082, map[string]string{"app": "web"}),
		policytest.Pod("y", "two-1", "two", "10.244.1.3,fd00:a:0:1::3", 8081, map[string]string{"app": "db", "tier": "front"}),
	}
	testBlocks = []networkingv1.IPBlock{
		{CIDR: "0.0.0.0/0"},
		{CIDR: "0.0.0.0/0", Except: []string{"10.244.0.2/32", "10.244.1.0/24"}},
		{CIDR: "10.244.0.0/24", Except: []string{"10.244.0.0/30"}},
		{CIDR: "10.244.1.2/31"},
		{CIDR: "192.0.2.0/24"},
		{CIDR: "128.0.0.0/1", Except: []string{"192.0.2.1/32"}},
		{CIDR: "fd00::/8"},
		{CIDR: "::/0", Except: []string{"fd00:a::2/128", "fd00:a:0:1::/64"}},
		{CIDR: "fd00:a::/64", Except: []string{"fd00:a::/126"}},
		{CIDR: "fd00:a:0:1::2/127"},
		{CIDR: "8000::/1", Except: []string{"2001:db8::1/128"}},
		{CIDR: "2001:db8::/64", Except: []string{"2001:db8::1/128"}},
	}
	// nodeAddrs are those of the nodes, which are no pods.
	nodeAddrs = map[string][]netip.Addr{
		"one": {netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")},
		"two": {netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("2001:db8::2")},
	}
)

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

// passes is what the kernel does with a picture of the connection's family.
func passes(p *picture, c policytest.Connection) bool {
	if p == nil {
		return true
	}
	to := c.Target
	if _, self := p.sets[setSelf].members[member{addr: c.Source}]; self && c.Source == to {
		return true
	}
	judge := func(way string, pod, peer netip.Addr) bool {
		for m := range p.sets[way].members {
			if m.addr == pod {
				return slices.ContainsFunc(p.chains[m.chain].rules, func(r rule) bool {
					_, socket := p.sets[r.sockets].members[member{addr: to, port: c.Port}]
					return (r.peers == "" || holds(p.sets[r.peers], peer)) &&
						(r.protocol == "" || r.protocol == c.Protocol) &&
						(r.from == 0 || r.from <= c.Port && c.Port <= r.to) &&
						(r.sockets == "" || socket)
				})
			}
		}
		return true
	}
	return judge(setEgress, c.Source, to) && judge(setIngress, to, c.Source)
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
	all := policytest.Connections(testPods, nodeAddrs)
	rapid.Check(t, func(t *rapid.T) {
		policies := policytest.Policies(testBlocks).Draw(t, "policies")
		for _, f := range families {
			one, two := paint(on("one", policies), f), paint(on("two", policies), f)
			for _, c := range all {
				if !f.has(c.Target) {
					continue
				}
				want := policytest.Allowed(policies, testNamespaces, c)
				if got := passes(one, c) && passes(two, c); got != want {
					t.Fatalf("%v: passes %v, want %v", c, got, want)
				}
			}
			for node, p := range map[string]*picture{"one": one, "two": two} {
				if c := on(node, policies); isolated(policies, c.own) != (p != nil) {
					t.Fatalf("node %s: isolated %v, but picture %v", node, p == nil, p)
				}
			}
		}
	})
}

func TestHostNetworkAndEndedPodsAreNeitherSelectedNorPeers(t *testing.T) {
	all := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "x", Name: "all"}}
	all.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress}
	all.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
	host := policytest.Pod("x", "host", "one", "192.0.2.1", 8080, nil)
	host.Spec.HostNetwork = true
	done := policytest.Pod("x", "done", "one", "10.244.0.9", 8080, nil)
	done.Status.Phase = corev1.PodSucceeded
	outside := []*corev1.Pod{host, done, policytest.Pod("x", "new", "one", "", 8080, nil)}
	policies := []*networkingv1.NetworkPolicy{all}
	if p := paint(cluster{policies: policies, own: outside, pods: outside, namespaces: testNamespaces}, ipv4); p != nil {
		t.Errorf("got %v, want nothing isolated", p)
	}
	if isolated(policies, outside[:2]) {
		t.Error("pods that no policy can select count as isolated")
	}
	p := paint(cluster{policies: policies, own: testPods[:1], pods: append(outside, testPods...), namespaces: testNamespaces}, ipv4)
	for name, s := range p.sets {
		if s.kind == addresses && len(s.members) != 3 {
			t.Errorf("set %s: got %v, want the three pods of x", name, s.members)
		}
	}
}

func TestRanges(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// A small corner at either end of all addresses.
		corner := netip.MustParsePrefix(rapid.SampledFrom([]string{"0.0.0.0/24", "255.255.255.0/24", "::/120", "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ff00/120"}).Draw(t, "corner"))
		at := func(last byte) netip.Addr {
			raw := corner.Addr().AsSlice()
			raw[len(raw)-1] = last
			a, _ := netip.AddrFromSlice(raw)
			return a
		}
		cidr := rapid.Custom(func(t *rapid.T) string {
			a := at(rapid.Byte().Draw(t, "last"))
			return netip.PrefixFrom(a, a.BitLen()-rapid.IntRange(0, 8).Draw(t, "host bits")).Masked().String()
		})
		var blocks []networkingv1.IPBlock
		for range rapid.IntRange(0, 4).Draw(t, "blocks") {
			blocks = append(blocks, networkingv1.IPBlock{CIDR: cidr.Draw(t, "cidr"), Except: rapid.SliceOfN(cidr, 0, 3).Draw(t, "except")})
		}
		f := ipv6
		if corner.Addr().Is4() {
			f = ipv4
		}
		for _, other := range families {
			if other != f && len(rangesOf(blocks, other)) > 0 {
				t.Fatalf("%v has ranges of the other family", blocks)
			}
		}
		ranges := rangesOf(blocks, f)
		for i := 1; i < len(ranges); i++ {
			if next := ranges[i-1].last.Next(); !next.IsValid() || !next.Less(ranges[i].first) {
				t.Fatalf("%v touch", ranges)
			}
		}
		for last := range 256 {
			addr := at(byte(last))
			want := slices.ContainsFunc(blocks, func(b networkingv1.IPBlock) bool { return policytest.InBlock(&b, addr) })
			got := slices.ContainsFunc(ranges, func(r addrRange) bool { return !addr.Less(r.first) && !r.last.Less(addr) })
			if got != want {
				t.Fatalf("%s: in ranges %v, want %v", addr, got, want)
			}
		}
	})
}
