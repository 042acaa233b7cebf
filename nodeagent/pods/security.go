package pods

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	v1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Paths of /proc and /sys that a container with the default procMount does
// not see, or cannot write.
var (
	maskedPaths = []string{
		"/proc/asound", "/proc/acpi", "/proc/interrupts", "/proc/kcore", "/proc/keys", "/proc/latency_stats",
		"/proc/timer_list", "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
		"/sys/devices/virtual/powercap",
	}
	readonlyPaths = []string{"/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"}
)

// securityContext is what the container may do. imageUser and imageUID are
// the user that its image names.
func (a *Agent) securityContext(ctx context.Context, pod *v1.Pod, c *v1.Container, imageUser string, imageUID *int64) (*criv1.LinuxContainerSecurityContext, error) {
	users, err := a.userNamespace(ctx, pod)
	if err != nil {
		return nil, err
	}
	sc := c.SecurityContext
	if sc == nil {
		sc = &v1.SecurityContext{}
	}
	podSC := pod.Spec.SecurityContext
	if podSC == nil {
		podSC = &v1.PodSecurityContext{}
	}
	s := &criv1.LinuxContainerSecurityContext{
		NamespaceOptions:   namespaces(pod, users),
		Privileged:         isTrue(sc.Privileged),
		ReadonlyRootfs:     isTrue(sc.ReadOnlyRootFilesystem),
		NoNewPrivs:         sc.AllowPrivilegeEscalation != nil && !*sc.AllowPrivilegeEscalation,
		SupplementalGroups: groups(pod),
		SelinuxOptions:     selinux(first(sc.SELinuxOptions, podSC.SELinuxOptions)),
	}
	if p := podSC.SupplementalGroupsPolicy; p != nil && *p == v1.SupplementalGroupsPolicyStrict {
		s.SupplementalGroupsPolicy = criv1.SupplementalGroupsPolicy_Strict
	}
	if caps := sc.Capabilities; caps != nil {
		s.Capabilities = &criv1.Capability{}
		for _, add := range caps.Add {
			s.Capabilities.AddCapabilities = append(s.Capabilities.AddCapabilities, string(add))
		}
		for _, drop := range caps.Drop {
			s.Capabilities.DropCapabilities = append(s.Capabilities.DropCapabilities, string(drop))
		}
	}
	chosen := first(sc.RunAsUser, podSC.RunAsUser)
	user := chosen
	if user == nil && imageUser == "" {
		user = imageUID
	}
	switch {
	case user != nil:
		s.RunAsUser = &criv1.Int64Value{Value: *user}
	case imageUser != "":
		s.RunAsUsername = imageUser
	}
	if group := first(sc.RunAsGroup, podSC.RunAsGroup); group != nil {
		s.RunAsGroup = &criv1.Int64Value{Value: *group}
	}
	if isTrue(first(sc.RunAsNonRoot, podSC.RunAsNonRoot)) {
		switch {
		case chosen != nil && *chosen == 0:
			return nil, fmt.Errorf("container's runAsUser breaks non-root policy (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
		case user != nil && *user == 0:
			return nil, fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
		case user == nil && imageUser != "":
			return nil, fmt.Errorf("container has runAsNonRoot and image has non-numeric user (%s), cannot verify user is non-root (pod: %q, container: %s)", imageUser, pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
		case user == nil:
			return nil, fmt.Errorf("container has runAsNonRoot and image will run as root (pod: %q, container: %s)", pod.Name+"_"+pod.Namespace+"("+string(pod.UID)+")", c.Name)
		}
	}
	if sc.ProcMount == nil || *sc.ProcMount == v1.DefaultProcMount {
		if !s.Privileged {
			s.MaskedPaths, s.ReadonlyPaths = maskedPaths, readonlyPaths
		}
	}
	s.Seccomp = a.seccomp(first(sc.SeccompProfile, podSC.SeccompProfile), s.Privileged)
	if p := first(sc.AppArmorProfile, podSC.AppArmorProfile); p != nil {
		switch p.Type {
		case v1.AppArmorProfileTypeRuntimeDefault:
			s.Apparmor = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
		case v1.AppArmorProfileTypeUnconfined:
			s.Apparmor = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
		case v1.AppArmorProfileTypeLocalhost:
			if p.LocalhostProfile != nil {
				s.Apparmor = &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Localhost, LocalhostRef: *p.LocalhostProfile}
			}
		}
	}
	return s, nil
}

func (a *Agent) seccomp(p *v1.SeccompProfile, privileged bool) *criv1.SecurityProfile {
	if p == nil || privileged {
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
	}
	switch p.Type {
	case v1.SeccompProfileTypeRuntimeDefault:
		return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault}
	case v1.SeccompProfileTypeLocalhost:
		if p.LocalhostProfile != nil {
			return &criv1.SecurityProfile{
				ProfileType:  criv1.SecurityProfile_Localhost,
				LocalhostRef: filepath.Join(a.StateDir, "seccomp", *p.LocalhostProfile),
			}
		}
	}
	return &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_Unconfined}
}

// groups are the groups that every process of the pod is in besides its own.
func groups(pod *v1.Pod) []int64 {
	sc := pod.Spec.SecurityContext
	if sc == nil {
		return nil
	}
	list := slices.Clone(sc.SupplementalGroups)
	if sc.FSGroup != nil {
		list = append(list, *sc.FSGroup)
	}
	return list
}

func selinux(o *v1.SELinuxOptions) *criv1.SELinuxOption {
	if o == nil {
		return nil
	}
	return &criv1.SELinuxOption{User: o.User, Role: o.Role, Type: o.Type, Level: o.Level}
}

func first[T any](own, pods *T) *T {
	if own != nil {
		return own
	}
	return pods
}
