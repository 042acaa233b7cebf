package hostconfig

import (
	"fmt"
	"net/netip"
	"strings"
)

// ParseNetworks reads what PodCIDR and ServiceCIDR hold: one CIDR, or two of
// different families with a comma between them. The first one's family is the
// primary one.
func ParseNetworks(text string) ([]netip.Prefix, error) {
	var list []netip.Prefix
	for part := range strings.SplitSeq(text, ",") {
		prefix, err := netip.ParsePrefix(strings.TrimSpace(part))
		if err != nil {
			return nil, fmt.Errorf("read network: %w", err)
		}
		list = append(list, prefix.Masked())
	}
	if len(list) > 2 || len(list) == 2 && list[0].Addr().Is4() == list[1].Addr().Is4() {
		return nil, fmt.Errorf("networks %s: there may be one of each address family", text)
	}
	return list, nil
}

// NodeMasks are the prefix lengths of a node's shares of the networks of PodCIDR.
func (c Cluster) NodeMasks(networks []netip.Prefix) []int {
	var masks []int
	for _, network := range networks {
		if network.Addr().Is4() {
			masks = append(masks, c.NodeMaskSize)
		} else {
			masks = append(masks, c.NodeMaskSizeIPv6)
		}
	}
	return masks
}
