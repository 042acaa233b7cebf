package apps

import (
	"context"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var daemonSet = api.Definition[*appsv1.DaemonSet]{
	GroupVersion: appsv1.SchemeGroupVersion,
	Kind:         "DaemonSet",
	Resource:     "daemonsets",
	Singular:     "daemonset",
	ShortNames:   []string{"ds"},
	Categories:   []string{"all"},
	New:          func() *appsv1.DaemonSet { return &appsv1.DaemonSet{} },
	NewList:      func() runtime.Object { return &appsv1.DaemonSetList{} },

	Default: defaultDaemonSet,
	PrepareForCreate: func(_ context.Context, ds *appsv1.DaemonSet) {
		setTemplateGeneration(ds, max(templateGeneration(ds), 1))
	},
	PrepareForUpdate: func(_ context.Context, ds, old *appsv1.DaemonSet) {
		generation := templateGeneration(old)
		if !apiequality.Semantic.DeepEqual(ds.Spec.Template, old.Spec.Template) {
			generation++
		}
		setTemplateGeneration(ds, generation)
	},
	Validate: func(_ context.Context, ds *appsv1.DaemonSet) field.ErrorList {
		return checkDaemonSetSpec(&ds.Spec, field.NewPath("spec"))
	},
	ValidateUpdate: func(_ context.Context, ds, old *appsv1.DaemonSet) field.ErrorList {
		path := field.NewPath("spec")
		return append(sameSelector(ds.Spec.Selector, old.Spec.Selector, path), checkDaemonSetSpec(&ds.Spec, path)...)
	},
	Warnings: func(_ context.Context, ds, old *appsv1.DaemonSet) []string {
		if old != nil && ds.Generation == old.Generation {
			return nil
		}
		return core.PodTemplateWarnings(&ds.Spec.Template, field.NewPath("spec", "template"))
	},
	Spec: func(ds *appsv1.DaemonSet) any { return ds.Spec },
	Status: &api.Status[*appsv1.DaemonSet]{
		Copy:         func(to, from *appsv1.DaemonSet) { to.Status = from.Status },
		KeepMetadata: true,
		Validate: func(_ context.Context, ds, old *appsv1.DaemonSet) field.ErrorList {
			path := field.NewPath("status")
			return append(checkDaemonSetStatus(&ds.Status, path),
				notDecremented(path.Child("collisionCount"), ds.Status.CollisionCount, old.Status.CollisionCount)...)
		},
	},
	Columns: append(append([]metav1.TableColumnDefinition{
		columns.Name(),
		columns.Number("Desired", appsv1.DaemonSetStatus{}.SwaggerDoc()["desiredNumberScheduled"]),
		columns.Number("Current", appsv1.DaemonSetStatus{}.SwaggerDoc()["currentNumberScheduled"]),
		columns.Number("Ready", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberReady"]),
		columns.Number("Up-to-date", appsv1.DaemonSetStatus{}.SwaggerDoc()["updatedNumberScheduled"]),
		columns.Number("Available", appsv1.DaemonSetStatus{}.SwaggerDoc()["numberAvailable"]),
		columns.Text("Node Selector", corev1.PodSpec{}.SwaggerDoc()["nodeSelector"]),
		columns.Age(),
	}, columns.Containers()...),
		columns.Wide("Selector", appsv1.DaemonSetSpec{}.SwaggerDoc()["selector"])),
	Row: func(ds *appsv1.DaemonSet) []any {
		names, images := columns.ContainerCells(ds.Spec.Template.Spec.Containers)
		return []any{ds.Name, int64(ds.Status.DesiredNumberScheduled), int64(ds.Status.CurrentNumberScheduled),
			int64(ds.Status.NumberReady), int64(ds.Status.UpdatedNumberScheduled), int64(ds.Status.NumberAvailable),
			labels.FormatLabels(ds.Spec.Template.Spec.NodeSelector), columns.Since(ds.CreationTimestamp.Time),
			names, images, metav1.FormatLabelSelector(ds.Spec.Selector)}
	},
}

// The count of template changes has no field in apps/v1; it lives on in an
// annotation that clients may not set.
func templateGeneration(ds *appsv1.DaemonSet) int64 {
	// What is not a number counts as none.
	n, _ := strconv.ParseInt(ds.Annotations[appsv1.DeprecatedTemplateGeneration], 10, 64)
	return n
}

func setTemplateGeneration(ds *appsv1.DaemonSet, n int64) {
	if ds.Annotations == nil {
		ds.Annotations = map[string]string{}
	}
	ds.Annotations[appsv1.DeprecatedTemplateGeneration] = strconv.FormatInt(n, 10)
}

func defaultDaemonSet(ds *appsv1.DaemonSet) {
	core.DefaultPodTemplate(&ds.Spec.Template)
	setTemplateGeneration(ds, templateGeneration(ds))
	setDefault(&ds.Spec.RevisionHistoryLimit, 10)
	strategy := &ds.Spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateDaemonSetStrategyType
	}
	if strategy.Type != appsv1.RollingUpdateDaemonSetStrategyType {
		return
	}
	if strategy.RollingUpdate == nil {
		strategy.RollingUpdate = &appsv1.RollingUpdateDaemonSet{}
	}
	setDefault(&strategy.RollingUpdate.MaxUnavailable, intstr.FromInt32(1))
	setDefault(&strategy.RollingUpdate.MaxSurge, intstr.FromInt32(0))
}

func checkDaemonSetSpec(spec *appsv1.DaemonSetSpec, path *field.Path) field.ErrorList {
	errs := metav1validation.ValidateLabelSelector(spec.Selector, metav1validation.LabelSelectorValidationOptions{}, path.Child("selector"))
	template := path.Child("template")
	if selector, err := metav1.LabelSelectorAsSelector(spec.Selector); err == nil && !selector.Matches(labels.Set(spec.Template.Labels)) {
		errs = append(errs, field.Invalid(template.Child("metadata", "labels"), spec.Template.Labels, "`selector` does not match template `labels`"))
	}
	if spec.Selector != nil && len(spec.Selector.MatchLabels)+len(spec.Selector.MatchExpressions) == 0 {
		errs = append(errs, field.Invalid(path.Child("selector"), spec.Selector, "empty selector is invalid for daemonset"))
	}
	errs = append(errs, core.ValidatePodTemplate(&spec.Template, template)...)
	errs = append(errs, checkRunsAlways(&spec.Template, template, "DaemonSet")...)
	errs = append(errs, nonnegative(path, count{"minReadySeconds", int64(spec.MinReadySeconds)})...)
	errs = append(errs, checkDaemonSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	return append(errs, nonnegative32(path, "revisionHistoryLimit", spec.RevisionHistoryLimit)...)
}

func checkDaemonSetStrategy(strategy *appsv1.DaemonSetUpdateStrategy, path *field.Path) (errs field.ErrorList) {
	rolling := path.Child("rollingUpdate")
	switch strategy.Type {
	case appsv1.OnDeleteDaemonSetStrategyType:
	case appsv1.RollingUpdateDaemonSetStrategyType:
		if strategy.RollingUpdate == nil {
			return field.ErrorList{field.Required(rolling, "")}
		}
		unavailable, surge := strategy.RollingUpdate.MaxUnavailable, strategy.RollingUpdate.MaxSurge
		errs = append(errs, checkIntOrPercent(unavailable, rolling.Child("maxUnavailable"))...)
		errs = append(errs, checkIntOrPercent(surge, rolling.Child("maxSurge"))...)
		errs = append(errs, checkAtMostAll(unavailable, rolling.Child("maxUnavailable"))...)
		errs = append(errs, checkAtMostAll(surge, rolling.Child("maxSurge"))...)
		switch {
		case !isZero(unavailable) && !isZero(surge):
			errs = append(errs, field.Invalid(rolling.Child("maxSurge"), *surge, "may not be set when maxUnavailable is non-zero"))
		case isZero(unavailable) && isZero(surge):
			errs = append(errs, field.Required(rolling.Child("maxUnavailable"), "cannot be 0 when maxSurge is 0"))
		}
	default:
		errs = append(errs, field.NotSupported(path, strategy,
			[]appsv1.DaemonSetUpdateStrategyType{appsv1.RollingUpdateDaemonSetStrategyType, appsv1.OnDeleteDaemonSetStrategyType}))
	}
	return errs
}

func checkDaemonSetStatus(status *appsv1.DaemonSetStatus, path *field.Path) field.ErrorList {
	errs := nonnegative(path,
		count{"currentNumberScheduled", int64(status.CurrentNumberScheduled)},
		count{"numberMisscheduled", int64(status.NumberMisscheduled)},
		count{"desiredNumberScheduled", int64(status.DesiredNumberScheduled)},
		count{"numberReady", int64(status.NumberReady)},
		count{"observedGeneration", status.ObservedGeneration},
		count{"updatedNumberScheduled", int64(status.UpdatedNumberScheduled)},
		count{"numberAvailable", int64(status.NumberAvailable)},
		count{"numberUnavailable", int64(status.NumberUnavailable)})
	return append(errs, nonnegative32(path, "collisionCount", status.CollisionCount)...)
}
