package resource

import (
	"context"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

func claimTemplate(g *gate) api.Definition[*resourcev1.ResourceClaimTemplate] {
	return api.Definition[*resourcev1.ResourceClaimTemplate]{
		GroupVersion: groupVersion, Kind: "ResourceClaimTemplate", Resource: "resourceclaimtemplates", Singular: "resourceclaimtemplate",
		New:           func() *resourcev1.ResourceClaimTemplate { return &resourcev1.ResourceClaimTemplate{} },
		NewList:       func() runtime.Object { return &resourcev1.ResourceClaimTemplateList{} },
		ReturnDeleted: true,

		Default: func(t *resourcev1.ResourceClaimTemplate) { defaultClaim(&t.Spec.Spec) },
		Validate: func(ctx context.Context, t *resourcev1.ResourceClaimTemplate) field.ErrorList {
			errs := g.adminRequest(ctx, t.Spec.Spec.Devices.Requests, t.Namespace)
			return append(errs, validateTemplate(&t.Spec)...)
		},
		ValidateUpdate: func(_ context.Context, t, old *resourcev1.ResourceClaimTemplate) field.ErrorList {
			return append(validateTemplate(&t.Spec), apivalidation.ValidateImmutableField(t.Spec, old.Spec, field.NewPath("spec"))...)
		},
		Columns: []metav1.TableColumnDefinition{columns.Name(), columns.Age()},
		Row: func(t *resourcev1.ResourceClaimTemplate) []any {
			return []any{t.Name, columns.Since(t.CreationTimestamp.Time)}
		},
		Extend: g.open,
	}
}

func validateTemplate(s *resourcev1.ResourceClaimTemplateSpec) field.ErrorList {
	path := field.NewPath("spec")
	return append(core.ValidateTemplateMeta(s.ObjectMeta, path.Child("metadata")), validateClaim(&s.Spec, path.Child("spec"))...)
}
