package core

import (
	"context"
	"fmt"
	"maps"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/component-helpers/storage/volume"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

func persistentVolumeClaimKind() api.Kind {
	spec, status := corev1.PersistentVolumeClaimSpec{}.SwaggerDoc(), corev1.PersistentVolumeClaimStatus{}.SwaggerDoc()
	check := func(c *corev1.PersistentVolumeClaim, anyGroup bool) field.ErrorList {
		return validateClaimSpec(&c.Spec, anyGroup, field.NewPath("spec"))
	}
	return api.Define(api.Definition[*corev1.PersistentVolumeClaim]{
		GroupVersion: groupVersion, Kind: "PersistentVolumeClaim", Resource: "persistentvolumeclaims", Singular: "persistentvolumeclaim",
		ShortNames: []string{"pvc"},
		New:        func() *corev1.PersistentVolumeClaim { return &corev1.PersistentVolumeClaim{} },
		NewList:    func() runtime.Object { return &corev1.PersistentVolumeClaimList{} },

		Default: defaultClaim,
		PrepareForCreate: func(_ context.Context, c *corev1.PersistentVolumeClaim) {
			c.Status.Phase = corev1.ClaimPending
			normalizeDataSource(&c.Spec, nil)
		},
		PrepareForUpdate: func(_ context.Context, c, old *corev1.PersistentVolumeClaim) { normalizeDataSource(&c.Spec, &old.Spec) },
		Validate:         func(_ context.Context, c *corev1.PersistentVolumeClaim) field.ErrorList { return check(c, false) },
		ValidateUpdate: func(_ context.Context, c, old *corev1.PersistentVolumeClaim) field.ErrorList {
			s, r := old.Spec.DataSource, old.Spec.DataSourceRef
			anyGroup := s != nil && s.APIGroup != nil || r != nil && r.APIGroup != nil
			return append(check(c, anyGroup), validateClaimUpdate(c, old)...)
		},
		Warnings: func(_ context.Context, c, _ *corev1.PersistentVolumeClaim) []string { return claimWarnings(c) },
		Status: &api.Status[*corev1.PersistentVolumeClaim]{
			Copy: func(to, from *corev1.PersistentVolumeClaim) { to.Status = from.Status },
			Validate: func(_ context.Context, c, _ *corev1.PersistentVolumeClaim) field.ErrorList {
				return validateClaimStatus(&c.Status)
			},
			KeepMetadata: true,
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("Status", status["phase"]), columns.Text("Volume", spec["volumeName"]),
			columns.Text("Capacity", status["capacity"]), columns.Text("Access Modes", status["accessModes"]),
			columns.Text("StorageClass", "StorageClass of the pvc"), columns.Text("VolumeAttributesClass", "VolumeAttributesClass of the pvc"),
			columns.Age(), columns.Wide("VolumeMode", spec["volumeMode"]),
		},
		Row:           claimRow,
		ReturnDeleted: true,
	})
}

func defaultClaim(c *corev1.PersistentVolumeClaim) {
	if c.Status.Phase == "" {
		c.Status.Phase = corev1.ClaimPending
	}
	DefaultClaimSpec(&c.Spec)
	roundResources(c.Status.Capacity)
	roundResources(c.Status.AllocatedResources)
}

// normalizeDataSource keeps dataSource and dataSourceRef in step. A dataSource
// that was never allowed there is dropped, as it always was, and so is a
// reference into another namespace, whose feature is off.
func normalizeDataSource(spec, old *corev1.PersistentVolumeClaimSpec) {
	if r := spec.DataSourceRef; r != nil && ptr.Deref(r.Namespace, "") != "" && (old == nil || old.DataSourceRef == nil) {
		spec.DataSourceRef = nil
	}
	inUse := old != nil && (old.DataSource != nil || old.DataSourceRef != nil)
	if s := spec.DataSource; s != nil && !inUse && spec.DataSourceRef == nil {
		group := ptr.Deref(s.APIGroup, "")
		if !(s.Kind == "PersistentVolumeClaim" && group == "") && !(s.Kind == "VolumeSnapshot" && group == "snapshot.storage.k8s.io") {
			spec.DataSource = nil
		}
	}
	switch s, r := spec.DataSource, spec.DataSourceRef; {
	case s != nil && r == nil:
		spec.DataSourceRef = &corev1.TypedObjectReference{APIGroup: copied(s.APIGroup), Kind: s.Kind, Name: s.Name}
	case s == nil && r != nil && ptr.Deref(r.Namespace, "") == "":
		spec.DataSource = &corev1.TypedLocalObjectReference{APIGroup: copied(r.APIGroup), Kind: r.Kind, Name: r.Name}
	}
}

func copied(s *string) *string {
	if s == nil {
		return nil
	}
	return ptr.To(*s)
}

// validateClaimUpdate lets a claim be bound once, be given a class where it had
// none, and, once bound, grow and change its attributes.
func validateClaimUpdate(c, old *corev1.PersistentVolumeClaim) field.ErrorList {
	var errs field.ErrorList
	now, was := c.Spec.DeepCopy(), old.Spec.DeepCopy()
	if was.VolumeName == "" {
		was.VolumeName = now.VolumeName
	}
	classWas, annotated := old.Annotations[corev1.BetaStorageClassAnnotation]
	classNow, stillAnnotated := c.Annotations[corev1.BetaStorageClassAnnotation]
	gained := was.StorageClassName == nil && now.StorageClassName != nil && (!annotated || *now.StorageClassName == classWas)
	if moved := gained && annotated && (!stillAnnotated || classNow == classWas); !moved {
		errs = append(errs, immutableAnnotation(classNow, classWas, corev1.BetaStorageClassAnnotation)...)
	}
	if gained {
		was.StorageClassName = now.StorageClassName
	}
	if c.Status.Phase == corev1.ClaimBound {
		if now.Resources.Requests != nil {
			now.Resources.Requests[corev1.ResourceStorage] = was.Resources.Requests[corev1.ResourceStorage]
		}
		now.VolumeAttributesClassName = was.VolumeAttributesClassName
	}
	spec := field.NewPath("spec")
	if !apiequality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(spec, fmt.Sprintf("spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims\n%v", diff.Diff(api.Shown(*was), api.Shown(*now)))))
	}
	size, before, have := c.Spec.Resources.Requests[corev1.ResourceStorage], old.Spec.Resources.Requests[corev1.ResourceStorage], old.Status.Capacity[corev1.ResourceStorage]
	// A request may shrink back towards what there is, after an expansion that failed.
	if size.Cmp(before) < 0 && size.Cmp(have) <= 0 {
		errs = append(errs, field.Forbidden(spec.Child("resources", "requests", "storage"), "field can not be less than status.capacity"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(c.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if old.Status.CurrentVolumeAttributesClassName != nil && !ptr.Equal(c.Spec.VolumeAttributesClassName, old.Spec.VolumeAttributesClassName) {
		at := spec.Child("volumeAttributesClassName")
		if c.Spec.VolumeAttributesClassName == nil {
			errs = append(errs, field.Forbidden(at, "update to nil is forbidden when status.currentVolumeAttributesClassName is not nil"))
		} else if *c.Spec.VolumeAttributesClassName == "" {
			errs = append(errs, field.Forbidden(at, "update to empty string is forbidden when status.currentVolumeAttributesClassName is not nil"))
		}
	}
	return errs
}

func immutableAnnotation(now, was, key string) field.ErrorList {
	if now != was {
		return field.ErrorList{field.Invalid(field.NewPath("metadata", "annotations").Key(key), now, apivalidation.FieldImmutableErrorMsg)}
	}
	return nil
}

func validateClaimStatus(s *corev1.PersistentVolumeClaimStatus) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("status")
	for _, n := range sortedResources(s.Capacity) {
		errs = append(errs, basicQuantity(s.Capacity[n], path.Child("capacity").Key(string(n)))...)
	}
	at := path.Child("allocatedResourceStatuses")
	states := []corev1.ClaimResourceStatus{
		corev1.PersistentVolumeClaimControllerResizeInProgress, corev1.PersistentVolumeClaimControllerResizeInfeasible,
		corev1.PersistentVolumeClaimNodeResizeInProgress, corev1.PersistentVolumeClaimNodeResizeInfeasible, corev1.PersistentVolumeClaimNodeResizePending,
	}
	for _, n := range slices.Sorted(maps.Keys(s.AllocatedResourceStatuses)) {
		errs = append(errs, claimResource(n, at)...)
		if !slices.Contains(states, s.AllocatedResourceStatuses[n]) {
			errs = append(errs, field.NotSupported(at, n, states))
		}
	}
	at = path.Child("allocatedResources")
	for _, n := range sortedResources(s.AllocatedResources) {
		q := s.AllocatedResources[n]
		faults := claimResource(n, at)
		if len(faults) == 0 {
			faults = basicQuantity(q, at.Key(string(n)))
		}
		if len(faults) == 0 {
			faults = validateQuantity(corev1.ResourceStorage, q, at.Key(string(n)))
		}
		errs = append(errs, faults...)
	}
	return errs
}

// claimResource wants the name of something that a claim can be allocated:
// storage, or what a driver of its own names.
func claimResource(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := qualifiedName(string(name), path); len(errs) > 0 {
		return errs
	}
	if isNativeResource(name) && name != corev1.ResourceStorage {
		return field.ErrorList{field.NotSupported(path, string(name), []corev1.ResourceName{corev1.ResourceStorage})}
	}
	return nil
}

func claimWarnings(c *corev1.PersistentVolumeClaim) []string {
	var warnings []string
	if _, set := c.Annotations[corev1.BetaStorageClassAnnotation]; set {
		warnings = append(warnings, `metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	return append(warnings, ClaimSpecWarnings(&c.Spec, field.NewPath("spec"))...)
}

// ClaimSpecWarnings tells what of a claim works, but hardly as meant.
func ClaimSpecWarnings(spec *corev1.PersistentVolumeClaimSpec, path *field.Path) []string {
	var warnings []string
	for _, l := range []struct {
		name string
		list corev1.ResourceList
	}{{"requests", spec.Resources.Requests}, {"limits", spec.Resources.Limits}} {
		if q := l.list[corev1.ResourceStorage]; q.MilliValue()%1000 != 0 {
			warnings = append(warnings, fmt.Sprintf("%s[storage]: fractional byte value %q is invalid, must be an integer", path.Child("resources", l.name), q.String()))
		}
	}
	return warnings
}

func claimRow(c *corev1.PersistentVolumeClaim) []any {
	phase := string(c.Status.Phase)
	if c.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	capacity, modes := "", ""
	if c.Spec.VolumeName != "" {
		q := c.Status.Capacity[corev1.ResourceStorage]
		capacity, modes = q.String(), shortModes(c.Status.AccessModes)
	}
	return []any{
		c.Name, phase, c.Spec.VolumeName, capacity, modes, volume.GetPersistentVolumeClaimClass(c),
		ptr.Deref(c.Spec.VolumeAttributesClassName, "<unset>"), columns.Since(c.CreationTimestamp.Time), string(ptr.Deref(c.Spec.VolumeMode, "<unset>")),
	}
}
