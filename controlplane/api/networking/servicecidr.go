package networking

import (
	"context"
	"net/netip"
	"slices"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func serviceCIDRKind() api.Kind {
	return api.Define(api.Definition[*networkingv1.ServiceCIDR]{
		GroupVersion: networkingv1.SchemeGroupVersion, Kind: "ServiceCIDR", Resource: "servicecidrs", Singular: "servicecidr", ClusterScope: true,
		Path:    "servicecidrs",
		New:     func() *networkingv1.ServiceCIDR { return &networkingv1.ServiceCIDR{} },
		NewList: func() runtime.Object { return &networkingv1.ServiceCIDRList{} },

		Validate: func(_ context.Context, c *networkingv1.ServiceCIDR) field.ErrorList { return validateServiceCIDR(c) },
		ValidateUpdate: func(_ context.Context, c, old *networkingv1.ServiceCIDR) field.ErrorList {
			return validateServiceCIDRUpdate(c, old)
		},
		Status: &api.Status[*networkingv1.ServiceCIDR]{
			Copy: func(to, from *networkingv1.ServiceCIDR) { to.Status = from.Status },
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("CIDRs", networkingv1.ServiceCIDRSpec{}.SwaggerDoc()["cidrs"]), columns.Age(),
		},
		Row: func(c *networkingv1.ServiceCIDR) []any {
			return []any{c.Name, strings.Join(c.Spec.CIDRs, ","), columns.Since(c.CreationTimestamp.Time)}
		},
	})
}

func validateServiceCIDR(c *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	list := c.Spec.CIDRs
	switch {
	case len(list) == 0:
		return field.ErrorList{field.Required(path, "at least one CIDR required")}
	case len(list) > 2:
		return field.ErrorList{field.Invalid(path, c.Spec, "may only hold up to 2 values")}
	}
	var errs field.ErrorList
	for i, cidr := range list {
		errs = append(errs, validation.IsValidCIDR(path.Index(i), cidr)...)
	}
	if len(list) == 2 {
		a, err1 := netip.ParsePrefix(list[0])
		b, err2 := netip.ParsePrefix(list[1])
		if err1 == nil && err2 == nil && a.Addr().Is4() == b.Addr().Is4() {
			errs = append(errs, field.Invalid(path, list, "may specify no more than one IP for each IP family, i.e 192.168.0.0/24 and 2001:db8::/64"))
		}
	}
	return errs
}

// validateServiceCIDRUpdate lets a range of one family gain one of the other.
func validateServiceCIDRUpdate(c, old *networkingv1.ServiceCIDR) field.ErrorList {
	path := field.NewPath("spec", "cidrs")
	now, was := c.Spec.CIDRs, old.Spec.CIDRs
	if slices.Equal(now, was) {
		return nil
	}
	grown := len(was) == 1 && len(now) == 2
	if len(now) != len(was) && !grown {
		return field.ErrorList{field.Invalid(path, now, apivalidation.FieldImmutableErrorMsg)}
	}
	var errs field.ErrorList
	for i := range was {
		if now[i] != was[i] {
			errs = append(errs, field.Invalid(path.Index(i), now[i], apivalidation.FieldImmutableErrorMsg))
		}
	}
	if grown {
		errs = append(errs, validateServiceCIDR(c)...)
	}
	return errs
}
