package announce

import (
	"hash/fnv"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/utils/ptr"

	"clusterctl/hostconfig"
)

// addresses are those of a service that nodes announce.
func addresses(s *corev1.Service) []netip.Addr {
	if _, marked := s.Annotations[hostconfig.AnnotationAddressFrom]; !marked || s.Spec.Type != corev1.ServiceTypeLoadBalancer {
		return nil
	}
	var list []netip.Addr
	for _, in := range s.Status.LoadBalancer.Ingress {
		if a, err := netip.ParseAddr(in.IP); err == nil {
			list = append(list, a)
		}
	}
	return list
}

// local says whether only nodes with endpoints take a service's packets.
func local(s *corev1.Service) bool {
	return s.Spec.ExternalTrafficPolicy == corev1.ServiceExternalTrafficPolicyLocal
}

// mayAnnounce says whether a node is one of those that announce addresses.
func mayAnnounce(n *corev1.Node) bool {
	if _, excluded := n.Labels[corev1.LabelNodeExcludeBalancers]; excluded || n.DeletionTimestamp != nil {
		return false
	}
	return slices.ContainsFunc(n.Status.Conditions, func(c corev1.NodeCondition) bool {
		return c.Type == corev1.NodeReady && c.Status == corev1.ConditionTrue
	})
}

// withEndpoints are the nodes of a service's ready endpoints; if there is none,
// of those that still serve while they end.
func withEndpoints(endpoints []*discoveryv1.EndpointSlice) map[string]bool {
	ready, serving := map[string]bool{}, map[string]bool{}
	for _, slice := range endpoints {
		for _, e := range slice.Endpoints {
			node := ptr.Deref(e.NodeName, "")
			if node != "" && ptr.Deref(e.Conditions.Ready, true) {
				ready[node] = true
			}
			if node != "" && ptr.Deref(e.Conditions.Serving, ptr.Deref(e.Conditions.Ready, true)) {
				serving[node] = true
			}
		}
	}
	if len(ready) == 0 {
		return serving
	}
	return ready
}

// rank is how many of nodes come before node for an address; -1: node is not
// among them.
func rank(node string, nodes []string, address netip.Addr) int {
	if !slices.Contains(nodes, node) {
		return -1
	}
	own, before := weight(node, address), 0
	for _, other := range nodes {
		if w := weight(other, address); w > own || w == own && other < node {
			before++
		}
	}
	return before
}

// weight is the same on every node.
func weight(node string, address netip.Addr) uint64 {
	h := fnv.New64a()
	h.Write([]byte(node))
	h.Write([]byte{0})
	h.Write(address.AsSlice())
	// FNV mixes its last bytes badly; this is the end of splitmix64.
	x := h.Sum64()
	x = (x ^ x>>30) * 0xbf58476d1ce4e5b9
	x = (x ^ x>>27) * 0x94d049bb133111eb
	return x ^ x>>31
}
