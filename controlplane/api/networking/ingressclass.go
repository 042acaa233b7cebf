package networking

import (
	"context"

	networkingv1 "k8s.io/api/networking/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

const maxControllerName = 250

var ingressClass = api.Definition[*networkingv1.IngressClass]{
	GroupVersion: networkingv1.SchemeGroupVersion,
	Kind:         "IngressClass",
	Resource:     "ingressclasses",
	Singular:     "ingressclass",
	ClusterScope: true,
	New:          func() *networkingv1.IngressClass { return &networkingv1.IngressClass{} },
	NewList:      func() runtime.Object { return &networkingv1.IngressClassList{} },

	Default: func(c *networkingv1.IngressClass) {
		if p := c.Spec.Parameters; p != nil && p.Scope == nil {
			p.Scope = ptr.To(networkingv1.IngressClassParametersReferenceScopeCluster)
		}
	},
	Validate: func(_ context.Context, c *networkingv1.IngressClass) field.ErrorList {
		return checkIngressClass(&c.Spec)
	},
	ValidateUpdate: func(_ context.Context, c, old *networkingv1.IngressClass) field.ErrorList {
		errs := apivalidation.ValidateImmutableField(c.Spec.Controller, old.Spec.Controller, field.NewPath("spec", "controller"))
		return append(errs, checkIngressClass(&c.Spec)...)
	},
	Spec: func(c *networkingv1.IngressClass) any { return c.Spec },
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Controller", "Controller that is responsible for handling this class"),
		columns.Text("Parameters", "A reference to a resource with additional parameters"),
		columns.Age(),
	},
	Row: func(c *networkingv1.IngressClass) []any {
		name, parameters := c.Name, "<none>"
		if c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] == "true" {
			name += " (default)"
		}
		if p := c.Spec.Parameters; p != nil {
			parameters = p.Kind
			if p.APIGroup != nil {
				parameters += "." + *p.APIGroup
			}
			parameters += "/" + p.Name
		}
		return []any{name, c.Spec.Controller, parameters, columns.Since(c.CreationTimestamp.Time)}
	},
}

func checkIngressClass(spec *networkingv1.IngressClassSpec) (errs field.ErrorList) {
	path := field.NewPath("spec")
	if len(spec.Controller) > maxControllerName {
		errs = append(errs, field.TooLong(path.Child("controller"), "", maxControllerName))
	}
	errs = append(errs, validation.IsDomainPrefixedPath(path.Child("controller"), spec.Controller)...)
	if spec.Parameters != nil {
		errs = append(errs, checkClassParameters(spec.Parameters, path.Child("parameters"))...)
	}
	return errs
}

func checkClassParameters(p *networkingv1.IngressClassParametersReference, path *field.Path) (errs field.ErrorList) {
	const cluster, namespace = networkingv1.IngressClassParametersReferenceScopeCluster, networkingv1.IngressClassParametersReferenceScopeNamespace
	if p.APIGroup != nil {
		errs = append(errs, invalid(path.Child("apiGroup"), *p.APIGroup, validation.IsDNS1123Subdomain(*p.APIGroup))...)
	}
	errs = append(errs, checkSegment(p.Kind, path.Child("kind"))...)
	errs = append(errs, checkSegment(p.Name, path.Child("name"))...)
	switch {
	case p.Scope == nil:
		errs = append(errs, field.Required(path.Child("scope"), ""))
	case *p.Scope == namespace && p.Namespace == nil:
		errs = append(errs, field.Required(path.Child("namespace"), "`parameters.scope` is set to 'Namespace'"))
	case *p.Scope == namespace:
		errs = append(errs, invalid(path.Child("namespace"), *p.Namespace, apivalidation.ValidateNamespaceName(*p.Namespace, false))...)
	case *p.Scope == cluster && p.Namespace != nil:
		errs = append(errs, field.Forbidden(path.Child("namespace"), "`parameters.scope` is set to 'Cluster'"))
	case *p.Scope != cluster:
		errs = append(errs, field.NotSupported(path.Child("scope"), *p.Scope, []string{cluster, namespace}))
	}
	return errs
}
