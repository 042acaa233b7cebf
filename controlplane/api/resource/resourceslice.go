package resource

import (
	"context"
	"fmt"
	"strings"
	"time"

	resourcev1 "k8s.io/api/resource/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
	"clusterctl/controlplane/api/core"
)

var (
	sliceDocs = resourcev1.ResourceSliceSpec{}.SwaggerDoc()
	poolDocs  = resourcev1.ResourcePool{}.SwaggerDoc()
)

var resourceSlice = api.Definition[*resourcev1.ResourceSlice]{
	GroupVersion: groupVersion, Kind: "ResourceSlice", Resource: "resourceslices", Singular: "resourceslice",
	ClusterScope:  true,
	New:           func() *resourcev1.ResourceSlice { return &resourcev1.ResourceSlice{} },
	NewList:       func() runtime.Object { return &resourcev1.ResourceSliceList{} },
	ReturnDeleted: true,

	Default: func(s *resourcev1.ResourceSlice) {
		for i := range s.Spec.Devices {
			for j := range s.Spec.Devices[i].Taints {
				if t := &s.Spec.Devices[i].Taints[j]; t.TimeAdded == nil {
					t.TimeAdded = ptr.To(metav1.NewTime(time.Now().Truncate(time.Second)))
				}
			}
		}
	},
	PrepareForCreate: func(_ context.Context, s *resourcev1.ResourceSlice) { dropDisabled(&s.Spec) },
	PrepareForUpdate: func(_ context.Context, s, _ *resourcev1.ResourceSlice) { dropDisabled(&s.Spec) },
	Spec:             func(s *resourcev1.ResourceSlice) any { return s.Spec },
	Validate: func(_ context.Context, s *resourcev1.ResourceSlice) field.ErrorList {
		return validateSlice(&s.Spec, nil)
	},
	ValidateUpdate: func(_ context.Context, s, old *resourcev1.ResourceSlice) field.ErrorList {
		return validateSlice(&s.Spec, &old.Spec)
	},
	Warnings: func(_ context.Context, s, _ *resourcev1.ResourceSlice) []string {
		if d := s.Spec.Driver; d != strings.ToLower(d) {
			return []string{fmt.Sprintf("spec.driver: driver names should be lowercase; %q contains uppercase characters", d)}
		}
		return nil
	},
	Fields: func(s *resourcev1.ResourceSlice) fields.Set {
		return fields.Set{
			resourcev1.ResourceSliceSelectorNodeName: ptr.Deref(s.Spec.NodeName, ""),
			resourcev1.ResourceSliceSelectorDriver:   s.Spec.Driver,
		}
	},
	FieldNames:   []string{resourcev1.ResourceSliceSelectorNodeName, resourcev1.ResourceSliceSelectorDriver},
	UnknownField: "field label not supported for resource.k8s.io/v1, Kind=ResourceSlice: %s",
	IndexFields:  []string{resourcev1.ResourceSliceSelectorNodeName},
	Columns: []metav1.TableColumnDefinition{
		columns.Name(), columns.Text("Node", sliceDocs["nodeName"]), columns.Text("Driver", sliceDocs["driver"]),
		columns.Text("Pool", poolDocs["name"]), columns.Age(),
	},
	Row: func(s *resourcev1.ResourceSlice) []any {
		return []any{s.Name, ptr.Deref(s.Spec.NodeName, ""), s.Spec.Driver, s.Spec.Pool.Name, columns.Since(s.CreationTimestamp.Time)}
	},
}

// dropDisabled takes out what belongs to features that are off.
func dropDisabled(s *resourcev1.ResourceSliceSpec) {
	for i := range s.Devices {
		d := &s.Devices[i]
		d.NodeAllocatableResourceMappings = nil
		for name, a := range d.Attributes {
			a.BoolValues, a.IntValues, a.StringValues, a.VersionValues = nil, nil, nil, nil
			d.Attributes[name] = a
		}
	}
}

// choice collects which of the fields are set of which one has to be.
type choice struct {
	set  []string
	errs field.ErrorList
}

// flag takes a field that is either unset or true.
func (c *choice) flag(name string, value *bool, path *field.Path) {
	switch {
	case value == nil:
	case *value:
		c.set = append(c.set, "`"+name+"`")
	default:
		c.errs = append(c.errs, field.Invalid(path.Child(name), *value, "must be either unset or set to true"))
	}
}

// node takes the name of a node; empty is what to say of an empty one.
func (c *choice) node(name *string, empty string, path *field.Path) {
	switch {
	case name == nil:
	case *name == "":
		c.errs = append(c.errs, field.Invalid(path.Child("nodeName"), *name, empty))
	default:
		c.set = append(c.set, "`nodeName`")
		c.errs = append(c.errs, invalid(path.Child("nodeName"), *name, apivalidation.NameIsDNSSubdomain(*name, false))...)
	}
}

// decide adds the faults of none and of several.
func (c *choice) decide(none, several string, path *field.Path) field.ErrorList {
	switch len(c.set) {
	case 0:
		return append(c.errs, field.Required(path, none))
	case 1:
		return c.errs
	}
	return append(c.errs, field.Invalid(path, "{"+strings.Join(c.set, ", ")+"}", several))
}

func validateSlice(s, old *resourcev1.ResourceSliceSpec) field.ErrorList {
	path := field.NewPath("spec")
	errs := core.ValidateDriverName(s.Driver, path.Child("driver"))
	pool := path.Child("pool")
	errs = append(errs, checkPool(s.Pool.Name, pool.Child("name"))...)
	if s.Pool.ResourceSliceCount <= 0 {
		errs = append(errs, field.Invalid(pool.Child("resourceSliceCount"), s.Pool.ResourceSliceCount, "must be greater than zero"))
	}
	if s.Pool.Generation < 0 {
		errs = append(errs, field.Invalid(pool.Child("generation"), s.Pool.Generation, "must be greater than or equal to zero"))
	}
	before := map[string]*resourcev1.Device{}
	if old != nil {
		errs = append(errs, apivalidation.ValidateImmutableField(s.Pool.Name, old.Pool.Name, pool.Child("name"))...)
		errs = append(errs, apivalidation.ValidateImmutableField(s.Driver, old.Driver, path.Child("driver"))...)
		errs = append(errs, apivalidation.ValidateImmutableField(s.NodeName, old.NodeName, path.Child("nodeName"))...)
		for i := range old.Devices {
			before[old.Devices[i].Name] = &old.Devices[i]
		}
	}

	var where choice
	where.node(s.NodeName, "must be either unset or set to a non-empty string", path)
	if s.NodeSelector != nil {
		at := path.Child("nodeSelector")
		where.set = append(where.set, "`nodeSelector`")
		where.errs = append(where.errs, core.ValidateNodeSelector(s.NodeSelector, at)...)
		if terms := s.NodeSelector.NodeSelectorTerms; len(terms) != 1 {
			where.errs = append(where.errs, field.Invalid(at.Child("nodeSelectorTerms"), terms, "must have exactly one node selector term"))
		}
	}
	where.flag("allNodes", s.AllNodes, path)
	where.flag("perDeviceNodeSelection", s.PerDeviceNodeSelection, path)
	const one = "exactly one of `nodeName`, `nodeSelector`, `allNodes`, `perDeviceNodeSelection` is required"
	errs = append(errs, where.decide(one, one+", but multiple fields are set", path)...)

	if s.SharedCounters != nil && s.Devices != nil {
		errs = append(errs, field.Invalid(path, "", "only one of `sharedCounters` or `devices` is allowed"))
	}
	errs = append(errs, distinct(s.Devices, mostDevices(s), func(d resourcev1.Device, path *field.Path) field.ErrorList {
		return checkDevice(&d, before[d.Name], ptr.Deref(s.PerDeviceNodeSelection, false), path)
	}, func(d resourcev1.Device) string { return d.Name }, path.Child("devices"))...)
	return append(errs, distinct(s.SharedCounters, resourcev1.ResourceSliceMaxCounterSets, func(c resourcev1.CounterSet, path *field.Path) field.ErrorList {
		return checkCounters(c.Name, "name", c.Counters, resourcev1.ResourceSliceMaxCountersPerCounterSet, path)
	}, func(c resourcev1.CounterSet) string { return c.Name }, path.Child("sharedCounters"))...)
}

// mostDevices is how many devices a slice may have: fewer where they are large.
func mostDevices(s *resourcev1.ResourceSliceSpec) int {
	for i := range s.Devices {
		if len(s.Devices[i].Taints) > 0 || len(s.Devices[i].ConsumesCounters) > 0 {
			return resourcev1.ResourceSliceMaxDevicesWithAdvancedFeatures
		}
	}
	return resourcev1.ResourceSliceMaxDevices
}

// checkCounters checks a set of counters, or what a device takes of one.
func checkCounters(name, nameField string, counters map[string]resourcev1.Counter, most int, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if at := path.Child(nameField); name == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, dnsLabel(name, at)...)
	}
	at := path.Child("counters")
	switch {
	case len(counters) == 0:
		return append(errs, field.Required(at, ""))
	case len(counters) > most:
		return append(errs, field.TooMany(at, len(counters), most))
	}
	for key := range counters {
		errs = append(errs, dnsLabel(key, at)...)
	}
	return errs
}
