package pods

import (
	"context"
	"fmt"
	"maps"
	"path/filepath"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/runtime"
)

// logDirectory is where the logs of the pod's containers lie.
func (a *Agent) logDirectory(pod *v1.Pod) string {
	return filepath.Join(a.LogDir, fmt.Sprintf("%s_%s_%s", pod.Namespace, pod.Name, pod.UID))
}

// sandboxConfig is what the runtime has to know to make the pod's sandbox.
func (a *Agent) sandboxConfig(ctx context.Context, pod *v1.Pod, attempt uint32) (*criv1.PodSandboxConfig, error) {
	dns, err := a.dns(pod)
	if err != nil {
		return nil, err
	}
	users, err := a.userNamespace(ctx, pod)
	if err != nil {
		return nil, err
	}
	hostname, _ := Hostname(pod, a.Domain)
	config := &criv1.PodSandboxConfig{
		Metadata:     &criv1.PodSandboxMetadata{Name: pod.Name, Namespace: pod.Namespace, Uid: string(pod.UID), Attempt: attempt},
		LogDirectory: a.logDirectory(pod),
		DnsConfig:    dns,
		Labels:       runtime.PodLabels(pod),
		Annotations:  maps.Clone(pod.Annotations),
		Linux: &criv1.LinuxPodSandboxConfig{
			CgroupParent: a.Cgroups.Parent(pod),
			SecurityContext: &criv1.LinuxSandboxSecurityContext{
				NamespaceOptions: namespaces(pod, users),
				Privileged:       anyPrivileged(pod),
				Seccomp:          &criv1.SecurityProfile{ProfileType: criv1.SecurityProfile_RuntimeDefault},
			},
		},
	}
	config.Linux.Resources, config.Linux.Overhead = cgroups.SandboxResources(pod)
	if !pod.Spec.HostNetwork {
		config.Hostname = hostname
	}
	if sc := pod.Spec.SecurityContext; sc != nil {
		security := config.Linux.SecurityContext
		if sc.RunAsUser != nil {
			security.RunAsUser = &criv1.Int64Value{Value: *sc.RunAsUser}
		}
		if sc.RunAsGroup != nil && sc.RunAsUser != nil {
			security.RunAsGroup = &criv1.Int64Value{Value: *sc.RunAsGroup}
		}
		security.SupplementalGroups = groups(pod)
		security.SelinuxOptions = selinux(sc.SELinuxOptions)
		if len(sc.Sysctls) > 0 {
			config.Linux.Sysctls = map[string]string{}
			for _, s := range sc.Sysctls {
				config.Linux.Sysctls[sysctl.NormalizeName(s.Name)] = s.Value
			}
		}
	}
	return config, nil
}

func namespaces(pod *v1.Pod, users *criv1.UserNamespace) *criv1.NamespaceOption {
	options := &criv1.NamespaceOption{Pid: criv1.NamespaceMode_CONTAINER, UsernsOptions: users}
	if pod.Spec.HostNetwork {
		options.Network = criv1.NamespaceMode_NODE
	}
	if pod.Spec.HostIPC {
		options.Ipc = criv1.NamespaceMode_NODE
	}
	switch {
	case pod.Spec.HostPID:
		options.Pid = criv1.NamespaceMode_NODE
	case pod.Spec.ShareProcessNamespace != nil && *pod.Spec.ShareProcessNamespace:
		options.Pid = criv1.NamespaceMode_POD
	}
	return options
}

func anyPrivileged(pod *v1.Pod) bool {
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && sc.Privileged != nil && *sc.Privileged {
				return true
			}
		}
	}
	return false
}
