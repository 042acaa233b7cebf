package servicecidr

import (
	"context"
	"net/netip"
	"slices"
	"testing"
	"time"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/controllers/controllertest"
)

func newCIDR(name string, deleted bool, list ...string) *networkingv1.ServiceCIDR {
	c := &networkingv1.ServiceCIDR{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: networkingv1.ServiceCIDRSpec{CIDRs: list}}
	if deleted {
		c.Finalizers = []string{finalizer}
		c.DeletionTimestamp = ptr.To(metav1.NewTime(time.Now().Add(-time.Hour)))
	}
	return c
}

func TestOffers(t *testing.T) {
	for _, c := range []struct {
		prefix, ip string
		want       bool
	}{
		{"10.0.0.0/24", "10.0.0.1", true},
		{"10.0.0.0/24", "10.0.0.254", true},
		{"10.0.0.0/24", "10.0.0.0", false},
		{"10.0.0.0/24", "10.0.0.255", false},
		{"10.0.0.0/24", "10.0.1.1", false},
		{"0.0.0.0/0", "255.255.255.255", false},
		{"fd00::/120", "fd00::ff", true},
		{"fd00::/120", "fd00::", false},
		{"fd00::/120", "10.0.0.1", false},
	} {
		if got := offers(netip.MustParsePrefix(c.prefix), netip.MustParseAddr(c.ip)); got != c.want {
			t.Errorf("offers(%s, %s) = %t", c.prefix, c.ip, got)
		}
	}
}

func TestNeeded(t *testing.T) {
	address := func(ip string) runtime.Object { return newAddress(netip.MustParseAddr(ip), newService("web", ip)) }
	foreign := address("10.0.0.5").(*networkingv1.IPAddress)
	foreign.Labels[networkingv1.LabelManagedBy] = "somebody"
	for name, test := range map[string]struct {
		objects []runtime.Object
		want    bool
	}{
		"nothing there":              {nil, false},
		"address":                    {[]runtime.Object{address("10.0.0.5")}, true},
		"address of another range":   {[]runtime.Object{address("10.0.1.5")}, false},
		"IPv6 address":               {[]runtime.Object{address("fd00::5")}, true},
		"address of somebody else":   {[]runtime.Object{foreign}, false},
		"larger range":               {[]runtime.Object{address("10.0.0.5"), newCIDR("larger", false, "10.0.0.0/16")}, false},
		"same range":                 {[]runtime.Object{address("10.0.0.5"), newCIDR("same", false, "10.0.0.0/24")}, false},
		"smaller range with it":      {[]runtime.Object{address("10.0.0.5"), newCIDR("smaller", false, "10.0.0.0/28")}, false},
		"smaller range without it":   {[]runtime.Object{address("10.0.0.50"), newCIDR("smaller", false, "10.0.0.0/28")}, true},
		"broadcast of smaller one":   {[]runtime.Object{address("10.0.0.15"), newCIDR("smaller", false, "10.0.0.0/28")}, true},
		"larger range that goes":     {[]runtime.Object{address("10.0.0.5"), newCIDR("larger", true, "10.0.0.0/16")}, true},
		"larger range of one family": {[]runtime.Object{address("10.0.0.5"), address("fd00::5"), newCIDR("larger", false, "10.0.0.0/16")}, true},
	} {
		t.Run(name, func(t *testing.T) {
			c := newCIDR("c", true, "10.0.0.0/24", "fd00::/120")
			f := controllertest.New(t, append(test.objects, c)...)
			r, err := newRanges(f.Env)
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t)
			if got, err := r.needed(c); err != nil || got != test.want {
				t.Errorf("needed = %t, %v", got, err)
			}
		})
	}
}

// TestLifeOfAServiceCIDR follows one from its creation to its end, which an
// address holds up.
func TestLifeOfAServiceCIDR(t *testing.T) {
	f := controllertest.New(t)
	r, err := newRanges(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, r.loop)
	ctx := context.Background()
	all := f.Client.NetworkingV1().ServiceCIDRs()
	if _, err := all.Create(ctx, newCIDR("c", false, "10.0.0.0/24"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	is := func(status metav1.ConditionStatus, reason, message string) func() bool {
		return func() bool {
			c, err := all.Get(ctx, "c", metav1.GetOptions{})
			if err != nil {
				return false
			}
			ready := meta.FindStatusCondition(c.Status.Conditions, networkingv1.ServiceCIDRConditionReady)
			return ready != nil && ready.Status == status && ready.Reason == reason && ready.Message == message && slices.Equal(c.Finalizers, []string{finalizer})
		}
	}
	controllertest.Eventually(t, "the range to be ready", is(metav1.ConditionTrue, "", "Kubernetes Service CIDR is ready"))

	ip := netip.MustParseAddr("10.0.0.5")
	if _, err := f.Client.NetworkingV1().IPAddresses().Create(ctx, newAddress(ip, newService("web", "10.0.0.5")), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the address to be known", func() bool {
		_, err := r.addresses.Get("10.0.0.5")
		return err == nil
	})
	// The fake server does not know of graceful deletion.
	c, err := all.Get(ctx, "c", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	c.DeletionTimestamp = ptr.To(metav1.NewTime(time.Now().Add(-time.Hour)))
	if _, err := all.Update(ctx, c, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the range to say why it stays", is(metav1.ConditionFalse, "Terminating",
		"There are still IPAddresses referencing the ServiceCIDR, please remove them or create a new ServiceCIDR"))

	if err := f.Client.NetworkingV1().IPAddresses().Delete(ctx, "10.0.0.5", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "the range to go", func() bool {
		c, err := all.Get(ctx, "c", metav1.GetOptions{})
		return apierrors.IsNotFound(err) || err == nil && len(c.Finalizers) == 0
	})
}

// A range stays until allocators have seen that it goes.
func TestDeletionGrace(t *testing.T) {
	c := newCIDR("c", true, "10.0.0.0/24")
	f := controllertest.New(t, c)
	r, err := newRanges(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t)
	for _, step := range []struct {
		age  time.Duration
		left int
	}{{deletionGrace - time.Second, 1}, {deletionGrace, 0}} {
		r.now = func() time.Time { return c.DeletionTimestamp.Add(step.age) }
		if err := r.reconcile(t.Context(), "c"); err != nil {
			t.Fatal(err)
		}
		got, err := f.Client.NetworkingV1().ServiceCIDRs().Get(t.Context(), "c", metav1.GetOptions{})
		if left := 0; !apierrors.IsNotFound(err) {
			if err != nil {
				t.Fatal(err)
			}
			if left = len(got.Finalizers); left != step.left {
				t.Errorf("after %s: %d finalizers, want %d", step.age, left, step.left)
			}
		} else if step.left != 0 {
			t.Errorf("after %s: gone", step.age)
		}
	}
}
