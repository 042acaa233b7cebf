package ingress

import (
	"context"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// serving are those of the named nodes that are Ready, by name.
func serving(nodes []*v1.Node, names []string) []*v1.Node {
	var found []*v1.Node
	for _, node := range nodes {
		ready := slices.ContainsFunc(node.Status.Conditions, func(c v1.NodeCondition) bool {
			return c.Type == v1.NodeReady && c.Status == v1.ConditionTrue
		})
		if ready && node.DeletionTimestamp == nil && slices.Contains(names, node.Name) {
			found = append(found, node)
		}
	}
	slices.SortFunc(found, func(a, b *v1.Node) int { return strings.Compare(a.Name, b.Name) })
	return found
}

// addresses is where the nodes are reached from outside.
func addresses(nodes []*v1.Node) []networkingv1.IngressLoadBalancerIngress {
	var found []networkingv1.IngressLoadBalancerIngress
	for _, node := range nodes {
		for _, kind := range []v1.NodeAddressType{v1.NodeExternalIP, v1.NodeInternalIP} {
			of := func(a v1.NodeAddress) bool { return a.Type == kind }
			if i := slices.IndexFunc(node.Status.Addresses, of); i >= 0 {
				found = append(found, networkingv1.IngressLoadBalancerIngress{IP: node.Status.Addresses[i].Address})
				break
			}
		}
	}
	return found
}

// publish writes the addresses into the status of the Ingresses. Every node
// would write the same: the first one that is Ready does.
func (c *controller) publish(ctx context.Context, ingresses []*networkingv1.Ingress, nodes []*v1.Node) error {
	ready := serving(nodes, c.Settings.Nodes)
	if len(ready) == 0 || ready[0].Name != c.NodeName {
		return nil
	}
	want := addresses(ready)
	for _, ingress := range ingresses {
		if equality.Semantic.DeepEqual(ingress.Status.LoadBalancer.Ingress, want) {
			continue
		}
		changed := ingress.DeepCopy()
		changed.Status.LoadBalancer.Ingress = want
		if _, err := c.Client.NetworkingV1().Ingresses(ingress.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("update the status of ingress %s/%s: %w", ingress.Namespace, ingress.Name, err)
		}
	}
	return nil
}
