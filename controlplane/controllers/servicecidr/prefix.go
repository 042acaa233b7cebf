package servicecidr

import (
	"net/netip"

	networkingv1 "k8s.io/api/networking/v1"
)

// managedBy labels the addresses that API servers allocate.
const managedBy = "ipallocator.k8s.io"

func isManaged(a *networkingv1.IPAddress) bool {
	return a.Labels[networkingv1.LabelManagedBy] == managedBy
}

// prefixes are a ServiceCIDR's, which validation has seen.
func prefixes(c *networkingv1.ServiceCIDR) []netip.Prefix {
	var list []netip.Prefix
	for _, text := range c.Spec.CIDRs {
		if p, err := netip.ParsePrefix(text); err == nil {
			list = append(list, p.Masked())
		}
	}
	return list
}

// offers says whether a service can have ip from p: neither the network's own
// address nor, of IPv4, the broadcast address.
func offers(p netip.Prefix, ip netip.Addr) bool {
	if !p.Contains(ip) || ip == p.Addr() {
		return false
	}
	return ip.Is6() || p.Contains(ip.Next())
}
