package networking

import (
	"context"
	"strings"

	networkingv1 "k8s.io/api/networking/v1"
	"k8s.io/apimachinery/pkg/api/validate/content"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func ipAddressKind() api.Kind {
	return api.Define(api.Definition[*networkingv1.IPAddress]{
		GroupVersion: networkingv1.SchemeGroupVersion, Kind: "IPAddress", Resource: "ipaddresses", Singular: "ipaddress",
		ShortNames: []string{"ip"}, ClusterScope: true, Path: "ipaddresses",
		New:     func() *networkingv1.IPAddress { return &networkingv1.IPAddress{} },
		NewList: func() runtime.Object { return &networkingv1.IPAddressList{} },

		NameValidation: func(name string, _ bool) []string {
			var faults []string
			for _, err := range validation.IsValidIP(&field.Path{}, name) {
				faults = append(faults, err.Detail)
			}
			return faults
		},
		Validate: func(_ context.Context, a *networkingv1.IPAddress) field.ErrorList {
			return validateParent(a.Spec.ParentRef)
		},
		ValidateUpdate: func(_ context.Context, a, old *networkingv1.IPAddress) field.ErrorList {
			return append(validateParent(a.Spec.ParentRef), apivalidation.ValidateImmutableField(a.Spec.ParentRef, old.Spec.ParentRef, field.NewPath("spec", "parentRef"))...)
		},
		Fields: func(a *networkingv1.IPAddress) fields.Set {
			set := fields.Set{"spec.parentRef.group": "", "spec.parentRef.resource": "", "spec.parentRef.namespace": "", "spec.parentRef.name": ""}
			if p := a.Spec.ParentRef; p != nil {
				set["spec.parentRef.group"], set["spec.parentRef.resource"], set["spec.parentRef.namespace"], set["spec.parentRef.name"] = p.Group, p.Resource, p.Namespace, p.Name
			}
			return set
		},
		FieldNames: []string{"spec.parentRef.group", "spec.parentRef.resource", "spec.parentRef.namespace", "spec.parentRef.name"},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("ParentRef", networkingv1.IPAddressSpec{}.SwaggerDoc()["parentRef"]), columns.Age(),
		},
		Row: func(a *networkingv1.IPAddress) []any {
			return []any{a.Name, parentCell(a.Spec.ParentRef), columns.Since(a.CreationTimestamp.Time)}
		},
	})
}

func validateParent(p *networkingv1.ParentReference) field.ErrorList {
	path := field.NewPath("spec", "parentRef")
	if p == nil {
		return field.ErrorList{field.Required(path, "")}
	}
	var errs field.ErrorList
	check := func(name, value string, faults func(string) []string, needed bool) {
		if value == "" {
			if needed {
				errs = append(errs, field.Required(path.Child(name), ""))
			}
			return
		}
		for _, m := range faults(value) {
			errs = append(errs, field.Invalid(path.Child(name), value, m))
		}
	}
	check("group", p.Group, validation.IsDNS1123Subdomain, false)
	check("resource", p.Resource, content.IsPathSegmentName, true)
	check("name", p.Name, content.IsPathSegmentName, true)
	check("namespace", p.Namespace, content.IsPathSegmentName, false)
	return errs
}

func parentCell(p *networkingv1.ParentReference) string {
	if p == nil {
		return "<none>"
	}
	parts := []string{strings.ToLower(schema.GroupResource{Group: p.Group, Resource: p.Resource}.String())}
	if p.Namespace != "" {
		parts = append(parts, p.Namespace)
	}
	return strings.Join(append(parts, p.Name), "/")
}
