package loadbalancer

import (
	"context"
	"fmt"
	"net/netip"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/utils/ptr"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/hostconfig"
)

// service is one of type LoadBalancer that has addresses.
func service(name string, addresses ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeLoadBalancer, IPFamilies: []corev1.IPFamily{corev1.IPv4Protocol}},
	}
	for _, a := range addresses {
		s.Annotations = map[string]string{hostconfig.AnnotationAddressFrom: "lan"}
		s.Finalizers = []string{finalizer}
		s.Status.LoadBalancer.Ingress = append(s.Status.LoadBalancer.Ingress, corev1.LoadBalancerIngress{IP: a, IPMode: ptr.To(corev1.LoadBalancerIPModeVIP)})
	}
	return s
}

func with(s *corev1.Service, change func(s *corev1.Service)) *corev1.Service {
	change(s)
	return s
}

func asking(key, value string) func(*corev1.Service) {
	return func(s *corev1.Service) { metav1.SetMetaDataAnnotation(&s.ObjectMeta, key, value) }
}

func dual(policy corev1.IPFamilyPolicy) func(*corev1.Service) {
	return func(s *corev1.Service) {
		s.Spec.IPFamilies = []corev1.IPFamily{corev1.IPv4Protocol, corev1.IPv6Protocol}
		s.Spec.IPFamilyPolicy = &policy
	}
}

func TestChoose(t *testing.T) {
	pools, err := readPools([]hostconfig.LoadBalancerPool{
		{Name: "spare", Addresses: []string{"192.0.2.100"}, OnRequest: true},
		{Name: "lan", Addresses: []string{"192.0.2.10-192.0.2.11"}},
		{Name: "more", Addresses: []string{"192.0.2.20", "2001:db8::/126"}},
	})
	if err != nil {
		t.Fatal(err)
	}
	two := []string{"192.0.2.10", "192.0.2.11"}
	for name, test := range map[string]struct {
		service *corev1.Service
		taken   []string
		want    string
		problem string
	}{
		"the first":                   {service("a"), nil, "192.0.2.10 lan", ""},
		"the first that is free":      {service("a"), two[:1], "192.0.2.11 lan", ""},
		"the next pool":               {service("a"), two, "192.0.2.20 more", ""},
		"nothing left":                {service("a"), append(two, "192.0.2.20"), "", "no IPv4 address is free"},
		"what it has":                 {service("a", "192.0.2.11"), nil, "192.0.2.11 lan", ""},
		"what it has, by request":     {service("a", "192.0.2.100"), nil, "192.0.2.100 spare", ""},
		"what another has too":        {service("a", "192.0.2.11"), two[1:], "192.0.2.10 lan", ""},
		"what is in no pool any more": {service("a", "192.0.2.99"), nil, "192.0.2.10 lan", ""},
		"loadBalancerIP":              {with(service("a"), func(s *corev1.Service) { s.Spec.LoadBalancerIP = "192.0.2.20" }), nil, "192.0.2.20 more", ""},
		"annotation":                  {with(service("a"), asking(hostconfig.AnnotationAddresses, "192.0.2.11")), nil, "192.0.2.11 lan", ""},
		"moves":                       {with(service("a", "192.0.2.10"), asking(hostconfig.AnnotationAddresses, "192.0.2.11")), nil, "192.0.2.11 lan", ""},
		"cannot move":                 {with(service("a", "192.0.2.10"), asking(hostconfig.AnnotationAddresses, "192.0.2.11")), two[1:], "192.0.2.10 lan", "it asks for 192.0.2.11, which service ns/other has"},
		"asks for what is taken":      {with(service("a"), asking(hostconfig.AnnotationAddresses, "192.0.2.11")), two[1:], "", "which service ns/other has"},
		"asks for what is nowhere":    {with(service("a"), asking(hostconfig.AnnotationAddresses, "203.0.113.1")), nil, "", "it asks for 203.0.113.1, which is in no pool"},
		"asks for nonsense":           {with(service("a"), asking(hostconfig.AnnotationAddresses, "lan")), nil, "192.0.2.10 lan", "read the addresses it asks for"},
		"asks for two":                {with(service("a"), asking(hostconfig.AnnotationAddresses, "192.0.2.10, 192.0.2.11")), nil, "192.0.2.10 lan", "it asks for two IPv4 addresses"},
		"pool":                        {with(service("a"), asking(hostconfig.AnnotationPool, "spare")), nil, "192.0.2.100 spare", ""},
		"another pool":                {with(service("a", "192.0.2.10"), asking(hostconfig.AnnotationPool, "spare")), nil, "192.0.2.100 spare", ""},
		"no such pool":                {with(service("a"), asking(hostconfig.AnnotationPool, "wan")), nil, "", `there is no pool "wan"`},
		"both families":               {with(service("a"), dual(corev1.IPFamilyPolicyRequireDualStack)), nil, "192.0.2.10 lan, 2001:db8:: more", ""},
		"both families, required":     {with(with(service("a"), dual(corev1.IPFamilyPolicyRequireDualStack)), asking(hostconfig.AnnotationPool, "lan")), nil, "192.0.2.10 lan", "no IPv6 address is free"},
		"both families, preferred":    {with(with(service("a"), dual(corev1.IPFamilyPolicyPreferDualStack)), asking(hostconfig.AnnotationPool, "lan")), nil, "192.0.2.10 lan", ""},
	} {
		t.Run(name, func(t *testing.T) {
			taken := map[netip.Addr]bool{}
			for _, a := range test.taken {
				taken[netip.MustParseAddr(a)] = true
			}
			g, err := choose(pools, test.service, addressesOf(test.service), func(a netip.Addr) (string, bool) { return "ns/other", taken[a] })
			var got []string
			for i, a := range g.addresses {
				got = append(got, a.String()+" "+g.pools[i])
			}
			if s := strings.Join(got, ", "); s != test.want {
				t.Errorf("got %q, want %q", s, test.want)
			}
			if problem := fmt.Sprint(err); (err == nil) != (test.problem == "") || !strings.Contains(problem, test.problem) {
				t.Errorf("problem %v, want %q", err, test.problem)
			}
		})
	}
}

// run runs a controller with one pool of the addresses 192.0.2.10 and 11.
func run(t *testing.T, services ...*corev1.Service) *controllertest.Fixture {
	t.Helper()
	f := controllertest.New(t)
	for _, s := range services {
		if err := f.Client.Tracker().Add(s); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(f.Env, []hostconfig.LoadBalancerPool{{Name: "lan", Addresses: []string{"192.0.2.10-192.0.2.11"}}})
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	return f
}

func get(t *testing.T, f *controllertest.Fixture, name string) *corev1.Service {
	t.Helper()
	s, err := f.Client.CoreV1().Services("ns").Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func awaitAddress(t *testing.T, f *controllertest.Fixture, name, want string) {
	t.Helper()
	controllertest.Eventually(t, fmt.Sprintf("%s to have %q", name, want), func() bool {
		var got []string
		for _, a := range addressesOf(get(t, f, name)) {
			got = append(got, a.String())
		}
		return strings.Join(got, ",") == want
	})
}

func update(t *testing.T, f *controllertest.Fixture, name string, change func(*corev1.Service)) {
	t.Helper()
	controllertest.Eventually(t, "update of "+name, func() bool {
		_, err := f.Client.CoreV1().Services("ns").Update(context.Background(), with(get(t, f, name), change), metav1.UpdateOptions{})
		return err == nil
	})
}

func TestAddressesComeAndGo(t *testing.T) {
	created := func(s *corev1.Service, minute int) *corev1.Service {
		s.CreationTimestamp = metav1.NewTime(time.Unix(int64(60*minute), 0))
		return s
	}
	f := run(t,
		created(service("old", "192.0.2.10"), 1),
		created(service("double", "192.0.2.10"), 2), // a mistake of long ago
		created(with(service("foreign", "192.0.2.11"), func(s *corev1.Service) {
			s.Annotations, s.Spec.LoadBalancerClass = nil, ptr.To("example.org/other")
		}), 3),
		created(with(service("plain"), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeClusterIP }), 4),
	)
	awaitAddress(t, f, "double", "192.0.2.11")
	awaitAddress(t, f, "old", "192.0.2.10")

	if _, err := f.Client.CoreV1().Services("ns").Create(context.Background(), service("late"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "an event about the lack", func() bool {
		events, err := f.Client.CoreV1().Events("ns").List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		for _, e := range events.Items {
			if e.InvolvedObject.Name == "late" && e.Reason == "SyncLoadBalancerFailed" && e.Message == "Error syncing load balancer: no IPv4 address is free" {
				return true
			}
		}
		return false
	})
	update(t, f, "old", func(s *corev1.Service) {
		s.Spec.Type = corev1.ServiceTypeNodePort
		s.Status = corev1.ServiceStatus{} // as the API server does
	})
	awaitAddress(t, f, "late", "192.0.2.10")
	if s := get(t, f, "late"); len(s.Finalizers) != 1 || s.Annotations[hostconfig.AnnotationAddressFrom] != "lan" {
		t.Errorf("finalizers %v, annotations %v", s.Finalizers, s.Annotations)
	}
	controllertest.Eventually(t, "the finalizer of what is no load balancer any more to go", func() bool {
		s := get(t, f, "old")
		return len(s.Finalizers) == 0 && !marked(s)
	})

	update(t, f, "late", func(s *corev1.Service) { s.DeletionTimestamp = ptr.To(metav1.Now()) })
	controllertest.Eventually(t, "the finalizer of what is deleted to go", func() bool { return len(get(t, f, "late").Finalizers) == 0 })
	update(t, f, "plain", func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeLoadBalancer })
	awaitAddress(t, f, "plain", "192.0.2.10")
	if s := get(t, f, "foreign"); addressesOf(s)[0].String() != "192.0.2.11" || len(s.Finalizers) != 1 {
		t.Errorf("another's service was touched: %v", s)
	}
}

func TestWithoutPoolsWhatWasGivenIsTakenBack(t *testing.T) {
	f := controllertest.New(t)
	foreign := service("foreign", "192.0.2.11")
	foreign.Annotations = nil
	for _, s := range []*corev1.Service{service("ours", "192.0.2.10"), foreign} {
		if err := f.Client.Tracker().Add(s); err != nil {
			t.Fatal(err)
		}
	}
	c, err := New(f.Env, nil)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	awaitAddress(t, f, "ours", "")
	awaitAddress(t, f, "foreign", "192.0.2.11")
}

// However services come, change their minds and go, no address is given twice,
// and nobody waits while one is free.
func TestNoAddressTwice(t *testing.T) {
	pools, err := readPools([]hostconfig.LoadBalancerPool{
		{Name: "lan", Addresses: []string{"192.0.2.10-192.0.2.12"}},
		{Name: "spare", Addresses: []string{"192.0.2.20"}, OnRequest: true},
	})
	if err != nil {
		t.Fatal(err)
	}
	rapid.Check(t, func(t *rapid.T) {
		has := map[string][]netip.Addr{}
		for range rapid.IntRange(1, 30).Draw(t, "steps") {
			name := rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}).Draw(t, "service")
			if rapid.Bool().Draw(t, "goes") {
				delete(has, name)
				continue
			}
			s := service(name)
			if ask := rapid.SampledFrom([]string{"", "", "192.0.2.11", "192.0.2.20"}).Draw(t, "asks"); ask != "" {
				asking(hostconfig.AnnotationAddresses, ask)(s)
			}
			taken := func(a netip.Addr) (string, bool) {
				for other, addresses := range has {
					if other != name && len(addresses) == 1 && addresses[0] == a {
						return other, true
					}
				}
				return "", false
			}
			g, err := choose(pools, s, has[name], taken)
			if (err == nil) != (len(g.addresses) == 1) && len(has[name]) == 0 {
				t.Fatalf("%v with error %v", g.addresses, err)
			}
			for _, a := range g.addresses {
				if by, is := taken(a); is {
					t.Fatalf("%s goes to %s, and %s has it", a, name, by)
				}
			}
			if len(g.addresses) == 0 && s.Annotations == nil && len(has) < 3 {
				t.Fatalf("%s gets nothing, though %v leaves something: %v", name, has, err)
			}
			delete(has, name)
			if len(g.addresses) > 0 {
				has[name] = g.addresses
			}
		}
	})
}
