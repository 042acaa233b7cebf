package core

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func podTemplateKind() api.Kind {
	check := func(t *corev1.PodTemplate) field.ErrorList {
		return ValidatePodTemplate(&t.Template, field.NewPath("template"))
	}
	return api.Define(api.Definition[*corev1.PodTemplate]{
		GroupVersion: groupVersion, Kind: "PodTemplate", Resource: "podtemplates", Singular: "podtemplate",
		New:     func() *corev1.PodTemplate { return &corev1.PodTemplate{} },
		NewList: func() runtime.Object { return &corev1.PodTemplateList{} },

		Default:        func(t *corev1.PodTemplate) { DefaultPodTemplate(&t.Template) },
		Validate:       func(_ context.Context, t *corev1.PodTemplate) field.ErrorList { return check(t) },
		ValidateUpdate: func(_ context.Context, t, _ *corev1.PodTemplate) field.ErrorList { return check(t) },
		Warnings: func(_ context.Context, t, old *corev1.PodTemplate) []string {
			if old != nil && t.Generation == old.Generation {
				return nil
			}
			return PodTemplateWarnings(&t.Template, field.NewPath("template"))
		},
		Spec: func(t *corev1.PodTemplate) any { return t.Template },
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("Containers", "Names of each container in the template."),
			columns.Text("Images", "Images referenced by each container in the template."), columns.Text("Pod Labels", "The labels for the pod template."),
		},
		Row: func(t *corev1.PodTemplate) []any {
			names, images := columns.ContainerCells(t.Template.Spec.Containers)
			return []any{t.Name, names, images, labels.FormatLabels(t.Template.Labels)}
		},
		ReturnDeleted: true,
	})
}
