package resource

import (
	"fmt"

	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// How much of a device's capacity one claim can take, where several share it.

const maxValidValues = 10

// checkPolicy checks which amounts claims may take of a capacity.
func checkPolicy(capacity resource.Quantity, p *resourcev1.CapacityRequestPolicy, path *field.Path) field.ErrorList {
	standard := path.Child("default")
	switch {
	case len(p.ValidValues) > 0 && p.ValidRange != nil:
		return field.ErrorList{field.Forbidden(path, `exactly one policy can be specified, cannot specify "validValues" and "validRange" at the same time`)}
	case len(p.ValidValues) > 0 && p.Default == nil:
		return field.ErrorList{field.Required(standard, "required when validValues is defined")}
	case len(p.ValidValues) > 0:
		return checkValidValues(capacity, *p.Default, p.ValidValues, path.Child("validValues"))
	case p.ValidRange != nil && p.Default == nil:
		return field.ErrorList{field.Required(standard, "required when validRange is defined")}
	case p.ValidRange != nil:
		return checkRange(capacity, *p.Default, p.ValidRange, path.Child("validRange"))
	}
	return nil
}

func checkValidValues(capacity, standard resource.Quantity, values []resource.Quantity, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := 1; i < len(values); i++ {
		if values[i-1].Cmp(values[i]) > 0 {
			errs = append(errs, field.Invalid(path.Index(i), values[i].String(), "values must be sorted in ascending order"))
		}
	}
	found := false
	errs = append(errs, distinct(values, maxValidValues, func(v resource.Quantity, path *field.Path) field.ErrorList {
		found = found || v.Cmp(standard) == 0
		if v.Cmp(capacity) > 0 {
			return field.ErrorList{field.Invalid(path, v.String(), "option is larger than capacity value: "+capacity.String())}
		}
		return nil
	}, func(v resource.Quantity) string { return fmt.Sprint(v.Value()) }, path)...)
	if !found {
		errs = append(errs, field.Invalid(path, standard.String(), "default value is not valid according to the requestPolicy"))
	}
	return errs
}

func checkRange(capacity, standard resource.Quantity, r *resourcev1.CapacityRequestPolicyRange, path *field.Path) field.ErrorList {
	if r.Min == nil {
		return field.ErrorList{field.Required(path.Child("min"), "required when validRange is defined")}
	}
	var errs field.ErrorList
	fault := func(name string, value resource.Quantity, message string, than resource.Quantity) {
		errs = append(errs, field.Invalid(path.Child(name), value.String(), message+": "+than.String()))
	}
	if r.Min.Cmp(capacity) > 0 {
		fault("min", *r.Min, "min is larger than capacity value", capacity)
	}
	if standard.Cmp(*r.Min) < 0 {
		fault("min", standard, "default is less than min", *r.Min)
	}
	if r.Max != nil {
		if r.Min.Cmp(*r.Max) > 0 {
			fault("max", *r.Min, "min is larger than max", *r.Max)
		}
		if r.Max.Cmp(capacity) > 0 {
			fault("max", *r.Max, "max is larger than capacity value", capacity)
		}
		if standard.Cmp(*r.Max) > 0 {
			fault("max", standard, "default is more than max", *r.Max)
		}
	}
	if r.Step == nil {
		return errs
	}
	at := path.Child("step")
	first := r.Min.DeepCopy()
	if first.Add(*r.Step); first.Cmp(capacity) > 0 {
		errs = append(errs, field.Invalid(at, r.Step.String(), fmt.Sprintf("one step %s is larger than capacity value: %s", first.String(), capacity.String())))
	}
	for _, value := range []*resource.Quantity{&standard, r.Max} {
		// A step of nothing, which Kubernetes would divide by, reaches no value
		// but the smallest.
		if value == nil {
			continue
		}
		if away, step := value.Value()-r.Min.Value(), r.Step.Value(); step == 0 && away != 0 || step != 0 && away%step != 0 {
			errs = append(errs, field.Invalid(at, value.String(), fmt.Sprintf("value is not a multiple of a given step (%s) from (%s)", r.Step.String(), r.Min.String())))
		}
	}
	return errs
}
