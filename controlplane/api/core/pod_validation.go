package core

import (
	"fmt"
	"iter"
	"math"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	unversioned "k8s.io/apimachinery/pkg/apis/meta/v1/validation"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// ValidatePodTemplate checks a defaulted pod template at path. What only a
// workload's kind knows (restart policies it allows, labels its selector
// matches) is its own to check.
func ValidatePodTemplate(template *corev1.PodTemplateSpec, path *field.Path) field.ErrorList {
	spec := path.Child("spec")
	errs := unversioned.ValidateLabels(template.Labels, path.Child("labels"))
	errs = append(errs, apivalidation.ValidateAnnotations(template.Annotations, path.Child("annotations"))...)
	errs = append(errs, validatePodAnnotations(template.Annotations, &template.Spec, path.Child("annotations"))...)
	errs = append(errs, validatePodSpec(&template.Spec, nil, spec)...)
	errs = append(errs, validateProfileAnnotations(template.Annotations, &template.Spec, spec)...)
	if len(template.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(spec.Child("ephemeralContainers"), "ephemeral containers not allowed in pod template"))
	}
	return errs
}

// validatePod checks a pod as a whole, new or changed, but for its metadata.
func validatePod(pod *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := validatePodAnnotations(pod.Annotations, &pod.Spec, field.NewPath("metadata", "annotations"))
	errs = append(errs, validatePodSpec(&pod.Spec, &pod.ObjectMeta, path)...)
	if pod.Spec.ServiceAccountName == "" {
		for i := range pod.Spec.Volumes {
			projected := pod.Spec.Volumes[i].Projected
			for j := 0; projected != nil && j < len(projected.Sources); j++ {
				if projected.Sources[j].ServiceAccountToken != nil {
					errs = append(errs, field.Forbidden(path.Child("volumes").Index(i).Child("projected", "sources").Index(j).Child("serviceAccountToken"), "must not be specified when serviceAccountName is not set"))
				}
			}
		}
	}
	for i := range pod.Spec.Containers {
		errs = append(errs, validateImagePadding(&pod.Spec.Containers[i], path.Child("containers").Index(i))...)
	}
	for i := range pod.Spec.InitContainers {
		errs = append(errs, validateImagePadding(&pod.Spec.InitContainers[i], path.Child("initContainers").Index(i))...)
	}
	return errs
}

// validateNewPod is what a pod is checked for on create beside validatePod.
func validateNewPod(pod *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := validatePod(pod)
	if len(pod.Spec.EphemeralContainers) > 0 {
		errs = append(errs, field.Forbidden(path.Child("ephemeralContainers"), "cannot be set on create"))
	}
	if pod.Spec.NodeName != "" && len(pod.Spec.SchedulingGates) > 0 {
		errs = append(errs, field.Forbidden(path.Child("nodeName"), "cannot be set until all schedulingGates have been cleared"))
	}
	return append(errs, validateProfileAnnotations(pod.Annotations, &pod.Spec, path)...)
}

// everyContainerAt yields containers of all three lists with their paths
// below path, the path of the spec.
func everyContainerAt(spec *corev1.PodSpec, path *field.Path) iter.Seq2[*corev1.Container, *field.Path] {
	return func(yield func(*corev1.Container, *field.Path) bool) {
		i := 0
		for c := range everyContainer(spec, true) {
			at, n := path.Child("initContainers"), i
			if n >= len(spec.InitContainers) {
				at, n = path.Child("containers"), n-len(spec.InitContainers)
				if n >= len(spec.Containers) {
					at, n = path.Child("ephemeralContainers"), n-len(spec.Containers)
				}
			}
			if !yield(c, at.Index(n)) {
				return
			}
			i++
		}
	}
}

func isWindows(spec *corev1.PodSpec) bool { return spec.OS != nil && spec.OS.Name == corev1.Windows }

// validatePodSpec checks a defaulted spec; meta is the pod's, nil for a template.
func validatePodSpec(spec *corev1.PodSpec, meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.TerminationGracePeriodSeconds == nil {
		errs = append(errs, field.Required(path.Child("terminationGracePeriodSeconds"), ""))
	}
	volumes, faults := validateVolumes(spec.Volumes, meta, path.Child("volumes"))
	errs = append(errs, faults...)
	claims := sets.New[string]()
	for _, c := range spec.ResourceClaims {
		claims.Insert(c.Name)
	}
	claims.Delete("")
	scope := &containerScope{spec: spec, volumes: volumes, claims: claims}
	errs = append(errs, validatePodClaims(spec.ResourceClaims, meta, path.Child("resourceClaims"))...)
	errs = append(errs, scope.containers(path.Child("containers"))...)
	errs = append(errs, scope.initContainers(path.Child("initContainers"))...)
	errs = append(errs, scope.ephemeralContainers(path.Child("ephemeralContainers"))...)
	errs = append(errs, validatePodResources(spec, claims, path.Child("resources"))...)
	errs = append(errs, validateHostNetworkPorts(spec, meta != nil, path.Child("containers"))...)
	errs = append(errs, oneOf(spec.RestartPolicy, path.Child("restartPolicy"), corev1.RestartPolicyAlways, corev1.RestartPolicyOnFailure, corev1.RestartPolicyNever)...)
	errs = append(errs, oneOf(spec.DNSPolicy, path.Child("dnsPolicy"), corev1.DNSClusterFirstWithHostNet, corev1.DNSClusterFirst, corev1.DNSDefault, corev1.DNSNone)...)
	errs = append(errs, unversioned.ValidateLabels(spec.NodeSelector, path.Child("nodeSelector"))...)
	errs = append(errs, validatePodSecurity(spec, path.Child("securityContext"))...)
	errs = append(errs, validateAffinity(spec.Affinity, path.Child("affinity"))...)
	errs = append(errs, validateDNSConfig(spec.DNSConfig, spec.DNSPolicy, path.Child("dnsConfig"))...)
	for i, g := range spec.ReadinessGates {
		errs = append(errs, qualifiedName(string(g.ConditionType), path.Child("readinessGates").Index(i).Child("conditionType"))...)
	}
	errs = append(errs, validateSchedulingGates(spec.SchedulingGates, path.Child("schedulingGates"))...)
	errs = append(errs, validateTopologySpread(spec.TopologySpreadConstraints, path.Child("topologySpreadConstraints"))...)
	errs = append(errs, validateHostProcess(spec, path)...)
	errs = append(errs, validateHostUsers(spec, path)...)
	errs = append(errs, validateHostNames(spec, path)...)
	if n := spec.ServiceAccountName; n != "" {
		errs = append(errs, invalid(path.Child("serviceAccountName"), n, apivalidation.ValidateServiceAccountName(n, false))...)
	}
	if n := spec.NodeName; n != "" {
		errs = append(errs, invalid(path.Child("nodeName"), n, apivalidation.NameIsDNSSubdomain(n, false))...)
	}
	if s := spec.ActiveDeadlineSeconds; s != nil && (*s < 1 || *s > math.MaxInt32) {
		errs = append(errs, field.Invalid(path.Child("activeDeadlineSeconds"), *s, validation.InclusiveRangeError(1, math.MaxInt32)))
	}
	errs = append(errs, validateTolerations(spec.Tolerations, path.Child("tolerations"))...)
	if n := spec.PriorityClassName; n != "" {
		errs = append(errs, invalid(path.Child("priorityClassName"), n, apivalidation.NameIsDNSSubdomain(n, false))...)
	}
	if n := spec.RuntimeClassName; n != nil {
		errs = append(errs, invalid(path.Child("runtimeClassName"), *n, apivalidation.NameIsDNSSubdomain(*n, false))...)
	}
	if p := spec.PreemptionPolicy; p != nil {
		errs = append(errs, oneOf(*p, path.Child("preemptionPolicy"), corev1.PreemptLowerPriority, corev1.PreemptNever)...)
	}
	if spec.Overhead != nil {
		errs = append(errs, validateResources(&corev1.ResourceRequirements{Limits: spec.Overhead}, nil, path.Child("overhead"), validateContainerResourceName)...)
	}
	errs = append(errs, validateOS(spec, path)...)
	return append(errs, scope.fileKeyVolumes(path)...)
}

func validatePodClaims(list []corev1.PodResourceClaim, meta *metav1.ObjectMeta, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	for i, c := range list {
		at := path.Index(i)
		if meta != nil && meta.Annotations[corev1.MirrorPodAnnotationKey] != "" {
			return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support resource claims")}
		}
		switch {
		case c.Name == "":
			errs = append(errs, field.Required(at.Child("name"), ""))
		case names.Has(c.Name):
			errs = append(errs, field.Duplicate(at.Child("name"), c.Name))
		default:
			errs = append(errs, dnsLabel(c.Name, at.Child("name"))...)
		}
		names.Insert(c.Name)
		switch {
		case c.ResourceClaimName != nil && c.ResourceClaimTemplateName != nil:
			errs = append(errs, field.Invalid(at, c, "at most one of `resourceClaimName` or `resourceClaimTemplateName` may be specified"))
		case c.ResourceClaimName == nil && c.ResourceClaimTemplateName == nil:
			errs = append(errs, field.Invalid(at, c, "must specify one of: `resourceClaimName`, `resourceClaimTemplateName`"))
		}
		if n := c.ResourceClaimName; n != nil {
			errs = append(errs, invalid(at.Child("resourceClaimName"), *n, apivalidation.NameIsDNSSubdomain(*n, false))...)
		}
		if n := c.ResourceClaimTemplateName; n != nil {
			errs = append(errs, invalid(at.Child("resourceClaimTemplateName"), *n, apivalidation.NameIsDNSSubdomain(*n, false))...)
		}
	}
	return errs
}

// validateHostNetworkPorts wants host ports equal to container ports on the
// host's network; templates may leave them to be defaulted in the pod.
func validateHostNetworkPorts(spec *corev1.PodSpec, isPod bool, path *field.Path) field.ErrorList {
	if !spec.HostNetwork {
		return nil
	}
	var errs field.ErrorList
	for i := range spec.Containers {
		for j, p := range spec.Containers[i].Ports {
			if (isPod || p.HostPort != 0) && p.HostPort != p.ContainerPort {
				errs = append(errs, field.Invalid(path.Index(i).Child("ports").Index(j).Child("hostPort"), p.HostPort, "must match `containerPort` when `hostNetwork` is true"))
			}
		}
	}
	return errs
}

func validateDNSConfig(c *corev1.PodDNSConfig, policy corev1.DNSPolicy, path *field.Path) field.ErrorList {
	const maxServers, maxSearches, maxSearchChars = 3, 32, 2048
	if policy == corev1.DNSNone {
		if c == nil {
			return field.ErrorList{field.Required(path, fmt.Sprintf("must provide `dnsConfig` when `dnsPolicy` is %s", policy))}
		}
		if len(c.Nameservers) == 0 {
			return field.ErrorList{field.Required(path.Child("nameservers"), fmt.Sprintf("must provide at least one DNS nameserver when `dnsPolicy` is %s", policy))}
		}
	}
	if c == nil {
		return nil
	}
	var errs field.ErrorList
	if len(c.Nameservers) > maxServers {
		errs = append(errs, field.Invalid(path.Child("nameservers"), c.Nameservers, fmt.Sprintf("must not have more than %v nameservers", maxServers)))
	}
	for i, ns := range c.Nameservers {
		errs = append(errs, ipAddress(ns, path.Child("nameservers").Index(i), nil)...)
	}
	if len(c.Searches) > maxSearches {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v search paths", maxSearches)))
	}
	if len(strings.Join(c.Searches, " ")) > maxSearchChars {
		errs = append(errs, field.Invalid(path.Child("searches"), c.Searches, fmt.Sprintf("must not have more than %v characters (including spaces) in the search list", maxSearchChars)))
	}
	for i, s := range c.Searches {
		if s != "." {
			s = strings.TrimSuffix(s, ".")
			errs = append(errs, invalid(path.Child("searches").Index(i), s, validation.IsDNS1123SubdomainWithUnderscore(s))...)
		}
	}
	for i, o := range c.Options {
		if o.Name == "" {
			errs = append(errs, field.Required(path.Child("options").Index(i), "must not be empty"))
		}
	}
	return errs
}

// validateHostNames checks hostname, subdomain, hostnameOverride and the
// entries of /etc/hosts.
func validateHostNames(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if spec.Hostname != "" {
		errs = append(errs, dnsLabel(spec.Hostname, path.Child("hostname"))...)
	}
	if spec.Subdomain != "" {
		errs = append(errs, dnsLabel(spec.Subdomain, path.Child("subdomain"))...)
	}
	if name := spec.HostnameOverride; name != nil {
		at := path.Child("hostnameOverride")
		if spec.SetHostnameAsFQDN != nil && *spec.SetHostnameAsFQDN {
			errs = append(errs, field.Forbidden(at, "may not be specified when setHostnameAsFQDN is true"))
		}
		if spec.HostNetwork {
			errs = append(errs, field.Forbidden(at, "may not be specified when hostNetwork is true"))
		}
		if len(*name) > 64 {
			errs = append(errs, field.TooLong(at, "", 64))
		}
		errs = append(errs, dnsSubdomain(*name, at)...)
	}
	for i, a := range spec.HostAliases {
		at := path.Child("hostAliases").Index(i)
		errs = append(errs, ipAddress(a.IP, at.Child("ip"), nil)...)
		for j, n := range a.Hostnames {
			errs = append(errs, dnsSubdomain(n, at.Child("hostnames").Index(j))...)
		}
	}
	return errs
}

// deletionCost is the annotation that orders a replica set's pods on scale-down.
const deletionCost = corev1.PodDeletionCost

// validatePodAnnotations checks annotations that mean something to the cluster.
func validatePodAnnotations(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if v, mirror := annotations[corev1.MirrorPodAnnotationKey]; mirror && spec.NodeName == "" {
		errs = append(errs, field.Invalid(path.Key(corev1.MirrorPodAnnotationKey), v, "must set spec.nodeName if mirror pod annotation is set"))
	}
	if v, set := annotations[deletionCost]; set {
		// "+5" and "05" are not how the cost is written.
		if n, err := strconv.ParseInt(v, 10, 32); err != nil || strconv.FormatInt(n, 10) != v {
			errs = append(errs, field.Invalid(path.Key(deletionCost), v, "must be a 32bit integer"))
		}
	}
	return errs
}
