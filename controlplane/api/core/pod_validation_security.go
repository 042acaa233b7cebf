package core

import (
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// sysctlName is what the kernel takes, with dots or slashes between segments.
var sysctlName = regexp.MustCompile(`^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`)

// validatePodSecurity checks the security context of a whole pod.
func validatePodSecurity(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	sc := spec.SecurityContext
	var errs field.ErrorList
	if spec.HostPID && ptr.Deref(spec.ShareProcessNamespace, false) {
		errs = append(errs, field.Invalid(path.Child("shareProcessNamespace"), true, "ShareProcessNamespace and HostPID cannot both be enabled"))
	}
	if sc == nil {
		return errs
	}
	if sc.FSGroup != nil {
		errs = append(errs, invalid(path.Child("fsGroup"), *sc.FSGroup, validation.IsValidGroupID(*sc.FSGroup))...)
	}
	errs = append(errs, userAndGroup(sc.RunAsUser, sc.RunAsGroup, path)...)
	for i, g := range sc.SupplementalGroups {
		errs = append(errs, invalid(path.Child("supplementalGroups").Index(i), g, validation.IsValidGroupID(g))...)
	}
	seen := sets.New[string]()
	for i, s := range sc.Sysctls {
		at := path.Child("sysctls").Index(i).Child("name")
		switch {
		case s.Name == "":
			errs = append(errs, field.Required(at, ""))
		case len(s.Name) > 253 || !sysctlName.MatchString(s.Name):
			errs = append(errs, field.Invalid(at, s.Name, fmt.Sprintf("must have at most %d characters and match regex %s", 253, sysctlName)))
		case seen.Has(s.Name):
			errs = append(errs, field.Duplicate(at, s.Name))
		}
		seen.Insert(s.Name)
		network, ipc := sysctlNamespace(s.Name)
		if spec.HostNetwork && network {
			errs = append(errs, field.Invalid(at, s.Name, "may not be specified when 'hostNetwork' is true"))
		} else if spec.HostIPC && ipc {
			errs = append(errs, field.Invalid(at, s.Name, "may not be specified when 'hostIPC' is true"))
		}
	}
	if p := sc.FSGroupChangePolicy; p != nil {
		errs = append(errs, anyOf(*p, path.Child("fsGroupChangePolicy"), corev1.FSGroupChangeAlways, corev1.FSGroupChangeOnRootMismatch)...)
	}
	errs = append(errs, validateSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
	errs = append(errs, validateWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions"))...)
	errs = append(errs, validateAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))...)
	if p := sc.SupplementalGroupsPolicy; p != nil {
		errs = append(errs, anyOf(*p, path.Child("supplementalGroupsPolicy"), corev1.SupplementalGroupsPolicyMerge, corev1.SupplementalGroupsPolicyStrict)...)
	}
	if p := sc.SELinuxChangePolicy; p != nil {
		errs = append(errs, anyOf(*p, path.Child("seLinuxChangePolicy"), corev1.SELinuxChangePolicyRecursive)...)
	}
	return errs
}

// sysctlNamespace says which namespace of a pod a sysctl belongs to.
func sysctlNamespace(name string) (network, ipc bool) {
	name = strings.ReplaceAll(name, "/", ".")
	network = strings.HasPrefix(name, "net.")
	ipc = name == "kernel.sem" || strings.HasPrefix(name, "kernel.shm") || strings.HasPrefix(name, "kernel.msg") || strings.HasPrefix(name, "fs.mqueue.")
	return network, ipc
}

func userAndGroup(user, group *int64, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if user != nil {
		errs = append(errs, invalid(path.Child("runAsUser"), *user, validation.IsValidUserID(*user))...)
	}
	if group != nil {
		errs = append(errs, invalid(path.Child("runAsGroup"), *group, validation.IsValidGroupID(*group))...)
	}
	return errs
}

// validateSecurityContext checks the security context of a container.
func validateSecurityContext(sc *corev1.SecurityContext, hostUsers bool, path *field.Path) field.ErrorList {
	if sc == nil {
		return nil
	}
	errs := userAndGroup(sc.RunAsUser, sc.RunAsGroup, path)
	if m := sc.ProcMount; m != nil {
		errs = append(errs, anyOf(*m, path.Child("procMount"), corev1.DefaultProcMount, corev1.UnmaskedProcMount)...)
		if hostUsers && *m == corev1.UnmaskedProcMount {
			errs = append(errs, field.Invalid(path.Child("procMount"), m, "`hostUsers` must be false to use `Unmasked`"))
		}
	}
	errs = append(errs, validateSeccomp(sc.SeccompProfile, path.Child("seccompProfile"))...)
	if !ptr.Deref(sc.AllowPrivilegeEscalation, true) {
		if ptr.Deref(sc.Privileged, false) {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `privileged` to true"))
		}
		if sc.Capabilities != nil && slices.Contains(sc.Capabilities.Add, "CAP_SYS_ADMIN") {
			errs = append(errs, field.Invalid(path, sc, "cannot set `allowPrivilegeEscalation` to false and `capabilities.Add` CAP_SYS_ADMIN"))
		}
	}
	errs = append(errs, validateWindowsOptions(sc.WindowsOptions, path.Child("windowsOptions"))...)
	return append(errs, validateAppArmor(sc.AppArmorProfile, path.Child("appArmorProfile"))...)
}

func validateSeccomp(p *corev1.SeccompProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	var errs field.ErrorList
	if p.Type == "" {
		errs = append(errs, field.Required(path.Child("type"), "type is required when seccompProfile is set"))
	} else {
		errs = anyOf(p.Type, path.Child("type"), corev1.SeccompProfileTypeLocalhost, corev1.SeccompProfileTypeRuntimeDefault, corev1.SeccompProfileTypeUnconfined)
	}
	at := path.Child("localhostProfile")
	switch local := p.Type == corev1.SeccompProfileTypeLocalhost; {
	case local && p.LocalhostProfile == nil:
		errs = append(errs, field.Required(at, "must be set when seccomp type is Localhost"))
	case local:
		errs = append(errs, descendingPath(*p.LocalhostProfile, at)...)
	case p.LocalhostProfile != nil:
		errs = append(errs, field.Invalid(at, p, "can only be set when seccomp type is Localhost"))
	}
	return errs
}

func validateAppArmor(p *corev1.AppArmorProfile, path *field.Path) field.ErrorList {
	if p == nil {
		return nil
	}
	at := path.Child("localhostProfile")
	switch p.Type {
	case corev1.AppArmorProfileTypeLocalhost:
		profile := ptr.Deref(p.LocalhostProfile, "")
		switch {
		case strings.TrimSpace(profile) != profile:
			return field.ErrorList{field.Invalid(at, profile, "must not be padded with whitespace")}
		case profile == "":
			return field.ErrorList{field.Required(at, "must be set when AppArmor type is Localhost")}
		case len(profile) > 4095:
			return field.ErrorList{field.TooLong(at, "", 4095)}
		}
	case corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined:
		if p.LocalhostProfile != nil {
			return field.ErrorList{field.Invalid(at, p.LocalhostProfile, "can only be set when AppArmor type is Localhost")}
		}
	case "":
		return field.ErrorList{field.Required(path.Child("type"), "type is required when appArmorProfile is set")}
	default:
		return anyOf(p.Type, path.Child("type"), corev1.AppArmorProfileTypeLocalhost, corev1.AppArmorProfileTypeRuntimeDefault, corev1.AppArmorProfileTypeUnconfined)
	}
	return nil
}

// validateHostUsers checks what does not go together with a user namespace.
func validateHostUsers(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	const why = "when `hostUsers` is false"
	if ptr.Deref(spec.HostUsers, true) {
		return nil
	}
	var errs field.ErrorList
	for _, f := range []fieldSet{{"hostNetwork", spec.HostNetwork}, {"HostPID", spec.HostPID}, {"HostIPC", spec.HostIPC}} {
		if f.set {
			errs = append(errs, field.Forbidden(path.Child(f.name), why))
		}
	}
	for c, at := range everyContainerAt(spec, path) {
		if len(c.VolumeDevices) > 0 {
			errs = append(errs, field.Forbidden(at.Child("volumeDevices"), why))
		}
	}
	return errs
}

// validateOS keeps a pod that names its operating system to that system's fields.
func validateOS(spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	if spec.OS == nil {
		return nil
	}
	if spec.OS.Name == "" {
		return field.ErrorList{field.Required(path.Child("os", "name"), "")}
	}
	if errs := anyOf(spec.OS.Name, path.Child("os"), corev1.Linux, corev1.Windows); len(errs) > 0 {
		return errs
	}
	var errs field.ErrorList
	forbid := func(path *field.Path, why string, fields ...fieldSet) {
		for _, f := range fields {
			if f.set {
				errs = append(errs, field.Forbidden(path.Child(f.name), why))
			}
		}
	}
	pod := path.Child("securityContext")
	sc := ptr.Deref(spec.SecurityContext, corev1.PodSecurityContext{})
	if !isWindows(spec) {
		const why = "windows options cannot be set for a linux pod"
		forbid(pod, why, fieldSet{"windowsOptions", sc.WindowsOptions != nil})
		for c, at := range everyContainerAt(spec, path) {
			forbid(at.Child("securityContext"), why, fieldSet{"windowsOptions", c.SecurityContext != nil && c.SecurityContext.WindowsOptions != nil})
		}
		return errs
	}
	forbid(pod, onlyWindows, fieldSet{"appArmorProfile", sc.AppArmorProfile != nil}, fieldSet{"seLinuxOptions", sc.SELinuxOptions != nil})
	forbid(path, onlyWindows, fieldSet{"hostUsers", spec.HostUsers != nil}, fieldSet{"hostPID", spec.HostPID}, fieldSet{"hostIPC", spec.HostIPC})
	forbid(pod, onlyWindows, fieldSet{"seccompProfile", sc.SeccompProfile != nil}, fieldSet{"fsGroup", sc.FSGroup != nil},
		fieldSet{"fsGroupChangePolicy", sc.FSGroupChangePolicy != nil}, fieldSet{"sysctls", len(sc.Sysctls) > 0})
	forbid(path, onlyWindows, fieldSet{"shareProcessNamespace", spec.ShareProcessNamespace != nil})
	forbid(pod, onlyWindows, fieldSet{"runAsUser", sc.RunAsUser != nil}, fieldSet{"runAsGroup", sc.RunAsGroup != nil},
		fieldSet{"supplementalGroups", sc.SupplementalGroups != nil}, fieldSet{"supplementalGroupsPolicy", sc.SupplementalGroupsPolicy != nil},
		fieldSet{"seLinuxChangePolicy", sc.SELinuxChangePolicy != nil})
	for c, at := range everyContainerAt(spec, path) {
		if sc := c.SecurityContext; sc != nil {
			forbid(at.Child("securityContext"), onlyWindows, fieldSet{"appArmorProfile", sc.AppArmorProfile != nil}, fieldSet{"seLinuxOptions", sc.SELinuxOptions != nil},
				fieldSet{"seccompProfile", sc.SeccompProfile != nil}, fieldSet{"capabilities", sc.Capabilities != nil},
				fieldSet{"readOnlyRootFilesystem", sc.ReadOnlyRootFilesystem != nil}, fieldSet{"privileged", sc.Privileged != nil},
				fieldSet{"allowPrivilegeEscalation", sc.AllowPrivilegeEscalation != nil}, fieldSet{"procMount", sc.ProcMount != nil},
				fieldSet{"runAsUser", sc.RunAsUser != nil}, fieldSet{"runAsGroup", sc.RunAsGroup != nil})
		}
	}
	return errs
}

// validateProfileAnnotations checks the annotations that once said what
// seccompProfile and appArmorProfile say: where both are, they agree.
func validateProfileAnnotations(annotations map[string]string, spec *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	names := sets.New[string]()
	agree := func(what, annotation, kind, localPrefix string, path *field.Path, profile *string) {
		switch {
		case annotation == kind:
		case kind == "" && !strings.HasPrefix(annotation, localPrefix), kind != "":
			errs = append(errs, field.Forbidden(path.Child("type"), what+" type in annotation and field must match"))
		case profile == nil || strings.TrimPrefix(annotation, localPrefix) != *profile:
			errs = append(errs, field.Forbidden(path.Child("localhostProfile"), what+" profile in annotation and field must match"))
		}
	}
	seccomp := func(p *corev1.SeccompProfile, key string, path *field.Path) {
		if a, said := annotations[key]; said && p != nil {
			kinds := map[corev1.SeccompProfileType]string{corev1.SeccompProfileTypeUnconfined: "unconfined", corev1.SeccompProfileTypeRuntimeDefault: "runtime/default"}
			if a == "docker/default" {
				a = "runtime/default"
			}
			agree("seccomp", a, kinds[p.Type], "localhost/", path.Child("securityContext", "seccompProfile"), p.LocalhostProfile)
		}
	}
	var podAppArmor *corev1.AppArmorProfile
	if sc := spec.SecurityContext; sc != nil {
		seccomp(sc.SeccompProfile, corev1.SeccompPodAnnotationKey, path)
		podAppArmor = sc.AppArmorProfile
	}
	for c, at := range everyContainerAt(spec, path) {
		names.Insert(c.Name)
		armor := podAppArmor
		if sc := c.SecurityContext; sc != nil {
			seccomp(sc.SeccompProfile, corev1.SeccompContainerAnnotationKeyPrefix+c.Name, at)
			if sc.AppArmorProfile != nil {
				armor = sc.AppArmorProfile
			}
		}
		if a, said := annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]; said && armor != nil && !isWindows(spec) {
			kinds := map[corev1.AppArmorProfileType]string{corev1.AppArmorProfileTypeUnconfined: "unconfined", corev1.AppArmorProfileTypeRuntimeDefault: "runtime/default"}
			agree("apparmor", a, kinds[armor.Type], "localhost/", at.Child("securityContext", "appArmorProfile"), armor.LocalhostProfile)
		}
	}
	for _, key := range slices.Sorted(maps.Keys(annotations)) {
		container, ours := strings.CutPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix)
		if !ours {
			continue
		}
		at := field.NewPath("metadata", "annotations").Key(key)
		if !names.Has(container) {
			errs = append(errs, field.Invalid(at, container, "container not found"))
		}
		if v := annotations[key]; v != "" && v != "runtime/default" && v != "unconfined" && !strings.HasPrefix(v, "localhost/") {
			errs = append(errs, field.Invalid(at, v, fmt.Sprintf("invalid AppArmor profile name: %q", v)))
		}
	}
	return errs
}
