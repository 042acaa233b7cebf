package core

import (
	"context"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/resource"
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

func persistentVolumeKind() api.Kind {
	spec, status := corev1.PersistentVolumeSpec{}.SwaggerDoc(), corev1.PersistentVolumeStatus{}.SwaggerDoc()
	return api.Define(api.Definition[*corev1.PersistentVolume]{
		GroupVersion: groupVersion, Kind: "PersistentVolume", Resource: "persistentvolumes", Singular: "persistentvolume",
		ShortNames: []string{"pv"}, ClusterScope: true,
		New:     func() *corev1.PersistentVolume { return &corev1.PersistentVolume{} },
		NewList: func() runtime.Object { return &corev1.PersistentVolumeList{} },

		Default: defaultVolumeObject,
		PrepareForCreate: func(_ context.Context, v *corev1.PersistentVolume) {
			v.Status = corev1.PersistentVolumeStatus{Phase: corev1.VolumePending, LastPhaseTransitionTime: ptr.To(metav1.Now())}
		},
		Validate: func(_ context.Context, v *corev1.PersistentVolume) field.ErrorList { return validateVolumeObject(v) },
		ValidateUpdate: func(_ context.Context, v, old *corev1.PersistentVolume) field.ErrorList {
			return append(validateVolumeObject(v), validateVolumeUpdate(v, old)...)
		},
		Warnings: func(_ context.Context, v, _ *corev1.PersistentVolume) []string { return volumeWarnings(v) },
		Status: &api.Status[*corev1.PersistentVolume]{
			Copy:         func(to, from *corev1.PersistentVolume) { to.Status = from.Status },
			Prepare:      stampPhase,
			KeepMetadata: true,
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("Capacity", spec["capacity"]), columns.Text("Access Modes", spec["accessModes"]),
			columns.Text("Reclaim Policy", spec["persistentVolumeReclaimPolicy"]), columns.Text("Status", status["phase"]),
			columns.Text("Claim", spec["claimRef"]), columns.Text("StorageClass", "StorageClass of the pv"),
			columns.Text("VolumeAttributesClass", "VolumeAttributesClass of the pv"), columns.Text("Reason", status["reason"]),
			columns.Age(), columns.Wide("VolumeMode", spec["volumeMode"]),
		},
		Row:           volumeRow,
		ReturnDeleted: true,
	})
}

func defaultVolumeObject(v *corev1.PersistentVolume) {
	if v.Status.Phase == "" {
		v.Status.Phase = corev1.VolumePending
	}
	spec := &v.Spec
	if spec.PersistentVolumeReclaimPolicy == "" {
		spec.PersistentVolumeReclaimPolicy = corev1.PersistentVolumeReclaimRetain
	}
	if spec.VolumeMode == nil {
		spec.VolumeMode = ptr.To(corev1.PersistentVolumeFilesystem)
	}
	roundResources(spec.Capacity)
	DefaultVolumeSource(&spec.PersistentVolumeSource)
}

// stampPhase keeps the time of the last change of phase.
func stampPhase(_ context.Context, v, old *corev1.PersistentVolume) {
	now, was := &v.Status, &old.Status
	switch {
	case now.Phase == was.Phase:
		if now.LastPhaseTransitionTime == nil {
			now.LastPhaseTransitionTime = was.LastPhaseTransitionTime
		}
	case now.LastPhaseTransitionTime == nil || now.LastPhaseTransitionTime.Equal(was.LastPhaseTransitionTime):
		now.LastPhaseTransitionTime = ptr.To(metav1.Now())
	}
}

func validateVolumeObject(v *corev1.PersistentVolume) field.ErrorList {
	errs := validateVolumeSpec(&v.Spec, v.Name, field.NewPath("spec"))
	if _, set := v.Annotations[corev1.MountOptionAnnotation]; set && !takesMountOptions(&v.Spec.PersistentVolumeSource) {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations", corev1.MountOptionAnnotation), "may not specify mount options for this volume type"))
	}
	return errs
}

func validateVolumeSpec(spec *corev1.PersistentVolumeSpec, name string, path *field.Path) field.ErrorList {
	errs := validateVolumeModes(spec.AccessModes, "", path.Child("accessModes"))
	capacity := path.Child("capacity")
	if len(spec.Capacity) == 0 {
		errs = append(errs, field.Required(capacity, ""))
	}
	if _, ok := spec.Capacity[corev1.ResourceStorage]; !ok || len(spec.Capacity) > 1 {
		errs = append(errs, field.NotSupported(capacity, spec.Capacity, []corev1.ResourceName{corev1.ResourceStorage}))
	}
	for _, n := range sortedResources(spec.Capacity) {
		q := spec.Capacity[n]
		errs = append(errs, basicQuantity(q, capacity.Key(string(n)))...)
		if q.Sign() <= 0 {
			errs = append(errs, field.Invalid(capacity.Key(string(n)), q.String(), positive))
		}
	}
	if p := spec.PersistentVolumeReclaimPolicy; p != "" {
		errs = append(errs, anyOf(p, path.Child("persistentVolumeReclaimPolicy"),
			corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRecycle, corev1.PersistentVolumeReclaimRetain)...)
	}
	if a := spec.NodeAffinity; a != nil {
		at := path.Child("nodeAffinity", "required")
		if a.Required == nil {
			errs = append(errs, field.Required(at, "must specify required node constraints"))
		} else {
			errs = append(errs, ValidateNodeSelector(a.Required, at)...)
		}
	}
	errs = append(errs, validateSource(spec, name, path)...)
	if name := spec.StorageClassName; name != "" {
		errs = append(errs, invalid(path.Child("storageClassName"), name, apivalidation.NameIsDNSSubdomain(name, false))...)
	}
	if m := spec.VolumeMode; m != nil {
		errs = append(errs, anyOf(*m, path.Child("volumeMode"), corev1.PersistentVolumeBlock, corev1.PersistentVolumeFilesystem)...)
	}
	return append(errs, validateAttributesClass(spec, path)...)
}

// ValidateInlineVolume checks the specification of a volume that stands in
// another object (a VolumeAttachment) and has no object of its own.
func ValidateInlineVolume(spec *corev1.PersistentVolumeSpec, path *field.Path) field.ErrorList {
	const inline = "may not be specified in the context of inline volumes"
	var errs field.ErrorList
	forbid := func(set bool, name string) {
		if set {
			errs = append(errs, field.Forbidden(path.Child(name), inline))
		}
	}
	forbid(spec.ClaimRef != nil, "claimRef")
	forbid(len(spec.Capacity) != 0, "capacity")
	if spec.CSI == nil {
		errs = append(errs, field.Required(path.Child("csi"), "has to be specified in the context of inline volumes"))
	}
	errs = append(errs, validateVolumeModes(spec.AccessModes, "", path.Child("accessModes"))...)
	if p := spec.PersistentVolumeReclaimPolicy; p != "" && p != corev1.PersistentVolumeReclaimRetain {
		errs = append(errs, field.Forbidden(path.Child("persistentVolumeReclaimPolicy"), "may only be Retain in the context of inline volumes"))
	}
	forbid(spec.NodeAffinity != nil, "nodeAffinity")
	errs = append(errs, validateSource(spec, "", path)...)
	forbid(spec.StorageClassName != "", "storageClassName")
	if m := spec.VolumeMode; m != nil && *m != corev1.PersistentVolumeFilesystem {
		errs = append(errs, field.Forbidden(path.Child("volumeMode"), "may not specify volumeMode other than Filesystem in the context of inline volumes"))
	}
	return append(errs, validateAttributesClass(spec, path)...)
}

// validateVolumeModes checks access modes, of which there has to be one.
func validateVolumeModes(modes []corev1.PersistentVolumeAccessMode, missing string, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(modes) == 0 {
		errs = append(errs, field.Required(path, missing))
	}
	pod, other := false, false
	for _, m := range modes {
		faults := anyOf(m, path, corev1.ReadOnlyMany, corev1.ReadWriteMany, corev1.ReadWriteOnce, corev1.ReadWriteOncePod)
		errs = append(errs, faults...)
		pod = pod || m == corev1.ReadWriteOncePod
		other = other || m != corev1.ReadWriteOncePod && len(faults) == 0
	}
	if pod && other {
		errs = append(errs, field.Forbidden(path, "may not use ReadWriteOncePod with other access modes"))
	}
	return errs
}

func validateAttributesClass(spec *corev1.PersistentVolumeSpec, path *field.Path) field.ErrorList {
	name := spec.VolumeAttributesClassName
	if name == nil {
		return nil
	}
	var errs field.ErrorList
	if at := path.Child("volumeAttributesClassName"); *name == "" {
		errs = append(errs, field.Required(at, "an empty string is disallowed"))
	} else {
		errs = append(errs, invalid(at, *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
	if spec.CSI == nil {
		errs = append(errs, field.Required(path.Child("csi"), "has to be specified when using volumeAttributesClassName"))
	}
	return errs
}

func basicQuantity(q resource.Quantity, path *field.Path) field.ErrorList {
	if q.Value() < 0 {
		return field.ErrorList{field.Invalid(path, q.Value(), "must be a valid resource quantity")}
	}
	return nil
}

func validateVolumeUpdate(v, old *corev1.PersistentVolume) field.ErrorList {
	var errs field.ErrorList
	now, was := v.Spec.PersistentVolumeSource, old.Spec.PersistentVolumeSource
	if now.CSI != nil && was.CSI != nil && was.CSI.ControllerExpandSecretRef == nil {
		// The secret for expansion may come later.
		csi := *now.CSI
		csi.ControllerExpandSecretRef = nil
		now.CSI = &csi
	}
	if !apiequality.Semantic.DeepEqual(now, was) {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "persistentvolumesource"),
			fmt.Sprintf("spec.persistentvolumesource is immutable after creation\n%v", diff.Diff(api.Shown(was), api.Shown(now)))))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(v.Spec.VolumeMode, old.Spec.VolumeMode, field.NewPath("volumeMode"))...)
	if a := old.Spec.NodeAffinity; a != nil && !apiequality.Semantic.DeepEqual(v.Spec.NodeAffinity, withStableLabels(a, v.Spec.NodeAffinity)) {
		errs = append(errs, field.Invalid(field.NewPath("nodeAffinity"), v.Spec.NodeAffinity,
			apivalidation.FieldImmutableErrorMsg+", except for updating from beta label to GA"))
	}
	if old.Spec.VolumeAttributesClassName != nil && v.Spec.VolumeAttributesClassName == nil {
		errs = append(errs, field.Forbidden(field.NewPath("spec", "volumeAttributesClassName"), "update from non-nil value to nil is forbidden"))
	}
	return errs
}

var stableLabels = map[string]string{
	corev1.LabelFailureDomainBetaZone:   corev1.LabelTopologyZone,
	corev1.LabelFailureDomainBetaRegion: corev1.LabelTopologyRegion,
	corev1.LabelInstanceType:            corev1.LabelInstanceTypeStable,
	"beta.kubernetes.io/os":             corev1.LabelOSStable,
	"beta.kubernetes.io/arch":           corev1.LabelArchStable,
}

// withStableLabels gives old the stable names of labels where now has them.
func withStableLabels(old, now *corev1.VolumeNodeAffinity) *corev1.VolumeNodeAffinity {
	if old.Required == nil || now == nil || now.Required == nil {
		return old
	}
	old = old.DeepCopy()
	for i, term := range old.Required.NodeSelectorTerms {
		for j := range term.MatchExpressions {
			if i >= len(now.Required.NodeSelectorTerms) || j >= len(now.Required.NodeSelectorTerms[i].MatchExpressions) {
				continue
			}
			key := now.Required.NodeSelectorTerms[i].MatchExpressions[j].Key
			if r := &term.MatchExpressions[j]; key != "" && stableLabels[r.Key] == key {
				r.Key = key
			}
		}
	}
	return old
}

func volumeWarnings(v *corev1.PersistentVolume) []string {
	var warnings []string
	if _, set := v.Annotations[corev1.BetaStorageClassAnnotation]; set {
		warnings = append(warnings, `metadata.annotations[volume.beta.kubernetes.io/storage-class]: deprecated since v1.8; use "storageClassName" attribute instead`)
	}
	if _, set := v.Annotations[corev1.MountOptionAnnotation]; set {
		warnings = append(warnings, `metadata.annotations[volume.beta.kubernetes.io/mount-options]: deprecated since v1.31; use "mountOptions" attribute instead`)
	}
	if v.Spec.PersistentVolumeReclaimPolicy == corev1.PersistentVolumeReclaimRecycle {
		warnings = append(warnings, "spec.persistentVolumeReclaimPolicy: The Recycle reclaim policy is deprecated. Instead, the recommended approach is to use dynamic provisioning.")
	}
	if a := v.Spec.NodeAffinity; a != nil && a.Required != nil {
		w := &warner{}
		for i, term := range a.Required.NodeSelectorTerms {
			w.nodeTerm(term, false, field.NewPath("spec", "nodeAffinity", "required", "nodeSelectorTerms").Index(i))
		}
		warnings = append(warnings, w.list...)
	}
	for _, gone := range []struct {
		set         bool
		name, since string
	}{
		{v.Spec.CephFS != nil, "cephfs", "deprecated in v1.28, non-functional in v1.31+"},
		{v.Spec.PhotonPersistentDisk != nil, "photonPersistentDisk", "deprecated in v1.11, non-functional in v1.16+"},
		{v.Spec.ScaleIO != nil, "scaleIO", "deprecated in v1.16, non-functional in v1.22+"},
		{v.Spec.StorageOS != nil, "storageOS", "deprecated in v1.22, non-functional in v1.25+"},
		{v.Spec.Glusterfs != nil, "glusterfs", "deprecated in v1.25, non-functional in v1.26+"},
		{v.Spec.RBD != nil, "rbd", "deprecated in v1.28, non-functional in v1.31+"},
	} {
		if gone.set {
			warnings = append(warnings, "spec."+gone.name+": "+gone.since)
		}
	}
	return warnings
}

func volumeRow(v *corev1.PersistentVolume) []any {
	claim := ""
	if ref := v.Spec.ClaimRef; ref != nil {
		claim = ref.Namespace + "/" + ref.Name
	}
	size := v.Spec.Capacity[corev1.ResourceStorage]
	phase := string(v.Status.Phase)
	if v.DeletionTimestamp != nil {
		phase = "Terminating"
	}
	return []any{
		v.Name, size.String(), shortModes(v.Spec.AccessModes), string(v.Spec.PersistentVolumeReclaimPolicy), phase, claim,
		volume.GetPersistentVolumeClass(v), ptr.Deref(v.Spec.VolumeAttributesClassName, "<unset>"), v.Status.Reason,
		columns.Since(v.CreationTimestamp.Time), string(ptr.Deref(v.Spec.VolumeMode, "<unset>")),
	}
}

// shortModes writes access modes as tables show them: "RWO,ROX".
func shortModes(modes []corev1.PersistentVolumeAccessMode) string {
	var short []string
	for _, m := range []struct {
		mode corev1.PersistentVolumeAccessMode
		name string
	}{{corev1.ReadWriteOnce, "RWO"}, {corev1.ReadOnlyMany, "ROX"}, {corev1.ReadWriteMany, "RWX"}, {corev1.ReadWriteOncePod, "RWOP"}} {
		for _, have := range modes {
			if have == m.mode {
				short = append(short, m.name)
				break
			}
		}
	}
	return strings.Join(short, ",")
}
