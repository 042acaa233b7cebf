package authorization

import (
	"errors"
	"fmt"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1validation "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
)

// The selectors of a reviewed list, watch or deletecollection. Requirements
// that cannot be read are left out with an error: that asks for more than was
// meant, and so can only make a yes into a no.

// resourceRequest is the request that a review asks about.
func resourceRequest(who user.Info, a *authorizationv1.ResourceAttributes) authorizer.AttributesRecord {
	record := authorizer.AttributesRecord{
		User: who, Verb: a.Verb, ResourceRequest: true,
		Namespace: a.Namespace, APIGroup: a.Group, APIVersion: a.Version,
		Resource: a.Resource, Subresource: a.Subresource, Name: a.Name,
	}
	if record.APIVersion == "" {
		record.APIVersion = "*"
	}
	if s := a.LabelSelector; s != nil {
		if len(s.RawSelector) > 0 {
			parsed, err := labels.Parse(s.RawSelector)
			if record.LabelSelectorParsingErr = err; err == nil {
				record.LabelSelectorRequirements, _ = parsed.Requirements()
			}
		}
		if len(s.Requirements) > 0 {
			record.LabelSelectorRequirements, record.LabelSelectorParsingErr = labelRequirements(s.Requirements)
		}
	}
	if s := a.FieldSelector; s != nil {
		if len(s.RawSelector) > 0 {
			parsed, err := fields.ParseSelector(s.RawSelector)
			if record.FieldSelectorParsingErr = err; err == nil {
				record.FieldSelectorRequirements = parsed.Requirements()
			}
		}
		if len(s.Requirements) > 0 {
			record.FieldSelectorRequirements, record.FieldSelectorParsingErr = fieldRequirements(s.Requirements)
		}
	}
	return record
}

func labelRequirements(given []metav1.LabelSelectorRequirement) (read labels.Requirements, _ error) {
	operators := map[metav1.LabelSelectorOperator]selection.Operator{
		metav1.LabelSelectorOpIn:           selection.In,
		metav1.LabelSelectorOpNotIn:        selection.NotIn,
		metav1.LabelSelectorOpExists:       selection.Exists,
		metav1.LabelSelectorOpDoesNotExist: selection.DoesNotExist,
	}
	var errs []error
	for _, r := range given {
		operator, ok := operators[r.Operator]
		if !ok {
			errs = append(errs, fmt.Errorf("%q is not a valid label selector operator", r.Operator))
			continue
		}
		requirement, err := labels.NewRequirement(r.Key, operator, r.Values)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		read = append(read, *requirement)
	}
	return read, errors.Join(errs...)
}

func fieldRequirements(given []metav1.FieldSelectorRequirement) (read fields.Requirements, _ error) {
	operators := map[metav1.FieldSelectorOperator]selection.Operator{
		metav1.FieldSelectorOpIn:    selection.Equals,
		metav1.FieldSelectorOpNotIn: selection.NotEquals,
	}
	var errs []error
	for _, r := range given {
		operator, ok := operators[r.Operator]
		switch {
		case !ok:
			errs = append(errs, fmt.Errorf("field selectors do not support the operator %q", r.Operator))
		case len(r.Values) != 1:
			errs = append(errs, fmt.Errorf("field selector on %q has %d values, want one", r.Key, len(r.Values)))
		default:
			read = append(read, fields.Requirement{Field: r.Key, Operator: operator, Value: r.Values[0]})
		}
	}
	return read, errors.Join(errs...)
}

// checkSelectors lets unknown operators pass, for clients newer than we are.
func checkSelectors(a *authorizationv1.ResourceAttributes) (errs field.ErrorList) {
	if a == nil {
		return nil
	}
	path := field.NewPath("spec.resourceAttributes")
	if s := a.FieldSelector; s != nil {
		at := path.Child("fieldSelector")
		errs = append(errs, checkOneForm(s.RawSelector, len(s.Requirements), at)...)
		options := metav1validation.FieldSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateFieldSelectorRequirement(r, options, at.Child("requirements").Index(i))...)
		}
	}
	if s := a.LabelSelector; s != nil {
		at := path.Child("labelSelector")
		errs = append(errs, checkOneForm(s.RawSelector, len(s.Requirements), at)...)
		options := metav1validation.LabelSelectorValidationOptions{AllowUnknownOperatorInRequirement: true}
		for i, r := range s.Requirements {
			errs = append(errs, metav1validation.ValidateLabelSelectorRequirement(r, options, at.Child("requirements").Index(i))...)
		}
	}
	return errs
}

func checkOneForm(raw string, requirements int, path *field.Path) field.ErrorList {
	switch {
	case raw != "" && requirements > 0:
		return field.ErrorList{field.Invalid(path.Child("rawSelector"), raw, "may not specified at the same time as requirements")}
	case raw == "" && requirements == 0:
		return field.ErrorList{field.Required(path.Child("requirements"), fmt.Sprintf("when %s is specified, requirements or rawSelector is required", path))}
	default:
		return nil
	}
}
