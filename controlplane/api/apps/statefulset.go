package apps

import (
	"context"
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var statefulSet = api.Definition[*appsv1.StatefulSet]{
	GroupVersion: appsv1.SchemeGroupVersion,
	Kind:         "StatefulSet",
	Resource:     "statefulsets",
	Singular:     "statefulset",
	ShortNames:   []string{"sts"},
	Categories:   []string{"all"},
	New:          func() *appsv1.StatefulSet { return &appsv1.StatefulSet{} },
	NewList:      func() runtime.Object { return &appsv1.StatefulSetList{} },

	// The pods' host names derive from the name.
	NameValidation: apivalidation.NameIsDNSLabel,
	Default:        defaultStatefulSet,
	PrepareForCreate: func(_ context.Context, s *appsv1.StatefulSet) {
		dropMaxUnavailable(s, nil)
	},
	PrepareForUpdate: func(_ context.Context, s, old *appsv1.StatefulSet) {
		dropMaxUnavailable(s, old)
	},
	Validate: func(_ context.Context, s *appsv1.StatefulSet) field.ErrorList {
		path := field.NewPath("spec")
		var errs field.ErrorList
		// Claims never change, so that those of old sets may be what they are.
		for i := range s.Spec.VolumeClaimTemplates {
			errs = append(errs, core.ValidateClaimSpec(&s.Spec.VolumeClaimTemplates[i].Spec, path.Child("volumeClaimTemplates").Index(i).Child("spec"))...)
		}
		errs = append(errs, checkStatefulSetSpec(&s.Spec, path)...)
		if s.Spec.ServiceName != "" {
			for _, message := range validation.IsDNS1123Label(s.Spec.ServiceName) {
				errs = append(errs, field.Invalid(path.Child("serviceName"), s.Spec.ServiceName, message))
			}
		}
		return errs
	},
	ValidateUpdate: checkStatefulSetUpdate,
	Warnings: func(_ context.Context, s, old *appsv1.StatefulSet) []string {
		var warnings []string
		path := field.NewPath("spec")
		if old == nil || s.Generation != old.Generation {
			warnings = core.PodTemplateWarnings(&s.Spec.Template, path.Child("template"))
		}
		for i := range s.Spec.VolumeClaimTemplates {
			at := path.Child("volumeClaimTemplates").Index(i)
			if old != nil {
				at = at.Child("Spec")
			}
			warnings = append(warnings, core.ClaimSpecWarnings(&s.Spec.VolumeClaimTemplates[i].Spec, at)...)
		}
		if n := s.Spec.RevisionHistoryLimit; n != nil && *n < 0 {
			warnings = append(warnings, "spec.revisionHistoryLimit: a negative value retains all historical revisions; a value >= 0 is recommended")
		}
		return warnings
	},
	Spec: func(s *appsv1.StatefulSet) any { return s.Spec },
	Status: &api.Status[*appsv1.StatefulSet]{
		Copy:         func(to, from *appsv1.StatefulSet) { to.Status = from.Status },
		KeepMetadata: true,
		Validate: func(_ context.Context, s, old *appsv1.StatefulSet) field.ErrorList {
			path := field.NewPath("status")
			return append(checkStatefulSetStatus(&s.Status, path),
				notDecremented(path.Child("collisionCount"), s.Status.CollisionCount, old.Status.CollisionCount)...)
		},
	},
	Columns: append([]metav1.TableColumnDefinition{
		columns.Name(),
		columns.Text("Ready", "Number of the pod with ready state"),
		columns.Age(),
	}, columns.Containers()...),
	Row: func(s *appsv1.StatefulSet) []any {
		names, images := columns.ContainerCells(s.Spec.Template.Spec.Containers)
		return []any{s.Name, fmt.Sprintf("%d/%d", s.Status.ReadyReplicas, ptr.Deref(s.Spec.Replicas, 0)),
			columns.Since(s.CreationTimestamp.Time), names, images}
	},
	Extend: scaleExtension("statefulsets", scaled[*appsv1.StatefulSet]{
		replicas: func(s *appsv1.StatefulSet) **int32 { return &s.Spec.Replicas },
		current:  func(s *appsv1.StatefulSet) int32 { return s.Status.Replicas },
		selector: func(s *appsv1.StatefulSet) *metav1.LabelSelector { return s.Spec.Selector },
	}),
}

func defaultStatefulSet(s *appsv1.StatefulSet) {
	spec := &s.Spec
	core.DefaultPodTemplate(&spec.Template)
	for i := range spec.VolumeClaimTemplates {
		claim := &spec.VolumeClaimTemplates[i]
		// Clients read the templates back as claims, phase included.
		claim.APIVersion, claim.Kind = "v1", "PersistentVolumeClaim"
		if claim.Status.Phase == "" {
			claim.Status.Phase = corev1.ClaimPending
		}
		core.DefaultClaimSpec(&claim.Spec)
	}
	if spec.PodManagementPolicy == "" {
		spec.PodManagementPolicy = appsv1.OrderedReadyPodManagement
	}
	strategy := &spec.UpdateStrategy
	if strategy.Type == "" {
		strategy.Type = appsv1.RollingUpdateStatefulSetStrategyType
		setDefault(&strategy.RollingUpdate, appsv1.RollingUpdateStatefulSetStrategy{})
	}
	if strategy.Type == appsv1.RollingUpdateStatefulSetStrategyType && strategy.RollingUpdate != nil {
		setDefault(&strategy.RollingUpdate.Partition, 0)
	}
	setDefault(&spec.PersistentVolumeClaimRetentionPolicy, appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy{})
	if policy := spec.PersistentVolumeClaimRetentionPolicy; policy.WhenDeleted == "" {
		policy.WhenDeleted = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	if policy := spec.PersistentVolumeClaimRetentionPolicy; policy.WhenScaled == "" {
		policy.WhenScaled = appsv1.RetainPersistentVolumeClaimRetentionPolicyType
	}
	setDefault(&spec.Replicas, 1)
	setDefault(&spec.RevisionHistoryLimit, 10)
}

// dropMaxUnavailable keeps maxUnavailable only where it is stored already:
// the field is beta and off by default.
func dropMaxUnavailable(s, old *appsv1.StatefulSet) {
	if old != nil && old.Spec.UpdateStrategy.RollingUpdate != nil && old.Spec.UpdateStrategy.RollingUpdate.MaxUnavailable != nil {
		return
	}
	if rolling := s.Spec.UpdateStrategy.RollingUpdate; rolling != nil {
		rolling.MaxUnavailable = nil
	}
}

func checkStatefulSetSpec(spec *appsv1.StatefulSetSpec, path *field.Path) (errs field.ErrorList) {
	switch policy := spec.PodManagementPolicy; policy {
	case "":
		errs = append(errs, field.Required(path.Child("podManagementPolicy"), ""))
	case appsv1.OrderedReadyPodManagement, appsv1.ParallelPodManagement:
	default:
		errs = append(errs, field.Invalid(path.Child("podManagementPolicy"), policy, "must be 'OrderedReady' or 'Parallel'"))
	}
	errs = append(errs, checkStatefulSetStrategy(&spec.UpdateStrategy, path.Child("updateStrategy"))...)
	errs = append(errs, checkRetention(spec.PersistentVolumeClaimRetentionPolicy, path.Child("persistentVolumeClaimRetentionPolicy"))...)
	errs = append(errs, nonnegative32(path, "replicas", spec.Replicas)...)
	errs = append(errs, nonnegative(path, count{"minReadySeconds", int64(spec.MinReadySeconds)})...)
	if spec.Ordinals != nil {
		errs = append(errs, nonnegative(path, count{"ordinals.start", int64(spec.Ordinals.Start)})...)
	}
	errs = append(errs, checkSelector(spec.Selector, path.Child("selector"), "statefulset")...)

	// The controller sets host name, subdomain and the claims' volumes itself.
	template := spec.Template.DeepCopy()
	template.Spec.Hostname, template.Spec.Subdomain = "", ""
	template.Spec.Volumes = withClaims(template.Spec.Volumes, spec.VolumeClaimTemplates)
	return append(errs, checkTemplate(template, spec.Selector, path, "", "StatefulSet")...)
}

// withClaims returns volumes with those of the claim templates, which replace
// others of their names.
func withClaims(volumes []corev1.Volume, claims []corev1.PersistentVolumeClaim) []corev1.Volume {
	var all []corev1.Volume
	claimed := map[string]bool{}
	for i := range claims {
		name := claims[i].Name
		if claimed[name] {
			continue
		}
		claimed[name] = true
		all = append(all, corev1.Volume{Name: name, VolumeSource: corev1.VolumeSource{
			PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: name},
		}})
	}
	for _, volume := range volumes {
		if !claimed[volume.Name] {
			all = append(all, volume)
		}
	}
	return all
}

func checkStatefulSetStrategy(strategy *appsv1.StatefulSetUpdateStrategy, path *field.Path) (errs field.ErrorList) {
	rolling := path.Child("rollingUpdate")
	switch strategy.Type {
	case "":
		errs = append(errs, field.Required(path, ""))
	case appsv1.OnDeleteStatefulSetStrategyType:
		if strategy.RollingUpdate != nil {
			errs = append(errs, field.Invalid(rolling, strategy.RollingUpdate, "only allowed for updateStrategy 'RollingUpdate'"))
		}
	case appsv1.RollingUpdateStatefulSetStrategyType:
		if strategy.RollingUpdate == nil {
			break
		}
		errs = append(errs, nonnegative32(rolling, "partition", strategy.RollingUpdate.Partition)...)
		if unavailable := strategy.RollingUpdate.MaxUnavailable; unavailable != nil {
			at := rolling.Child("maxUnavailable")
			errs = append(errs, checkIntOrPercent(unavailable, at)...)
			if isZero(unavailable) {
				errs = append(errs, field.Invalid(at, *unavailable, "cannot be 0"))
			}
			errs = append(errs, checkAtMostAll(unavailable, at)...)
		}
	default:
		errs = append(errs, field.Invalid(path, strategy, "must be 'RollingUpdate' or 'OnDelete'"))
	}
	return errs
}

func checkRetention(policy *appsv1.StatefulSetPersistentVolumeClaimRetentionPolicy, path *field.Path) (errs field.ErrorList) {
	if policy == nil {
		return nil
	}
	known := []appsv1.PersistentVolumeClaimRetentionPolicyType{
		appsv1.RetainPersistentVolumeClaimRetentionPolicyType, appsv1.DeletePersistentVolumeClaimRetentionPolicyType,
	}
	for _, when := range []struct {
		name   string
		policy appsv1.PersistentVolumeClaimRetentionPolicyType
	}{{"whenDeleted", policy.WhenDeleted}, {"whenScaled", policy.WhenScaled}} {
		if when.policy != known[0] && when.policy != known[1] {
			errs = append(errs, field.NotSupported(path.Child(when.name), when.policy, known))
		}
	}
	return errs
}

func checkStatefulSetUpdate(_ context.Context, s, old *appsv1.StatefulSet) field.ErrorList {
	path := field.NewPath("spec")
	errs := checkStatefulSetSpec(&s.Spec, path)
	fixed := s.Spec.DeepCopy()
	fixed.Replicas = old.Spec.Replicas
	fixed.Template = old.Spec.Template
	fixed.UpdateStrategy = old.Spec.UpdateStrategy
	fixed.MinReadySeconds = old.Spec.MinReadySeconds
	fixed.Ordinals = old.Spec.Ordinals
	fixed.RevisionHistoryLimit = old.Spec.RevisionHistoryLimit
	fixed.PersistentVolumeClaimRetentionPolicy = old.Spec.PersistentVolumeClaimRetentionPolicy
	if !apiequality.Semantic.DeepEqual(*fixed, old.Spec) {
		errs = append(errs, field.Forbidden(path, "updates to statefulset spec for fields other than 'replicas', 'ordinals', 'template', 'updateStrategy', 'revisionHistoryLimit', 'persistentVolumeClaimRetentionPolicy' and 'minReadySeconds' are forbidden"))
	}
	return errs
}

func checkStatefulSetStatus(status *appsv1.StatefulSetStatus, path *field.Path) field.ErrorList {
	errs := nonnegative(path,
		count{"replicas", int64(status.Replicas)},
		count{"readyReplicas", int64(status.ReadyReplicas)},
		count{"currentReplicas", int64(status.CurrentReplicas)},
		count{"updatedReplicas", int64(status.UpdatedReplicas)},
		count{"availableReplicas", int64(status.AvailableReplicas)},
		count{"observedGeneration", status.ObservedGeneration})
	errs = append(errs, nonnegative32(path, "collisionCount", status.CollisionCount)...)
	errs = append(errs, notAbove(path, status.Replicas, "cannot be greater than status.replicas",
		count{"readyReplicas", int64(status.ReadyReplicas)},
		count{"currentReplicas", int64(status.CurrentReplicas)},
		count{"updatedReplicas", int64(status.UpdatedReplicas)},
		count{"availableReplicas", int64(status.AvailableReplicas)})...)
	return append(errs, notAbove(path, status.ReadyReplicas, "cannot be greater than status.readyReplicas",
		count{"availableReplicas", int64(status.AvailableReplicas)})...)
}
