package endpointslice

import (
	"context"
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"

	"clusterctl/controlplane/controllers/controllertest"
)

// A service that asks for it has each zone served by its own share of
// endpoints, as soon as there are nodes to serve.
func TestZoneHints(t *testing.T) {
	ctx := context.Background()
	node := func(zone string) *corev1.Node {
		return &corev1.Node{
			ObjectMeta: metav1.ObjectMeta{Name: "node-" + zone, Labels: map[string]string{corev1.LabelTopologyZone: zone}},
			Status: corev1.NodeStatus{
				Conditions:  []corev1.NodeCondition{{Type: corev1.NodeReady, Status: corev1.ConditionTrue}},
				Allocatable: corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("4")},
			},
		}
	}
	f := controllertest.New(t, node("a"), node("b"), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", Annotations: map[string]string{corev1.AnnotationTopologyMode: "Auto"}},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.1.1.1", IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}, Selector: map[string]string{"app": "web"},
			Ports: []corev1.ServicePort{{Port: 80, Protocol: corev1.ProtocolTCP, TargetPort: intstr.FromInt32(8080)}},
		},
	})
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	for i := range 8 {
		ip := fmt.Sprintf("10.0.0.%d", i+1)
		_, err := f.Client.CoreV1().Pods("ns").Create(ctx, &corev1.Pod{
			ObjectMeta: metav1.ObjectMeta{Name: fmt.Sprint("web-", i), Namespace: "ns", Labels: map[string]string{"app": "web"}},
			Spec:       corev1.PodSpec{NodeName: []string{"node-a", "node-b"}[i%2], RestartPolicy: corev1.RestartPolicyAlways},
			Status: corev1.PodStatus{Phase: corev1.PodRunning, PodIP: ip, PodIPs: []corev1.PodIP{{IP: ip}},
				Conditions: []corev1.PodCondition{{Type: corev1.PodReady, Status: corev1.ConditionTrue}}},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	controllertest.Eventually(t, "hints for both zones", func() bool {
		list, err := f.Client.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var zones []string
		for _, slice := range list.Items {
			for _, e := range slice.Endpoints {
				if e.Hints != nil && slices.EqualFunc(e.Hints.ForZones, []discoveryv1.ForZone{{Name: *e.Zone}}, func(a, b discoveryv1.ForZone) bool { return a == b }) {
					zones = append(zones, *e.Zone)
				}
			}
		}
		slices.Sort(zones)
		return slices.Equal(zones, []string{"a", "a", "a", "a", "b", "b", "b", "b"})
	})
}
