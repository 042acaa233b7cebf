package node

import (
	"strings"

	v1 "k8s.io/api/core/v1"
)

// extend adds the resources that are not the host's own: those of plugins, and
// those that somebody else wrote into the node's status before, who alone knows
// when they are gone.
func (n *Node) extend(status *v1.NodeStatus, before v1.ResourceList) {
	for name, q := range before {
		if _, own := status.Capacity[name]; !own && strings.Contains(string(name), "/") && !strings.Contains(string(name), v1.ResourceDefaultNamespacePrefix) {
			status.Capacity[name], status.Allocatable[name] = q, q
		}
	}
	if n.Extended == nil {
		return
	}
	capacity, allocatable := n.Extended()
	for name, q := range capacity {
		status.Capacity[name], status.Allocatable[name] = q, allocatable[name]
	}
}
