package inventory

import (
	"fmt"
	"net"
	"net/netip"

	"k8s.io/apimachinery/pkg/util/validation"

	"clusterctl/hostconfig"
)

// HostConfig is the pools as the control planes have them.
func (l LoadBalancer) HostConfig() []hostconfig.LoadBalancerPool {
	var pools []hostconfig.LoadBalancerPool
	for _, pool := range l.Pools {
		pools = append(pools, hostconfig.LoadBalancerPool{
			Name: pool.Name, Addresses: pool.Addresses, OnRequest: pool.AutoAssign != nil && !*pool.AutoAssign,
		})
	}
	return pools
}

// taken is a range that a pool may have nothing in common with.
type taken struct {
	hostconfig.AddressRange
	what string
}

func (c *checker) checkLoadBalancer(inv *Inventory) {
	used := takenAddresses(inv)
	names := map[string]bool{}
	for i, pool := range inv.Cluster.LoadBalancer.Pools {
		path := fmt.Sprintf("cluster.loadBalancer.pools[%d]", i)
		switch {
		case len(validation.IsDNS1123Label(pool.Name)) > 0:
			c.faultAt(path+".name", "use lower-case letters, digits and -, at most 63", "pool name %q is no DNS label", pool.Name)
		case names[pool.Name]:
			c.faultAt(path+".name", "give each pool a name of its own", "there are two pools %s", pool.Name)
		}
		names[pool.Name] = true
		if len(pool.Addresses) == 0 {
			c.faultAt(path, "add addresses: with networks or ranges", "pool %s has no addresses", pool.Name)
		}
		for j, text := range pool.Addresses {
			at := fmt.Sprintf("%s.addresses[%d]", path, j)
			r, err := hostconfig.ParseAddressRange(text)
			if err != nil {
				c.faultAt(at, "write one like 192.0.2.128/25 or 192.0.2.10-192.0.2.20", "pool %s: %v", pool.Name, err)
				continue
			}
			for _, other := range used {
				if r.Overlaps(other.AddressRange) {
					c.faultAt(at, "choose addresses that nobody else has", "%s of pool %s overlaps %s", text, pool.Name, other.what)
				}
			}
			used = append(used, taken{r, fmt.Sprintf("%s of pool %s", text, pool.Name)})
		}
	}
}

// takenAddresses are those of the cluster itself. What is no address is some
// other check's finding.
func takenAddresses(inv *Inventory) []taken {
	var used []taken
	network := func(what, text string) {
		networks, err := hostconfig.ParseNetworks(text)
		for _, p := range networks {
			if err == nil {
				used = append(used, taken{hostconfig.RangeOf(p), what + " " + p.String()})
			}
		}
	}
	network("podCIDR", inv.Cluster.PodCIDR)
	network("serviceCIDR", inv.Cluster.ServiceCIDR)
	address := func(what, text string) {
		if a, err := netip.ParseAddr(text); err == nil {
			used = append(used, taken{hostconfig.AddressRange{First: a, Last: a}, "address " + text + " of " + what})
		}
	}
	for _, h := range inv.Hosts {
		address(h.Name, h.Address)
	}
	endpoint := inv.Cluster.Endpoint
	if host, _, err := net.SplitHostPort(endpoint); err == nil {
		endpoint = host
	}
	address("the endpoint", endpoint)
	return used
}
