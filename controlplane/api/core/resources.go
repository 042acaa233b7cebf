package core

import (
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation/field"
	resourcehelper "k8s.io/component-helpers/resource"
)

func isHugePage(name corev1.ResourceName) bool {
	return strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix)
}

// isNativeResource says whether a resource's name is in a domain that belongs
// to Kubernetes, a name without a domain included.
func isNativeResource(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// mayOvercommit says whether more of a resource may be limited than requested.
func mayOvercommit(name corev1.ResourceName) bool { return isNativeResource(name) && !isHugePage(name) }

// isExtendedResource says whether a name is a device plugin's or operator's.
func isExtendedResource(name corev1.ResourceName) bool {
	if isNativeResource(name) || strings.HasPrefix(string(name), corev1.DefaultResourceRequestsPrefix) {
		return false
	}
	return len(qualifiedName(corev1.DefaultResourceRequestsPrefix+string(name), nil)) == 0
}

// countedResources are objects that quotas count.
var countedResources = []corev1.ResourceName{
	corev1.ResourcePods, corev1.ResourceQuotas, corev1.ResourceServices, corev1.ResourceReplicationControllers,
	corev1.ResourceSecrets, corev1.ResourceConfigMaps, corev1.ResourcePersistentVolumeClaims,
	corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
}

// isStandardResource says whether a name without a domain is known.
func isStandardResource(name corev1.ResourceName) bool {
	return slices.Contains(countedResources, name) || isHugePage(name) ||
		strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix) ||
		slices.Contains([]corev1.ResourceName{
			corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourceStorage,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage, corev1.ResourceRequestsStorage,
			corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage,
		}, name)
}

// isContainerResource says whether a container may ask for a standard resource.
func isContainerResource(name corev1.ResourceName) bool {
	return name == corev1.ResourceCPU || name == corev1.ResourceMemory || name == corev1.ResourceEphemeralStorage || isHugePage(name)
}

func validateResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	if errs := qualifiedName(string(name), path); len(errs) > 0 {
		return errs
	}
	if !strings.Contains(string(name), "/") && !isStandardResource(name) {
		return field.ErrorList{field.Invalid(path, name, "must be a standard resource type or fully qualified")}
	}
	return nil
}

func validateContainerResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := validateResourceName(name, path)
	if !strings.Contains(string(name), "/") {
		if !isContainerResource(name) {
			errs = append(errs, field.Invalid(path, name, "must be a standard resource for containers"))
		}
	} else if !isNativeResource(name) && !isExtendedResource(name) {
		errs = append(errs, field.Invalid(path, name, "doesn't follow extended resource name standard"))
	}
	return errs
}

func validatePodResourceName(name corev1.ResourceName, path *field.Path) field.ErrorList {
	errs := validateResourceName(name, path)
	if len(errs) == 0 && !resourcehelper.IsSupportedPodLevelResource(name) {
		errs = append(errs, field.NotSupported(path, name, sets.List(resourcehelper.SupportedPodLevelResources())))
	}
	return errs
}

// validateQuantity checks an amount of a resource.
func validateQuantity(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	errs := nonNegativeQuantity(q, path)
	if (slices.Contains(countedResources, name) || isExtendedResource(name)) && q.MilliValue()%1000 != 0 {
		errs = append(errs, field.Invalid(path, q, wholeNumber))
	}
	return errs
}

func validateHugePages(name corev1.ResourceName, q resource.Quantity, path *field.Path) field.ErrorList {
	size, err := resource.ParseQuantity(strings.TrimPrefix(string(name), corev1.ResourceHugePagesPrefix))
	if err == nil && size.Value() > 0 && q.Value()%size.Value() == 0 {
		return nil
	}
	return field.ErrorList{field.Invalid(path, q.String(), fmt.Sprintf("%s is not positive integer multiple of %s", q.String(), name))}
}

// validateResources checks the requests and limits of a container, or of a
// pod where name is validatePodResourceName.
func validateResources(r *corev1.ResourceRequirements, claims sets.Set[string], path *field.Path, name func(corev1.ResourceName, *field.Path) field.ErrorList) field.ErrorList {
	var errs field.ErrorList
	limits, requests := path.Child("limits"), path.Child("requests")
	var compute, huge bool
	check := func(list corev1.ResourceList, path *field.Path, beside func(corev1.ResourceName, resource.Quantity)) {
		for _, n := range sortedResources(list) {
			q, at := list[n], path.Key(string(n))
			errs = append(errs, name(n, at)...)
			errs = append(errs, validateQuantity(n, q, at)...)
			compute = compute || n == corev1.ResourceCPU || n == corev1.ResourceMemory
			beside(n, q)
			if isHugePage(n) {
				huge = true
				errs = append(errs, validateHugePages(n, q, at)...)
			}
		}
	}
	check(r.Limits, limits, func(corev1.ResourceName, resource.Quantity) {})
	check(r.Requests, requests, func(n corev1.ResourceName, request resource.Quantity) {
		limit, limited := r.Limits[n]
		switch {
		case limited && !mayOvercommit(n) && request.Cmp(limit) != 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be equal to %s limit of %s", n, limit.String())))
		case limited && request.Cmp(limit) > 0:
			errs = append(errs, field.Invalid(requests, request.String(), fmt.Sprintf("must be less than or equal to %s limit of %s", n, limit.String())))
		case !limited && !mayOvercommit(n):
			errs = append(errs, field.Required(limits, "Limit must be set for non overcommitable resources"))
		}
	})
	if huge && !compute {
		errs = append(errs, field.Forbidden(path, "HugePages require cpu or memory"))
	}
	return append(errs, validateClaimReferences(r.Claims, claims, path.Child("claims"))...)
}

// validateClaimReferences checks that a container's claims are the pod's, each
// or each of its requests named once.
func validateClaimReferences(refs []corev1.ResourceClaim, claims sets.Set[string], path *field.Path) field.ErrorList {
	var errs field.ErrorList
	whole, parts := sets.New[string](), sets.New[string]()
	partly := sets.New[string]()
	for i, ref := range refs {
		at := path.Index(i)
		if ref.Name == "" {
			errs = append(errs, field.Required(at, ""))
			continue
		}
		key := ref.Name
		if ref.Request != "" {
			errs = append(errs, dnsLabel(ref.Request, at.Child("request"))...)
			key += "/" + ref.Request
		}
		if whole.Has(ref.Name) || parts.Has(key) || ref.Request == "" && partly.Has(ref.Name) {
			errs = append(errs, field.Duplicate(at, key))
		}
		if ref.Request == "" {
			whole.Insert(ref.Name)
		} else {
			parts.Insert(key)
			partly.Insert(ref.Name)
		}
		if !claims.Has(ref.Name) {
			err := field.NotFound(at, ref.Name)
			err.Detail = "must be one of the names in pod.spec.resourceClaims"
			if len(claims) == 0 {
				err.Detail += " which is empty"
			} else {
				err.Detail += ": " + strings.Join(sets.List(claims), ", ")
			}
			errs = append(errs, err)
		}
	}
	return errs
}

// validatePodResources checks pod-level resources against the containers'.
func validatePodResources(spec *corev1.PodSpec, claims sets.Set[string], path *field.Path) field.ErrorList {
	r := spec.Resources
	if r == nil {
		return nil
	}
	if isWindows(spec) {
		return field.ErrorList{field.Forbidden(path, "may not be set for a windows pod")}
	}
	var errs field.ErrorList
	if r.Claims != nil {
		errs = append(errs, field.Forbidden(path.Child("claims"), "claims may not be set for Resources at pod-level"))
	}
	errs = append(errs, validateResources(r, claims, path, validatePodResourceName)...)
	pod := &corev1.Pod{Spec: *spec}
	sums := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
	for _, n := range sortedResources(sums) {
		sum := sums[n]
		if q, set := r.Requests[n]; set && sum.Cmp(q) > 0 {
			errs = append(errs, field.Invalid(path.Child("requests").Key(string(n)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container requests of %s", sum.String())))
		}
	}
	sums = resourcehelper.AggregateContainerLimits(pod, resourcehelper.PodResourcesOptions{})
	for _, n := range sortedResources(sums) {
		sum := sums[n]
		if q, set := r.Limits[n]; set && isHugePage(n) && sum.Cmp(q) > 0 {
			errs = append(errs, field.Invalid(path.Child("limits").Key(string(n)), q.String(), fmt.Sprintf("must be greater than or equal to aggregate container limits of %s", sum.String())))
		}
	}
	for i := range spec.Containers {
		limits := spec.Containers[i].Resources.Limits
		for _, n := range sortedResources(limits) {
			limit := limits[n]
			if q, set := r.Limits[n]; set && limit.Cmp(q) > 0 {
				errs = append(errs, field.Invalid(path.Child("containers").Index(i).Key(string(n)).Child("limits"), limit.String(), fmt.Sprintf("must be less than or equal to pod limits of %s", q.String())))
			}
		}
	}
	return errs
}

// sortedResources lists the names, so that faults come in one order.
func sortedResources(list corev1.ResourceList) []corev1.ResourceName {
	names := make([]corev1.ResourceName, 0, len(list))
	for n := range list {
		names = append(names, n)
	}
	slices.Sort(names)
	return names
}
