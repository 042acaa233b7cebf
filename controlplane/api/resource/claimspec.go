package resource

import (
	"fmt"
	"strings"

	resourcev1 "k8s.io/api/resource/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// What a claim asks for, on its own or in a template.

func defaultClaim(s *resourcev1.ResourceClaimSpec) {
	count := func(mode *resourcev1.DeviceAllocationMode, count *int64) {
		if *mode == "" {
			*mode = resourcev1.DeviceAllocationModeExactCount
		}
		if *mode == resourcev1.DeviceAllocationModeExactCount && *count == 0 {
			*count = 1
		}
	}
	for i := range s.Devices.Requests {
		r := &s.Devices.Requests[i]
		if r.Exactly != nil {
			count(&r.Exactly.AllocationMode, &r.Exactly.Count)
			defaultTolerations(r.Exactly.Tolerations)
		}
		for j := range r.FirstAvailable {
			sub := &r.FirstAvailable[j]
			count(&sub.AllocationMode, &sub.Count)
			defaultTolerations(sub.Tolerations)
		}
	}
}

func defaultTolerations(list []resourcev1.DeviceToleration) {
	for i := range list {
		if list[i].Operator == "" {
			list[i].Operator = resourcev1.DeviceTolerationOpEqual
		}
	}
}

func validateClaim(s *resourcev1.ResourceClaimSpec, path *field.Path) field.ErrorList {
	path = path.Child("devices")
	names := namesOf(s.Devices.Requests)
	errs := distinct(s.Devices.Requests, resourcev1.DeviceRequestsMaxSize, checkRequest,
		func(r resourcev1.DeviceRequest) string { return r.Name }, path.Child("requests"))
	errs = append(errs, each(s.Devices.Constraints, resourcev1.DeviceConstraintsMaxSize, func(c resourcev1.DeviceConstraint, path *field.Path) field.ErrorList {
		return checkConstraint(c, names, path)
	}, path.Child("constraints"))...)
	return append(errs, each(s.Devices.Config, resourcev1.DeviceConfigMaxSize, func(c resourcev1.DeviceClaimConfiguration, path *field.Path) field.ErrorList {
		errs := names.check(c.Requests, path.Child("requests"))
		return append(errs, checkConfiguration(c.DeviceConfiguration, false, path)...)
	}, path.Child("config"))...)
}

// requestNames are the names by which the rest of a claim can speak of its
// requests: "request", and "request/alternative".
type requestNames sets.Set[string]

func namesOf(requests []resourcev1.DeviceRequest) requestNames {
	names := sets.New[string]()
	for _, r := range requests {
		names.Insert(r.Name)
		for _, sub := range r.FirstAvailable {
			names.Insert(r.Name + "/" + sub.Name)
		}
	}
	return requestNames(names)
}

// check checks references to requests.
func (n requestNames) check(list []string, path *field.Path) field.ErrorList {
	return distinct(list, resourcev1.DeviceRequestsMaxSize, n.checkOne, itself, path)
}

func (n requestNames) checkOne(name string, path *field.Path) field.ErrorList {
	unknown := field.Invalid(path, name, "must be the name of a request in the claim or the name of a request and a subrequest separated by '/'")
	segments := strings.Split(name, "/")
	if len(segments) > 2 {
		return field.ErrorList{unknown}
	}
	var errs field.ErrorList
	for _, s := range segments {
		errs = append(errs, dnsLabel(s, path)...)
	}
	if !sets.Set[string](n).Has(name) {
		errs = append(errs, unknown)
	}
	return errs
}

func checkRequest(r resourcev1.DeviceRequest, path *field.Path) field.ErrorList {
	errs := dnsLabel(r.Name, path.Child("name"))
	const oneOf = "exactly one of `exactly` or `firstAvailable` is required"
	switch {
	case r.Exactly == nil && len(r.FirstAvailable) == 0:
		return append(errs, field.Required(path, oneOf))
	case r.Exactly != nil && len(r.FirstAvailable) > 0:
		return append(errs, field.Invalid(path, nil, oneOf+", but multiple fields are set"))
	case r.Exactly != nil:
		e := r.Exactly
		return append(errs, checkWanted(e.DeviceClassName, e.Selectors, e.AllocationMode, e.Count, e.Tolerations, path.Child("exactly"))...)
	}
	return append(errs, distinct(r.FirstAvailable, resourcev1.FirstAvailableDeviceRequestMaxSize,
		func(s resourcev1.DeviceSubRequest, path *field.Path) field.ErrorList {
			errs := dnsLabel(s.Name, path.Child("name"))
			return append(errs, checkWanted(s.DeviceClassName, s.Selectors, s.AllocationMode, s.Count, s.Tolerations, path)...)
		}, func(s resourcev1.DeviceSubRequest) string { return s.Name }, path.Child("firstAvailable"))...)
}

// checkWanted checks which devices, and how many, a request or one of its
// alternatives wants.
func checkWanted(class string, selectors []resourcev1.DeviceSelector, mode resourcev1.DeviceAllocationMode, count int64, tolerations []resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if at := path.Child("deviceClassName"); class == "" {
		errs = append(errs, field.Required(at, ""))
	} else {
		errs = append(errs, dnsSubdomain(class, at)...)
	}
	errs = append(errs, checkSelectors(selectors, false, path.Child("selectors"))...)
	switch mode {
	case resourcev1.DeviceAllocationModeAll:
		if count != 0 {
			errs = append(errs, field.Invalid(path.Child("count"), count, fmt.Sprintf("must not be specified when allocationMode is '%s'", mode)))
		}
	case resourcev1.DeviceAllocationModeExactCount:
		if count <= 0 {
			errs = append(errs, field.Invalid(path.Child("count"), count, "must be greater than zero"))
		}
	default:
		errs = append(errs, field.NotSupported(path.Child("allocationMode"), mode,
			[]resourcev1.DeviceAllocationMode{resourcev1.DeviceAllocationModeAll, resourcev1.DeviceAllocationModeExactCount}))
	}
	return append(errs, each(tolerations, resourcev1.DeviceTolerationsMaxLength, checkToleration, path.Child("tolerations"))...)
}

// taintEffects are sorted, as messages list them.
var taintEffects = []resourcev1.DeviceTaintEffect{resourcev1.DeviceTaintEffectNoExecute, resourcev1.DeviceTaintEffectNoSchedule, resourcev1.DeviceTaintEffectNone}

func checkToleration(t resourcev1.DeviceToleration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if t.Key != "" {
		errs = append(errs, unversioned.ValidateLabelName(t.Key, path.Child("key"))...)
	}
	switch t.Operator {
	case resourcev1.DeviceTolerationOpExists:
		if t.Value != "" {
			errs = append(errs, field.Invalid(path.Child("value"), t.Value, "must be empty for operator `Exists`"))
		}
	case resourcev1.DeviceTolerationOpEqual:
		errs = append(errs, checkLabelValue(t.Value, path.Child("value"))...)
	default:
		errs = append(errs, field.NotSupported(path.Child("operator"), t.Operator,
			[]resourcev1.DeviceTolerationOperator{resourcev1.DeviceTolerationOpEqual, resourcev1.DeviceTolerationOpExists}))
	}
	if t.Effect != "" {
		errs = append(errs, checkEffect(t.Effect, path.Child("effect"))...)
	}
	return errs
}

func checkConstraint(c resourcev1.DeviceConstraint, names requestNames, path *field.Path) field.ErrorList {
	errs := names.check(c.Requests, path.Child("requests"))
	switch {
	case c.MatchAttribute != nil:
		return append(errs, checkFullName(*c.MatchAttribute, path.Child("matchAttribute"))...)
	case c.DistinctAttribute != nil:
		return append(errs, checkFullName(*c.DistinctAttribute, path.Child("distinctAttribute"))...)
	}
	return append(errs, field.Required(path, `exactly one of "matchAttribute" or "distinctAttribute" is required, but multiple fields are set`))
}
