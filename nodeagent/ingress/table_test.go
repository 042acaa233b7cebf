package ingress

import (
	"fmt"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/hostconfig"
)

func backend(service string) networkingv1.IngressBackend {
	return networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{
		Name: service, Port: networkingv1.ServiceBackendPort{Number: 80}}}
}

// rule is for a host; each path is "Type /path service".
func rule(host string, paths ...string) networkingv1.IngressRule {
	r := networkingv1.IngressRule{Host: host}
	for _, p := range paths {
		kind, rest, _ := strings.Cut(p, " ")
		at, service, _ := strings.Cut(rest, " ")
		if r.HTTP == nil {
			r.HTTP = &networkingv1.HTTPIngressRuleValue{}
		}
		r.HTTP.Paths = append(r.HTTP.Paths, networkingv1.HTTPIngressPath{
			Path: at, PathType: ptr.To(networkingv1.PathType(kind)), Backend: backend(service)})
	}
	return r
}

func ingress(name string, otherwise string, rules ...networkingv1.IngressRule) *networkingv1.Ingress {
	i := &networkingv1.Ingress{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name},
		Spec:       networkingv1.IngressSpec{IngressClassName: ptr.To(hostconfig.IngressClass), Rules: rules},
	}
	if otherwise != "" {
		i.Spec.DefaultBackend = ptr.To(backend(otherwise))
	}
	return i
}

// tableOf has no services: every target is there, without endpoints.
func tableOf(ingresses ...*networkingv1.Ingress) *table {
	return build(world{
		ingresses: ingresses,
		service:   func(objectName) *v1.Service { return nil },
		slices:    func(objectName) []*discoveryv1.EndpointSlice { return nil },
	})
}

func serviceOf(t *target) string {
	if t == nil {
		return ""
	}
	return strings.TrimSuffix(strings.TrimPrefix(t.name, "ns/"), ":80")
}

func TestMatch(t *testing.T) {
	prefix, exact, own := "Prefix", "Exact", "ImplementationSpecific"
	p := func(kind, path string) string { return kind + " " + path + " s" }
	tests := []struct {
		name            string
		rules           []networkingv1.IngressRule
		host, path      string
		want, otherwise string
	}{
		// The table of Kubernetes' documentation of path matching.
		{name: "everything", rules: []networkingv1.IngressRule{rule("", p(prefix, "/"))}, path: "/any/thing", want: "s"},
		{name: "exact", rules: []networkingv1.IngressRule{rule("", p(exact, "/foo"))}, path: "/foo", want: "s"},
		{name: "exact, another", rules: []networkingv1.IngressRule{rule("", p(exact, "/foo"))}, path: "/bar"},
		{name: "exact, slash asked", rules: []networkingv1.IngressRule{rule("", p(exact, "/foo"))}, path: "/foo/"},
		{name: "exact, slash ruled", rules: []networkingv1.IngressRule{rule("", p(exact, "/foo/"))}, path: "/foo"},
		{name: "prefix", rules: []networkingv1.IngressRule{rule("", p(prefix, "/foo"))}, path: "/foo", want: "s"},
		{name: "prefix, slash asked", rules: []networkingv1.IngressRule{rule("", p(prefix, "/foo"))}, path: "/foo/", want: "s"},
		{name: "prefix, slash ruled", rules: []networkingv1.IngressRule{rule("", p(prefix, "/foo/"))}, path: "/foo", want: "s"},
		{name: "prefix, last element differs", rules: []networkingv1.IngressRule{rule("", p(prefix, "/aaa/bb"))}, path: "/aaa/bbb"},
		{name: "prefix, sub-path", rules: []networkingv1.IngressRule{rule("", p(prefix, "/aaa/bbb"))}, path: "/aaa/bbb/ccc", want: "s"},
		{name: "prefix, no string prefix", rules: []networkingv1.IngressRule{rule("", p(prefix, "/aaa/bbb"))}, path: "/aaa/bbbxyz"},
		{name: "longest", rules: []networkingv1.IngressRule{rule("", "Prefix / a", "Prefix /aaa b", "Prefix /aaa/bbb c")}, path: "/aaa/bbb/c", want: "c"},
		{name: "default backend", rules: []networkingv1.IngressRule{rule("", "Prefix /aaa a")}, path: "/ccc", otherwise: "d", want: "d"},
		{name: "exact before prefix", rules: []networkingv1.IngressRule{rule("", "Prefix /foo a", "Exact /foo b")}, path: "/foo", want: "b"},
		{name: "specific is a prefix", rules: []networkingv1.IngressRule{rule("", p(own, "/foo"))}, path: "/foo/x", want: "s"},
		{name: "specific without path", rules: []networkingv1.IngressRule{rule("", "ImplementationSpecific  s")}, path: "/foo/x", want: "s"},
		{name: "dots do not lead out", rules: []networkingv1.IngressRule{rule("", "Prefix /public a", "Prefix /admin b")}, path: "/public/../admin", want: "b"},
		{name: "slashes are one", rules: []networkingv1.IngressRule{rule("", p(exact, "/a/b"))}, path: "//a//b", want: "s"},
		// Hosts.
		{name: "host", rules: []networkingv1.IngressRule{rule("foo.org", p(prefix, "/"))}, host: "foo.org", path: "/", want: "s"},
		{name: "another host", rules: []networkingv1.IngressRule{rule("foo.org", p(prefix, "/"))}, host: "bar.org", path: "/"},
		{name: "wildcard", rules: []networkingv1.IngressRule{rule("*.foo.org", p(prefix, "/"))}, host: "bar.foo.org", path: "/", want: "s"},
		{name: "wildcard, two labels", rules: []networkingv1.IngressRule{rule("*.foo.org", p(prefix, "/"))}, host: "baz.bar.foo.org", path: "/"},
		{name: "wildcard, none", rules: []networkingv1.IngressRule{rule("*.foo.org", p(prefix, "/"))}, host: "foo.org", path: "/"},
		{name: "name before wildcard", rules: []networkingv1.IngressRule{rule("*.foo.org", "Prefix /long/path a"), rule("b.foo.org", "Prefix / b")}, host: "b.foo.org", path: "/long/path", want: "b"},
		{name: "wildcard before any", rules: []networkingv1.IngressRule{rule("", "Exact /x a"), rule("*.foo.org", "Prefix / b")}, host: "b.foo.org", path: "/x", want: "b"},
		{name: "less exact host has the path", rules: []networkingv1.IngressRule{rule("", "Prefix /x a"), rule("foo.org", "Prefix /y b")}, host: "foo.org", path: "/x", want: "a"},
		{name: "host without paths", rules: []networkingv1.IngressRule{rule("foo.org")}, host: "foo.org", path: "/x", otherwise: "d", want: "d"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			got := serviceOf(tableOf(ingress("i", test.otherwise, test.rules...)).match(test.host, test.path))
			if got != test.want {
				t.Errorf("%s%s goes to %q, want %q", test.host, test.path, got, test.want)
			}
		})
	}
}

func TestOlderIngressWins(t *testing.T) {
	old, young := ingress("z", "d1", rule("foo.org", "Prefix / a")), ingress("a", "d2", rule("foo.org", "Prefix / b"), rule("bar.org", "Exact /x c"))
	old.Spec.TLS = []networkingv1.IngressTLS{{Hosts: []string{"foo.org"}, SecretName: "s1"}}
	young.Spec.TLS = []networkingv1.IngressTLS{{SecretName: "s2"}}
	old.CreationTimestamp, young.CreationTimestamp = metav1.Unix(1, 0), metav1.Unix(2, 0)
	other := ingress("other", "")
	other.Spec.IngressClassName = ptr.To("nginx")
	none := ingress("none", "")
	none.Spec.IngressClassName = nil
	annotated := none.DeepCopy()
	annotated.Name, annotated.CreationTimestamp = "annotated", metav1.Unix(3, 0)
	annotated.Annotations = map[string]string{legacyClass: "mine"}
	classes := []*networkingv1.IngressClass{
		{ObjectMeta: metav1.ObjectMeta{Name: hostconfig.IngressClass}, Spec: networkingv1.IngressClassSpec{Controller: hostconfig.IngressController}},
		{ObjectMeta: metav1.ObjectMeta{Name: "mine"}, Spec: networkingv1.IngressClassSpec{Controller: hostconfig.IngressController}},
		{ObjectMeta: metav1.ObjectMeta{Name: "nginx"}, Spec: networkingv1.IngressClassSpec{Controller: "k8s.io/ingress-nginx"}},
	}
	ours := selectOurs([]*networkingv1.Ingress{annotated, young, other, none, old}, classes)
	var names []string
	for _, i := range ours {
		names = append(names, i.Name)
	}
	if fmt.Sprint(names) != "[z a annotated]" {
		t.Fatalf("chosen: %v", names)
	}
	table := tableOf(ours...)
	for asked, want := range map[string]string{"foo.org": "a", "bar.org": "d2", "else.org": "d1"} {
		if got := serviceOf(table.match(asked, "/")); got != want {
			t.Errorf("%s goes to %q, want %q", asked, got, want)
		}
	}
	if table.secrets["foo.org"].name != "s1" || table.secrets["bar.org"].name != "s2" {
		t.Errorf("secrets %v", table.secrets)
	}
}

func TestEndpoints(t *testing.T) {
	port := func(name string, number int32) discoveryv1.EndpointPort {
		return discoveryv1.EndpointPort{Name: ptr.To(name), Port: ptr.To(number)}
	}
	endpoint := func(address string, ready, serving, terminating bool) discoveryv1.Endpoint {
		return discoveryv1.Endpoint{Addresses: []string{address}, Conditions: discoveryv1.EndpointConditions{
			Ready: &ready, Serving: &serving, Terminating: &terminating}}
	}
	slice := func(kind discoveryv1.AddressType, port discoveryv1.EndpointPort, endpoints ...discoveryv1.Endpoint) *discoveryv1.EndpointSlice {
		return &discoveryv1.EndpointSlice{AddressType: kind, Ports: []discoveryv1.EndpointPort{port}, Endpoints: endpoints}
	}
	four := discoveryv1.AddressTypeIPv4
	tests := []struct {
		name   string
		slices []*discoveryv1.EndpointSlice
		want   string
	}{
		{"ready ones", []*discoveryv1.EndpointSlice{slice(four, port("web", 8080), endpoint("10.0.0.2", true, true, false), endpoint("10.0.0.1", true, true, false), endpoint("10.0.0.3", false, false, false))}, "[10.0.0.1:8080 10.0.0.2:8080]"},
		{"once", []*discoveryv1.EndpointSlice{slice(four, port("web", 1), endpoint("10.0.0.1", true, true, false)), slice(four, port("web", 1), endpoint("10.0.0.1", true, true, false))}, "[10.0.0.1:1]"},
		{"another port", []*discoveryv1.EndpointSlice{slice(four, port("admin", 1), endpoint("10.0.0.1", true, true, false))}, "[]"},
		{"ending ones if there are no others", []*discoveryv1.EndpointSlice{slice(four, port("web", 1), endpoint("10.0.0.1", false, true, true), endpoint("10.0.0.2", false, false, true))}, "[10.0.0.1:1]"},
		{"ending ones not beside others", []*discoveryv1.EndpointSlice{slice(four, port("web", 1), endpoint("10.0.0.1", false, true, true), endpoint("10.0.0.2", true, true, false))}, "[10.0.0.2:1]"},
		{"IPv6", []*discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeIPv6, port("web", 1), endpoint("fd00::1", true, true, false))}, "[[fd00::1]:1]"},
		{"no names", []*discoveryv1.EndpointSlice{slice(discoveryv1.AddressTypeFQDN, port("web", 1), endpoint("example.org", true, true, false))}, "[]"},
	}
	for _, test := range tests {
		if got := fmt.Sprint(endpoints(test.slices, "web")); got != test.want {
			t.Errorf("%s: %s, want %s", test.name, got, test.want)
		}
	}
}

func TestTargets(t *testing.T) {
	service := &v1.Service{Spec: v1.ServiceSpec{Ports: []v1.ServicePort{
		{Name: "web", Port: 80}, {Name: "grpc", Port: 90, AppProtocol: ptr.To("kubernetes.io/h2c")},
		{Name: "tls", Port: 443, AppProtocol: ptr.To("HTTPS")}, {Name: "udp", Port: 53, Protocol: v1.ProtocolUDP}}}}
	external := service.DeepCopy()
	external.Spec.Type = v1.ServiceTypeExternalName
	b := func(name, port string, number int32) *networkingv1.IngressBackend {
		return &networkingv1.IngressBackend{Service: &networkingv1.IngressServiceBackend{Name: name, Port: networkingv1.ServiceBackendPort{Name: port, Number: number}}}
	}
	tests := []struct {
		backend *networkingv1.IngressBackend
		want    string
	}{
		{b("s", "web", 0), "http [10.0.0.1:1]"}, {b("s", "", 80), "http [10.0.0.1:1]"},
		{b("s", "", 90), "h2c [10.0.0.1:2]"}, {b("s", "tls", 0), "https [10.0.0.1:3]"},
		{b("s", "udp", 0), "http []"}, {b("s", "", 81), "http []"}, {b("missing", "web", 0), "http []"},
		{b("external", "web", 0), "http []"}, {&networkingv1.IngressBackend{Resource: &v1.TypedLocalObjectReference{Kind: "Bucket"}}, "http []"},
	}
	w := world{
		service: func(n objectName) *v1.Service {
			return map[objectName]*v1.Service{{"ns", "s"}: service, {"ns", "external"}: external}[n]
		},
		slices: func(objectName) []*discoveryv1.EndpointSlice {
			slice := &discoveryv1.EndpointSlice{AddressType: discoveryv1.AddressTypeIPv4, Endpoints: []discoveryv1.Endpoint{{Addresses: []string{"10.0.0.1"}}}}
			for i, name := range []string{"web", "grpc", "tls"} {
				slice.Ports = append(slice.Ports, discoveryv1.EndpointPort{Name: &name, Port: ptr.To(int32(i + 1))})
			}
			return []*discoveryv1.EndpointSlice{slice}
		},
	}
	for _, test := range tests {
		i := ingress("i", "")
		i.Spec.DefaultBackend = test.backend
		w.ingresses = []*networkingv1.Ingress{i}
		to := build(w).match("", "/")
		if got := fmt.Sprint(to.protocol, " ", to.endpoints); got != test.want {
			t.Errorf("%v: %s, want %s", test.backend, got, test.want)
		}
	}
}

// TestMatchesLikeItsDescription compares with the rules of precedence taken
// word by word.
func TestMatchesLikeItsDescription(t *testing.T) {
	host := rapid.SampledFrom([]string{"", "a.org", "b.a.org", "*.a.org", "*.b.a.org"})
	path := rapid.StringMatching(`(/[ab]{1,2}){0,3}/?`)
	rapid.Check(t, func(t *rapid.T) {
		type claim struct {
			host, kind, path, service string
		}
		var claims []claim
		var rules []networkingv1.IngressRule
		for n := range rapid.IntRange(0, 8).Draw(t, "rules") {
			c := claim{host.Draw(t, "host"), rapid.SampledFrom([]string{"Exact", "Prefix"}).Draw(t, "kind"), "/" + strings.TrimPrefix(path.Draw(t, "path"), "/"), fmt.Sprint("s", n)}
			claims = append(claims, c)
			rules = append(rules, rule(c.host, c.kind+" "+c.path+" "+c.service))
		}
		asked := strings.TrimPrefix(host.Draw(t, "asked"), "*.")
		at := "/" + strings.TrimPrefix(path.Draw(t, "at"), "/")
		rank := func(c claim) (int, bool) {
			exactness := 0
			switch _, parent, _ := strings.Cut(asked, "."); {
			case c.host == "":
			case c.host == asked:
				exactness = 2
			case asked != "" && c.host == "*."+parent:
				exactness = 1
			default:
				return 0, false
			}
			if c.kind == "Exact" {
				return exactness*1000 + 2*len(c.path) + 1, at == c.path
			}
			elements := func(p string) []string { return strings.FieldsFunc(p, func(r rune) bool { return r == '/' }) }
			want, have := elements(c.path), elements(at)
			fits := len(have) >= len(want) && fmt.Sprint(have[:len(want)]) == fmt.Sprint(want)
			return exactness*1000 + 2*len(strings.TrimSuffix(c.path, "/")), fits
		}
		want, best := "", -1
		for _, c := range claims {
			if r, ok := rank(c); ok && r > best {
				want, best = c.service, r
			}
		}
		if got := serviceOf(tableOf(ingress("i", "", rules...)).match(asked, at)); got != want {
			t.Fatalf("%q %q goes to %q, want %q; rules %v", asked, at, got, want, claims)
		}
	})
}

func FuzzMatch(f *testing.F) {
	table := tableOf(ingress("i", "", rule("a.org", "Prefix /public p", "Exact /x/ x"), rule("*.a.org", "Prefix /w w")))
	f.Add("A.org:80", "/public/../x/")
	f.Add("[::1]:443", "")
	f.Add("b.a.org.", "/w//./")
	f.Fuzz(func(t *testing.T, host, path string) {
		clean := cleanPath(path)
		if again := cleanPath(clean); again != clean {
			t.Errorf("%q becomes %q, and that %q", path, clean, again)
		}
		got := serviceOf(table.match(hostOf(host), path))
		if below := clean == "/public" || strings.HasPrefix(clean, "/public/"); got == "p" && !below {
			t.Errorf("%q %q goes below /public", host, path)
		}
	})
}

func TestOrderTakesTurns(t *testing.T) {
	to := newTarget("t")
	to.endpoints = []string{"a", "b", "c"}
	counts := map[string]int{}
	for range 30 {
		order := to.order(2)
		if len(order) != 2 || order[0] == order[1] {
			t.Fatalf("order %v", order)
		}
		counts[order[0]]++
	}
	if counts["a"] != 10 || counts["b"] != 10 || counts["c"] != 10 {
		t.Errorf("first ones: %v", counts)
	}
}

func TestHostOf(t *testing.T) {
	for header, want := range map[string]string{
		"Foo.ORG": "foo.org", "foo.org:8080": "foo.org", "foo.org.": "foo.org", "foo.org.:80": "foo.org",
		"[::1]:80": "::1", "192.0.2.1": "192.0.2.1", "": "",
	} {
		if got := hostOf(header); got != want {
			t.Errorf("%q: %q, want %q", header, got, want)
		}
	}
}

func TestMetrics(t *testing.T) {
	m := NewMetrics()
	m.begin()
	m.begin()
	m.end(200, 25*time.Millisecond)
	m.begin()
	m.end(502, 2*time.Minute)
	var text strings.Builder
	if err := m.Write(&text); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"ingress_requests_in_flight 1\n", "ingress_requests_total{code=\"200\"} 1\n", "ingress_requests_total{code=\"502\"} 1\n",
		"_bucket{le=\"0.005\"} 0\n", "_bucket{le=\"0.025\"} 1\n", "_bucket{le=\"60\"} 1\n", "_bucket{le=\"+Inf\"} 2\n", "_count 2\n",
	} {
		if !strings.Contains(text.String(), want) {
			t.Errorf("lacks %q:\n%s", want, text.String())
		}
	}
}
