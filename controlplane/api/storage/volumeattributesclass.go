package storage

import (
	"context"
	"maps"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var volumeAttributesClass = api.Definition[*storagev1.VolumeAttributesClass]{
	GroupVersion: groupVersion, Kind: "VolumeAttributesClass", Resource: "volumeattributesclasses", Singular: "volumeattributesclass",
	ShortNames: []string{"vac"}, ClusterScope: true,
	New:           func() *storagev1.VolumeAttributesClass { return &storagev1.VolumeAttributesClass{} },
	NewList:       func() runtime.Object { return &storagev1.VolumeAttributesClassList{} },
	ReturnDeleted: true,

	Validate: func(_ context.Context, c *storagev1.VolumeAttributesClass) field.ErrorList {
		return validateAttributes(c)
	},
	ValidateUpdate: func(_ context.Context, c, old *storagev1.VolumeAttributesClass) field.ErrorList {
		var errs field.ErrorList
		if c.DriverName != old.DriverName {
			errs = append(errs, field.Forbidden(field.NewPath("driverName"), "updates to driverName are forbidden."))
		}
		if !maps.Equal(c.Parameters, old.Parameters) {
			errs = append(errs, field.Forbidden(field.NewPath("parameters"), "updates to parameters are forbidden."))
		}
		return append(errs, validateAttributes(c)...)
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), columns.Text("DriverName", storagev1.VolumeAttributesClass{}.SwaggerDoc()["driverName"]), columns.Age(),
	},
	Row: func(c *storagev1.VolumeAttributesClass) []any {
		return []any{c.Name, c.DriverName, columns.Since(c.CreationTimestamp.Time)}
	},
}

func validateAttributes(c *storagev1.VolumeAttributesClass) field.ErrorList {
	path := field.NewPath("parameters")
	errs := append(checkDriver(c.DriverName, field.NewPath("driverName")), checkParameters(c.Parameters, path)...)
	if len(c.Parameters) == 0 {
		errs = append(errs, field.Required(path, "must contain at least one key/value pair"))
	}
	return errs
}
