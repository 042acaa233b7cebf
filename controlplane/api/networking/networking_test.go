package networking

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

func texts(errs field.ErrorList) []string {
	list := []string{}
	for _, err := range errs {
		list = append(list, err.Error())
	}
	return list
}

func cidrs(list ...string) *networkingv1.ServiceCIDR {
	return &networkingv1.ServiceCIDR{Spec: networkingv1.ServiceCIDRSpec{CIDRs: list}}
}

func TestValidateServiceCIDR(t *testing.T) {
	for _, c := range []struct {
		list, want []string
	}{
		{[]string{"10.0.0.0/24", "fd00::/112"}, []string{}},
		{nil, []string{"spec.cidrs: Required value: at least one CIDR required"}},
		{[]string{"10.0.0.1/24"}, []string{`spec.cidrs[0]: Invalid value: "10.0.0.1/24": must not have bits set beyond the prefix length`}},
		{[]string{"10.0.0.0/24", "10.1.0.0/24"}, []string{`spec.cidrs: Invalid value: ["10.0.0.0/24","10.1.0.0/24"]: may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64`}},
	} {
		if diff := cmp.Diff(c.want, texts(validateServiceCIDR(cidrs(c.list...)))); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.list, diff)
		}
	}
	old := cidrs("10.0.0.0/24")
	for _, c := range []struct {
		list, want []string
	}{
		{[]string{"10.0.0.0/24", "fd00::/112"}, []string{}},
		{[]string{"10.1.0.0/24"}, []string{`spec.cidrs[0]: Invalid value: "10.1.0.0/24": field is immutable`}},
		{nil, []string{`spec.cidrs: Invalid value: null: field is immutable`}},
	} {
		if diff := cmp.Diff(c.want, texts(validateServiceCIDRUpdate(cidrs(c.list...), old))); diff != "" {
			t.Errorf("to %v (-want +got):\n%s", c.list, diff)
		}
	}
}

func TestValidateParent(t *testing.T) {
	for _, c := range []struct {
		parent *networkingv1.ParentReference
		want   []string
		cell   string
	}{
		{&networkingv1.ParentReference{Resource: "services", Namespace: "a", Name: "b"}, []string{}, "services/a/b"},
		{&networkingv1.ParentReference{Group: "x.io", Resource: "gateways", Name: "b"}, []string{}, "gateways.x.io/b"},
		{nil, []string{"spec.parentRef: Required value"}, "<none>"},
		{&networkingv1.ParentReference{Namespace: "a/b"}, []string{"spec.parentRef.resource: Required value", "spec.parentRef.name: Required value", `spec.parentRef.namespace: Invalid value: "a/b": may not contain '/'`}, "/a/b/"},
	} {
		if diff := cmp.Diff(c.want, texts(validateParent(c.parent))); diff != "" {
			t.Errorf("%v (-want +got):\n%s", c.parent, diff)
		}
		if got := parentCell(c.parent); got != c.cell {
			t.Errorf("cell %q, want %q", got, c.cell)
		}
	}
}
