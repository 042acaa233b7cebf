package servicecidr

import (
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/tools/events"

	"clusterctl/controlplane/controllers/controllertest"
)

func newService(name string, ips ...string) *corev1.Service {
	s := &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", CreationTimestamp: metav1.NewTime(time.Now().Add(-time.Hour))},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeClusterIP, ClusterIPs: ips},
	}
	if len(ips) > 0 {
		s.Spec.ClusterIP = ips[0]
	}
	return s
}

// held is an address of a service, of some age.
func held(ip, service string, age time.Duration) *networkingv1.IPAddress {
	a := newAddress(netip.MustParseAddr(ip), newService(service))
	a.UID = "old"
	a.CreationTimestamp = metav1.NewTime(time.Now().Add(-age))
	return a
}

func edited[T any](obj T, edit func(T)) T {
	edit(obj)
	return obj
}

func TestRepair(t *testing.T) {
	const ip = "10.0.0.5"
	external := edited(newService("web"), func(s *corev1.Service) { s.Spec.Type = corev1.ServiceTypeExternalName })
	gateway := edited(held(ip, "web", time.Hour), func(a *networkingv1.IPAddress) {
		a.Spec.ParentRef = &networkingv1.ParentReference{Group: "gateway.networking.k8s.io", Resource: "gateways", Name: "g"}
	})
	for name, test := range map[string]struct {
		objects []runtime.Object
		owner   string // of the address afterwards; "" means there is none
		made    bool   // anew
		events  []string
	}{
		"in step":                        {[]runtime.Object{newService("web", ip), held(ip, "web", time.Hour)}, "web", false, nil},
		"headless":                       {[]runtime.Object{newService("web", corev1.ClusterIPNone)}, "", false, nil},
		"external":                       {[]runtime.Object{external}, "", false, nil},
		"missing":                        {[]runtime.Object{newService("web", ip)}, "web", true, []string{"Warning ClusterIPNotAllocated Cluster IP [IPv4]: 10.0.0.5 is not allocated; repairing"}},
		"out of range":                   {[]runtime.Object{newService("web", "10.9.0.5")}, "", false, []string{"Warning ClusterIPOutOfRange Cluster IP [IPv4]: 10.9.0.5 is not within any configured Service CIDR; please recreate service"}},
		"no address":                     {[]runtime.Object{newService("web", "what")}, "", false, []string{"Warning ClusterIPNotValid Cluster IP what is not a valid IP; please recreate Service"}},
		"held by a gone one":             {[]runtime.Object{newService("web", ip), held(ip, "gone", time.Second)}, "web", true, []string{"Warning ClusterIPNotAllocated the ClusterIP [IPv4]: 10.0.0.5 for Service ns/web has a wrong reference; repairing"}},
		"held by no service":             {[]runtime.Object{newService("web", ip), gateway}, "web", true, []string{"Warning ClusterIPNotAllocated the ClusterIP [IPv4]: 10.0.0.5 for Service ns/web has a wrong reference; repairing"}},
		"not labelled":                   {[]runtime.Object{newService("web", ip), edited(held(ip, "web", time.Hour), func(a *networkingv1.IPAddress) { a.Labels = nil })}, "web", true, nil},
		"duplicate":                      {[]runtime.Object{newService("web", ip), newService("first", ip), held(ip, "first", time.Hour)}, "first", false, []string{"Warning ClusterIPAlreadyAllocated Cluster IP [IPv4]:10.0.0.5 was assigned to multiple services; please recreate service"}},
		"leaked":                         {[]runtime.Object{held(ip, "web", 61*time.Second)}, "", false, []string{"Warning IPAddressNotAllocated IPAddress: 10.0.0.5 for Service ns/web appears to have leaked: cleaning up"}},
		"leaked or not":                  {[]runtime.Object{held(ip, "web", 50*time.Second)}, "web", false, nil},
		"changed":                        {[]runtime.Object{gateway}, "", false, []string{"Warning IPAddressNotAllocated IPAddress 10.0.0.5 appears to have been modified, not referencing a Service"}},
		"somebody else's":                {[]runtime.Object{edited(held(ip, "web", time.Hour), func(a *networkingv1.IPAddress) { a.Labels = nil })}, "web", false, nil},
		"of another address":             {[]runtime.Object{newService("web", "10.0.0.6"), held("10.0.0.6", "web", time.Hour), held(ip, "web", 6*time.Second)}, "", false, []string{"Warning IPAddressWrongReference IPAddress: 10.0.0.5 for Service ns/web has a wrong reference; cleaning up"}},
		"to be undone":                   {[]runtime.Object{newService("web", "10.0.0.6"), held("10.0.0.6", "web", time.Hour), held(ip, "web", 0)}, "web", false, nil},
		"about to be no longer external": {[]runtime.Object{external, held(ip, "web", 50*time.Second)}, "web", false, nil},
		"still external":                 {[]runtime.Object{external, held(ip, "web", 61*time.Second)}, "", false, []string{"Warning IPAddressWrongReference IPAddress: 10.0.0.5 for Service ns/web has a wrong reference; cleaning up"}},
	} {
		t.Run(name, func(t *testing.T) {
			var copies []runtime.Object
			for _, o := range test.objects {
				copies = append(copies, o.DeepCopyObject())
			}
			f := controllertest.New(t, append(copies, newCIDR("kubernetes", false, "10.0.0.0/24"))...)
			r, err := newRepair(f.Env)
			if err != nil {
				t.Fatal(err)
			}
			recorder := events.NewFakeRecorder(10)
			r.recorder = recorder
			f.Start(t)
			for _, key := range []string{"ns/first", "ns/web"} {
				if err := r.service(t.Context(), key); err != nil {
					t.Fatal(err)
				}
			}
			if !test.made { // or the cache shows what is gone
				if err := r.address(t.Context(), ip); err != nil {
					t.Fatal(err)
				}
			}
			close(recorder.Events)
			var got []string
			for e := range recorder.Events {
				got = append(got, e)
			}
			if !slices.EqualFunc(got, test.events, strings.HasPrefix) {
				t.Errorf("events %q, want %q", got, test.events)
			}
			list, err := f.Client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{FieldSelector: "metadata.name=" + ip})
			if err != nil {
				t.Fatal(err)
			}
			owner, made := "", false
			for _, a := range list.Items {
				if a.Name == ip {
					owner, made = a.Spec.ParentRef.Name, a.UID != "old"
					if made && !hasLabels(&a) {
						t.Errorf("made with labels %v", a.Labels)
					}
				}
			}
			if owner != test.owner || made != test.made {
				t.Errorf("held by %q (made anew: %t), want %q (%t)", owner, made, test.owner, test.made)
			}
		})
	}
}

// TestLoops sees the loops do what the functions do.
func TestLoops(t *testing.T) {
	f := controllertest.New(t, newCIDR("kubernetes", false, "10.0.0.0/24"), newService("web", "10.0.0.5"), held("10.0.0.6", "gone", time.Hour))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "one address made, the other removed", func() bool {
		list, err := f.Client.NetworkingV1().IPAddresses().List(t.Context(), metav1.ListOptions{})
		return err == nil && len(list.Items) == 1 && list.Items[0].Name == "10.0.0.5"
	})
}
