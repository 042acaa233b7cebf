package core

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// validatePodStatus checks what a node agent or a controller reports.
func validatePodStatus(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("status")
	now, was := &pod.Status, &old.Status
	errs := append(validatePodAnnotations(pod.Annotations, &pod.Spec, field.NewPath("metadata", "annotations")), validateAnnotationChange(pod, old)...)
	for i, c := range now.Conditions {
		at := path.Child("conditions").Index(i)
		if c.ObservedGeneration < 0 {
			errs = append(errs, field.Invalid(at.Child("observedGeneration"), c.ObservedGeneration, "must be a non-negative integer"))
		}
		errs = append(errs, qualifiedName(string(c.Type), at.Child("Type"))...)
	}
	if n := now.NominatedNodeName; n != "" && n != was.NominatedNodeName {
		errs = append(errs, invalid(path.Child("nominatedNodeName"), n, apivalidation.NameIsDNSSubdomain(n, false))...)
		if old.Spec.NodeName != "" {
			errs = append(errs, field.Forbidden(path.Child("nominatedNodeName"), "may not be set on pods that are already bound to a node"))
		}
	}
	if now.ObservedGeneration < 0 {
		errs = append(errs, field.Invalid(path.Child("observedGeneration"), now.ObservedGeneration, "must be a non-negative integer"))
	}
	errs = append(errs, apivalidation.ValidateImmutableField(now.QOSClass, was.QOSClass, path.Child("qosClass"))...)
	if !restartsAll(&old.Spec) {
		errs = append(errs, validateStates(now.ContainerStatuses, was.ContainerStatuses, &old.Spec, old.Spec.Containers, path.Child("containerStatuses"))...)
		errs = append(errs, validateStates(now.InitContainerStatuses, was.InitContainerStatuses, &old.Spec, old.Spec.InitContainers, path.Child("initContainerStatuses"))...)
	}
	errs = append(errs, validateStates(now.EphemeralContainerStatuses, was.EphemeralContainerStatuses, nil, nil, path.Child("ephemeralContainerStatuses"))...)
	errs = append(errs, validateClaimStatuses(now.ResourceClaimStatuses, pod.Spec.ResourceClaims, path.Child("resourceClaimStatuses"))...)
	if claim := now.ExtendedResourceClaimStatus; claim != nil {
		errs = append(errs, validateExtendedClaim(claim, &pod.Spec, path.Child("extendedResourceClaimStatus"))...)
	}

	addresses := func(now, was []string, list any, path *field.Path) {
		for i, a := range now {
			errs = append(errs, ipAddress(a, path.Index(i), was)...)
		}
		if len(now) > 2 || len(now) == 2 && strings.Contains(now[0], ":") == strings.Contains(now[1], ":") {
			errs = append(errs, field.Invalid(path, list, "may specify no more than one IP for each IP family"))
		}
	}
	addresses(podAddresses(now), podAddresses(was), now.PodIPs, path.Child("podIPs"))
	if len(now.HostIPs) > 0 && now.HostIPs[0].IP != now.HostIP {
		errs = append(errs, field.Invalid(path.Child("hostIPs").Index(0).Child("ip"), now.HostIPs[0].IP, "must be equal to `hostIP`"))
	}
	addresses(hostAddresses(now), hostAddresses(was), now.HostIPs, path.Child("hostIPs"))

	statuses := []struct {
		list []corev1.ContainerStatus
		of   []corev1.Container
		path *field.Path
	}{
		{now.ContainerStatuses, pod.Spec.Containers, path.Child("containerStatuses")},
		{now.InitContainerStatuses, pod.Spec.InitContainers, path.Child("initContainerStatuses")},
		{now.EphemeralContainerStatuses, nil, path.Child("ephemeralContainerStatuses")},
	}
	for _, s := range statuses {
		for i := range s.list {
			errs = append(errs, validateStatusUser(s.list[i].User, pod.Spec.OS, s.path.Index(i).Child("user", "linux"))...)
		}
	}
	for _, s := range statuses[:2] {
		for i := range s.list {
			errs = append(errs, validateHealth(&s.list[i], s.of, s.path.Index(i).Child("allocatedResourcesStatus"))...)
		}
	}
	for i, s := range now.EphemeralContainerStatuses {
		if len(s.AllocatedResourcesStatus) > 0 {
			errs = append(errs, field.Forbidden(statuses[2].path.Index(i).Child("allocatedResourcesStatus"), "must not be specified in container status"))
		}
	}
	return errs
}

// validateClaimStatuses checks which resource claims were made for the pod.
func validateClaimStatuses(statuses []corev1.PodResourceClaimStatus, claims []corev1.PodResourceClaim, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	seen := sets.New[string]()
	for i, s := range statuses {
		at := path.Index(i)
		if !slices.ContainsFunc(claims, func(c corev1.PodResourceClaim) bool { return c.Name == s.Name }) {
			errs = append(errs, field.Invalid(at.Child("name"), s.Name, "must match the name of an entry in `spec.resourceClaims`"))
		}
		if seen.Has(s.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), s.Name))
		}
		seen.Insert(s.Name)
		if s.ResourceClaimName != nil {
			errs = append(errs, dnsSubdomain(*s.ResourceClaimName, at.Child("resourceClaimName"))...)
		}
	}
	return errs
}

// validateExtendedClaim checks which claim stands for the pod's extended
// resources, and which of its requests for which of them.
func validateExtendedClaim(claim *corev1.PodExtendedResourceClaimStatus, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	requests := map[string]corev1.ResourceList{}
	for _, c := range slices.Concat(spec.InitContainers, spec.Containers) {
		requests[c.Name] = c.Resources.Requests
	}
	mappings := path.Child("requestMappings")
	if len(claim.RequestMappings) == 0 {
		errs = append(errs, field.Required(mappings, "at least one request mapping is required"))
	}
	seen := sets.New[corev1.ContainerExtendedResourceRequest]()
	for i, m := range claim.RequestMappings {
		at := mappings.Index(i)
		asked, found := requests[m.ContainerName]
		if !found {
			errs = append(errs, field.Invalid(at.Child("containerName"), m.ContainerName, "must match the name of an entry in spec.initContainers.name or spec.containers.name"))
		} else if _, asks := asked[corev1.ResourceName(m.ResourceName)]; !asks {
			errs = append(errs, field.Invalid(at.Child("resourceName"), m.ResourceName,
				"must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests"))
		}
		errs = append(errs, dnsLabel(m.RequestName, path.Child("requestName"))...)
		if seen.Has(m) {
			errs = append(errs, field.Duplicate(at.Child("containerName"), m.ContainerName),
				field.Duplicate(at.Child("resourceName"), m.ResourceName), field.Duplicate(at.Child("requestName"), m.RequestName))
		}
		seen.Insert(m)
	}
	if claim.ResourceClaimName == "" {
		return append(errs, field.Required(path.Child("resourceClaimName"), ""))
	}
	return append(errs, dnsSubdomain(claim.ResourceClaimName, path.Child("resourceClaimName"))...)
}

// validateStatusUser checks as whom a container's first process runs.
func validateStatusUser(user *corev1.ContainerUser, os *corev1.PodOS, path *field.Path) field.ErrorList {
	if user == nil || user.Linux == nil {
		return nil
	}
	if os != nil && os.Name != corev1.Linux {
		if os.Name == corev1.Windows {
			return field.ErrorList{field.Forbidden(path, "cannot be set for a windows pod")}
		}
		return nil
	}
	errs := invalid(path.Child("uid"), user.Linux.UID, validation.IsValidUserID(user.Linux.UID))
	errs = append(errs, invalid(path.Child("gid"), user.Linux.GID, validation.IsValidGroupID(user.Linux.GID))...)
	for i, group := range user.Linux.SupplementalGroups {
		errs = append(errs, invalid(path.Child("supplementalGroups").Index(i), group, validation.IsValidGroupID(group))...)
	}
	return errs
}

// validateHealth checks what is said of the devices that a container was given.
func validateHealth(status *corev1.ContainerStatus, containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	states := []corev1.ResourceHealthStatus{corev1.ResourceHealthStatusHealthy, corev1.ResourceHealthStatusUnhealthy, corev1.ResourceHealthStatusUnknown}
	for i, given := range status.AllocatedResourcesStatus {
		at := path.Index(i)
		for _, c := range containers {
			if c.Name != status.Name {
				continue
			}
			if _, asked := c.Resources.Requests[given.Name]; strings.HasPrefix(string(given.Name), "claim:") {
				if !slices.ContainsFunc(c.Resources.Claims, func(claim corev1.ResourceClaim) bool {
					name := "claim:" + claim.Name
					if claim.Request != "" {
						name += "/" + claim.Request
					}
					return string(given.Name) == name
				}) {
					errs = append(errs, field.Invalid(at.Child("name"), given.Name,
						"must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty"))
				}
			} else if !asked {
				errs = append(errs, field.Invalid(at.Child("name"), given.Name, "must match one of the container's resource requests"))
			}
		}
		seen := sets.New[corev1.ResourceID]()
		for j, device := range given.Resources {
			at := at.Child("resources").Index(j)
			if !slices.Contains(states, device.Health) {
				errs = append(errs, field.NotSupported(at.Child("health"), device.Health, states))
			}
			if m := device.Message; m != nil && *m == "" {
				errs = append(errs, field.Required(at.Child("message"), "must be non-empty if specified"))
			} else if m != nil && len(*m) > corev1.ResourceHealthMessageMaxLength {
				errs = append(errs, field.TooLong(at.Child("message"), *m, corev1.ResourceHealthMessageMaxLength))
			}
			if seen.Has(device.ResourceID) {
				errs = append(errs, field.Duplicate(at.Child("resourceID"), device.ResourceID))
			}
			seen.Insert(device.ResourceID)
		}
	}
	return errs
}

func podAddresses(s *corev1.PodStatus) []string {
	var list []string
	for _, ip := range s.PodIPs {
		list = append(list, ip.IP)
	}
	return list
}

func hostAddresses(s *corev1.PodStatus) []string {
	var list []string
	for _, ip := range s.HostIPs {
		list = append(list, ip.IP)
	}
	return list
}

// restartsAll says whether some container's exit may restart all of them.
func restartsAll(spec *corev1.PodSpec) bool {
	for c := range everyContainer(spec, false) {
		for _, r := range c.RestartPolicyRules {
			if r.Action == corev1.ContainerRestartRuleActionRestartAllContainers {
				return true
			}
		}
	}
	return false
}

// validateStates refuses that a terminated container that does not restart
// runs again. spec is nil for ephemeral containers, which never restart.
func validateStates(now, was []corev1.ContainerStatus, spec *corev1.PodSpec, containers []corev1.Container, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for i := range was {
		end := was[i].State.Terminated
		if end == nil {
			continue
		}
		j := slices.IndexFunc(now, func(s corev1.ContainerStatus) bool { return s.Name == was[i].Name })
		if j < 0 || now[j].State.Terminated != nil {
			continue
		}
		k := slices.IndexFunc(containers, func(c corev1.Container) bool { return c.Name == was[i].Name })
		if k < 0 || !restarts(&containers[k], spec.RestartPolicy, end.ExitCode) {
			errs = append(errs, field.Forbidden(path.Index(i).Child("state"), "may not be transitioned to non-terminated state"))
		}
	}
	return errs
}

// restarts says whether a container starts again after it ended with code.
func restarts(c *corev1.Container, policy corev1.RestartPolicy, code int32) bool {
	for _, r := range c.RestartPolicyRules {
		if r.Action != corev1.ContainerRestartRuleActionRestart || r.ExitCodes == nil {
			continue
		}
		if slices.Contains(r.ExitCodes.Values, code) == (r.ExitCodes.Operator == corev1.ContainerRestartRuleOnExitCodesOpIn) {
			return true
		}
	}
	if c.RestartPolicy != nil {
		policy = corev1.RestartPolicy(*c.RestartPolicy)
	}
	return policy == corev1.RestartPolicyAlways || policy == corev1.RestartPolicyOnFailure && code != 0
}
