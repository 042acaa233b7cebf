package apps

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var replicaSet = api.Definition[*appsv1.ReplicaSet]{
	GroupVersion: appsv1.SchemeGroupVersion,
	Kind:         "ReplicaSet",
	Resource:     "replicasets",
	Singular:     "replicaset",
	ShortNames:   []string{"rs"},
	Categories:   []string{"all"},
	New:          func() *appsv1.ReplicaSet { return &appsv1.ReplicaSet{} },
	NewList:      func() runtime.Object { return &appsv1.ReplicaSetList{} },

	Default: func(rs *appsv1.ReplicaSet) {
		core.DefaultPodTemplate(&rs.Spec.Template)
		setDefault(&rs.Spec.Replicas, 1)
	},
	Validate: func(_ context.Context, rs *appsv1.ReplicaSet) field.ErrorList {
		return checkReplicaSetSpec(&rs.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, rs, old *appsv1.ReplicaSet) field.ErrorList {
		path := field.NewPath("spec")
		return append(checkReplicaSetSpec(&rs.Spec, path), sameSelector(rs.Spec.Selector, old.Spec.Selector, path)...)
	},
	Warnings: func(_ context.Context, rs, old *appsv1.ReplicaSet) []string {
		var warnings []string
		if old == nil {
			warnings = core.NameWarnings(rs.Name)
		} else if rs.Generation == old.Generation {
			return nil
		}
		return append(warnings, core.PodTemplateWarnings(&rs.Spec.Template, field.NewPath("spec", "template"))...)
	},
	Spec: func(rs *appsv1.ReplicaSet) any { return rs.Spec },
	Status: &api.Status[*appsv1.ReplicaSet]{
		Copy:         func(to, from *appsv1.ReplicaSet) { to.Status = from.Status },
		KeepMetadata: true,
		Validate: func(_ context.Context, rs, _ *appsv1.ReplicaSet) field.ErrorList {
			return checkReplicaSetStatus(&rs.Status, field.NewPath("status"))
		},
	},
	Columns: append(append([]metav1.TableColumnDefinition{
		columns.Name(),
		columns.Number("Desired", appsv1.ReplicaSetSpec{}.SwaggerDoc()["replicas"]),
		columns.Number("Current", appsv1.ReplicaSetStatus{}.SwaggerDoc()["replicas"]),
		columns.Number("Ready", appsv1.ReplicaSetStatus{}.SwaggerDoc()["readyReplicas"]),
		columns.Age(),
	}, columns.Containers()...),
		columns.Wide("Selector", appsv1.ReplicaSetSpec{}.SwaggerDoc()["selector"])),
	Row: func(rs *appsv1.ReplicaSet) []any {
		names, images := columns.ContainerCells(rs.Spec.Template.Spec.Containers)
		return []any{rs.Name, int64(ptr.Deref(rs.Spec.Replicas, 0)), int64(rs.Status.Replicas), int64(rs.Status.ReadyReplicas),
			columns.Since(rs.CreationTimestamp.Time), names, images, metav1.FormatLabelSelector(rs.Spec.Selector)}
	},
	Extend: scaleExtension("replicasets", scaled[*appsv1.ReplicaSet]{
		replicas: func(rs *appsv1.ReplicaSet) **int32 { return &rs.Spec.Replicas },
		current:  func(rs *appsv1.ReplicaSet) int32 { return rs.Status.Replicas },
		selector: func(rs *appsv1.ReplicaSet) *metav1.LabelSelector { return rs.Spec.Selector },
	}),
}

func checkReplicaSetSpec(spec *appsv1.ReplicaSetSpec, path *field.Path) field.ErrorList {
	errs := nonnegative32(path, "replicas", spec.Replicas)
	errs = append(errs, nonnegative(path, count{"minReadySeconds", int64(spec.MinReadySeconds)})...)
	// Clients know the message about an empty selector with this word in it.
	errs = append(errs, checkSelector(spec.Selector, path.Child("selector"), "deployment")...)
	return append(errs, checkTemplate(&spec.Template, spec.Selector, path, "invalid label selector", "ReplicaSet")...)
}

func checkReplicaSetStatus(status *appsv1.ReplicaSetStatus, path *field.Path) field.ErrorList {
	errs := nonnegative(path,
		count{"replicas", int64(status.Replicas)},
		count{"fullyLabeledReplicas", int64(status.FullyLabeledReplicas)},
		count{"readyReplicas", int64(status.ReadyReplicas)},
		count{"availableReplicas", int64(status.AvailableReplicas)},
		count{"observedGeneration", status.ObservedGeneration})
	errs = append(errs, nonnegative32(path, "terminatingReplicas", status.TerminatingReplicas)...)
	errs = append(errs, notAbove(path, status.Replicas, "cannot be greater than status.replicas",
		count{"fullyLabeledReplicas", int64(status.FullyLabeledReplicas)},
		count{"readyReplicas", int64(status.ReadyReplicas)},
		count{"availableReplicas", int64(status.AvailableReplicas)})...)
	return append(errs, notAbove(path, status.ReadyReplicas, "cannot be greater than readyReplicas",
		count{"availableReplicas", int64(status.AvailableReplicas)})...)
}
