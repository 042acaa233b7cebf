package storage

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	storagev1 "k8s.io/api/storage/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var driverDocs = storagev1.CSIDriverSpec{}.SwaggerDoc()

func yesNo(name, description string) metav1.TableColumnDefinition {
	return metav1.TableColumnDefinition{Name: name, Type: "boolean", Description: description}
}

var csiDriver = api.Definition[*storagev1.CSIDriver]{
	GroupVersion: groupVersion, Kind: "CSIDriver", Resource: "csidrivers", Singular: "csidriver",
	ClusterScope: true, ForbidUnconditionalUpdate: true,
	New:           func() *storagev1.CSIDriver { return &storagev1.CSIDriver{} },
	NewList:       func() runtime.Object { return &storagev1.CSIDriverList{} },
	ReturnDeleted: true,

	Default: func(d *storagev1.CSIDriver) {
		s := &d.Spec
		flag := func(field **bool, value bool) {
			if *field == nil {
				*field = &value
			}
		}
		flag(&s.AttachRequired, true)
		flag(&s.PodInfoOnMount, false)
		flag(&s.StorageCapacity, false)
		flag(&s.RequiresRepublish, false)
		flag(&s.SELinuxMount, false)
		if s.FSGroupPolicy == nil {
			s.FSGroupPolicy = ptr.To(storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy)
		}
		if len(s.VolumeLifecycleModes) == 0 {
			s.VolumeLifecycleModes = []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent}
		}
	},
	// The feature of this field is off in this version of Kubernetes.
	PrepareForCreate: func(_ context.Context, d *storagev1.CSIDriver) { d.Spec.PreventPodSchedulingIfMissing = nil },
	PrepareForUpdate: func(_ context.Context, d, old *storagev1.CSIDriver) {
		d.Spec.PreventPodSchedulingIfMissing = nil
		d.Generation = old.Generation
		if !apiequality.Semantic.DeepEqual(d.Spec, old.Spec) {
			d.Generation++
		}
	},
	Validate: func(_ context.Context, d *storagev1.CSIDriver) field.ErrorList { return validateDriver(&d.Spec) },
	ValidateUpdate: func(_ context.Context, d, old *storagev1.CSIDriver) field.ErrorList {
		errs := validateDriver(&d.Spec)
		errs = append(errs, apivalidation.ValidateImmutableField(d.Spec.AttachRequired, old.Spec.AttachRequired, field.NewPath("spec", "attachedRequired"))...)
		return append(errs, apivalidation.ValidateImmutableField(d.Spec.VolumeLifecycleModes, old.Spec.VolumeLifecycleModes, field.NewPath("spec", "volumeLifecycleModes"))...)
	},
	Warnings: func(_ context.Context, d, old *storagev1.CSIDriver) []string {
		changed := old == nil || !apiequality.Semantic.DeepEqual(old.Spec.TokenRequests, d.Spec.TokenRequests)
		if len(d.Spec.TokenRequests) == 0 || d.Spec.ServiceAccountTokenInSecrets != nil || !changed {
			return nil
		}
		return []string{"spec.serviceAccountTokenInSecrets is unset; if supported by this CSI driver, set to true to prevent possible logging of tokens in volume attributes"}
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), yesNo("AttachRequired", driverDocs["attachRequired"]), yesNo("PodInfoOnMount", driverDocs["podInfoOnMount"]),
		yesNo("StorageCapacity", driverDocs["storageCapacity"]), columns.Text("TokenRequests", driverDocs["tokenRequests"]),
		yesNo("RequiresRepublish", driverDocs["requiresRepublish"]), columns.Text("Modes", driverDocs["volumeLifecycleModes"]), columns.Age(),
	},
	Row: func(d *storagev1.CSIDriver) []any {
		s := &d.Spec
		tokens := "<unset>"
		if s.TokenRequests != nil {
			var audiences []string
			for _, r := range s.TokenRequests {
				audiences = append(audiences, r.Audience)
			}
			tokens = strings.Join(audiences, ",")
		}
		var modes []string
		for _, m := range s.VolumeLifecycleModes {
			modes = append(modes, string(m))
		}
		return []any{
			d.Name, ptr.Deref(s.AttachRequired, true), ptr.Deref(s.PodInfoOnMount, false), ptr.Deref(s.StorageCapacity, false),
			tokens, ptr.Deref(s.RequiresRepublish, false), cmp.Or(strings.Join(modes, ","), "<none>"), columns.Since(d.CreationTimestamp.Time),
		}
	},
}

func validateDriver(s *storagev1.CSIDriverSpec) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec")
	for _, f := range []struct {
		name  string
		value *bool
	}{
		{"attachedRequired", s.AttachRequired}, {"podInfoOnMount", s.PodInfoOnMount},
		{"storageCapacity", s.StorageCapacity}, {"seLinuxMount", s.SELinuxMount},
	} {
		if f.value == nil {
			errs = append(errs, field.Required(path.Child(f.name), ""))
		}
	}
	policies := []storagev1.FSGroupPolicy{storagev1.FileFSGroupPolicy, storagev1.NoneFSGroupPolicy, storagev1.ReadWriteOnceWithFSTypeFSGroupPolicy}
	if p := s.FSGroupPolicy; p != nil && !slices.Contains(policies, *p) {
		errs = append(errs, field.NotSupported(path.Child("fsGroupPolicy"), *p, policies))
	}
	errs = append(errs, checkTokens(s.TokenRequests, path.Child("tokenRequests"))...)
	modes := []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecyclePersistent, storagev1.VolumeLifecycleEphemeral}
	for _, m := range s.VolumeLifecycleModes {
		if !slices.Contains(modes, m) {
			errs = append(errs, field.NotSupported(path.Child("volumeLifecycleModes"), m, modes))
		}
	}
	if p := s.NodeAllocatableUpdatePeriodSeconds; p != nil && *p < 10 {
		errs = append(errs, field.Invalid(path.Child("nodeAllocatableUpdatePeriodSeconds"), *p, "must be greater than or equal to 10 seconds"))
	}
	if in := s.ServiceAccountTokenInSecrets; in != nil && len(s.TokenRequests) == 0 {
		errs = append(errs, field.Invalid(path.Child("serviceAccountTokenInSecrets"), *in, "serviceAccountTokenInSecrets is set but no tokenRequests are specified"))
	}
	return errs
}

// maxNodeID is the greatest length of what a driver calls a node, in bytes.
const maxNodeID = 256

var csiNode = api.Definition[*storagev1.CSINode]{
	GroupVersion: groupVersion, Kind: "CSINode", Resource: "csinodes", Singular: "csinode",
	ClusterScope: true, ForbidUnconditionalUpdate: true,
	New:           func() *storagev1.CSINode { return &storagev1.CSINode{} },
	NewList:       func() runtime.Object { return &storagev1.CSINodeList{} },
	ReturnDeleted: true,

	Validate: func(_ context.Context, n *storagev1.CSINode) field.ErrorList { return validateCSINode(n) },
	ValidateUpdate: func(_ context.Context, n, old *storagev1.CSINode) field.ErrorList {
		errs := validateCSINode(n)
		for _, was := range old.Spec.Drivers {
			for _, now := range n.Spec.Drivers {
				if now.Name != was.Name {
					continue
				}
				// What a node can take changes as devices come and go.
				now.Allocatable, was.Allocatable = nil, nil
				errs = append(errs, apivalidation.ValidateImmutableField(now, was, field.NewPath("spec", "drivers"))...)
			}
		}
		return errs
	},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), columns.Number("Drivers", "Drivers indicates the number of CSI drivers registered on the node"), columns.Age(),
	},
	Row: func(n *storagev1.CSINode) []any {
		return []any{n.Name, int64(len(n.Spec.Drivers)), columns.Since(n.CreationTimestamp.Time)}
	},
}

func validateCSINode(n *storagev1.CSINode) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i := range n.Spec.Drivers {
		d, at := &n.Spec.Drivers[i], field.NewPath("spec", "drivers").Index(i)
		errs = append(errs, core.ValidateDriverName(d.Name, at.Child("name"))...)
		if d.NodeID == "" {
			errs = append(errs, field.Required(at.Child("nodeID"), ""))
		}
		if len(d.NodeID) > maxNodeID {
			errs = append(errs, field.Invalid(at.Child("nodeID"), d.NodeID, fmt.Sprintf("must be %d characters or less", maxNodeID)))
		}
		if a := d.Allocatable; a != nil && a.Count != nil {
			errs = append(errs, apivalidation.ValidateNonnegativeField(int64(*a.Count), at.Child("allocatable", "count"))...)
		}
		if seen.Has(d.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), d.Name))
		}
		seen.Insert(d.Name)
		keys := sets.New[string]()
		for _, key := range d.TopologyKeys {
			if key == "" {
				errs = append(errs, field.Required(at, ""))
			}
			if keys.Has(key) {
				errs = append(errs, field.Duplicate(at, key))
			}
			keys.Insert(key)
			errs = append(errs, invalid(at, key, validation.IsQualifiedName(key))...)
		}
	}
	return errs
}

var csiStorageCapacity = api.Definition[*storagev1.CSIStorageCapacity]{
	GroupVersion: groupVersion, Kind: "CSIStorageCapacity", Resource: "csistoragecapacities", Singular: "csistoragecapacity",
	ForbidUnconditionalUpdate: true,
	New:                       func() *storagev1.CSIStorageCapacity { return &storagev1.CSIStorageCapacity{} },
	NewList:                   func() runtime.Object { return &storagev1.CSIStorageCapacityList{} },

	Validate: func(_ context.Context, c *storagev1.CSIStorageCapacity) field.ErrorList {
		return validateCapacity(c, nil)
	},
	Warnings: func(_ context.Context, c, _ *storagev1.CSIStorageCapacity) (warnings []string) {
		if c.NodeTopology == nil {
			return nil
		}
		for i, e := range c.NodeTopology.MatchExpressions {
			if text, old := core.DeprecatedNodeLabels[e.Key]; old {
				warnings = append(warnings, fmt.Sprintf("nodeTopology.matchExpressions[%d].key: %s is %s", i, e.Key, text))
			}
		}
		for _, label := range slices.Sorted(maps.Keys(c.NodeTopology.MatchLabels)) {
			if text, old := core.DeprecatedNodeLabels[label]; old {
				warnings = append(warnings, fmt.Sprintf("nodeTopology.matchLabels.%s: %s", label, text))
			}
		}
		return warnings
	},
	ValidateUpdate: func(_ context.Context, c, old *storagev1.CSIStorageCapacity) field.ErrorList {
		errs := validateCapacity(c, old)
		if !apiequality.Semantic.DeepEqual(c.NodeTopology, old.NodeTopology) {
			errs = append(errs, field.Invalid(field.NewPath("nodeTopology"), c.NodeTopology, "field is immutable"))
		}
		if c.StorageClassName != old.StorageClassName {
			errs = append(errs, field.Invalid(field.NewPath("storageClassName"), c.StorageClassName, "field is immutable"))
		}
		return errs
	},
}

func validateCapacity(c, old *storagev1.CSIStorageCapacity) field.ErrorList {
	options := unversioned.LabelSelectorValidationOptions{
		AllowInvalidLabelValueInSelector: old != nil && unversioned.LabelSelectorHasInvalidLabelValue(old.NodeTopology),
	}
	errs := unversioned.ValidateLabelSelector(c.NodeTopology, options, field.NewPath("nodeTopology"))
	errs = append(errs, invalid(field.NewPath("storageClassName"), c.StorageClassName, apivalidation.NameIsDNSSubdomain(c.StorageClassName, false))...)
	if c.Capacity != nil && c.Capacity.Sign() < 0 {
		errs = append(errs, field.Invalid(field.NewPath("capacity"), c.Capacity.String(), "must be greater than or equal to 0"))
	}
	return errs
}
