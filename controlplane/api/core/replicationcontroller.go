package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/scale"
)

func replicationControllerKind() api.Kind {
	doc := corev1.ReplicationControllerSpec{}.SwaggerDoc()
	status := corev1.ReplicationControllerStatus{}.SwaggerDoc()
	check := func(_ context.Context, c *corev1.ReplicationController) field.ErrorList {
		return validateReplicationController(c)
	}
	return api.Define(api.Definition[*corev1.ReplicationController]{
		GroupVersion: groupVersion, Kind: "ReplicationController", Resource: "replicationcontrollers", Singular: "replicationcontroller",
		ShortNames: []string{"rc"}, Categories: []string{"all"}, Path: "controllers",
		New:     func() *corev1.ReplicationController { return &corev1.ReplicationController{} },
		NewList: func() runtime.Object { return &corev1.ReplicationControllerList{} },

		Default:                  defaultReplicationController,
		Validate:                 check,
		ValidateUpdate:           func(ctx context.Context, c, _ *corev1.ReplicationController) field.ErrorList { return check(ctx, c) },
		Warnings:                 replicationControllerWarnings,
		NameValidation:           LongName,
		Spec:                     func(c *corev1.ReplicationController) any { return c.Spec },
		DefaultGarbageCollection: rest.OrphanDependents,
		Status: &api.Status[*corev1.ReplicationController]{
			Copy: func(to, from *corev1.ReplicationController) { to.Status = from.Status },
			Validate: func(_ context.Context, c, _ *corev1.ReplicationController) field.ErrorList {
				return validateReplicaCounts(&c.Status)
			},
			KeepMetadata: true,
		},
		Fields: func(c *corev1.ReplicationController) fields.Set {
			return fields.Set{"status.replicas": fmt.Sprint(c.Status.Replicas)}
		},
		FieldNames: []string{"status.replicas"},
		Columns: append([]metav1.TableColumnDefinition{
			columns.Name(), columns.Number("Desired", doc["replicas"]), columns.Number("Current", status["replicas"]),
			columns.Number("Ready", status["readyReplicas"]), columns.Age(),
		}, append(columns.Containers(), columns.Wide("Selector", doc["selector"]))...),
		Row: func(c *corev1.ReplicationController) []any {
			var list []corev1.Container
			if c.Spec.Template != nil {
				list = c.Spec.Template.Spec.Containers
			}
			names, images := columns.ContainerCells(list)
			return []any{c.Name, int64(ptr.Deref(c.Spec.Replicas, 0)), int64(c.Status.Replicas), int64(c.Status.ReadyReplicas),
				columns.Since(c.CreationTimestamp.Time), names, images, labels.FormatLabels(c.Spec.Selector)}
		},
		Extend: func(_ *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
			return map[string]rest.Storage{"replicationcontrollers/scale": scale.New(store, scale.Numbers[*corev1.ReplicationController]{
				Replicas: func(c *corev1.ReplicationController) **int32 { return &c.Spec.Replicas },
				Current:  func(c *corev1.ReplicationController) int32 { return c.Status.Replicas },
				Selector: func(c *corev1.ReplicationController) (string, error) {
					return labels.Set(c.Spec.Selector).AsSelector().String(), nil
				},
			})}, nil
		},
	})
}

// defaultReplicationController takes selector and labels from the template.
func defaultReplicationController(c *corev1.ReplicationController) {
	if c.Spec.Replicas == nil {
		c.Spec.Replicas = ptr.To[int32](1)
	}
	if c.Spec.Template == nil {
		return
	}
	DefaultPodTemplate(c.Spec.Template)
	if l := c.Spec.Template.Labels; l != nil {
		if len(c.Spec.Selector) == 0 {
			c.Spec.Selector = labels.Merge(l, nil)
		}
		if len(c.Labels) == 0 {
			c.Labels = labels.Merge(l, nil)
		}
	}
}

func replicationControllerWarnings(_ context.Context, c, old *corev1.ReplicationController) []string {
	var warnings []string
	if old == nil {
		warnings = NameWarnings(c.Name)
	} else if c.Generation == old.Generation {
		return nil
	}
	if c.Spec.Template == nil {
		return warnings
	}
	return append(warnings, PodTemplateWarnings(c.Spec.Template, field.NewPath("spec", "template"))...)
}

// LongName wants what every name is, in the words that Kubernetes has for
// kinds whose schema says so.
func LongName(name string, prefix bool) []string {
	faults := apivalidation.NameIsDNSSubdomain(name, prefix)
	for i := range faults {
		if len(name) > validation.DNS1123SubdomainMaxLength {
			faults[i] = strings.Replace(faults[i], "characters", "bytes", 1)
		}
	}
	return faults
}

func validateReplicationController(c *corev1.ReplicationController) field.ErrorList {
	path := field.NewPath("spec")
	errs := nonNegative(int64(c.Spec.MinReadySeconds), path.Child("minReadySeconds"))
	if len(c.Spec.Selector) == 0 {
		errs = append(errs, field.Required(path.Child("selector"), ""))
	}
	if c.Spec.Replicas == nil {
		errs = append(errs, field.Required(path.Child("replicas"), ""))
	} else {
		errs = append(errs, nonNegative(int64(*c.Spec.Replicas), path.Child("replicas"))...)
	}
	at, t := path.Child("template"), c.Spec.Template
	if t == nil {
		return append(errs, field.Required(at, ""))
	}
	if len(c.Spec.Selector) > 0 && !labels.SelectorFromSet(c.Spec.Selector).Matches(labels.Set(t.Labels)) {
		errs = append(errs, field.Invalid(at.Child("metadata", "labels"), t.Labels, "`selector` does not match template `labels`"))
	}
	errs = append(errs, ValidatePodTemplate(t, at)...)
	errs = append(errs, anyOf(t.Spec.RestartPolicy, at.Child("spec", "restartPolicy"), corev1.RestartPolicyAlways)...)
	if t.Spec.ActiveDeadlineSeconds != nil {
		errs = append(errs, field.Forbidden(at.Child("spec", "activeDeadlineSeconds"), "activeDeadlineSeconds in ReplicationController is not Supported"))
	}
	return errs
}

func validateReplicaCounts(s *corev1.ReplicationControllerStatus) field.ErrorList {
	path := field.NewPath("status")
	var errs field.ErrorList
	counts := []struct {
		name  string
		value int32
	}{{"replicas", s.Replicas}, {"fullyLabeledReplicas", s.FullyLabeledReplicas}, {"readyReplicas", s.ReadyReplicas}, {"availableReplicas", s.AvailableReplicas}}
	for _, c := range counts {
		errs = append(errs, nonNegative(int64(c.value), path.Child(c.name))...)
	}
	errs = append(errs, nonNegative(s.ObservedGeneration, path.Child("observedGeneration"))...)
	for _, c := range counts[1:] {
		if c.value > s.Replicas {
			errs = append(errs, field.Invalid(path.Child(c.name), c.value, "cannot be greater than status.replicas"))
		}
	}
	if s.AvailableReplicas > s.ReadyReplicas {
		errs = append(errs, field.Invalid(path.Child("availableReplicas"), s.AvailableReplicas, "cannot be greater than readyReplicas"))
	}
	return errs
}
