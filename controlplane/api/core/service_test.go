package core

import (
	"math/big"
	"net/netip"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// newService is a ClusterIP service as it is stored, changed by edit.
func newService(edit func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec: corev1.ServiceSpec{
			ClusterIP: "10.96.1.1", ClusterIPs: []string{"10.96.1.1"}, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol},
			IPFamilyPolicy: ptr.To(corev1.IPFamilyPolicySingleStack), Selector: map[string]string{"a": "b"},
			Ports: []corev1.ServicePort{{Port: 80}},
		},
	}
	if edit != nil {
		edit(s)
	}
	defaultService(s)
	return s
}

func TestValidateService(t *testing.T) {
	for _, c := range []struct {
		name string
		edit func(*corev1.Service)
		want []string
	}{
		{"sound", nil, nil},
		{"no ports", func(s *corev1.Service) { s.Spec.Ports = nil }, []string{"spec.ports: Required value"}},
		{"headless without ports", func(s *corev1.Service) {
			s.Spec.Ports, s.Spec.ClusterIP, s.Spec.ClusterIPs = nil, "None", []string{"None"}
		}, nil},
		{"unnamed ports", func(s *corev1.Service) { s.Spec.Ports = []corev1.ServicePort{{Port: 80}, {Port: 80, Name: "b"}} }, []string{
			"spec.ports[0].name: Required value",
			`spec.ports[1]: Duplicate value: {"protocol":"TCP","port":80,"targetPort":0}`,
		}},
		{"node port on cluster IP", func(s *corev1.Service) { s.Spec.Ports[0].NodePort = 30000 }, []string{"spec.ports[0].nodePort: Forbidden: may not be used when `type` is 'ClusterIP'"}},
		{"external name", func(s *corev1.Service) { s.Spec = corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName} }, []string{"spec.externalName: Required value"}},
		{"address of wrong family", func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "fd00::1", []string{"fd00::1"} }, []string{`spec.clusterIPs[0]: Invalid value: "fd00::1": expected an IPv4 value as indicated by ` + "`ipFamilies[0]`"}},
		{"affinity", func(s *corev1.Service) {
			s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP
			s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr.To[int32](100000)}}
		}, []string{"spec.sessionAffinityConfig.clientIP.timeoutSeconds: Invalid value: 100000: must be greater than 0 and less than 86400"}},
		{"type", func(s *corev1.Service) { s.Spec.Type = "Magic" }, []string{`spec.type: Unsupported value: "Magic": supported values: "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"`}},
		{"external IP", func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"127.0.0.1"} }, []string{`spec.externalIPs[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"local traffic needs a health port", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalTrafficPolicy = corev1.ServiceTypeLoadBalancer, corev1.ServiceExternalTrafficPolicyLocal
		}, []string{"spec.healthCheckNodePort: Required value"}},
		{"distribution", func(s *corev1.Service) { s.Spec.TrafficDistribution = ptr.To("Far") }, []string{`spec.trafficDistribution: Unsupported value: "Far": supported values: "PreferClose", "PreferSameZone", "PreferSameNode"`}},
	} {
		t.Run(c.name, func(t *testing.T) {
			if diff := cmp.Diff(append([]string{}, c.want...), texts(validateService(newService(c.edit), nil))); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateServiceUpdate(t *testing.T) {
	for _, c := range []struct {
		name      string
		old, edit func(*corev1.Service)
		want      []string
	}{
		{"selector", nil, func(s *corev1.Service) { s.Spec.Selector["c"] = "d" }, nil},
		{"other address", nil, func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "10.96.1.2", []string{"10.96.1.2"} }, []string{`spec.clusterIPs[0]: Invalid value: ["10.96.1.2"]: may not change once set`}},
		{"to headless", nil, func(s *corev1.Service) { s.Spec.ClusterIP, s.Spec.ClusterIPs = "None", []string{"None"} }, []string{`spec.clusterIPs[0]: Invalid value: ["None"]: may not change once set`}},
		{"class", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer }, func(s *corev1.Service) { s.Spec.LoadBalancerClass = ptr.To("x") }, []string{`spec.loadBalancerClass: Invalid value: "x": may not change once set`}},
		{"to external name", nil, func(s *corev1.Service) {
			s.Spec.Type, s.Spec.ExternalName = corev1.ServiceTypeExternalName, "example.com"
		}, nil},
		{"node port to cluster IP", func(s *corev1.Service) {
			s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30001
		}, func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }, nil},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newService(c.old)
			s := old.DeepCopy()
			c.edit(s)
			keepAllocated(s, old)
			alignAddresses(s, old)
			dropForType(s, old)
			defaultService(s)
			if diff := cmp.Diff(append([]string{}, c.want...), texts(validateServiceUpdate(s, old))); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestKeepAllocated(t *testing.T) {
	old := newService(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Spec.Ports = []corev1.ServicePort{{Name: "a", Port: 80, NodePort: 30001}, {Name: "b", Port: 81, NodePort: 30002}}
	})
	s := old.DeepCopy()
	s.Spec.ClusterIP, s.Spec.ClusterIPs = "", nil
	s.Spec.Ports[0].NodePort = 30002 // b's port, asked for by a
	s.Spec.Ports[1].NodePort = 0
	keepAllocated(s, old)
	if s.Spec.ClusterIP != "10.96.1.1" || s.Spec.Ports[0].NodePort != 30002 || s.Spec.Ports[1].NodePort != 0 {
		t.Errorf("address %s, node ports %d and %d", s.Spec.ClusterIP, s.Spec.Ports[0].NodePort, s.Spec.Ports[1].NodePort)
	}
}

func TestFreeAddress(t *testing.T) {
	p := netip.MustParsePrefix("10.0.0.0/28") // 16 addresses, the first eight static
	used := map[netip.Addr]bool{}
	for _, static := range []bool{false, true} {
		for {
			ip, found := freeAddress(p, static, used)
			if !found {
				break
			}
			if used[ip] || !p.Contains(ip) || ip == p.Addr() || ip == netip.MustParseAddr("10.0.0.15") {
				t.Fatalf("gave out %s, used %v", ip, used[ip])
			}
			if low := ip.As4()[3] <= 8; low != static {
				t.Fatalf("gave out %s, want from the static band: %v", ip, static)
			}
			used[ip] = true
		}
	}
	if len(used) != 14 {
		t.Errorf("gave out %d addresses of 14", len(used))
	}
	if ip, found := freeAddress(netip.MustParsePrefix("fd00::/108"), false, nil); !found || !ip.Is6() {
		t.Errorf("no address of an IPv6 range: %s", ip)
	}
}

func TestFreePort(t *testing.T) {
	bits := new(big.Int)
	const size = 40
	for i := range size {
		at, ok := freePort(bits, size)
		if !ok || bits.Bit(at) == 1 {
			t.Fatalf("port %d: %d, %v", i, at, ok)
		}
		if dynamic := size - 16; (at < 16) != (i >= dynamic) {
			t.Fatalf("port %d of %d: offset %d", i, size, at)
		}
		bits.SetBit(bits, at, 1)
	}
	if _, ok := freePort(bits, size); ok {
		t.Error("gave out a port of a full range")
	}
}

func TestRebaseNodePorts(t *testing.T) {
	a := &nodePortAllocator{text: "30010-30030", first: 30010, last: 30030}
	old := new(big.Int)
	old.SetBit(old, 5, 1)  // 30005: outside now
	old.SetBit(old, 12, 1) // 30012
	got := a.bits(&corev1.RangeAllocation{Range: "30000-32767", Data: old.Bytes()})
	if got.Bit(2) != 1 || got.BitLen() != 3 {
		t.Errorf("bits %b", got)
	}
}

func TestServiceRow(t *testing.T) {
	row := serviceRow(newService(func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeLoadBalancer
		s.Spec.Ports[0].NodePort = 30001
	}))
	if diff := cmp.Diff([]any{"web", "LoadBalancer", "10.96.1.1", "<pending>", "80:30001/TCP", "<unknown>", "a=b"}, row); diff != "" {
		t.Error(diff)
	}
}
