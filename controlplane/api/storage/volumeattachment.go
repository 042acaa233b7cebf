package storage

import (
	"context"
	"math"

	storagev1 "k8s.io/api/storage/v1"
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

const (
	maxMetadataSize = 256 << 10 // bytes
	maxErrorMessage = 1024      // bytes
)

var volumeAttachment = api.Definition[*storagev1.VolumeAttachment]{
	GroupVersion: groupVersion, Kind: "VolumeAttachment", Resource: "volumeattachments", Singular: "volumeattachment",
	ClusterScope: true, ForbidUnconditionalUpdate: true,
	New:     func() *storagev1.VolumeAttachment { return &storagev1.VolumeAttachment{} },
	NewList: func() runtime.Object { return &storagev1.VolumeAttachmentList{} },

	Default: func(a *storagev1.VolumeAttachment) {
		if inline := a.Spec.Source.InlineVolumeSpec; inline != nil {
			core.DefaultVolumeSource(&inline.PersistentVolumeSource)
		}
	},
	Validate: func(_ context.Context, a *storagev1.VolumeAttachment) field.ErrorList { return validateAttachment(a) },
	ValidateUpdate: func(_ context.Context, a, old *storagev1.VolumeAttachment) field.ErrorList {
		return append(validateAttachment(a), apivalidation.ValidateImmutableField(a.Spec, old.Spec, field.NewPath("spec"))...)
	},
	Status: &api.Status[*storagev1.VolumeAttachment]{
		Copy: func(to, from *storagev1.VolumeAttachment) { to.Status = from.Status },
		Validate: func(_ context.Context, a, _ *storagev1.VolumeAttachment) field.ErrorList {
			return validateAttachmentStatus(&a.Status, field.NewPath("status"))
		},
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(),
		{Name: "Attacher", Type: "string", Format: "name", Description: storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["attacher"]},
		columns.Text("PV", storagev1.VolumeAttachmentSource{}.SwaggerDoc()["persistentVolumeName"]),
		columns.Text("Node", storagev1.VolumeAttachmentSpec{}.SwaggerDoc()["nodeName"]),
		{Name: "Attached", Type: "boolean", Description: storagev1.VolumeAttachmentStatus{}.SwaggerDoc()["attached"]},
		columns.Age(),
	},
	Row: func(a *storagev1.VolumeAttachment) []any {
		return []any{a.Name, a.Spec.Attacher, ptr.Deref(a.Spec.Source.PersistentVolumeName, ""), a.Spec.NodeName, a.Status.Attached, columns.Since(a.CreationTimestamp.Time)}
	},
	ReturnDeleted: true,
}

func validateAttachment(a *storagev1.VolumeAttachment) field.ErrorList {
	path := field.NewPath("spec")
	errs := core.ValidateDriverName(a.Spec.Attacher, path.Child("attacher"))
	at := path.Child("source")
	const one = "must specify exactly one of inlineVolumeSpec and persistentVolumeName"
	switch inline, name := a.Spec.Source.InlineVolumeSpec, a.Spec.Source.PersistentVolumeName; {
	case inline == nil && name == nil:
		errs = append(errs, field.Required(at, one))
	case inline != nil && name != nil:
		errs = append(errs, field.Forbidden(at, one))
	case inline != nil:
		errs = append(errs, core.ValidateInlineVolume(inline, at.Child("inlineVolumeSpec"))...)
	case *name == "":
		errs = append(errs, field.Required(at.Child("persistentVolumeName"), "must specify non empty persistentVolumeName"))
		fallthrough
	default:
		errs = append(errs, invalid(at.Child("persistentVolumeName"), *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
	errs = append(errs, invalid(path.Child("nodeName"), a.Spec.NodeName, apivalidation.NameIsDNSSubdomain(a.Spec.NodeName, false))...)
	return append(errs, validateAttachmentStatus(&a.Status, field.NewPath("status"))...)
}

func validateAttachmentStatus(s *storagev1.VolumeAttachmentStatus, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for k, v := range s.AttachmentMetadata {
		size += len(k) + len(v)
	}
	if size > maxMetadataSize {
		errs = append(errs, field.TooLong(path.Child("attachmentMetadata"), "", maxMetadataSize))
	}
	fault := func(e *storagev1.VolumeError, path *field.Path) {
		if e == nil {
			return
		}
		if len(e.Message) > maxErrorMessage {
			errs = append(errs, field.TooLong(path.Child("message"), "", maxErrorMessage))
		}
		if e.ErrorCode != nil && *e.ErrorCode < 0 {
			errs = append(errs, field.Invalid(path.Child("errorCode"), *e.ErrorCode, validation.InclusiveRangeError(0, math.MaxInt32)))
		}
	}
	fault(s.AttachError, path.Child("attachError"))
	fault(s.DetachError, path.Child("detachError"))
	return errs
}
