package resource

import (
	"context"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var deviceClass = api.Definition[*resourcev1.DeviceClass]{
	GroupVersion: groupVersion, Kind: "DeviceClass", Resource: "deviceclasses", Singular: "deviceclass",
	ClusterScope: true, NameValidation: core.LongName,
	New:           func() *resourcev1.DeviceClass { return &resourcev1.DeviceClass{} },
	NewList:       func() runtime.Object { return &resourcev1.DeviceClassList{} },
	ReturnDeleted: true,

	Spec: func(c *resourcev1.DeviceClass) any { return c.Spec },
	Validate: func(_ context.Context, c *resourcev1.DeviceClass) field.ErrorList {
		return validateClass(&c.Spec, false, false)
	},
	ValidateUpdate: func(_ context.Context, c, old *resourcev1.DeviceClass) field.ErrorList {
		same := apiequality.Semantic.DeepEqual
		return validateClass(&c.Spec, same(c.Spec.Selectors, old.Spec.Selectors), same(c.Spec.Config, old.Spec.Config))
	},
	Columns: []metav1.TableColumnDefinition{columns.Name(), columns.Age()},
	Row:     func(c *resourcev1.DeviceClass) []any { return []any{c.Name, columns.Since(c.CreationTimestamp.Time)} },
}

func validateClass(s *resourcev1.DeviceClassSpec, selectorsStored, configStored bool) field.ErrorList {
	path := field.NewPath("spec")
	errs := checkSelectors(s.Selectors, selectorsStored, path.Child("selectors"))
	errs = append(errs, each(s.Config, resourcev1.DeviceConfigMaxSize, func(c resourcev1.DeviceClassConfiguration, path *field.Path) field.ErrorList {
		return checkConfiguration(c.DeviceConfiguration, configStored, path)
	}, path.Child("config"))...)
	if name := s.ExtendedResourceName; name != nil && !core.IsExtendedResource(corev1.ResourceName(*name)) {
		errs = append(errs, field.Invalid(path.Child("extendedResourceName"), *name, "must be a valid extended resource name"))
	}
	return errs
}
