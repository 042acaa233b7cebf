package inventory

import (
	"fmt"
	"maps"
	"slices"

	"k8s.io/apimachinery/pkg/api/resource"
)

// IngressNodes are the present hosts that serve Ingresses.
func (inv *Inventory) IngressNodes() []Host {
	ingress := inv.Cluster.Ingress
	return inv.filter(func(h Host) bool {
		labelled := len(ingress.Labels) > 0
		for key, value := range ingress.Labels {
			have, ok := h.Labels[key]
			labelled = labelled && ok && have == value
		}
		return h.State == Present && h.IsNode() && (labelled || slices.Contains(ingress.Hosts, h.Name))
	})
}

// MaxBodyBytes is MaxBody as a number.
func (i Ingress) MaxBodyBytes() int64 {
	size, err := resource.ParseQuantity(i.MaxBody)
	if err != nil {
		return 0 // Parse refused it
	}
	return size.Value()
}

func (c *checker) checkIngress(inv *Inventory) {
	ingress := inv.Cluster.Ingress
	for i, name := range ingress.Hosts {
		path := fmt.Sprintf("cluster.ingress.hosts[%d]", i)
		switch h, ok := inv.Host(name); {
		case !ok:
			names := map[string]bool{}
			for _, n := range inv.Nodes() {
				names[n.Name] = true
			}
			c.faultAt(path, suggestion(name, slices.Sorted(maps.Keys(names))), "there is no host %q", name)
		case !h.IsNode():
			c.faultAt(path, "name a control plane or a worker", "host %s runs no node agent", name)
		}
	}
	for key, value := range ingress.Labels {
		c.checkLabel("cluster.ingress.labels."+key, "label", key, value)
	}
	if size, err := resource.ParseQuantity(ingress.MaxBody); err != nil || size.Sign() < 0 {
		c.faultAt("cluster.ingress.maxBody", "write one like 100Mi, or 0 for any size", "maxBody %q is no size", ingress.MaxBody)
	}
}
