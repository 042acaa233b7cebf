package core

import (
	"context"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"

	"clusterctl/controlplane/api"
)

func limitRangeKind() api.Kind {
	return api.Define(api.Definition[*corev1.LimitRange]{
		GroupVersion: groupVersion, Kind: "LimitRange", Resource: "limitranges", Singular: "limitrange",
		ShortNames: []string{"limits"}, AllowCreateOnUpdate: true,
		New:     func() *corev1.LimitRange { return &corev1.LimitRange{} },
		NewList: func() runtime.Object { return &corev1.LimitRangeList{} },

		Default: func(l *corev1.LimitRange) {
			for i := range l.Spec.Limits {
				defaultLimit(&l.Spec.Limits[i])
			}
		},
		PrepareForCreate: func(_ context.Context, l *corev1.LimitRange) {
			if l.Name == "" {
				l.Name = string(uuid.NewUUID())
			}
		},
		Validate:       func(_ context.Context, l *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) },
		ValidateUpdate: func(_ context.Context, l, _ *corev1.LimitRange) field.ErrorList { return validateLimitRange(l) },
	})
}

// defaultLimit derives the defaults of a container from its bounds: the limit
// is the maximum, and the request is the limit, or else the minimum.
func defaultLimit(l *corev1.LimitRangeItem) {
	if l.Type == corev1.LimitTypeContainer {
		fill := func(to *corev1.ResourceList, from corev1.ResourceList) {
			if *to == nil {
				*to = corev1.ResourceList{}
			}
			for name, q := range from {
				if _, set := (*to)[name]; !set {
					(*to)[name] = q.DeepCopy()
				}
			}
		}
		fill(&l.Default, l.Max)
		fill(&l.DefaultRequest, l.Default)
		fill(&l.DefaultRequest, l.Min)
	}
	for _, list := range []corev1.ResourceList{l.Max, l.Min, l.Default, l.DefaultRequest, l.MaxLimitRequestRatio} {
		roundResources(list)
	}
}

func validateLimitRange(l *corev1.LimitRange) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[corev1.LimitType]()
	for i := range l.Spec.Limits {
		limit, at := &l.Spec.Limits[i], field.NewPath("spec", "limits").Index(i)
		errs = append(errs, validateLimitType(limit.Type, at.Child("type"))...)
		if seen.Has(limit.Type) {
			errs = append(errs, field.Duplicate(at.Child("type"), limit.Type))
		}
		seen.Insert(limit.Type)
		errs = append(errs, validateLimit(limit, at)...)
	}
	return errs
}

func validateLimitType(t corev1.LimitType, path *field.Path) field.ErrorList {
	if errs := qualifiedName(string(t), path); len(errs) > 0 {
		return errs
	}
	standard := []corev1.LimitType{corev1.LimitTypePod, corev1.LimitTypeContainer, corev1.LimitTypePersistentVolumeClaim}
	if !strings.Contains(string(t), "/") && !slices.Contains(standard, t) {
		return field.ErrorList{field.Invalid(path, t, "must be a standard limit type or fully qualified")}
	}
	return nil
}

func validateLimit(l *corev1.LimitRangeItem, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	check := validateResourceName
	if l.Type == corev1.LimitTypePod || l.Type == corev1.LimitTypeContainer {
		check = validateContainerResourceName
	}
	names := sets.New[corev1.ResourceName]()
	list := func(name string, list corev1.ResourceList) {
		for _, n := range sortedResources(list) {
			errs = append(errs, check(n, path.Child(name).Key(string(n)))...)
			names.Insert(n)
		}
	}
	list("max", l.Max)
	list("min", l.Min)
	usual, usualRequest := l.Default, l.DefaultRequest
	if l.Type == corev1.LimitTypePod {
		const forbidden = "may not be specified when `type` is 'Pod'"
		if len(l.Default) > 0 {
			errs = append(errs, field.Forbidden(path.Child("default"), forbidden))
		}
		if len(l.DefaultRequest) > 0 {
			errs = append(errs, field.Forbidden(path.Child("defaultRequest"), forbidden))
		}
		usual, usualRequest = nil, nil
	}
	list("default", usual)
	list("defaultRequest", usualRequest)
	if l.Type == corev1.LimitTypePersistentVolumeClaim {
		_, min := l.Min[corev1.ResourceStorage]
		_, max := l.Max[corev1.ResourceStorage]
		if !min && !max {
			errs = append(errs, field.Required(path.Child("limits"), "either minimum or maximum storage value is required, but neither was provided"))
		}
	}
	list("maxLimitRequestRatio", l.MaxLimitRequestRatio)

	for _, n := range sets.List(names) {
		min, hasMin := l.Min[n]
		max, hasMax := l.Max[n]
		limit, hasLimit := usual[n]
		request, hasRequest := usualRequest[n]
		// fault reports that the smaller of two bounds is the greater.
		fault := func(both bool, a, b resource.Quantity, name string, value resource.Quantity, text string) {
			if both && a.Cmp(b) > 0 {
				errs = append(errs, field.Invalid(path.Child(name).Key(string(n)), value, fmt.Sprintf(text, a.String(), b.String())))
			}
		}
		fault(hasMin && hasMax, min, max, "min", min, "min value %s is greater than max value %s")
		fault(hasMin && hasRequest, min, request, "defaultRequest", request, "min value %s is greater than default request value %s")
		fault(hasRequest && hasMax, request, max, "defaultRequest", request, "default request value %s is greater than max value %s")
		fault(hasRequest && hasLimit, request, limit, "defaultRequest", request, "default request value %s is greater than default limit value %s")
		fault(hasMin && hasLimit, min, limit, "default", min, "min value %s is greater than default value %s")
		fault(hasLimit && hasMax, limit, max, "default", max, "default value %s is greater than max value %s")
		if ratio, ok := l.MaxLimitRequestRatio[n]; ok {
			at := path.Child("maxLimitRequestRatio").Key(string(n))
			if ratio.Cmp(*resource.NewQuantity(1, resource.DecimalSI)) < 0 {
				errs = append(errs, field.Invalid(at, ratio, fmt.Sprintf("ratio %s is less than 1", ratio.String())))
			}
			if most := max.AsApproximateFloat64() / min.AsApproximateFloat64(); hasMin && hasMax && ratio.AsApproximateFloat64() > most {
				errs = append(errs, field.Invalid(at, ratio, fmt.Sprintf("ratio %s is greater than max/min = %f", ratio.String(), most)))
			}
		}
		if hasLimit && hasRequest && !mayOvercommit(n) && limit.Cmp(request) != 0 {
			errs = append(errs, field.Invalid(path.Child("defaultRequest").Key(string(n)), request,
				fmt.Sprintf("default value %s must equal to defaultRequest value %s in %s", limit.String(), request.String(), n)))
		}
	}
	return errs
}
