package pods

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"

	v1 "k8s.io/api/core/v1"
	"k8s.io/component-helpers/node/util/sysctl"
)

// safeSysctls are kernel parameters that a pod may set: they are its
// namespaces' own, and do nobody else harm.
var safeSysctls = []string{
	"kernel.shm_rmid_forced",
	"net.ipv4.ip_local_port_range",
	"net.ipv4.tcp_syncookies",
	"net.ipv4.ping_group_range",
	"net.ipv4.ip_unprivileged_port_start",
	"net.ipv4.ip_local_reserved_ports",
	"net.ipv4.tcp_keepalive_time",
	"net.ipv4.tcp_fin_timeout",
	"net.ipv4.tcp_keepalive_intvl",
	"net.ipv4.tcp_keepalive_probes",
	"net.ipv4.tcp_rmem",
	"net.ipv4.tcp_wmem",
}

// mayRun says why the host cannot or will not give the pod what it demands of
// the kernel; an empty reason allows it. appArmor says whether the host has it.
func mayRun(pod *v1.Pod, appArmor bool) (reason, message string) {
	if sc := pod.Spec.SecurityContext; sc != nil {
		for _, s := range sc.Sysctls {
			name := sysctl.NormalizeName(s.Name)
			host, namespace := pod.Spec.HostNetwork, "net"
			if !strings.HasPrefix(name, "net.") {
				host, namespace = pod.Spec.HostIPC, "ipc"
			}
			switch {
			case !slices.Contains(safeSysctls, name):
				return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: %q not allowlisted", s.Name)
			case host:
				return "SysctlForbidden", fmt.Sprintf("forbidden sysctl: sysctl %q not allowed with host %s enabled", s.Name, namespace)
			}
		}
	}
	if !appArmor && wantsAppArmor(pod) {
		return "AppArmor", "Cannot enforce AppArmor: AppArmor is not enabled on the host"
	}
	return "", ""
}

// wantsAppArmor says whether any container asks to be confined.
func wantsAppArmor(pod *v1.Pod) bool {
	confines := func(p *v1.AppArmorProfile) bool { return p != nil && p.Type != v1.AppArmorProfileTypeUnconfined }
	if sc := pod.Spec.SecurityContext; sc != nil && confines(sc.AppArmorProfile) {
		return true
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if sc := list[i].SecurityContext; sc != nil && confines(sc.AppArmorProfile) {
				return true
			}
		}
	}
	return false
}

// hostHasAppArmor asks the kernel.
var hostHasAppArmor = sync.OnceValue(func() bool {
	raw, err := os.ReadFile("/sys/module/apparmor/parameters/enabled")
	if err != nil {
		return false
	}
	_, err = os.Stat("/sys/kernel/security/apparmor")
	return err == nil && strings.HasPrefix(string(raw), "Y")
})
