package integration

import (
	"net/netip"
	"strings"
	"sync"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func simpleService(name string, kind corev1.ServiceType) *corev1.Service {
	return &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec:       corev1.ServiceSpec{Type: kind, Selector: map[string]string{"app": name}, Ports: []corev1.ServicePort{{Port: 80}}},
	}
}

func TestServicesNeverShareAddressesOrPorts(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	const n = 40
	var mu sync.Mutex
	addresses, ports := map[string]bool{}, map[int32]bool{}
	prefix := netip.MustParsePrefix(c.Config.Cluster.ServiceCIDR)
	var wg sync.WaitGroup
	for i := range n {
		wg.Go(func() {
			s, err := c.Client.CoreV1().Services(ns).Create(ctx, simpleService("s"+string(rune('a'+i%26))+string(rune('a'+i/26)), corev1.ServiceTypeNodePort), metav1.CreateOptions{})
			if err != nil {
				t.Error(err)
				return
			}
			mu.Lock()
			defer mu.Unlock()
			ip, port := s.Spec.ClusterIP, s.Spec.Ports[0].NodePort
			if addresses[ip] || ports[port] || !prefix.Contains(netip.MustParseAddr(ip)) || port < 30000 || port > 32767 {
				t.Errorf("%s got %s and %d", s.Name, ip, port)
			}
			addresses[ip], ports[port] = true, true
		})
	}
	wg.Wait()
	for ip := range addresses {
		if _, err := c.Client.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{}); err != nil {
			t.Errorf("address of a service: %v", err)
		}
	}
	services := must(c.Client.CoreV1().Services(ns).List(ctx, metav1.ListOptions{}))(t)
	for _, s := range services.Items {
		if err := c.Client.CoreV1().Services(ns).Delete(ctx, s.Name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	}
	for ip := range addresses {
		if _, err := c.Client.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
			t.Errorf("address %s of a deleted service: %v", ip, err)
		}
	}
}

func TestServiceAddressIsKeptAndGivenBack(t *testing.T) {
	c, ctx := Start(t), t.Context()
	services := c.Client.CoreV1().Services(c.namespace(t))
	const ip = "10.96.0.77"
	asked := simpleService("a", corev1.ServiceTypeNodePort)
	asked.Spec.ClusterIP, asked.Spec.Ports[0].NodePort = ip, 30077

	dry := must(services.Create(ctx, asked, metav1.CreateOptions{DryRun: []string{metav1.DryRunAll}}))(t)
	if dry.Spec.ClusterIP != ip {
		t.Errorf("dry run: %s", dry.Spec.ClusterIP)
	}
	created := must(services.Create(ctx, asked, metav1.CreateOptions{}))(t) // nothing was taken by the dry run
	if got := created.Spec; got.ClusterIPs[0] != ip || got.Ports[0].NodePort != 30077 || *got.IPFamilyPolicy != corev1.IPFamilyPolicySingleStack || got.IPFamilies[0] != corev1.IPv4Protocol {
		t.Errorf("created %+v", got)
	}
	rival := simpleService("b", corev1.ServiceTypeClusterIP)
	rival.Spec.ClusterIP = ip
	_, err := services.Create(ctx, rival, metav1.CreateOptions{})
	if want := "failed to allocate IP 10.96.0.77: provided IP is already allocated"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("same address: %v", err)
	}
	rival = simpleService("b", corev1.ServiceTypeNodePort)
	rival.Spec.Ports[0].NodePort = 30077
	_, err = services.Create(ctx, rival, metav1.CreateOptions{})
	if want := "spec.ports[0].nodePort: Invalid value: 30077: provided port is already allocated"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("same node port: %v", err)
	}
	rival.Spec.Ports[0].NodePort = 80
	_, err = services.Create(ctx, rival, metav1.CreateOptions{})
	if want := "provided port is not in the valid range. The range of valid ports is 30000-32767"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("node port out of range: %v", err)
	}

	// The same manifest again, without what was allocated, changes nothing.
	again := simpleService("a", corev1.ServiceTypeNodePort)
	again.ResourceVersion = created.ResourceVersion
	updated := must(services.Update(ctx, again, metav1.UpdateOptions{}))(t)
	if updated.Spec.ClusterIP != ip || updated.Spec.Ports[0].NodePort != 30077 {
		t.Errorf("sent again: %s, %d", updated.Spec.ClusterIP, updated.Spec.Ports[0].NodePort)
	}
	updated.Spec.ClusterIP, updated.Spec.ClusterIPs = "10.96.0.78", []string{"10.96.0.78"}
	_, err = services.Update(ctx, updated, metav1.UpdateOptions{})
	if want := "may not change once set"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("another address: %v", err)
	}
	if _, err := c.Client.NetworkingV1().IPAddresses().Get(ctx, "10.96.0.78", metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("a refused update left its address: %v", err)
	}

	// To a type without node ports, then to one without an address, and back.
	current := must(services.Get(ctx, "a", metav1.GetOptions{}))(t)
	current.Spec.Type = corev1.ServiceTypeClusterIP
	current = must(services.Update(ctx, current, metav1.UpdateOptions{}))(t)
	if current.Spec.Ports[0].NodePort != 0 || current.Spec.ClusterIP != ip {
		t.Errorf("as ClusterIP: %+v", current.Spec)
	}
	current.Spec.Type, current.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
	current = must(services.Update(ctx, current, metav1.UpdateOptions{}))(t)
	if current.Spec.ClusterIP != "" || len(current.Spec.IPFamilies) != 0 {
		t.Errorf("as ExternalName: %+v", current.Spec)
	}
	if _, err := c.Client.NetworkingV1().IPAddresses().Get(ctx, ip, metav1.GetOptions{}); !apierrors.IsNotFound(err) {
		t.Errorf("address of a service that is a name now: %v", err)
	}
	current.Spec.Type, current.Spec.ExternalName = corev1.ServiceTypeNodePort, ""
	current.Spec.Ports[0].NodePort = 30077
	current = must(services.Update(ctx, current, metav1.UpdateOptions{}))(t)
	if current.Spec.ClusterIP == "" || current.Spec.Ports[0].NodePort != 30077 {
		t.Errorf("as NodePort again: %+v", current.Spec)
	}
}

func TestServiceKinds(t *testing.T) {
	c, ctx := Start(t), t.Context()
	services := c.Client.CoreV1().Services(c.namespace(t))
	headless := simpleService("headless", "")
	headless.Spec.ClusterIP = corev1.ClusterIPNone
	if s := must(services.Create(ctx, headless, metav1.CreateOptions{}))(t); s.Spec.ClusterIPs[0] != "None" || len(s.Spec.IPFamilies) != 1 {
		t.Errorf("headless: %+v", s.Spec)
	}
	bare := simpleService("bare", "")
	bare.Spec.ClusterIP, bare.Spec.Selector = corev1.ClusterIPNone, nil
	if s := must(services.Create(ctx, bare, metav1.CreateOptions{}))(t); len(s.Spec.IPFamilies) != 2 || *s.Spec.IPFamilyPolicy != corev1.IPFamilyPolicyRequireDualStack {
		t.Errorf("headless without selector: %+v", s.Spec)
	}
	dual := simpleService("dual", "")
	dual.Spec.IPFamilyPolicy = ptr.To(corev1.IPFamilyPolicyRequireDualStack)
	_, err := services.Create(ctx, dual, metav1.CreateOptions{})
	if want := "this cluster is not configured for dual-stack services"; err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("dual-stack on one: %v", err)
	}
	local := simpleService("local", corev1.ServiceTypeLoadBalancer)
	local.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
	local.Spec.Ports = []corev1.ServicePort{{Name: "t", Port: 53, Protocol: "TCP"}, {Name: "u", Port: 53, Protocol: "UDP"}}
	s := must(services.Create(ctx, local, metav1.CreateOptions{}))(t)
	if s.Spec.HealthCheckNodePort == 0 || s.Spec.Ports[0].NodePort == 0 || s.Spec.Ports[0].NodePort != s.Spec.Ports[1].NodePort {
		t.Errorf("load balancer: health %d, ports %+v", s.Spec.HealthCheckNodePort, s.Spec.Ports)
	}
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{{IP: "192.0.2.9"}}
	s = must(services.UpdateStatus(ctx, s, metav1.UpdateOptions{}))(t)
	if in := s.Status.LoadBalancer.Ingress[0]; in.IPMode == nil || *in.IPMode != corev1.LoadBalancerIPModeVIP {
		t.Errorf("ingress %+v", in)
	}
}
