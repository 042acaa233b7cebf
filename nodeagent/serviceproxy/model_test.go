package serviceproxy

import (
	"flag"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

var updateGolden = flag.Bool("update", false, "write the golden files anew")

var here = self{node: "here", zone: "west"}

var testLayout = layout{
	pods: netip.MustParsePrefix("10.244.0.0/16"), services: []netip.Prefix{netip.MustParsePrefix("10.96.0.0/16")},
}

// buildModel returns the ports of all services, sorted by name. The slices are
// every service's.
func buildModel(services []*corev1.Service, all []*discoveryv1.EndpointSlice, here self) []servicePort {
	var ports []servicePort
	for _, s := range services {
		var own []*discoveryv1.EndpointSlice
		for _, slice := range all {
			if slice.Labels[discoveryv1.LabelServiceName] != "" {
				own = append(own, slice)
			}
		}
		ports = append(ports, portsOf(s, own, here)...)
	}
	slices.SortFunc(ports, func(a, b servicePort) int { return strings.Compare(a.name, b.name) })
	return ports
}

func slicesOf(all ...*discoveryv1.EndpointSlice) []*discoveryv1.EndpointSlice { return all }

// byName are ports by the service that they are of.
func byName(ports []servicePort) map[string][]servicePort {
	all := map[string][]servicePort{}
	for _, p := range ports {
		all[p.service] = append(all[p.service], p)
	}
	return all
}

func ptr[T any](v T) *T { return &v }

// service is a ClusterIP service with one TCP port, changed by edits.
func service(edits ...func(*corev1.Service)) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "home", Name: "web", Labels: map[string]string{}},
		Spec: corev1.ServiceSpec{
			Type:      corev1.ServiceTypeClusterIP,
			ClusterIP: "10.96.0.20",
			Ports:     []corev1.ServicePort{{Name: "http", Protocol: corev1.ProtocolTCP, Port: 80}},
		},
	}
	for _, edit := range edits {
		edit(s)
	}
	return s
}

// endpoint says where an endpoint runs and how it is.
type endpoint struct {
	ip, node string
	ready    bool
	serving  bool // and terminating, if it is not ready
	zones    []string
	nodes    []string
}

func up(ip, node string) endpoint    { return endpoint{ip: ip, node: node, ready: true, serving: true} }
func going(ip, node string) endpoint { return endpoint{ip: ip, node: node, serving: true} }

func slice(endpoints ...endpoint) *discoveryv1.EndpointSlice {
	s := &discoveryv1.EndpointSlice{
		ObjectMeta:  metav1.ObjectMeta{Namespace: "home", Name: "web-1", Labels: map[string]string{discoveryv1.LabelServiceName: "web"}},
		AddressType: discoveryv1.AddressTypeIPv4,
		Ports:       []discoveryv1.EndpointPort{{Name: ptr("http"), Protocol: ptr(corev1.ProtocolTCP), Port: ptr[int32](8080)}},
	}
	for _, e := range endpoints {
		item := discoveryv1.Endpoint{
			Addresses:  []string{e.ip},
			NodeName:   &e.node,
			Conditions: discoveryv1.EndpointConditions{Ready: &e.ready, Serving: &e.serving, Terminating: ptr(e.serving && !e.ready)},
		}
		if len(e.zones)+len(e.nodes) > 0 {
			item.Hints = &discoveryv1.EndpointHints{}
			for _, zone := range e.zones {
				item.Hints.ForZones = append(item.Hints.ForZones, discoveryv1.ForZone{Name: zone})
			}
			for _, node := range e.nodes {
				item.Hints.ForNodes = append(item.Hints.ForNodes, discoveryv1.ForNode{Name: node})
			}
		}
		s.Endpoints = append(s.Endpoints, item)
	}
	return s
}

// Edits of a service.
func nodePort(s *corev1.Service) {
	s.Spec.Type, s.Spec.Ports[0].NodePort = corev1.ServiceTypeNodePort, 30080
}

func balanced(s *corev1.Service) {
	nodePort(s)
	s.Spec.Type = corev1.ServiceTypeLoadBalancer
	s.Status.LoadBalancer.Ingress = []corev1.LoadBalancerIngress{
		{IP: "192.0.2.7"},
		{IP: "192.0.2.8", IPMode: ptr(corev1.LoadBalancerIPModeProxy)},
	}
}

func externalLocal(s *corev1.Service) {
	s.Spec.ExternalTrafficPolicy = corev1.ServiceExternalTrafficPolicyLocal
}

func internalLocal(s *corev1.Service) {
	s.Spec.InternalTrafficPolicy = ptr(corev1.ServiceInternalTrafficPolicyLocal)
}

func affine(s *corev1.Service) { s.Spec.SessionAffinity = corev1.ServiceAffinityClientIP }

func dual(s *corev1.Service) { s.Spec.ClusterIPs = []string{s.Spec.ClusterIP, "fd00:10:96::14"} }

func udp(s *corev1.Service) { s.Spec.Ports[0].Protocol = corev1.ProtocolUDP }

func TestModelSkips(t *testing.T) {
	tests := []struct {
		name string
		edit func(*corev1.Service)
	}{
		{"headless", func(s *corev1.Service) { s.Spec.ClusterIP = corev1.ClusterIPNone }},
		{"no address yet", func(s *corev1.Service) { s.Spec.ClusterIP = "" }},
		{"external name", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName }},
		{"another proxy's", func(s *corev1.Service) { s.Labels[labelOtherProxy] = "other" }},
		{"IPv6 only", func(s *corev1.Service) { s.Spec.ClusterIP = "fd00::1" }},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if got := buildModel([]*corev1.Service{service(test.edit)}, nil, here); len(got) != 0 {
				t.Errorf("got %v, want no port", got)
			}
		})
	}
}

func TestModelChoosesEndpoints(t *testing.T) {
	notReady := endpoint{ip: "10.244.0.9", node: "here"}
	zoned := func(ip, zone string) endpoint {
		e := up(ip, "there")
		e.zones = []string{zone}
		return e
	}
	forNode := up("10.244.1.7", "there")
	forNode.nodes = []string{"here"}
	forOther := up("10.244.1.8", "there")
	forOther.nodes = []string{"other"}
	leavingWest, leavingEast := going("10.244.1.4", "there"), going("10.244.1.5", "there")
	leavingWest.zones, leavingEast.zones = []string{"west"}, []string{"east"}
	untold := slice(going("10.244.0.6", "here"))
	untold.Endpoints[0].Conditions.Serving = nil
	tests := []struct {
		name  string
		edit  func(*corev1.Service)
		slice *discoveryv1.EndpointSlice
		all   string
		local string
	}{
		{"ready ones only", internalLocal, slice(up("10.244.0.2", "here"), up("10.244.1.2", "there"), notReady, going("10.244.0.3", "here")),
			"10.244.0.2 10.244.1.2", "10.244.0.2"},
		{"terminating ones if nothing else", internalLocal, slice(notReady, going("10.244.0.3", "here"), going("10.244.1.3", "there")),
			"10.244.0.3 10.244.1.3", "10.244.0.3"},
		{"local terminating though others are ready", externalLocal, slice(going("10.244.0.3", "here"), up("10.244.1.2", "there")),
			"10.244.1.2", "10.244.0.3"},
		{"none", internalLocal, slice(notReady), "", ""},
		{"no local wanted", func(*corev1.Service) {}, slice(up("10.244.0.2", "here")), "10.244.0.2", ""},
		{"hints for our zone", func(*corev1.Service) {}, slice(zoned("10.244.1.2", "west"), zoned("10.244.1.3", "east")), "10.244.1.2", ""},
		{"hints without our zone", func(*corev1.Service) {}, slice(zoned("10.244.1.2", "north"), zoned("10.244.1.3", "east")), "10.244.1.2 10.244.1.3", ""},
		{"hints on some only", func(*corev1.Service) {}, slice(zoned("10.244.1.2", "west"), up("10.244.1.3", "there")), "10.244.1.2 10.244.1.3", ""},
		{"hints for our node", func(*corev1.Service) {}, slice(forNode, forOther), "10.244.1.7", ""},
		{"hints of those that are about to go", func(*corev1.Service) {}, slice(leavingWest, leavingEast), "10.244.1.4 10.244.1.5", ""},
		{"serving is not told", externalLocal, untold, "10.244.0.6", "10.244.0.6"},
		{"another protocol", udp, slice(up("10.244.0.2", "here")), "", ""},
		{"another port", func(s *corev1.Service) { s.Spec.Ports[0].Name = "other" }, slice(up("10.244.0.2", "here")), "", ""},
	}
	words := func(list []netip.AddrPort) string {
		var texts []string
		for _, a := range list {
			if a.Port() != 8080 {
				t.Errorf("endpoint %s has another port than 8080", a)
			}
			texts = append(texts, a.Addr().String())
		}
		return strings.Join(texts, " ")
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := buildModel([]*corev1.Service{service(test.edit)}, []*discoveryv1.EndpointSlice{test.slice}, here)
			if len(got) != 1 {
				t.Fatalf("got %d ports, want 1", len(got))
			}
			if all, local := words(got[0].endpoints), words(got[0].local); all != test.all || local != test.local {
				t.Errorf("got endpoints %q and local %q, want %q and %q", all, local, test.all, test.local)
			}
		})
	}
}

func TestNodesMayUseBalancersTheyAreAllowedTo(t *testing.T) {
	for ranges, want := range map[string]string{
		"198.51.100.0/24":              "[198.51.100.0/24]",
		"192.0.2.0/24,198.51.100.0/24": "[192.0.2.0/24 198.51.100.0/24 203.0.113.7/32]",
	} {
		s := service(balanced, func(s *corev1.Service) {
			s.Spec.LoadBalancerSourceRanges = strings.Split(ranges, ",")
			s.Status.LoadBalancer.Ingress[0].IP = "203.0.113.7"
		})
		at := here
		at.address = netip.MustParseAddr("192.0.2.1")
		got := buildModel([]*corev1.Service{s}, []*discoveryv1.EndpointSlice{slice(up("10.244.0.2", "here"))}, at)
		if text := fmt.Sprint(got[0].sourceRanges); text != want {
			t.Errorf("%s: got %s, want %s", ranges, text, want)
		}
	}
}

func TestEndpointInTwoSlicesCountsOnce(t *testing.T) {
	second := slice(endpoint{ip: "10.244.0.2", node: "here"}, up("10.244.0.4", "here"))
	second.Name = "web-2"
	got := buildModel([]*corev1.Service{service()}, []*discoveryv1.EndpointSlice{slice(up("10.244.0.2", "here")), second}, here)
	if len(got[0].endpoints) != 2 {
		t.Errorf("got %v, want two endpoints", got[0].endpoints)
	}
}

func TestHeadlessSlicesAreLeftOut(t *testing.T) {
	headless := slice(up("10.244.0.4", "here"))
	headless.Name, headless.Labels[labelHeadless] = "web-2", ""
	got := buildModel([]*corev1.Service{service()}, []*discoveryv1.EndpointSlice{slice(up("10.244.0.2", "here")), headless}, here)
	if len(got[0].endpoints) != 1 {
		t.Errorf("got %v, want the one of the other slice", got[0].endpoints)
	}
	// A service that only says so is served as long as it has an address.
	named := service(func(s *corev1.Service) { s.Labels[labelHeadless] = "" })
	got = buildModel([]*corev1.Service{named}, []*discoveryv1.EndpointSlice{slice(up("10.244.0.2", "here"))}, here)
	if len(got) == 0 || len(got[0].endpoints) != 1 {
		t.Errorf("a service with the label got %v, want it served", got)
	}
}

// TestRules compares the rules of whole services with golden files.
func TestRules(t *testing.T) {
	twoNodes := slice(up("10.244.0.2", "here"), up("10.244.1.2", "there"))
	onlyThere := slice(up("10.244.1.2", "there"))
	ranged := func(s *corev1.Service) {
		balanced(s)
		s.Spec.LoadBalancerSourceRanges = []string{"198.51.100.0/24"}
	}
	edits := func(edits ...func(*corev1.Service)) []func(*corev1.Service) { return edits }
	tests := []struct {
		name  string
		edits []func(*corev1.Service)
		slice *discoveryv1.EndpointSlice
	}{
		{"cluster-ip", nil, slice(up("10.244.0.2", "here"), up("10.244.1.2", "there"), up("10.244.2.2", "elsewhere"))},
		{"no-endpoints", edits(nodePort), slice()},
		{"node-port", edits(nodePort), twoNodes},
		{"node-port-local", edits(nodePort, externalLocal), twoNodes},
		{"node-port-local-none-here", edits(nodePort, externalLocal), onlyThere},
		{"internal-local", edits(internalLocal), twoNodes},
		{"internal-local-none-here", edits(internalLocal), onlyThere},
		{"affinity", edits(affine), twoNodes},
		{"external-ip", edits(func(s *corev1.Service) { s.Spec.ExternalIPs = []string{"203.0.113.5"} }), onlyThere},
		{"load-balancer", edits(balanced), onlyThere},
		{"load-balancer-source-ranges", edits(ranged), onlyThere},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			ports := buildModel([]*corev1.Service{service(test.edits...)}, []*discoveryv1.EndpointSlice{test.slice}, here)
			all := newRenderer(testLayout, true).render(portsIn(byName(ports)))
			got := string(difference("nat", nil, all.nat, true)) + string(difference("filter", nil, all.filter, true))
			golden := filepath.Join("testdata", test.name+".golden")
			if *updateGolden {
				if err := os.WriteFile(golden, []byte(got), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), got); diff != "" {
				t.Error(diff)
			}
			for chain := range all.nat {
				if len(chain) > 28 {
					t.Errorf("chain name %s is longer than the kernel takes", chain)
				}
			}
		})
	}
}

func TestDifference(t *testing.T) {
	old := ruleset{"A": {"-j B"}, "B": {"-j C"}, "C": nil}
	tests := []struct {
		name      string
		old, want ruleset
		whole     bool
		text      string
	}{
		{"nothing", old, old, false, ""},
		{"all of it", old, old, true, "*t\n:A - [0:0]\n:B - [0:0]\n:C - [0:0]\n-A A -j B\n-A B -j C\nCOMMIT\n"},
		{"one chain", old, ruleset{"A": {"-j B"}, "B": {"-j D"}, "C": nil}, false, "*t\n:B - [0:0]\n-A B -j D\nCOMMIT\n"},
		{"one gone", old, ruleset{"A": {"-j B"}, "B": nil}, false, "*t\n:B - [0:0]\n:C - [0:0]\n-X C\nCOMMIT\n"},
		{"one new and empty", ruleset{}, ruleset{"A": nil}, false, "*t\n:A - [0:0]\nCOMMIT\n"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			if diff := cmp.Diff(test.text, string(difference("t", test.old, test.want, test.whole))); diff != "" {
				t.Error(diff)
			}
		})
	}
}

func TestAffinityTimeout(t *testing.T) {
	s := service(affine)
	if got := buildModel([]*corev1.Service{s}, nil, here)[0].affinity; got != 3*time.Hour {
		t.Errorf("default affinity lasts %s, want 3h", got)
	}
	s.Spec.SessionAffinityConfig = &corev1.SessionAffinityConfig{ClientIP: &corev1.ClientIPConfig{TimeoutSeconds: ptr[int32](5)}}
	if got := buildModel([]*corev1.Service{s}, nil, here)[0].affinity; got != 5*time.Second {
		t.Errorf("affinity lasts %s, want 5s", got)
	}
}

func TestFlowFilter(t *testing.T) {
	overUDP := slice(up("10.244.0.2", "here"), going("10.244.0.3", "there"), endpoint{ip: "10.244.0.4", node: "there"})
	overUDP.Ports[0].Protocol = ptr(corev1.ProtocolUDP)
	ports := buildModel([]*corev1.Service{service(nodePort, udp)}, []*discoveryv1.EndpointSlice{overUDP}, here)
	own := []netip.Addr{netip.MustParseAddr("192.0.2.1")}
	tests := []struct {
		name     string
		protocol uint8
		to       string
		port     uint16
		endpoint string
		from     uint16
		want     bool
	}{
		{"to an endpoint", unix.IPPROTO_UDP, "10.96.0.20", 80, "10.244.0.2", 8080, false},
		{"to a port that it had", unix.IPPROTO_UDP, "10.96.0.20", 80, "10.244.0.2", 9090, true},
		{"to one that is about to go", unix.IPPROTO_UDP, "10.96.0.20", 80, "10.244.0.3", 8080, false},
		{"to one that serves nobody", unix.IPPROTO_UDP, "10.96.0.20", 80, "10.244.0.4", 8080, true},
		{"to one that has gone", unix.IPPROTO_UDP, "10.96.0.20", 80, "10.244.0.9", 8080, true},
		{"never led anywhere", unix.IPPROTO_UDP, "10.96.0.20", 80, "10.96.0.20", 8080, true},
		{"TCP", unix.IPPROTO_TCP, "10.96.0.20", 80, "10.244.0.9", 8080, false},
		{"another port", unix.IPPROTO_UDP, "10.96.0.20", 53, "10.244.0.9", 8080, false},
		{"node port, gone", unix.IPPROTO_UDP, "192.0.2.1", 30080, "10.244.0.9", 8080, true},
		{"node port, there", unix.IPPROTO_UDP, "192.0.2.1", 30080, "10.244.0.2", 8080, false},
		{"that port elsewhere", unix.IPPROTO_UDP, "198.51.100.1", 30080, "198.51.100.1", 8080, false},
	}
	filter := newFlowFilter(ports, own)
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			flow := &netlink.ConntrackFlow{
				Forward: netlink.IPTuple{Protocol: test.protocol, DstIP: net.ParseIP(test.to), DstPort: test.port},
				Reverse: netlink.IPTuple{Protocol: test.protocol, SrcIP: net.ParseIP(test.endpoint), SrcPort: test.from},
			}
			if got := filter.MatchConntrackFlow(flow); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
	for name, ports := range map[string][]servicePort{
		"no UDP":       buildModel([]*corev1.Service{service()}, slicesOf(slice(up("10.244.0.2", "here"))), here),
		"no endpoints": buildModel([]*corev1.Service{service(nodePort, udp)}, nil, here),
	} {
		if newFlowFilter(ports, own) != nil {
			t.Errorf("%s: flows are forgotten that could go nowhere else", name)
		}
	}
}

// TestOldAddresses has addresses in objects that were made when the API took more
// ways to write them.
func TestOldAddresses(t *testing.T) {
	s := service(balanced, func(s *corev1.Service) {
		s.Spec.ClusterIP, s.Spec.ExternalIPs = "10.096.000.020", []string{"::ffff:203.0.113.5"}
		s.Status.LoadBalancer.Ingress[0].IP = "203.000.113.07"
		s.Spec.LoadBalancerSourceRanges = []string{" 198.051.100.01/24 ", "2001:db8::/32"}
	})
	got := buildModel([]*corev1.Service{s}, slicesOf(slice(up("10.244.000.02", "here"))), here)
	if len(got) != 1 {
		t.Fatalf("got %v, want one port", got)
	}
	p := got[0]
	if text := fmt.Sprint(p.clusterIP, p.externalIPs, p.balancerIPs, p.sourceRanges, p.endpoints); text !=
		"10.96.0.20 [203.0.113.5] [203.0.113.7] [198.51.100.0/24] [10.244.0.2:8080]" {
		t.Error("got", text)
	}
}

func TestHealthCountsReadyEndpointsHere(t *testing.T) {
	s := service(balanced, externalLocal, func(s *corev1.Service) { s.Spec.HealthCheckNodePort = 30081 })
	all := slicesOf(slice(up("10.244.0.2", "here"), going("10.244.0.3", "here"), up("10.244.1.2", "there")))
	if got := buildModel([]*corev1.Service{s}, all, here)[0]; fmt.Sprint(got.readyHere) != "[10.244.0.2]" {
		t.Errorf("got %v, want the one that is ready and here", got.readyHere)
	}
	if got := buildModel([]*corev1.Service{service()}, all, here)[0]; got.readyHere != nil {
		t.Errorf("got %v though nobody asks", got.readyHere)
	}
}

func TestModelSorts(t *testing.T) {
	second := service(func(s *corev1.Service) {
		s.Name = "api"
		s.Spec.ExternalIPs = []string{"203.0.113.9", "203.0.113.5", "203.0.113.5"}
	})
	got := buildModel([]*corev1.Service{service(), second}, nil, here)
	var names []string
	for _, p := range got {
		names = append(names, p.name)
	}
	if diff := cmp.Diff([]string{"home/api:http", "home/web:http"}, names); diff != "" {
		t.Error(diff)
	}
	want := []netip.Addr{netip.MustParseAddr("203.0.113.5"), netip.MustParseAddr("203.0.113.9")}
	if diff := cmp.Diff(want, got[0].externalIPs, cmpopts.EquateComparable(netip.Addr{})); diff != "" {
		t.Error(diff)
	}
}
