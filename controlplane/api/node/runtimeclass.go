package node

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	nodev1 "k8s.io/api/node/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var runtimeClass = api.Definition[*nodev1.RuntimeClass]{
	GroupVersion: nodev1.SchemeGroupVersion,
	Kind:         "RuntimeClass",
	Resource:     "runtimeclasses",
	Singular:     "runtimeclass",
	ClusterScope: true,
	New:          func() *nodev1.RuntimeClass { return &nodev1.RuntimeClass{} },
	NewList:      func() runtime.Object { return &nodev1.RuntimeClassList{} },

	AllowCreateOnUpdate:       true,
	ForbidUnconditionalUpdate: true,

	PlainFinalizers: true,
	Validate:        func(_ context.Context, c *nodev1.RuntimeClass) field.ErrorList { return checkRuntimeClass(c) },
	ValidateUpdate: func(_ context.Context, c, old *nodev1.RuntimeClass) field.ErrorList {
		return append(checkRuntimeClass(c), apivalidation.ValidateImmutableField(c.Handler, old.Handler, field.NewPath("handler"))...)
	},
	Warnings: func(_ context.Context, c, _ *nodev1.RuntimeClass) (warnings []string) {
		if c.Scheduling == nil {
			return nil
		}
		for _, label := range slices.Sorted(maps.Keys(c.Scheduling.NodeSelector)) {
			if message, ok := core.DeprecatedNodeLabels[label]; ok {
				warnings = append(warnings, fmt.Sprintf("scheduling.nodeSelector: %s", message))
			}
		}
		return warnings
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Handler", ""), // described nowhere, as clients know it
		columns.Age(),
	},
	Row: func(c *nodev1.RuntimeClass) []any {
		return []any{c.Name, c.Handler, columns.Since(c.CreationTimestamp.Time)}
	},
}

func checkRuntimeClass(c *nodev1.RuntimeClass) (errs field.ErrorList) {
	handler := field.NewPath("handler")
	if c.Handler == "" {
		errs = append(errs, field.Required(handler, ""))
	} else {
		for _, message := range apivalidation.NameIsDNSLabel(c.Handler, false) {
			errs = append(errs, field.Invalid(handler, c.Handler, message))
		}
	}
	if c.Overhead != nil {
		errs = append(errs, core.ValidateOverhead(c.Overhead.PodFixed, field.NewPath("overhead"))...)
	}
	if c.Scheduling == nil {
		return errs
	}
	path := field.NewPath("scheduling")
	errs = append(errs, metav1validation.ValidateLabels(c.Scheduling.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, core.ValidateTolerations(c.Scheduling.Tolerations, path.Child("tolerations"))...)
	seen := sets.New[corev1.Toleration]()
	for i, t := range c.Scheduling.Tolerations {
		key := corev1.Toleration{Key: t.Key, Operator: t.Operator, Value: t.Value, Effect: t.Effect}
		if seen.Has(key) {
			errs = append(errs, field.Duplicate(path.Child("tolerations").Index(i), t))
		}
		seen.Insert(key)
	}
	return errs
}
