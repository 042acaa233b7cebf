package e2e

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"
)

// TestIPv6Only tries a cluster whose hosts know each other by IPv6 addresses alone,
// on two links, with pods that do nothing as in TestNetwork. Only who stands outside
// (SSH, and clients of the API) still comes over IPv4.
func TestIPv6Only(t *testing.T) {
	c := newLab(t, "e2e-six", 1, 2, 0, "--links", "2")
	c.knownByIPv6(t)
	t.Logf("up took %s", c.up(t).Round(100*time.Millisecond))
	nodes := []string{"cp1", "worker1", "worker2"}
	c.wantNodesReady(t, len(nodes))
	w := c.familyWorld(t, "6", "fd00:10:96::a", nodes)
	t.Run("links", w.testLinks)
	t.Run("services", w.testServices)
	t.Run("policies", c.testPolicies)
	// cp1 and worker2 are on one link, worker1 is on the other.
	eventually(t, time.Minute, "routes as nodes share links", func(context.Context) error {
		routes := c.hosts(t, "ip -6 route | grep 'proto 204' | grep via")
		if straight, wrapped := strings.Count(routes, "dev eth0"), strings.Count(routes, "dev cctl-vx"); straight != 2 || wrapped != 4 {
			return fmt.Errorf("%d routes to pods are straight and %d wrapped, want 2 and 4:\n%s", straight, wrapped, routes)
		}
		return nil
	})
	if tables := c.hosts(t, "ip -4 route | grep 'proto 204' || true"); strings.Contains(tables, "204") {
		t.Errorf("there are routes of IPv4:\n%s", tables)
	}
	// Nothing is left to do, addresses that have colons notwithstanding.
	if out := c.run(t, "plan", c.inventory); !strings.Contains(out, "nothing to do") {
		t.Errorf("after up, plan says\n%s", out)
	}
}

// knownByIPv6 has the inventory name hosts by their IPv6 addresses, and hosts reach
// no other over IPv4.
func (c *cluster) knownByIPv6(t *testing.T) {
	t.Helper()
	var all []string
	c.rewrite(t, c.inventory, func(document map[string]any) {
		for i, entry := range document["hosts"].([]any) {
			host := entry.(map[string]any)
			address := netip.MustParseAddr(host["address"].(string))
			all = append(all, address.String())
			if i == 0 {
				document["cluster"].(map[string]any)["endpoint"] = address.String()
			}
			four := address.As4()
			host["ssh"] = map[string]any{"host": address.String()}
			// As package lab gives them.
			host["address"] = netip.AddrFrom16([16]byte{0xfd, 0, 0xc1, 0xab, 0, four[1], 0, four[2], 15: four[3]}).String()
		}
	})
	c.hosts(t, fmt.Sprintf("for a in %s; do ip -4 addr show | grep -q \"$a/\" || ip route add blackhole $a/32; done", strings.Join(all, " ")))
}
