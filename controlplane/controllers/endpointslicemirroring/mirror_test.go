package endpointslicemirroring

//lint:file-ignore SA1019 Endpoints are deprecated, and still part of the API.

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"pgregory.net/rapid"

	"clusterctl/controlplane/controllers/controllertest"
)

func addresses(ips ...string) (list []corev1.EndpointAddress) {
	for _, ip := range ips {
		list = append(list, corev1.EndpointAddress{IP: ip})
	}
	return list
}

func port(n int32) []corev1.EndpointPort {
	return []corev1.EndpointPort{{Name: "http", Port: n, Protocol: corev1.ProtocolTCP}}
}

func endpoints(subsets ...corev1.EndpointSubset) *corev1.Endpoints {
	return &corev1.Endpoints{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns", UID: "e", Labels: map[string]string{"app": "web"},
			Annotations: map[string]string{"note": "kept", corev1.LastAppliedConfigAnnotation: "{}", corev1.EndpointsLastChangeTriggerTime: "now"}},
		Subsets: subsets,
	}
}

// summary renders a slice as "family port: address…", an address that is not
// ready with an exclamation mark.
func summary(s *discoveryv1.EndpointSlice) string {
	line := string(s.AddressType)
	for _, p := range s.Ports {
		line += fmt.Sprintf(" %s=%d", *p.Name, *p.Port)
	}
	line += ":"
	for _, e := range s.Endpoints {
		line += " " + e.Addresses[0]
		if !*e.Conditions.Ready {
			line += "!"
		}
	}
	return line
}

func TestMirror(t *testing.T) {
	var many []string
	for i := range perSlice + 2 {
		many = append(many, fmt.Sprintf("10.1.%d.%d", i/250, i%250+1))
	}
	for name, test := range map[string]struct {
		subsets          []corev1.EndpointSubset
		want             []string
		invalid, surplus int
	}{
		"none":          {},
		"no addresses":  {subsets: []corev1.EndpointSubset{{Ports: port(80)}}},
		"ready and not": {subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: addresses("10.0.0.2"), NotReadyAddresses: addresses("10.0.0.1")}}, want: []string{"IPv4 http=80: 10.0.0.1! 10.0.0.2"}},
		"both families": {subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: addresses("10.0.0.1", "fd00::1", "010.0.00.9")}}, want: []string{"IPv4 http=80: 10.0.0.1 10.0.0.9", "IPv6 http=80: fd00::1"}},
		"two sets of ports": {subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: addresses("10.0.0.1")}, {Ports: port(81), Addresses: addresses("10.0.0.1")},
			{Ports: port(80), Addresses: addresses("10.0.0.2", "10.0.0.1")}}, want: []string{"IPv4 http=80: 10.0.0.1 10.0.0.2", "IPv4 http=81: 10.0.0.1"}},
		"no address": {subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: addresses("10.0.0.1", "web", "10.0.0")}}, want: []string{"IPv4 http=80: 10.0.0.1"}, invalid: 2},
		"too many":   {subsets: []corev1.EndpointSubset{{Ports: port(80), Addresses: addresses(many...)}}, want: []string{"IPv4 http=80: " + strings.Join(slices.Sorted(slices.Values(many[:perSlice])), " ")}, surplus: 2},
	} {
		t.Run(name, func(t *testing.T) {
			wanted, invalid, surplus := mirror(endpoints(test.subsets...))
			var got []string
			for _, s := range wanted {
				got = append(got, summary(s))
				if s.Labels["app"] != "web" || s.Labels[discoveryv1.LabelServiceName] != "web" || len(s.Annotations) != 1 || s.Annotations["note"] != "kept" || s.OwnerReferences[0].UID != "e" || s.GenerateName != "web-" {
					t.Errorf("metadata %+v", s.ObjectMeta)
				}
			}
			if slices.Sort(got); !slices.Equal(got, test.want) || invalid != test.invalid || surplus != test.surplus {
				t.Errorf("%q, %d invalid, %d too many", got, invalid, surplus)
			}
		})
	}
}

// Whatever was there, carrying the plan out leaves what is wanted, and then
// there is nothing to do.
func TestCompareConverges(t *testing.T) {
	subsets := rapid.SliceOfN(rapid.Custom(func(t *rapid.T) corev1.EndpointSubset {
		ips := rapid.SliceOfN(rapid.SampledFrom([]string{"10.0.0.1", "10.0.0.2", "10.0.0.3", "fd00::1", "fd00::2"}), 0, 4)
		return corev1.EndpointSubset{Ports: port(rapid.Int32Range(80, 82).Draw(t, "port")), Addresses: addresses(ips.Draw(t, "ready")...), NotReadyAddresses: addresses(ips.Draw(t, "not ready")...)}
	}), 0, 4)
	rapid.Check(t, func(t *rapid.T) {
		named := 0
		carryOut := func(have []*discoveryv1.EndpointSlice, p plan) (after []*discoveryv1.EndpointSlice) {
			for _, s := range have {
				gone := slices.Contains(p.remove, s)
				for _, u := range p.update {
					if u.Name == s.Name {
						if u.AddressType != s.AddressType {
							t.Fatalf("%s changes its family", s.Name)
						}
						s = u
					}
				}
				if !gone {
					after = append(after, s)
				}
			}
			for _, s := range p.create {
				named++
				s.Name = fmt.Sprint(s.GenerateName, named)
				after = append(after, s)
			}
			return after
		}
		var have []*discoveryv1.EndpointSlice
		for range 3 {
			e := endpoints(subsets.Draw(t, "subsets")...)
			wanted, _, _ := mirror(e)
			have = carryOut(have, compare(have, wanted))
			again, _, _ := mirror(e)
			if p := compare(have, again); len(have) != len(again) || len(p.create)+len(p.update)+len(p.remove) > 0 {
				t.Fatalf("%d slices, %d wanted, and still to do: %+v", len(have), len(again), p)
			}
		}
	})
}

func TestFollowsEndpoints(t *testing.T) {
	service := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "ns"}}
	selected := &corev1.Service{ObjectMeta: metav1.ObjectMeta{Name: "own", Namespace: "ns"}, Spec: corev1.ServiceSpec{Selector: map[string]string{"a": "b"}}}
	others := endpoints(corev1.EndpointSubset{Ports: port(80), Addresses: addresses("10.0.0.9")})
	others.Name = "own"
	f := controllertest.New(t, service, selected, others, endpoints(corev1.EndpointSubset{Ports: port(80), Addresses: addresses("10.0.0.1")}))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	ctx := context.Background()
	become := func(what string, want ...string) {
		t.Helper()
		controllertest.Eventually(t, what, func() bool {
			list, err := f.Client.DiscoveryV1().EndpointSlices("ns").List(ctx, metav1.ListOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var got []string
			for i := range list.Items {
				got = append(got, summary(&list.Items[i]))
			}
			slices.Sort(got)
			return slices.Equal(got, want)
		})
	}
	become("a slice", "IPv4 http=80: 10.0.0.1")
	e, err := f.Client.CoreV1().Endpoints("ns").Get(ctx, "web", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	e.Subsets[0].Addresses = addresses("10.0.0.2")
	if _, err := f.Client.CoreV1().Endpoints("ns").Update(ctx, e, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	become("the change", "IPv4 http=80: 10.0.0.2")
	if err := f.Client.CoreV1().Endpoints("ns").Delete(ctx, "web", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	become("the end")
}
