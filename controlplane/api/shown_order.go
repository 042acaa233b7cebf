package api

import (
	"reflect"

	corev1 "k8s.io/api/core/v1"
)

// kubernetesOrder lists the fields of Kubernetes' own types where they are not
// the published ones, or stand in another order.
var kubernetesOrder = map[reflect.Type][]string{
	reflect.TypeFor[corev1.PodSpec](): {"Volumes", "InitContainers", "Containers", "EphemeralContainers", "RestartPolicy", "TerminationGracePeriodSeconds",
		"ActiveDeadlineSeconds", "DNSPolicy", "NodeSelector", "ServiceAccountName", "AutomountServiceAccountToken", "NodeName", "SecurityContext",
		"ImagePullSecrets", "Hostname", "Subdomain", "SetHostnameAsFQDN", "Affinity", "SchedulerName", "Tolerations", "HostAliases",
		"PriorityClassName", "Priority", "PreemptionPolicy", "DNSConfig", "ReadinessGates", "RuntimeClassName", "Overhead", "EnableServiceLinks",
		"TopologySpreadConstraints", "OS", "SchedulingGates", "ResourceClaims", "Resources", "HostnameOverride", "SchedulingGroup"},
	reflect.TypeFor[corev1.PodSecurityContext](): {"SELinuxOptions", "WindowsOptions", "RunAsUser", "RunAsGroup", "RunAsNonRoot", "SupplementalGroups",
		"SupplementalGroupsPolicy", "FSGroup", "FSGroupChangePolicy", "Sysctls", "SeccompProfile", "AppArmorProfile", "SELinuxChangePolicy"},
	reflect.TypeFor[corev1.VolumeSource](): {"HostPath", "EmptyDir", "GCEPersistentDisk", "AWSElasticBlockStore", "GitRepo", "Secret", "NFS", "ISCSI",
		"Glusterfs", "PersistentVolumeClaim", "RBD", "Quobyte", "FlexVolume", "Cinder", "CephFS", "Flocker", "DownwardAPI", "FC", "AzureFile",
		"ConfigMap", "VsphereVolume", "AzureDisk", "PhotonPersistentDisk", "Projected", "PortworxVolume", "ScaleIO", "StorageOS", "CSI", "Ephemeral", "Image"},
	reflect.TypeFor[corev1.PersistentVolumeSource](): {"GCEPersistentDisk", "AWSElasticBlockStore", "HostPath", "Glusterfs", "NFS", "RBD", "Quobyte",
		"ISCSI", "FlexVolume", "Cinder", "CephFS", "FC", "Flocker", "AzureFile", "VsphereVolume", "AzureDisk", "PhotonPersistentDisk",
		"PortworxVolume", "ScaleIO", "Local", "StorageOS", "CSI"},
}

// hostFields are those of a pod's spec that Kubernetes keeps in the security
// context.
var hostFields = []string{"HostNetwork", "HostPID", "HostIPC", "ShareProcessNamespace", "HostUsers"}

// shownField is a field as it is printed. Its prefix is what stands before its
// own fields.
type shownField struct {
	name     string
	value    reflect.Value
	embedded bool
	prefix   []shownField
}

// shownFields are the fields of a struct, in the order of Kubernetes' own type.
func shownFields(v reflect.Value) []shownField {
	t := v.Type()
	var fields []shownField
	names, ok := kubernetesOrder[t]
	if !ok {
		for i := range t.NumField() {
			fields = append(fields, shownField{name: t.Field(i).Name, value: v.Field(i), embedded: t.Field(i).Anonymous})
		}
		return fields
	}
	for _, name := range names {
		f := shownField{name: name, value: v.FieldByName(name)}
		if t == reflect.TypeFor[corev1.PodSpec]() && name == "SecurityContext" && !f.value.IsNil() {
			for _, host := range hostFields {
				f.prefix = append(f.prefix, shownField{name: host, value: v.FieldByName(host)})
			}
		}
		fields = append(fields, f)
	}
	return fields
}
