package core

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"
)

// newPod is a small pod as defaulting leaves it, changed by edit.
func newPod(edit func(*corev1.Pod)) *corev1.Pod {
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "web", Namespace: "default"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "c", Image: "nginx:1.27"}}},
	}
	if edit != nil {
		edit(pod)
	}
	defaultPod(pod)
	return pod
}

func texts(errs field.ErrorList) []string {
	list := []string{}
	for _, err := range errs {
		list = append(list, err.Error())
	}
	return list
}

func first(pod *corev1.Pod) *corev1.Container { return &pod.Spec.Containers[0] }

func TestValidateNewPod(t *testing.T) {
	const label = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
	cases := []struct {
		name string
		edit func(*corev1.Pod)
		want []string
	}{
		{"sound", nil, nil},
		{"no containers", func(p *corev1.Pod) { p.Spec.Containers = nil }, []string{"spec.containers: Required value"}},
		{"no image", func(p *corev1.Pod) { first(p).Image = "" }, []string{"spec.containers[0].image: Required value"}},
		{"padded image", func(p *corev1.Pod) { first(p).Image = " nginx" }, []string{`spec.containers[0].image: Invalid value: " nginx": must not have leading or trailing whitespace`}},
		{"bad name", func(p *corev1.Pod) { first(p).Name = "A_b" }, []string{`spec.containers[0].name: Invalid value: "A_b": ` + label}},
		{"same name", func(p *corev1.Pod) { p.Spec.Containers = append(p.Spec.Containers, *first(p)) }, []string{`spec.containers[1].name: Duplicate value: "c"`}},
		{"init container of same name", func(p *corev1.Pod) { p.Spec.InitContainers = []corev1.Container{*first(p)} }, []string{`spec.initContainers[0].name: Duplicate value: "c"`}},
		{"probe on init container", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x", ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}}}
		}, []string{"spec.initContainers[0].readinessProbe: Forbidden: may not be set for init containers without restartPolicy=Always"}},
		{"probe on sidecar", func(p *corev1.Pod) {
			p.Spec.InitContainers = []corev1.Container{{Name: "i", Image: "x", RestartPolicy: ptr.To(corev1.ContainerRestartPolicyAlways), ReadinessProbe: &corev1.Probe{ProbeHandler: corev1.ProbeHandler{Exec: &corev1.ExecAction{Command: []string{"true"}}}}}}
		}, nil},
		{"ports", func(p *corev1.Pod) {
			first(p).Ports = []corev1.ContainerPort{{Name: "Http", ContainerPort: 0}, {ContainerPort: 70000, Protocol: "ICMP"}, {ContainerPort: 80, HostPort: 80}, {ContainerPort: 81, HostPort: 80}}
		}, []string{
			`spec.containers[0].ports[0].name: Invalid value: "Http": must contain only alpha-numeric characters (a-z, 0-9), and hyphens (-)`,
			"spec.containers[0].ports[0].containerPort: Required value",
			"spec.containers[0].ports[1].containerPort: Invalid value: 70000: must be between 1 and 65535, inclusive",
			`spec.containers[0].ports[1].protocol: Unsupported value: "ICMP": supported values: "SCTP", "TCP", "UDP"`,
			`spec.containers[0].ports[3].hostPort: Duplicate value: "TCP//80"`,
		}},
		{"env", func(p *corev1.Pod) {
			first(p).Env = []corev1.EnvVar{
				{Name: ""},
				{Name: "A", Value: "x", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.name"}}},
				{Name: "B", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.whoops"}}},
				{Name: "C", ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: "metadata.labels"}}},
				{Name: "D", ValueFrom: &corev1.EnvVarSource{}},
				{Name: "E", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.gpu"}}},
				{Name: "F", ValueFrom: &corev1.EnvVarSource{SecretKeyRef: &corev1.SecretKeySelector{LocalObjectReference: corev1.LocalObjectReference{Name: "s"}}}},
			}
		}, []string{
			"spec.containers[0].env[0].name: Required value",
			"spec.containers[0].env[1].valueFrom: Invalid value: \"\": may not be specified when `value` is not empty",
			`spec.containers[0].env[2].valueFrom.fieldRef.fieldPath: Invalid value: "metadata.whoops": error converting fieldPath: field label not supported: metadata.whoops`,
			`spec.containers[0].env[3].valueFrom.fieldRef.fieldPath: Unsupported value: "metadata.labels": supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"`,
			"spec.containers[0].env[4].valueFrom: Invalid value: \"\": must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef`, `secretKeyRef` or `fileKeyRef`",
			`spec.containers[0].env[5].valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu": supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu", "requests.ephemeral-storage", "requests.memory"`,
			"spec.containers[0].env[6].valueFrom.secretKeyRef.key: Required value",
		}},
		{"resources", func(p *corev1.Pod) {
			first(p).Resources = corev1.ResourceRequirements{
				Limits:   corev1.ResourceList{"cpu": resource.MustParse("1"), "memory": resource.MustParse("-1"), "gpu": resource.MustParse("1"), "example.com/gpu": resource.MustParse("2")},
				Requests: corev1.ResourceList{"cpu": resource.MustParse("2"), "example.com/gpu": resource.MustParse("1")},
			}
		}, []string{
			`spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.limits[gpu]: Invalid value: "gpu": must be a standard resource for containers`,
			`spec.containers[0].resources.limits[memory]: Invalid value: "-1": must be greater than or equal to 0`,
			`spec.containers[0].resources.requests: Invalid value: "2": must be less than or equal to cpu limit of 1`,
			`spec.containers[0].resources.requests: Invalid value: "1": must be equal to example.com/gpu limit of 2`,
			`spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource type or fully qualified`,
			`spec.containers[0].resources.requests[gpu]: Invalid value: "gpu": must be a standard resource for containers`,
			`spec.containers[0].resources.requests[memory]: Invalid value: "-1": must be greater than or equal to 0`,
		}},
		{"huge pages alone", func(p *corev1.Pod) {
			first(p).Resources.Limits = corev1.ResourceList{"hugepages-2Mi": resource.MustParse("3Mi")}
		}, []string{
			`spec.containers[0].resources.limits[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			`spec.containers[0].resources.requests[hugepages-2Mi]: Invalid value: "3Mi": 3Mi is not positive integer multiple of hugepages-2Mi`,
			"spec.containers[0].resources: Forbidden: HugePages require cpu or memory",
		}},
		{"probes", func(p *corev1.Pod) {
			first(p).LivenessProbe = &corev1.Probe{SuccessThreshold: 2, ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Port: intstr.FromInt32(0), Scheme: "FTP"}, TCPSocket: &corev1.TCPSocketAction{}}}
			first(p).ReadinessProbe = &corev1.Probe{TerminationGracePeriodSeconds: ptr.To[int64](1)}
		}, []string{
			"spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0: must be between 1 and 65535, inclusive",
			`spec.containers[0].livenessProbe.httpGet.scheme: Unsupported value: "FTP": supported values: "HTTP", "HTTPS"`,
			"spec.containers[0].livenessProbe.tcpSocket: Forbidden: may not specify more than 1 handler type",
			"spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1",
			"spec.containers[0].readinessProbe: Required value: must specify a handler type",
			"spec.containers[0].readinessProbe.terminationGracePeriodSeconds: Invalid value: 1: must not be set for readinessProbes",
		}},
		{"sleep longer than grace", func(p *corev1.Pod) {
			first(p).Lifecycle = &corev1.Lifecycle{PreStop: &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 31}}}
		}, []string{"spec.containers[0].lifecycle.preStop.sleep: Invalid value: 31: must be non-negative and less than terminationGracePeriodSeconds (30)"}},
		{"mount of nothing", func(p *corev1.Pod) {
			first(p).VolumeMounts = []corev1.VolumeMount{{Name: "v", MountPath: "/a"}, {Name: "w", MountPath: "/a", SubPath: "../x"}}
			p.Spec.Volumes = []corev1.Volume{{Name: "v"}}
		}, []string{
			`spec.containers[0].volumeMounts[1].name: Not found: "w"`,
			`spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique`,
			`spec.containers[0].volumeMounts.subPath: Invalid value: "../x": must not contain '..'`,
		}},
		{"volumes", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{
				{Name: "a", VolumeSource: corev1.VolumeSource{HostPath: &corev1.HostPathVolumeSource{Path: "/x/../y", Type: ptr.To(corev1.HostPathType("Tape"))}}},
				{Name: "b", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{}, ConfigMap: &corev1.ConfigMapVolumeSource{}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{DefaultMode: ptr.To[int32](01000), Items: []corev1.KeyToPath{{Key: "k", Path: "..k"}}}}},
				{Name: "d"}, {Name: "d"},
				{Name: "e", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{ExpirationSeconds: ptr.To[int64](60), Path: "t"}}}}}},
			}
		}, []string{
			`spec.volumes[0].hostPath.path: Invalid value: "/x/../y": must not contain '..'`,
			`spec.volumes[0].hostPath.type: Unsupported value: "Tape": supported values: "", "BlockDevice", "CharDevice", "Directory", "DirectoryOrCreate", "File", "FileOrCreate", "Socket"`,
			"spec.volumes[1].configMap: Forbidden: may not specify more than 1 volume type",
			"spec.volumes[2].secret.secretName: Required value",
			"spec.volumes[2].secret.defaultMode: Invalid value: 512: must be a number between 0 and 0777 (octal), both inclusive",
			`spec.volumes[2].secret.items[0].path: Invalid value: "..k": must not start with '..'`,
			`spec.volumes[4].name: Duplicate value: "d"`,
			"spec.volumes[5].projected.sources[0].serviceAccountToken.expirationSeconds: Invalid value: 60: may not specify a duration less than 10 minutes",
			"spec.volumes[5].projected.sources[0].serviceAccountToken: Forbidden: must not be specified when serviceAccountName is not set",
		}},
		{"drivers", func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{
				{Name: "a", VolumeSource: corev1.VolumeSource{NFS: &corev1.NFSVolumeSource{Server: "s", Path: "p"}, DownwardAPI: &corev1.DownwardAPIVolumeSource{}}},
				{Name: "b", VolumeSource: corev1.VolumeSource{ISCSI: &corev1.ISCSIVolumeSource{TargetPortal: "t", IQN: "disk"}}},
				{Name: "c", VolumeSource: corev1.VolumeSource{CSI: &corev1.CSIVolumeSource{Driver: "A_b", NodePublishSecretRef: &corev1.LocalObjectReference{}}}},
			}
		}, []string{
			`spec.volumes[0].nfs.path: Invalid value: "p": must be an absolute path`,
			"spec.volumes[0].downwarAPI: Forbidden: may not specify more than 1 volume type",
			`spec.volumes[1].iscsi.iqn: Invalid value: "disk": must be valid format starting with iqn, eui, or naa`,
			`spec.volumes[2].csi.driver: Invalid value: "A_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
			"spec.volumes[2].csi.nodePublishSecretRef.name: Required value",
		}},
		{"dns", func(p *corev1.Pod) {
			p.Spec.DNSPolicy = corev1.DNSNone
			p.Spec.DNSConfig = &corev1.PodDNSConfig{Nameservers: []string{"1.1.1.1", "x"}, Searches: []string{".", "Ab"}, Options: []corev1.PodDNSConfigOption{{}}}
		}, []string{
			`spec.dnsConfig.nameservers[1]: Invalid value: "x": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.dnsConfig.searches[1]: Invalid value: "Ab": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '_', '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '_?[a-z0-9]([-_a-z0-9]*[a-z0-9])?(\._?[a-z0-9]([-_a-z0-9]*[a-z0-9])?)*')`,
			"spec.dnsConfig.options[0]: Required value: must not be empty",
		}},
		{"dns none without servers", func(p *corev1.Pod) { p.Spec.DNSPolicy = corev1.DNSNone }, []string{"spec.dnsConfig: Required value: must provide `dnsConfig` when `dnsPolicy` is None"}},
		{"policies", func(p *corev1.Pod) {
			p.Spec.RestartPolicy, p.Spec.DNSPolicy, first(p).ImagePullPolicy = "Sometimes", "Never", "Maybe"
		}, []string{
			`spec.containers[0].imagePullPolicy: Unsupported value: "Maybe": supported values: "Always", "IfNotPresent", "Never"`,
			`spec.restartPolicy: Unsupported value: "Sometimes": supported values: "Always", "OnFailure", "Never"`,
			`spec.dnsPolicy: Unsupported value: "Never": supported values: "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"`,
		}},
		{"host network ports", func(p *corev1.Pod) {
			p.Spec.HostNetwork, first(p).Ports = true, []corev1.ContainerPort{{ContainerPort: 80, HostPort: 81}}
		}, []string{"spec.containers[0].ports[0].hostPort: Invalid value: 81: must match `containerPort` when `hostNetwork` is true"}},
		{"security", func(p *corev1.Pod) {
			p.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsUser: ptr.To[int64](-1), Sysctls: []corev1.Sysctl{{Name: "Net"}, {Name: "net.core.somaxconn"}}, SeccompProfile: &corev1.SeccompProfile{Type: corev1.SeccompProfileTypeLocalhost}}
			p.Spec.HostNetwork = true
			first(p).SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true), AllowPrivilegeEscalation: ptr.To(false)}
		}, []string{
			`spec.containers[0].securityContext: Invalid value: {"privileged":true,"allowPrivilegeEscalation":false}: cannot set ` + "`allowPrivilegeEscalation` to false and `privileged` to true",
			"spec.securityContext.runAsUser: Invalid value: -1: must be between 0 and 2147483647, inclusive",
			`spec.securityContext.sysctls[0].name: Invalid value: "Net": must have at most 253 characters and match regex ^([a-z0-9]([-_a-z0-9]*[a-z0-9])?[\./])*[a-z0-9]([-_a-z0-9]*[a-z0-9])?$`,
			`spec.securityContext.sysctls[1].name: Invalid value: "net.core.somaxconn": may not be specified when 'hostNetwork' is true`,
			"spec.securityContext.seccompProfile.localhostProfile: Required value: must be set when seccomp type is Localhost",
		}},
		{"tolerations", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Operator: "Equal"}, {Key: "k", Operator: "Exists", Value: "v"}, {Key: "k", Operator: "In"}, {Key: "k", TolerationSeconds: ptr.To[int64](1), Effect: "NoSchedule"}, {Key: "k", Effect: "Go"}}
		}, []string{
			"spec.tolerations[0].operator: Invalid value: \"Equal\": operator must be Exists when `key` is empty, which means \"match all values and all keys\"",
			"spec.tolerations[1].operator: Invalid value: \"v\": value must be empty when `operator` is 'Exists'",
			`spec.tolerations[2].operator: Unsupported value: "In": supported values: "Equal", "Exists"`,
			"spec.tolerations[3].effect: Invalid value: \"NoSchedule\": effect must be 'NoExecute' when `tolerationSeconds` is set",
			`spec.tolerations[4].effect: Unsupported value: "Go": supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"`,
		}},
		{"affinity", func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{
				NodeAffinity: &corev1.NodeAffinity{
					RequiredDuringSchedulingIgnoredDuringExecution:  &corev1.NodeSelector{},
					PreferredDuringSchedulingIgnoredDuringExecution: []corev1.PreferredSchedulingTerm{{Weight: 101, Preference: corev1.NodeSelectorTerm{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "In"}}}}},
				},
				PodAntiAffinity: &corev1.PodAntiAffinity{RequiredDuringSchedulingIgnoredDuringExecution: []corev1.PodAffinityTerm{{MatchLabelKeys: []string{"x"}}}},
			}
		}, []string{
			"spec.affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms: Required value: must have at least one node selector term",
			"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].weight: Invalid value: 101: must be in the range 1-100",
			"spec.affinity.nodeAffinity.preferredDuringSchedulingIgnoredDuringExecution[0].preference.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'",
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].matchLabelKeys: Forbidden: must not be specified when labelSelector is not set",
			"spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Required value: can not be empty",
			`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must be non-empty`,
			`spec.affinity.podAntiAffinity.requiredDuringSchedulingIgnoredDuringExecution[0].topologyKey: Invalid value: "": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`,
		}},
		{"topology spread", func(p *corev1.Pod) {
			p.Spec.TopologySpreadConstraints = []corev1.TopologySpreadConstraint{{WhenUnsatisfiable: "Cry"}, {MaxSkew: 1, TopologyKey: "zone", WhenUnsatisfiable: corev1.ScheduleAnyway, MinDomains: ptr.To[int32](2)}}
		}, []string{
			"spec.topologySpreadConstraints[0].maxSkew: Invalid value: 0: must be greater than zero",
			"spec.topologySpreadConstraints[0].topologyKey: Required value: can not be empty",
			`spec.topologySpreadConstraints[0].whenUnsatisfiable: Unsupported value: "Cry": supported values: "DoNotSchedule", "ScheduleAnyway"`,
			"spec.topologySpreadConstraints[1].minDomains: Invalid value: 2: can only use minDomains if whenUnsatisfiable=DoNotSchedule, not ScheduleAnyway",
		}},
		{"gates and node", func(p *corev1.Pod) {
			p.Spec.NodeName, p.Spec.SchedulingGates = "n", []corev1.PodSchedulingGate{{Name: "g"}, {Name: "g"}}
		}, []string{`spec.schedulingGates[1]: Duplicate value: "g"`, "spec.nodeName: Forbidden: cannot be set until all schedulingGates have been cleared"}},
		{"host users", func(p *corev1.Pod) { p.Spec.HostUsers, p.Spec.HostPID = ptr.To(false), true }, []string{"spec.HostPID: Forbidden: when `hostUsers` is false"}},
		{"aliases and names", func(p *corev1.Pod) {
			p.Spec.HostAliases, p.Spec.Hostname = []corev1.HostAlias{{IP: "1.2.3", Hostnames: []string{"a_b"}}}, "A"
		}, []string{
			`spec.hostname: Invalid value: "A": ` + label,
			`spec.hostAliases[0].ip: Invalid value: "1.2.3": must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)`,
			`spec.hostAliases[0].hostnames[0]: Invalid value: "a_b": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`,
		}},
		{"deadline and ephemeral", func(p *corev1.Pod) {
			p.Spec.ActiveDeadlineSeconds = ptr.To[int64](0)
			p.Spec.EphemeralContainers = []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "e", Image: "x"}, TargetContainerName: "nobody"}}
		}, []string{
			`spec.ephemeralContainers[0].targetContainerName: Not found: "nobody"`,
			"spec.activeDeadlineSeconds: Invalid value: 0: must be between 1 and 2147483647, inclusive",
			"spec.ephemeralContainers: Forbidden: cannot be set on create",
		}},
		{"deletion cost", func(p *corev1.Pod) { p.Annotations = map[string]string{deletionCost: "+5"} }, []string{`metadata.annotations[controller.kubernetes.io/pod-deletion-cost]: Invalid value: "+5": must be a 32bit integer`}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			want := c.want
			if want == nil {
				want = []string{}
			}
			if diff := cmp.Diff(want, texts(validateNewPod(newPod(c.edit)))); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidatePodUpdate(t *testing.T) {
	cases := []struct {
		name      string
		old, edit func(*corev1.Pod)
		want      []string // prefixes
	}{
		{"image", nil, func(p *corev1.Pod) { first(p).Image = "nginx:1.28" }, nil},
		{"command", nil, func(p *corev1.Pod) { first(p).Command = []string{"sh"} }, []string{"spec: Forbidden: pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)\n"}},
		{"one more container", nil, func(p *corev1.Pod) {
			p.Spec.Containers = append(p.Spec.Containers, corev1.Container{Name: "d", Image: "x"})
		}, []string{"spec.containers: Forbidden: pod updates may not add or remove containers"}},
		{"add toleration", nil, func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Operator: "Exists"}} }, nil},
		{"change toleration", func(p *corev1.Pod) { p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists"}} }, func(p *corev1.Pod) { p.Spec.Tolerations[0].Key = "b" }, []string{"spec.tolerations: Forbidden: existing toleration can not be modified except its tolerationSeconds"}},
		{"toleration seconds", func(p *corev1.Pod) {
			p.Spec.Tolerations = []corev1.Toleration{{Key: "a", Operator: "Exists", Effect: "NoExecute", TolerationSeconds: ptr.To[int64](5)}}
		}, func(p *corev1.Pod) { p.Spec.Tolerations[0].TolerationSeconds = ptr.To[int64](6) }, nil},
		{"deadline set", nil, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, nil},
		{"deadline longer", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](6) }, []string{"spec.activeDeadlineSeconds: Invalid value: 6: must be less than or equal to previous value"}},
		{"deadline gone", func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = ptr.To[int64](5) }, func(p *corev1.Pod) { p.Spec.ActiveDeadlineSeconds = nil }, []string{"spec.activeDeadlineSeconds: Invalid value: null: must not update from a positive integer to nil value"}},
		{"gate removed", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, func(p *corev1.Pod) { p.Spec.SchedulingGates = nil }, nil},
		{"gate added", nil, func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, []string{"spec.schedulingGates[0].name: Forbidden: only deletion is allowed, but found new scheduling gate 'g'"}},
		{"gated pod narrowed", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, nil},
		{"free pod narrowed", nil, func(p *corev1.Pod) { p.Spec.NodeSelector = map[string]string{"a": "b"} }, []string{"spec: Forbidden: pod updates may not change fields other than"}},
		{"gated affinity", func(p *corev1.Pod) { p.Spec.SchedulingGates = []corev1.PodSchedulingGate{{Name: "g"}} }, func(p *corev1.Pod) {
			p.Spec.Affinity = &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{Key: "a", Operator: "Exists"}}}}}}}
		}, nil},
		{"mirror annotation", nil, func(p *corev1.Pod) {
			p.Spec.NodeName, p.Annotations = "", map[string]string{corev1.MirrorPodAnnotationKey: "x"}
		}, []string{"metadata.annotations[kubernetes.io/config.mirror]: Invalid value: \"x\": must set spec.nodeName", "metadata.annotations[kubernetes.io/config.mirror]: Forbidden: may not add mirror pod annotation"}},
	}
	for _, c := range cases {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(c.old)
			pod := old.DeepCopy()
			c.edit(pod)
			defaultPod(pod)
			got := texts(validatePodUpdate(pod, old))
			if len(got) != len(c.want) {
				t.Fatalf("got %d faults %q, want %q", len(got), got, c.want)
			}
			for i := range got {
				if !strings.HasPrefix(got[i], c.want[i]) {
					t.Errorf("fault %q, want %q", got[i], c.want[i])
				}
			}
		})
	}
}

func TestValidatePodStatus(t *testing.T) {
	ended := corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{ExitCode: 1}}
	runs := corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}
	status := func(s corev1.ContainerState) []corev1.ContainerStatus {
		return []corev1.ContainerStatus{{Name: "c", State: s}}
	}
	for _, c := range []struct {
		name   string
		policy corev1.RestartPolicy
		edit   func(*corev1.PodStatus)
		want   []string
	}{
		{"restart", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) { s.ContainerStatuses = status(runs) }, nil},
		{"restart after failure", corev1.RestartPolicyOnFailure, func(s *corev1.PodStatus) { s.ContainerStatuses = status(runs) }, nil},
		{"no restart", corev1.RestartPolicyNever, func(s *corev1.PodStatus) { s.ContainerStatuses = status(runs) }, []string{"status.containerStatuses[0].state: Forbidden: may not be transitioned to non-terminated state"}},
		{"quality", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) { s.QOSClass = "Guaranteed" }, []string{`status.qosClass: Invalid value: "Guaranteed": field is immutable`}},
		{"addresses", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) { s.PodIPs = []corev1.PodIP{{IP: "10.0.0.1"}, {IP: "10.0.0.2"}} }, []string{`status.podIPs: Invalid value: [{"ip":"10.0.0.1"},{"ip":"10.0.0.2"}]: may specify no more than one IP for each IP family`}},
		{"host's addresses", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) { s.HostIPs = []corev1.HostIP{{IP: "192.0.2.1"}} }, []string{"status.hostIPs[0].ip: Invalid value: \"192.0.2.1\": must be equal to `hostIP`"}},
		{"claims", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) {
			s.ResourceClaimStatuses = []corev1.PodResourceClaimStatus{{Name: "gpu", ResourceClaimName: ptr.To("web-gpu")}, {Name: "none"}, {Name: "gpu"}}
		}, []string{"status.resourceClaimStatuses[1].name: Invalid value: \"none\": must match the name of an entry in `spec.resourceClaims`", `status.resourceClaimStatuses[2].name: Duplicate value: "gpu"`}},
		{"claim of extended resources", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) {
			s.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{ResourceClaimName: "web-x", RequestMappings: []corev1.ContainerExtendedResourceRequest{
				{ContainerName: "c", ResourceName: "example.com/gpu", RequestName: "r"}, {ContainerName: "d", ResourceName: "example.com/gpu", RequestName: "r"}, {ContainerName: "c", ResourceName: "x", RequestName: "r"}}}
		}, []string{
			`status.extendedResourceClaimStatus.requestMappings[1].containerName: Invalid value: "d": must match the name of an entry in spec.initContainers.name or spec.containers.name`,
			`status.extendedResourceClaimStatus.requestMappings[2].resourceName: Invalid value: "x": must match the extended resource name of an entry in spec.initContainers.resources.requests or spec.containers.resources.requests`,
		}},
		{"empty claim of extended resources", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) {
			s.ExtendedResourceClaimStatus = &corev1.PodExtendedResourceClaimStatus{}
		}, []string{"status.extendedResourceClaimStatus.requestMappings: Required value: at least one request mapping is required", "status.extendedResourceClaimStatus.resourceClaimName: Required value"}},
		{"user", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) {
			s.ContainerStatuses[0].User = &corev1.ContainerUser{Linux: &corev1.LinuxContainerUser{UID: -1, SupplementalGroups: []int64{5, -5}}}
		}, []string{"status.containerStatuses[0].user.linux.uid: Invalid value: -1: must be between 0 and 2147483647, inclusive", "status.containerStatuses[0].user.linux.supplementalGroups[1]: Invalid value: -5: must be between 0 and 2147483647, inclusive"}},
		{"devices", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) {
			s.ContainerStatuses[0].AllocatedResourcesStatus = []corev1.ResourceStatus{
				{Name: "example.com/gpu", Resources: []corev1.ResourceHealth{{ResourceID: "0", Health: "Healthy"}, {ResourceID: "0", Health: "odd"}}},
				{Name: "claim:gpu/one"}, {Name: "claim:gpu"}, {Name: "cpu"}}
			s.EphemeralContainerStatuses = []corev1.ContainerStatus{{AllocatedResourcesStatus: []corev1.ResourceStatus{{Name: "cpu"}}}}
		}, []string{
			`status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].health: Unsupported value: "odd": supported values: "Healthy", "Unhealthy", "Unknown"`,
			`status.containerStatuses[0].allocatedResourcesStatus[0].resources[1].resourceID: Duplicate value: "0"`,
			"status.containerStatuses[0].allocatedResourcesStatus[2].name: Invalid value: \"claim:gpu\": must match one of the container's resource claims in a format 'claim:<claimName>/<request>' or 'claim:<claimName>' if request is empty",
			"status.containerStatuses[0].allocatedResourcesStatus[3].name: Invalid value: \"cpu\": must match one of the container's resource requests",
			"status.ephemeralContainerStatuses[0].allocatedResourcesStatus: Forbidden: must not be specified in container status",
		}},
		{"nominated bound pod", corev1.RestartPolicyAlways, func(s *corev1.PodStatus) { s.NominatedNodeName = "m" }, []string{"status.nominatedNodeName: Forbidden: may not be set on pods that are already bound to a node"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(func(p *corev1.Pod) {
				p.Spec.RestartPolicy, p.Spec.NodeName = c.policy, "n"
				p.Spec.ResourceClaims = []corev1.PodResourceClaim{{Name: "gpu"}}
				first(p).Resources = corev1.ResourceRequirements{
					Requests: corev1.ResourceList{"example.com/gpu": resource.MustParse("1")},
					Claims:   []corev1.ResourceClaim{{Name: "gpu", Request: "one"}},
				}
			})
			old.Status = corev1.PodStatus{QOSClass: corev1.PodQOSBestEffort, ContainerStatuses: status(ended)}
			pod := old.DeepCopy()
			c.edit(&pod.Status)
			if diff := cmp.Diff(append([]string{}, c.want...), texts(validatePodStatus(pod, old))); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}

func TestValidateResize(t *testing.T) {
	list := func(cpu string) corev1.ResourceList { return corev1.ResourceList{"cpu": resource.MustParse(cpu)} }
	base := func(p *corev1.Pod) {
		first(p).Resources.Requests = list("1")
		init := *first(p).DeepCopy()
		init.Name, init.Resources = "init", corev1.ResourceRequirements{}
		p.Spec.InitContainers = []corev1.Container{init}
	}
	for _, c := range []struct {
		name string
		edit func(*corev1.Pod)
		want []string
	}{
		{"more cpu", func(p *corev1.Pod) { first(p).Resources.Requests = list("2") }, nil},
		{"none", func(p *corev1.Pod) { first(p).Resources.Requests = nil }, []string{
			`spec: Invalid value: "Burstable": Pod QOS Class may not change as a result of resizing`,
			"spec.containers[0].resources.requests: Forbidden: resource requests cannot be removed",
		}},
		{"storage", func(p *corev1.Pod) { first(p).Resources.Requests["ephemeral-storage"] = resource.MustParse("1Gi") }, []string{"spec: Forbidden: only cpu and memory resources are mutable"}},
		{"renamed", func(p *corev1.Pod) { first(p).Name, p.Spec.InitContainers[0].Name = "d", "e" }, []string{
			"spec.containers[0].name: Forbidden: containers may not be renamed or reordered on resize",
			"spec.initContainers[0].name: Forbidden: initContainers may not be renamed or reordered on resize"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			old := newPod(base)
			old.Status.QOSClass = QOSClass(old)
			pod := old.DeepCopy()
			c.edit(pod)
			if diff := cmp.Diff(append([]string{}, c.want...), texts(validateResize(pod, old))); diff != "" {
				t.Errorf("faults (-want +got):\n%s", diff)
			}
		})
	}
}
