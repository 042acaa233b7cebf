package staticpods

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/yaml"
)

// Annotations of static pods. The hash, which is also their UID, tells one
// version of a manifest from the next.
const (
	annotationHash   = "kubernetes.io/config.hash"
	annotationSource = "kubernetes.io/config.source"
	annotationSeen   = "kubernetes.io/config.seen"
)

// Parse reads a manifest as a pod of node. The same manifest is always the same
// pod.
func Parse(raw []byte, file, node string, seen time.Time) (*v1.Pod, error) {
	pod := &v1.Pod{}
	if err := yaml.UnmarshalStrict(raw, pod); err != nil {
		return nil, fmt.Errorf("parse manifest: %w", err)
	}
	if pod.Kind != "Pod" || pod.APIVersion != "v1" {
		return nil, fmt.Errorf("manifest is a %s of %s, want a Pod of v1", pod.Kind, pod.APIVersion)
	}
	if err := check(pod); err != nil {
		return nil, err
	}
	if pod.UID == "" {
		sum := sha256.Sum256(append(raw, "\x00"+node+"\x00"+file...))
		pod.UID = types.UID(hex.EncodeToString(sum[:16]))
	}
	pod.Name += "-" + strings.ToLower(node)
	if pod.Namespace == "" {
		pod.Namespace = metav1.NamespaceDefault
	}
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[annotationHash] = string(pod.UID)
	pod.Annotations[annotationSource] = "file"
	pod.Annotations[annotationSeen] = seen.UTC().Format(time.RFC3339Nano)
	pod.Spec.NodeName = node
	pod.Spec.Tolerations = append(pod.Spec.Tolerations, v1.Toleration{Operator: v1.TolerationOpExists, Effect: v1.TaintEffectNoExecute})
	pod.Status = v1.PodStatus{Phase: v1.PodPending}
	fillIn(&pod.Spec)
	return pod, nil
}

// check refuses what cannot run. The API checks the rest once it gets to see
// the pod's mirror.
func check(pod *v1.Pod) error {
	if pod.Name == "" {
		return errors.New("invalid pod: name is needed for the pod")
	}
	if faults := validation.IsDNS1123Subdomain(pod.Name); len(faults) > 0 {
		return fmt.Errorf("invalid pod: name %q: %s", pod.Name, faults[0])
	}
	if pod.Namespace != "" {
		if faults := validation.IsDNS1123Label(pod.Namespace); len(faults) > 0 {
			return fmt.Errorf("invalid pod: namespace %q: %s", pod.Namespace, faults[0])
		}
	}
	if len(pod.Spec.Containers) == 0 {
		return errors.New("invalid pod: it has no containers")
	}
	seen := map[string]bool{}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			c := &list[i]
			if faults := validation.IsDNS1123Label(c.Name); len(faults) > 0 {
				return fmt.Errorf("invalid pod: container %q: %s", c.Name, faults[0])
			}
			if seen[c.Name] {
				return fmt.Errorf("invalid pod: two containers are called %q", c.Name)
			}
			seen[c.Name] = true
			if c.Image == "" {
				return fmt.Errorf("invalid pod: container %q has no image", c.Name)
			}
			if len(c.EnvFrom) > 0 {
				return fmt.Errorf("invalid pod: container %q takes its environment from objects of the API, which a static pod cannot", c.Name)
			}
		}
	}
	if len(pod.Spec.EphemeralContainers) > 0 {
		return errors.New("invalid pod: ephemeral containers cannot be part of a manifest")
	}
	if pod.Spec.ServiceAccountName != "" || len(pod.Spec.ResourceClaims) > 0 {
		return errors.New("invalid pod: a static pod has neither a service account nor resource claims")
	}
	for i := range pod.Spec.Volumes {
		source := &pod.Spec.Volumes[i].VolumeSource
		if source.Secret != nil || source.ConfigMap != nil || source.PersistentVolumeClaim != nil ||
			source.Projected != nil || source.Ephemeral != nil || source.CSI != nil {
			return fmt.Errorf("invalid pod: volume %q needs objects of the API, which a static pod cannot", pod.Spec.Volumes[i].Name)
		}
	}
	return nil
}

// fillIn gives a pod the defaults that the API would have given it.
func fillIn(spec *v1.PodSpec) {
	orElse(&spec.RestartPolicy, v1.RestartPolicyAlways)
	orElse(&spec.DNSPolicy, v1.DNSClusterFirst)
	orElse(&spec.SchedulerName, v1.DefaultSchedulerName)
	orElse(&spec.TerminationGracePeriodSeconds, ptr.To[int64](v1.DefaultTerminationGracePeriodSeconds))
	orElse(&spec.EnableServiceLinks, ptr.To(v1.DefaultEnableServiceLinks))
	orElse(&spec.SecurityContext, &v1.PodSecurityContext{})
	for i := range spec.Volumes {
		source := &spec.Volumes[i].VolumeSource
		switch {
		case source.HostPath != nil:
			orElse(&source.HostPath.Type, ptr.To(v1.HostPathUnset))
		case source.DownwardAPI != nil:
			orElse(&source.DownwardAPI.DefaultMode, ptr.To(v1.DownwardAPIVolumeSourceDefaultMode))
		case *source == (v1.VolumeSource{}):
			source.EmptyDir = &v1.EmptyDirVolumeSource{}
		}
	}
	for _, list := range [][]v1.Container{spec.InitContainers, spec.Containers} {
		for i := range list {
			fillInContainer(&list[i], spec.HostNetwork)
		}
	}
}

func fillInContainer(c *v1.Container, hostNetwork bool) {
	orElse(&c.TerminationMessagePath, v1.TerminationMessagePathDefault)
	orElse(&c.TerminationMessagePolicy, v1.TerminationMessageReadFile)
	name := c.Image[strings.LastIndex(c.Image, "/")+1:]
	switch {
	case strings.Contains(name, "@"), strings.Contains(name, ":") && !strings.HasSuffix(name, ":latest"):
		orElse(&c.ImagePullPolicy, v1.PullIfNotPresent)
	default:
		orElse(&c.ImagePullPolicy, v1.PullAlways)
	}
	for i := range c.Ports {
		orElse(&c.Ports[i].Protocol, v1.ProtocolTCP)
		if hostNetwork {
			orElse(&c.Ports[i].HostPort, c.Ports[i].ContainerPort)
		}
	}
	for name, limit := range c.Resources.Limits {
		if _, ok := c.Resources.Requests[name]; !ok {
			if c.Resources.Requests == nil {
				c.Resources.Requests = v1.ResourceList{}
			}
			c.Resources.Requests[name] = limit.DeepCopy()
		}
	}
	for i := range c.Env {
		if from := c.Env[i].ValueFrom; from != nil && from.FieldRef != nil {
			orElse(&from.FieldRef.APIVersion, "v1")
		}
	}
	for _, probe := range []*v1.Probe{c.LivenessProbe, c.ReadinessProbe, c.StartupProbe} {
		if probe == nil {
			continue
		}
		orElse(&probe.TimeoutSeconds, 1)
		orElse(&probe.PeriodSeconds, 10)
		orElse(&probe.SuccessThreshold, 1)
		orElse(&probe.FailureThreshold, 3)
		fillInHTTP(probe.HTTPGet)
		if probe.GRPC != nil {
			orElse(&probe.GRPC.Service, ptr.To(""))
		}
	}
	if c.Lifecycle != nil {
		for _, hook := range []*v1.LifecycleHandler{c.Lifecycle.PostStart, c.Lifecycle.PreStop} {
			if hook != nil {
				fillInHTTP(hook.HTTPGet)
			}
		}
	}
}

func fillInHTTP(get *v1.HTTPGetAction) {
	if get != nil {
		orElse(&get.Path, "/")
		orElse(&get.Scheme, v1.URISchemeHTTP)
	}
}

func orElse[T comparable](field *T, otherwise T) {
	var zero T
	if *field == zero {
		*field = otherwise
	}
}
