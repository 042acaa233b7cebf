package nodeipam

import (
	"context"
	"fmt"
	"net/netip"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/hostconfig"
)

func TestNewPool(t *testing.T) {
	for _, test := range []struct {
		cidr  string
		size  int
		count int
		first string
		last  string
	}{
		{"10.244.0.0/16", 24, 256, "10.244.0.0/24", "10.244.255.0/24"},
		{"10.244.0.7/16", 24, 256, "10.244.0.0/24", "10.244.255.0/24"},
		{"10.0.0.0/24", 24, 1, "10.0.0.0/24", "10.0.0.0/24"},
		{"fd00:10::/48", 64, maxSubnets, "fd00:10::/64", "fd00:10:0:ffff::/64"},
		{"10.0.0.0/16", 15, 0, "", ""},
		{"10.0.0.0/16", 33, 0, "", ""},
	} {
		p, err := newPool(netip.MustParsePrefix(test.cidr), test.size)
		if test.count == 0 {
			if err == nil {
				t.Errorf("%s /%d: no error", test.cidr, test.size)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s /%d: %v", test.cidr, test.size, err)
			continue
		}
		if p.count != test.count || p.subnet(0).String() != test.first || p.subnet(p.count-1).String() != test.last {
			t.Errorf("%s /%d: %d from %s to %s", test.cidr, test.size, p.count, p.subnet(0), p.subnet(p.count-1))
		}
	}
}

// TestPoolNeverOverlaps allocates, occupies and releases at will.
func TestPoolNeverOverlaps(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		network, size := "fd00::/60", 64
		if rapid.Bool().Draw(t, "v4") {
			network, size = "10.0.0.0/20", 24
		}
		p, err := newPool(netip.MustParsePrefix(network), size)
		if err != nil {
			t.Fatal(err)
		}
		held := map[netip.Prefix]bool{}
		for range rapid.IntRange(1, 60).Draw(t, "steps") {
			switch rapid.SampledFrom([]string{"allocate", "release", "occupy"}).Draw(t, "step") {
			case "allocate":
				got, ok := p.allocate()
				if ok != (len(held) < p.count) {
					t.Fatalf("allocate says %v with %d of %d held", ok, len(held), p.count)
				}
				if ok {
					for other := range held {
						if other.Overlaps(got) {
							t.Fatalf("%s overlaps %s", got, other)
						}
					}
					if !p.network.Contains(got.Addr()) {
						t.Fatalf("%s is outside", got)
					}
					held[got] = true
				}
			case "release":
				for cidr := range held {
					p.release(cidr)
					delete(held, cidr)
					break
				}
			case "occupy":
				cidr := p.subnet(rapid.IntRange(0, p.count-1).Draw(t, "index"))
				if clash := p.occupy(cidr); clash != held[cidr] {
					t.Fatalf("occupy %s: clash %v", cidr, clash)
				}
				held[cidr] = true
			}
			if p.inUse() != len(held) {
				t.Fatalf("%d in use, %d held", p.inUse(), len(held))
			}
		}
	})
}

func TestOccupyOtherSizes(t *testing.T) {
	p, err := newPool(netip.MustParsePrefix("10.0.0.0/20"), 24)
	if err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		cidr string
		want int
	}{
		{"192.168.0.0/24", 0}, {"fd00::/64", 0}, {"10.0.3.128/25", 1}, {"10.0.4.0/22", 5}, {"10.0.0.0/8", 16},
	} {
		p.occupy(netip.MustParsePrefix(test.cidr))
		if p.inUse() != test.want {
			t.Errorf("after %s: %d in use, want %d", test.cidr, p.inUse(), test.want)
		}
	}
}

func node(name, cidr string) *corev1.Node {
	n := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name}}
	if cidr != "" {
		n.Spec.PodCIDR, n.Spec.PodCIDRs = cidr, []string{cidr}
	}
	return n
}

func TestNodesGetSharesOfTheirOwn(t *testing.T) {
	f := controllertest.New(t, node("old", "10.0.0.0/24"), node("new", ""))
	c, err := New(f.Env, hostconfig.Cluster{PodCIDR: "10.0.0.0/22", NodeMaskSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	share := func(name string) string {
		n, err := f.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Spec.PodCIDR
	}
	for _, name := range []string{"second", "third"} {
		if _, err := f.Client.CoreV1().Nodes().Create(ctx, node(name, ""), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	seen := map[string]bool{}
	for _, name := range []string{"old", "new", "second", "third"} {
		controllertest.Eventually(t, "a share for "+name, func() bool { return share(name) != "" })
		if cidr := share(name); seen[cidr] {
			t.Errorf("%s was given twice", cidr)
		} else {
			seen[cidr] = true
		}
	}
	// All four are taken: the next node has to wait until one goes.
	if _, err := f.Client.CoreV1().Nodes().Create(ctx, node("late", ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	freed := share("second")
	if err := f.Client.CoreV1().Nodes().Delete(ctx, "second", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the share of the node that left", func() bool { return share("late") == freed })
}

func TestConflictKeepsTheShareTaken(t *testing.T) {
	f := controllertest.New(t, node("a", "10.0.0.0/24"), node("b", "10.0.0.0/24"))
	c, err := New(f.Env, hostconfig.Cluster{PodCIDR: "10.0.0.0/23", NodeMaskSize: 24})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	if err := f.Client.CoreV1().Nodes().Delete(ctx, "a", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		if _, err := f.Client.CoreV1().Nodes().Create(ctx, node(fmt.Sprint("n", i), ""), metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, "one of the new nodes to get the share that is free", func() bool {
		list, err := f.Client.CoreV1().Nodes().List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		given := 0
		for _, n := range list.Items {
			if n.Name != "b" && n.Spec.PodCIDR == "10.0.0.0/24" {
				t.Fatalf("%s got the share of b", n.Name)
			}
			if n.Spec.PodCIDR == "10.0.1.0/24" {
				given++
			}
		}
		return given == 1
	})
}

// TestBothFamilies has the IPv6 network run out first: a node then gets nothing
// of either, and takes nothing from others.
func TestBothFamilies(t *testing.T) {
	old := node("old", "10.0.0.0/24")
	old.Spec.PodCIDRs = append(old.Spec.PodCIDRs, "fd00:0:0:1::/64")
	f := controllertest.New(t, old, node("new", ""))
	c, err := New(f.Env, hostconfig.Cluster{PodCIDR: "10.0.0.0/22,fd00::/63", NodeMaskSize: 24, NodeMaskSizeIPv6: 64})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	spec := func(name string) corev1.NodeSpec {
		n, err := f.Client.CoreV1().Nodes().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return n.Spec
	}
	controllertest.Eventually(t, "shares of both families", func() bool { return len(spec("new").PodCIDRs) == 2 })
	if got := spec("new"); got.PodCIDR != got.PodCIDRs[0] || got.PodCIDRs[0] == "10.0.0.0/24" || got.PodCIDRs[1] != "fd00::/64" {
		t.Errorf("got %v", got)
	}
	if _, err := f.Client.CoreV1().Nodes().Create(ctx, node("late", ""), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	if err := f.Client.CoreV1().Nodes().Delete(ctx, "old", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the shares of the node that left", func() bool { return len(spec("late").PodCIDRs) == 2 })
	if got := spec("late"); got.PodCIDRs[1] != "fd00:0:0:1::/64" {
		t.Errorf("got %v", got)
	}
}

func TestNewRefuses(t *testing.T) {
	f := controllertest.New(t)
	for _, cidr := range []string{"nonsense", "10.0.0.0/16,10.1.0.0/16", "10.0.0.0/16,fd00::/65"} {
		if _, err := New(f.Env, hostconfig.Cluster{PodCIDR: cidr, NodeMaskSize: 24, NodeMaskSizeIPv6: 64}); err == nil {
			t.Errorf("%s: no error", cidr)
		}
	}
}
