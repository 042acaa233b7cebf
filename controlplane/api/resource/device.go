package resource

import (
	"fmt"
	"regexp"
	"slices"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/validate/content"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api/core"
)

// One device of a slice.

// checkDevice checks a device; old is the one of the same name before, or nil.
func checkDevice(d, old *resourcev1.Device, ownNodes bool, path *field.Path) field.ErrorList {
	errs := dnsLabel(d.Name, path.Child("name"))
	if n := len(d.Attributes) + len(d.Capacity); n > resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice {
		errs = append(errs, field.Invalid(path, n, fmt.Sprintf("the total number of attributes and capacities must not exceed %d", resourcev1.ResourceSliceMaxAttributesAndCapacitiesPerDevice)))
	}
	for name, a := range d.Attributes {
		at := path.Child("attributes")
		errs = append(errs, checkName(name, at)...)
		errs = append(errs, checkAttribute(a, at.Key(shortened(string(name))))...)
	}
	shared := ptr.Deref(d.AllowMultipleAllocations, false)
	for name, c := range d.Capacity {
		at := path.Child("capacity")
		errs = append(errs, checkName(name, at)...)
		if at = at.Key(shortened(string(name))).Child("requestPolicy"); c.RequestPolicy == nil {
			continue
		}
		if shared {
			errs = append(errs, checkPolicy(c.Value, c.RequestPolicy, at)...)
		} else {
			errs = append(errs, field.Forbidden(at, "allowMultipleAllocations must be true"))
		}
	}
	if old == nil || !apiequality.Semantic.DeepEqual(old.Taints, d.Taints) {
		errs = append(errs, each(d.Taints, resourcev1.DeviceTaintsMaxLength, checkTaint, path.Child("taints"))...)
	}
	errs = append(errs, distinct(d.ConsumesCounters, resourcev1.ResourceSliceMaxDeviceCounterConsumptionsPerDevice,
		func(c resourcev1.DeviceCounterConsumption, path *field.Path) field.ErrorList {
			return checkCounters(c.CounterSet, "counterSet", c.Counters, resourcev1.ResourceSliceMaxCountersPerDeviceCounterConsumption, path)
		}, func(c resourcev1.DeviceCounterConsumption) string { return c.CounterSet }, path.Child("consumesCounters"))...)
	errs = append(errs, checkNodes(d, ownNodes, path)...)
	return append(errs, checkBinding(d.BindingConditions, d.BindingFailureConditions, path)...)
}

// checkNodes checks from where a device can be reached, which it says itself
// only where its slice leaves that to it.
func checkNodes(d *resourcev1.Device, own bool, path *field.Path) field.ErrorList {
	if !own {
		if d.NodeName != nil || d.NodeSelector != nil || d.AllNodes != nil {
			return field.ErrorList{field.Invalid(path, nil, "`nodeName`, `nodeSelector` and `allNodes` can only be set if `perDeviceNodeSelection` is set to true in the ResourceSlice spec")}
		}
		return nil
	}
	var where choice
	where.node(d.NodeName, "must not be empty", path)
	if d.NodeSelector != nil {
		where.set = append(where.set, "`nodeSelector`")
		where.errs = append(where.errs, core.ValidateNodeSelector(d.NodeSelector, path.Child("nodeSelector"))...)
	}
	where.flag("allNodes", d.AllNodes, path)
	const one = "exactly one of `nodeName`, `nodeSelector`, or `allNodes` is required when `perDeviceNodeSelection` is set to true in the ResourceSlice spec"
	return where.decide(one, one, path)
}

func checkTaint(t resourcev1.DeviceTaint, path *field.Path) field.ErrorList {
	errs := unversioned.ValidateLabelName(t.Key, path.Child("key"))
	errs = append(errs, checkLabelValue(t.Value, path.Child("value"))...)
	if t.Effect == "" {
		return append(errs, field.Required(path.Child("effect"), ""))
	}
	return append(errs, checkEffect(t.Effect, path.Child("effect"))...)
}

func checkEffect(e resourcev1.DeviceTaintEffect, path *field.Path) field.ErrorList {
	if !slices.Contains(taintEffects, e) {
		return field.ErrorList{field.NotSupported(path, e, taintEffects)}
	}
	return nil
}

// version is that of semver.org, 2.0.0.
var version = func() *regexp.Regexp {
	const number = `(0|[1-9]\d*)`
	const pre = `(0|[1-9]\d*|\d*[a-zA-Z-][0-9a-zA-Z-]*)`
	const build = `[0-9a-zA-Z-]+`
	return regexp.MustCompile(`^` + number + `\.` + number + `\.` + number +
		`(-` + pre + `(\.` + pre + `)*)?` + `(\+` + build + `(\.` + build + `)*)?$`)
}()

func checkAttribute(a resourcev1.DeviceAttribute, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	text := func(value string, path *field.Path) {
		if len(value) > resourcev1.DeviceAttributeMaxValueLength {
			errs = append(errs, field.TooLong(path, "", resourcev1.DeviceAttributeMaxValueLength))
		}
	}
	if a.StringValue != nil {
		text(*a.StringValue, path.Child("string"))
	}
	if v := a.VersionValue; v != nil {
		if at := path.Child("version"); !version.MatchString(*v) {
			errs = append(errs, field.Invalid(at, *v, "must be a string compatible with semver.org spec 2.0.0"))
		}
		text(*v, path.Child("version"))
	}
	set := 0
	for _, is := range []bool{a.BoolValue != nil, a.IntValue != nil, a.StringValue != nil, a.VersionValue != nil} {
		if is {
			set++
		}
	}
	switch {
	case set == 0:
		errs = append(errs, field.Invalid(path, "", "exactly one value must be specified"))
	case set > 1:
		errs = append(errs, field.Invalid(path, a, "exactly one value must be specified"))
	}
	return errs
}

// checkName checks the name of an attribute or a capacity: an identifier, or a
// domain and an identifier.
func checkName(name resourcev1.QualifiedName, path *field.Path) field.ErrorList {
	identifier := func(id string) field.ErrorList {
		var errs field.ErrorList
		if len(id) > resourcev1.DeviceMaxIDLength {
			errs = append(errs, field.TooLong(path, "", resourcev1.DeviceMaxIDLength))
		}
		return append(errs, invalid(path, id, content.IsCIdentifier(id))...)
	}
	var errs field.ErrorList
	// Kubernetes accepts more than one slash, whatever stands between them.
	switch parts := strings.Split(string(name), "/"); len(parts) {
	case 1:
		return identifier(parts[0])
	case 2:
		if parts[0] == "" {
			errs = append(errs, field.Invalid(path, "", "the domain must not be empty"))
		} else {
			errs = append(errs, core.ValidateDriverName(parts[0], path)...)
		}
		if parts[1] == "" {
			return append(errs, field.Invalid(path, "", "the name must not be empty"))
		}
		return append(errs, identifier(parts[1])...)
	}
	return nil
}

func checkFullName(name resourcev1.FullyQualifiedName, path *field.Path) field.ErrorList {
	errs := checkName(resourcev1.QualifiedName(name), path)
	if !strings.Contains(string(name), "/") {
		errs = append(errs, field.Invalid(path, name, "a fully qualified name must be a domain and a name separated by a slash"))
	}
	return errs
}

// shortened takes out the middle of a key that no valid one is as long as.
func shortened(key string) string {
	const most, dots = resourcev1.DeviceMaxDomainLength + 1 + resourcev1.DeviceMaxIDLength, "..."
	if len(key) <= most {
		return key
	}
	kept := most - len(dots)
	return key[:(kept+1)/2] + dots + key[len(key)-kept/2:]
}
