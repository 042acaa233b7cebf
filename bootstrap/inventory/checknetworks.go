package inventory

import (
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// network is one of those that the cluster has for itself.
type network struct {
	key string // of the inventory
	netip.Prefix
}

// checkNetworks judges the networks and what lies inside them.
func (c *checker) checkNetworks(inv *Inventory) {
	pods := c.networks("podCIDR", inv.Cluster.PodCIDR, "10.244.0.0/16", "fd00:10:244::/56")
	services := c.networks("serviceCIDR", inv.Cluster.ServiceCIDR, "10.96.0.0/16", "fd00:10:96::/112")
	for i, s := range services {
		least, most := 12, 27
		if s.Addr().Is6() {
			least, most = 64, 123
		}
		if s.Bits() < least || s.Bits() > most {
			c.faultAt("cluster.serviceCIDR", fmt.Sprintf("choose a prefix length from %d to %d", least, most),
				"serviceCIDR %s is too %s", s, sizeWord(s.Bits() < least))
		}
		if i == 0 && len(pods) > 0 && s.Addr().Is4() != pods[0].Addr().Is4() {
			c.faultAt("cluster.serviceCIDR", "choose one of podCIDR's family", "serviceCIDR %s and podCIDR %s are of different families", s, pods[0])
		}
		if i == 1 && len(pods) == 1 {
			c.faultAt("cluster.serviceCIDR", "give podCIDR one, too", "serviceCIDR has an IPv6 network and podCIDR has none")
		}
		for _, p := range pods {
			if p.Overlaps(s.Prefix) {
				c.faultAt("cluster.serviceCIDR", "choose networks that have nothing in common", "serviceCIDR %s overlaps podCIDR %s", s, p)
			}
		}
	}
	for _, p := range pods {
		if p.Addr().Is4() {
			c.checkShares(inv, p, "nodeMaskSize", inv.Cluster.NodeMaskSize, 16, 29, "24 gives each node 254 addresses")
		} else {
			c.checkShares(inv, p, "nodeMaskSizeIPv6", inv.Cluster.NodeMaskSizeIPv6, 48, 120, "64 is usual")
		}
	}
	if inv.Cluster.NodeMaskSizeIPv6 != 0 && !slices.ContainsFunc(pods, func(p network) bool { return p.Addr().Is6() }) {
		c.faultAt("cluster.nodeMaskSizeIPv6", "add an IPv6 network to podCIDR, or drop it", "nodeMaskSizeIPv6 is given and podCIDR has no IPv6 network")
	}
	for i, h := range inv.Hosts {
		address, err := netip.ParseAddr(h.Address)
		if err == nil && len(pods) > 0 && address.Is4() != pods[0].Addr().Is4() {
			c.faultAt(c.entries[i]+".address", "give hosts addresses of the family of podCIDR's first network",
				"address %s of %s is of another family than podCIDR %s", address, h.Name, pods[0])
		}
	}
	host := inv.Cluster.Endpoint
	if h, _, err := net.SplitHostPort(host); err == nil {
		host = h
	}
	for _, n := range append(pods, services...) {
		if address, err := netip.ParseAddr(host); err == nil && n.Contains(address) {
			c.faultAt("cluster.endpoint", "choose another network or another address", "endpoint %s lies inside %s %s", address, n.key, n)
		}
		for i, h := range inv.Hosts {
			if address, err := netip.ParseAddr(h.Address); err == nil && n.Contains(address) {
				c.faultAt(c.entries[i]+".address", "choose a "+n.key+" that no host lies in",
					"address %s of %s lies inside %s %s", address, h.Name, n.key, n)
			}
		}
	}
}

// checkShares judges a node's share of a network of podCIDR.
func (c *checker) checkShares(inv *Inventory, pods network, key string, mask, least, most int, hint string) {
	path, nodes := "cluster."+key, len(inv.Nodes())
	switch {
	case mask < least || mask > most:
		c.faultAt(path, hint, "%s %d is not from %d to %d", key, mask, least, most)
	case mask < pods.Bits():
		c.faultAt(path, fmt.Sprintf("choose one from %d to %d, or a larger podCIDR", pods.Bits(), most),
			"a node's share of /%d is larger than podCIDR %s", mask, pods)
	case mask-pods.Bits() < 20 && 1<<(mask-pods.Bits()) < nodes:
		c.faultAt(path, "choose a larger podCIDR or a larger "+key,
			"podCIDR %s has room for %d nodes of /%d, and there are %d", pods, 1<<(mask-pods.Bits()), mask, nodes)
	}
}

// networks reads one network, or one of each family. None: it has found a fault.
func (c *checker) networks(key, text, v4, v6 string) []network {
	path, hint := "cluster."+key, "write a network such as "+v4
	var list []network
	parts := strings.Split(text, ",")
	for i, part := range parts {
		prefix, err := netip.ParsePrefix(part)
		switch {
		case err != nil:
			c.faultAt(path, hint, "%s %q is no network", key, part)
			return nil
		case i == 0 && !prefix.Addr().Is4() && len(parts) > 1:
			c.faultAt(path, fmt.Sprintf("write the IPv4 network first: %s,%s", v4, v6), "%s %s is not IPv4", key, part)
			return nil
		case i == 1 && prefix.Addr().Is4():
			c.faultAt(path, fmt.Sprintf("write one of each family: %s,%s", v4, v6), "%s has two IPv4 networks", key)
			return nil
		case i > 1:
			c.faultAt(path, fmt.Sprintf("write one of each family: %s,%s", v4, v6), "%s has more than two networks", key)
			return nil
		case prefix != prefix.Masked():
			c.faultAt(path, "write "+prefix.Masked().String(), "%s %s has bits set after its prefix", key, part)
		}
		list = append(list, network{key, prefix.Masked()})
	}
	return list
}

func sizeWord(large bool) string {
	if large {
		return "large"
	}
	return "small"
}
