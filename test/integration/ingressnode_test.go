package integration

import (
	"context"
	"strings"
	"testing"

	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"clusterctl/templates"
)

// TestIngressNodesHaveTheirRights: by the manifests, and only as long as they
// name the node.
func TestIngressNodesHaveTheirRights(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	apply := func(nodes ...string) {
		raw := must(templates.IngressManifests(templates.Ingress{Nodes: nodes}))(t)
		for _, text := range strings.Split(string(raw), "\n---\n") {
			o := object(t, text)
			gvr := schema.GroupVersionResource{Group: o.GroupVersionKind().Group, Version: "v1", Resource: map[string]string{
				"IngressClass": "ingressclasses", "ClusterRole": "clusterroles", "ClusterRoleBinding": "clusterrolebindings"}[o.GetKind()]}
			must(c.Dynamic.Resource(gvr).Apply(ctx, o.GetName(), o, metav1.ApplyOptions{FieldManager: "clusterctl-ingress", Force: true}))(t)
		}
	}
	apply("edge-" + ns)
	edge := c.as(t, "system:node:edge-"+ns, "system:nodes")
	other := c.as(t, "system:node:other-"+ns, "system:nodes")
	class := "clusterctl"
	i := must(c.Client.NetworkingV1().Ingresses(ns).Create(ctx, &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Name: "i"},
		Spec: networkingv1.IngressSpec{IngressClassName: &class, DefaultBackend: &networkingv1.IngressBackend{
			Service: &networkingv1.IngressServiceBackend{Name: "s", Port: networkingv1.ServiceBackendPort{Number: 80}}}},
	}, metav1.CreateOptions{}))(t)
	byName := metav1.ListOptions{FieldSelector: "metadata.name=nothing"}
	eventually(t, "the node reads and writes what it serves", func(ctx context.Context) (bool, error) {
		i.Status.LoadBalancer.Ingress = []networkingv1.IngressLoadBalancerIngress{{IP: "192.0.2.1"}}
		if _, err := edge.NetworkingV1().Ingresses(ns).UpdateStatus(ctx, i, metav1.UpdateOptions{}); err != nil {
			return false, err
		}
		if _, err := edge.NetworkingV1().IngressClasses().Get(ctx, class, metav1.GetOptions{}); err != nil {
			return false, err
		}
		_, err := edge.CoreV1().Secrets(ns).List(ctx, byName)
		return err == nil, err
	})
	if _, err := other.CoreV1().Secrets(ns).List(ctx, byName); err == nil {
		t.Error("another node reads secrets")
	}
	apply()
	eventually(t, "the rights are taken back", func(ctx context.Context) (bool, error) {
		_, err := edge.CoreV1().Secrets(ns).List(ctx, byName)
		return err != nil, nil
	})
}
