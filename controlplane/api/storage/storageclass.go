package storage

import (
	"context"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var storageClassDocs = storagev1.StorageClass{}.SwaggerDoc()

var storageClass = api.Definition[*storagev1.StorageClass]{
	GroupVersion: groupVersion, Kind: "StorageClass", Resource: "storageclasses", Singular: "storageclass",
	ShortNames: []string{"sc"}, ClusterScope: true,
	New:           func() *storagev1.StorageClass { return &storagev1.StorageClass{} },
	NewList:       func() runtime.Object { return &storagev1.StorageClassList{} },
	ReturnDeleted: true,

	Default: func(c *storagev1.StorageClass) {
		if c.ReclaimPolicy == nil {
			c.ReclaimPolicy = ptr.To(corev1.PersistentVolumeReclaimDelete)
		}
		if c.VolumeBindingMode == nil {
			c.VolumeBindingMode = ptr.To(storagev1.VolumeBindingImmediate)
		}
	},
	Validate: func(_ context.Context, c *storagev1.StorageClass) field.ErrorList { return validateClass(c) },
	ValidateUpdate: func(_ context.Context, c, old *storagev1.StorageClass) field.ErrorList {
		errs := validateClass(c)
		for _, f := range []struct {
			name     string
			now, was any
		}{
			{"parameters", c.Parameters, old.Parameters}, {"provisioner", c.Provisioner, old.Provisioner},
			{"reclaimPolicy", c.ReclaimPolicy, old.ReclaimPolicy}, {"volumeBindingMode", c.VolumeBindingMode, old.VolumeBindingMode},
		} {
			errs = append(errs, apivalidation.ValidateImmutableField(f.now, f.was, field.NewPath(f.name))...)
		}
		return errs
	},
	Warnings: func(_ context.Context, c, _ *storagev1.StorageClass) []string {
		var warnings []string
		for i, term := range c.AllowedTopologies {
			for j, e := range term.MatchLabelExpressions {
				if text, old := core.DeprecatedNodeLabels[e.Key]; old {
					warnings = append(warnings, fmt.Sprintf("allowedTopologies[%d].matchLabelExpressions[%d].key: %s", i, j, text))
				}
			}
		}
		return warnings
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), columns.Text("Provisioner", storageClassDocs["provisioner"]), columns.Text("ReclaimPolicy", storageClassDocs["reclaimPolicy"]),
		columns.Text("VolumeBindingMode", storageClassDocs["volumeBindingMode"]),
		columns.Text("AllowVolumeExpansion", storageClassDocs["allowVolumeExpansion"]), columns.Age(),
	},
	Row: func(c *storagev1.StorageClass) []any {
		name := c.Name
		if isDefaultClass(c) {
			name += " (default)"
		}
		return []any{
			name, c.Provisioner, string(ptr.Deref(c.ReclaimPolicy, corev1.PersistentVolumeReclaimDelete)),
			string(ptr.Deref(c.VolumeBindingMode, storagev1.VolumeBindingImmediate)), ptr.Deref(c.AllowVolumeExpansion, false),
			columns.Since(c.CreationTimestamp.Time),
		}
	},
}

func isDefaultClass(c *storagev1.StorageClass) bool {
	return c.Annotations["storageclass.kubernetes.io/is-default-class"] == "true" ||
		c.Annotations["storageclass.beta.kubernetes.io/is-default-class"] == "true"
}

func validateClass(c *storagev1.StorageClass) field.ErrorList {
	errs := checkDriver(c.Provisioner, field.NewPath("provisioner"))
	errs = append(errs, checkParameters(c.Parameters, field.NewPath("parameters"))...)
	if p, known := c.ReclaimPolicy, []corev1.PersistentVolumeReclaimPolicy{corev1.PersistentVolumeReclaimDelete, corev1.PersistentVolumeReclaimRetain}; p != nil && *p != "" && !slices.Contains(known, *p) {
		errs = append(errs, field.NotSupported(field.NewPath("reclaimPolicy"), *p, known))
	}
	at := field.NewPath("volumeBindingMode")
	if m, known := c.VolumeBindingMode, []storagev1.VolumeBindingMode{storagev1.VolumeBindingImmediate, storagev1.VolumeBindingWaitForFirstConsumer}; m == nil {
		errs = append(errs, field.Required(at, ""))
	} else if !slices.Contains(known, *m) {
		errs = append(errs, field.NotSupported(at, *m, known))
	}
	return append(errs, validateTopologies(c.AllowedTopologies, field.NewPath("allowedTopologies"))...)
}

func validateTopologies(terms []corev1.TopologySelectorTerm, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	// Terms that say nothing are duplicates of those yet to come.
	before := make([]map[string]sets.Set[string], len(terms))
	for i, term := range terms {
		at := path.Index(i).Child("matchLabelExpressions")
		seen := map[string]sets.Set[string]{}
		for j, e := range term.MatchLabelExpressions {
			at := at.Index(j)
			values := sets.New[string]()
			if len(e.Values) == 0 {
				errs = append(errs, field.Required(at.Child("values"), ""))
			}
			for k, v := range e.Values {
				if values.Has(v) {
					errs = append(errs, field.Duplicate(at.Child("values").Index(k), v))
				}
				values.Insert(v)
			}
			errs = append(errs, unversioned.ValidateLabelName(e.Key, at.Child("key"))...)
			if _, twice := seen[e.Key]; twice {
				errs = append(errs, field.Duplicate(at.Child("key"), e.Key))
			}
			seen[e.Key] = values
		}
		for _, other := range before {
			if apiequality.Semantic.DeepEqual(seen, other) {
				errs = append(errs, field.Duplicate(at, ""))
			}
		}
		before[i] = seen
	}
	return errs
}
