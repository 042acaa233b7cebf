package discovery

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

func texts(errs field.ErrorList) []string {
	list := []string{}
	for _, err := range errs {
		list = append(list, err.Error())
	}
	return list
}

func TestValidateSlice(t *testing.T) {
	tcp := ptr.To(corev1.ProtocolTCP)
	for _, c := range []struct {
		name string
		edit func(*discoveryv1.EndpointSlice)
		want []string
	}{
		{"sound", func(*discoveryv1.EndpointSlice) {}, []string{}},
		{"type", func(s *discoveryv1.EndpointSlice) { s.AddressType = "IPX" }, []string{`addressType: Unsupported value: "IPX": supported values: "FQDN", "IPv4", "IPv6"`}},
		{"family", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "fd00::1" }, []string{`endpoints[0].addresses: Invalid value: "fd00::1": must be an IPv4 address`}},
		{"loopback", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses[0] = "127.0.0.1" }, []string{`endpoints[0].addresses[0]: Invalid value: "127.0.0.1": may not be in the loopback range (127.0.0.0/8, ::1/128)`}},
		{"none", func(s *discoveryv1.EndpointSlice) { s.Endpoints[0].Addresses = nil }, []string{"endpoints[0].addresses: Required value: must contain at least 1 address"}},
		{"ports", func(s *discoveryv1.EndpointSlice) {
			s.Ports = []discoveryv1.EndpointPort{{Name: ptr.To("a"), Protocol: tcp}, {Name: ptr.To("a"), Protocol: ptr.To(corev1.Protocol("X"))}}
		}, []string{`ports[1].name: Duplicate value: "a"`, `ports[1].protocol: Unsupported value: "X": supported values: "SCTP", "TCP", "UDP"`}},
		{"hints", func(s *discoveryv1.EndpointSlice) {
			s.Endpoints[0].Hints = &discoveryv1.EndpointHints{ForZones: []discoveryv1.ForZone{{Name: "a"}, {Name: "a"}}}
		}, []string{`endpoints[0].hints.forZones[1].name: Duplicate value: "a"`}},
		{"too many", func(s *discoveryv1.EndpointSlice) { s.Endpoints = make([]discoveryv1.Endpoint, 1001) }, []string{"endpoints: Too many: 1001: must have at most 1000 items"}},
	} {
		s := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}}
		c.edit(s)
		if diff := cmp.Diff(c.want, texts(validateSlice(s, nil))); diff != "" {
			t.Errorf("%s (-want +got):\n%s", c.name, diff)
		}
		if c.name == "family" && len(validateSlice(s, s.DeepCopy())) > 0 {
			t.Error("unchanged endpoints are judged again")
		}
	}
}

func TestCells(t *testing.T) {
	if got := endpointsCell([]discoveryv1.Endpoint{{Addresses: []string{"a", "b"}}, {Addresses: []string{"c", "d"}}}); got != "a,b,c + 1 more..." {
		t.Errorf("endpoints %q", got)
	}
	if got := portsCell([]discoveryv1.EndpointPort{{Port: ptr.To[int32](80)}, {Name: ptr.To("n")}, {}}); got != "80,n,*" {
		t.Errorf("ports %q", got)
	}
	if got := portsCell(nil); got != "<unset>" {
		t.Errorf("no ports %q", got)
	}
}
