package apps

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var deployment = api.Definition[*appsv1.Deployment]{
	GroupVersion: appsv1.SchemeGroupVersion,
	Kind:         "Deployment",
	Resource:     "deployments",
	Singular:     "deployment",
	ShortNames:   []string{"deploy"},
	Categories:   []string{"all"},
	New:          func() *appsv1.Deployment { return &appsv1.Deployment{} },
	NewList:      func() runtime.Object { return &appsv1.DeploymentList{} },

	Default: defaultDeployment,
	Validate: func(_ context.Context, d *appsv1.Deployment) field.ErrorList {
		return checkDeploymentSpec(&d.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, d, old *appsv1.Deployment) field.ErrorList {
		path := field.NewPath("spec")
		return append(checkDeploymentSpec(&d.Spec, path), sameSelector(d.Spec.Selector, old.Spec.Selector, path)...)
	},
	Warnings: func(_ context.Context, d, old *appsv1.Deployment) []string {
		var warnings []string
		if old == nil {
			warnings = core.NameWarnings(d.Name)
		} else if d.Generation == old.Generation {
			return nil
		}
		return append(warnings, core.PodTemplateWarnings(&d.Spec.Template, field.NewPath("spec", "template"))...)
	},
	// Annotations count, since they are copied to the replica sets.
	Spec: func(d *appsv1.Deployment) any { return []any{d.Spec, d.Annotations} },
	Status: &api.Status[*appsv1.Deployment]{
		Copy:         func(to, from *appsv1.Deployment) { to.Status = from.Status },
		KeepMetadata: true,
		Prepare:      func(_ context.Context, d, old *appsv1.Deployment) { d.Labels = old.Labels },
		Validate: func(_ context.Context, d, old *appsv1.Deployment) field.ErrorList {
			path := field.NewPath("status")
			return append(checkDeploymentStatus(&d.Status, path),
				notDecremented(path.Child("collisionCount"), d.Status.CollisionCount, old.Status.CollisionCount)...)
		},
	},
	Columns: append(append([]metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Ready", "Number of the pod with ready state"),
		columns.Text("Up-to-date", appsv1.DeploymentStatus{}.SwaggerDoc()["updatedReplicas"]),
		columns.Text("Available", appsv1.DeploymentStatus{}.SwaggerDoc()["availableReplicas"]),
		columns.Age(),
	}, columns.Containers()...),
		columns.Wide("Selector", appsv1.DeploymentSpec{}.SwaggerDoc()["selector"])),
	Row: func(d *appsv1.Deployment) []any {
		selector := "<invalid>"
		if s, err := metav1.LabelSelectorAsSelector(d.Spec.Selector); err == nil {
			selector = s.String()
		}
		names, images := columns.ContainerCells(d.Spec.Template.Spec.Containers)
		return []any{d.Name, fmt.Sprintf("%d/%d", d.Status.ReadyReplicas, ptr.Deref(d.Spec.Replicas, 0)),
			int64(d.Status.UpdatedReplicas), int64(d.Status.AvailableReplicas),
			columns.Since(d.CreationTimestamp.Time), names, images, selector}
	},
	Extend: scaleExtension("deployments", scaled[*appsv1.Deployment]{
		replicas: func(d *appsv1.Deployment) **int32 { return &d.Spec.Replicas },
		current:  func(d *appsv1.Deployment) int32 { return d.Status.Replicas },
		selector: func(d *appsv1.Deployment) *metav1.LabelSelector { return d.Spec.Selector },
	}),
}

func defaultDeployment(d *appsv1.Deployment) {
	spec := &d.Spec
	core.DefaultPodTemplate(&spec.Template)
	setDefault(&spec.Replicas, 1)
	setDefault(&spec.RevisionHistoryLimit, 10)
	setDefault(&spec.ProgressDeadlineSeconds, 600)
	if spec.Strategy.Type == "" {
		spec.Strategy.Type = appsv1.RollingUpdateDeploymentStrategyType
	}
	if spec.Strategy.Type != appsv1.RollingUpdateDeploymentStrategyType {
		return
	}
	if spec.Strategy.RollingUpdate == nil {
		spec.Strategy.RollingUpdate = &appsv1.RollingUpdateDeployment{}
	}
	setDefault(&spec.Strategy.RollingUpdate.MaxUnavailable, intstr.FromString("25%"))
	setDefault(&spec.Strategy.RollingUpdate.MaxSurge, intstr.FromString("25%"))
}

// setDefault fills in a field that was left out.
func setDefault[V any](field **V, value V) {
	if *field == nil {
		*field = &value
	}
}

func checkDeploymentSpec(spec *appsv1.DeploymentSpec, path *field.Path) field.ErrorList {
	errs := nonnegative32(path, "replicas", spec.Replicas)
	errs = append(errs, checkSelector(spec.Selector, path.Child("selector"), "deployment")...)
	// The message names ReplicaSet, which the template ends up in.
	errs = append(errs, checkTemplate(&spec.Template, spec.Selector, path, "invalid label selector", "ReplicaSet")...)
	errs = append(errs, checkDeploymentStrategy(&spec.Strategy, path.Child("strategy"))...)
	errs = append(errs, nonnegative(path, count{"minReadySeconds", int64(spec.MinReadySeconds)})...)
	errs = append(errs, nonnegative32(path, "revisionHistoryLimit", spec.RevisionHistoryLimit)...)
	if deadline := spec.ProgressDeadlineSeconds; deadline != nil {
		errs = append(errs, nonnegative32(path, "progressDeadlineSeconds", deadline)...)
		if *deadline <= spec.MinReadySeconds {
			errs = append(errs, field.Invalid(path.Child("progressDeadlineSeconds"), *deadline, "must be greater than minReadySeconds"))
		}
	}
	return errs
}

func checkDeploymentStrategy(strategy *appsv1.DeploymentStrategy, path *field.Path) (errs field.ErrorList) {
	rolling := path.Child("rollingUpdate")
	switch strategy.Type {
	case appsv1.RecreateDeploymentStrategyType:
		if strategy.RollingUpdate != nil {
			errs = append(errs, field.Forbidden(rolling, "may not be specified when strategy `type` is 'Recreate'"))
		}
	case appsv1.RollingUpdateDeploymentStrategyType:
		if strategy.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "this should be defaulted and never be nil")}
		}
		unavailable, surge := strategy.RollingUpdate.MaxUnavailable, strategy.RollingUpdate.MaxSurge
		errs = append(errs, checkIntOrPercent(unavailable, rolling.Child("maxUnavailable"))...)
		errs = append(errs, checkIntOrPercent(surge, rolling.Child("maxSurge"))...)
		if isZero(unavailable) && isZero(surge) {
			errs = append(errs, field.Invalid(rolling.Child("maxUnavailable"), ptr.Deref(unavailable, intstr.IntOrString{}), "may not be 0 when `maxSurge` is 0"))
		}
		errs = append(errs, checkAtMostAll(unavailable, rolling.Child("maxUnavailable"))...)
	default:
		errs = append(errs, field.NotSupported(path, strategy,
			[]appsv1.DeploymentStrategyType{appsv1.RecreateDeploymentStrategyType, appsv1.RollingUpdateDeploymentStrategyType}))
	}
	return errs
}

func checkDeploymentStatus(status *appsv1.DeploymentStatus, path *field.Path) field.ErrorList {
	errs := nonnegative(path,
		count{"observedGeneration", status.ObservedGeneration},
		count{"replicas", int64(status.Replicas)},
		count{"updatedReplicas", int64(status.UpdatedReplicas)},
		count{"readyReplicas", int64(status.ReadyReplicas)},
		count{"availableReplicas", int64(status.AvailableReplicas)},
		count{"unavailableReplicas", int64(status.UnavailableReplicas)})
	errs = append(errs, nonnegative32(path, "terminatingReplicas", status.TerminatingReplicas)...)
	errs = append(errs, nonnegative32(path, "collisionCount", status.CollisionCount)...)
	errs = append(errs, notAbove(path, status.Replicas, "cannot be greater than status.replicas",
		count{"updatedReplicas", int64(status.UpdatedReplicas)},
		count{"readyReplicas", int64(status.ReadyReplicas)},
		count{"availableReplicas", int64(status.AvailableReplicas)})...)
	return append(errs, notAbove(path, status.ReadyReplicas, "cannot be greater than readyReplicas",
		count{"availableReplicas", int64(status.AvailableReplicas)})...)
}
