package core

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
)

// DeprecatedNodeLabels tells of labels that selectors of nodes should not use
// any more what to use.
var DeprecatedNodeLabels = map[string]string{
	"beta.kubernetes.io/arch":                       `deprecated since v1.14; use "kubernetes.io/arch" instead`,
	"beta.kubernetes.io/os":                         `deprecated since v1.14; use "kubernetes.io/os" instead`,
	"failure-domain.beta.kubernetes.io/region":      `deprecated since v1.17; use "topology.kubernetes.io/region" instead`,
	"failure-domain.beta.kubernetes.io/zone":        `deprecated since v1.17; use "topology.kubernetes.io/zone" instead`,
	"beta.kubernetes.io/instance-type":              `deprecated since v1.17; use "node.kubernetes.io/instance-type" instead`,
	"app.kubernetes.io/created-by":                  `deprecated since v1.9`,
	"scheduler.alpha.kubernetes.io/preferAvoidPods": `deprecated since v1.22; use Taints and Tolerations instead`,
	"node-role.kubernetes.io/master":                `use "node-role.kubernetes.io/control-plane" instead`,
}

const matchesNoPod = "a null labelSelector results in matching no pod"

// warner collects warnings about what works, but hardly as meant.
type warner struct{ list []string }

func (w *warner) add(path *field.Path, format string, args ...any) {
	w.list = append(w.list, path.String()+": "+fmt.Sprintf(format, args...))
}

// PodTemplateWarnings tells what of a template works, but hardly as meant;
// path is the template's, nil for a pod.
func PodTemplateWarnings(template *corev1.PodTemplateSpec, path *field.Path) []string {
	w, spec, at := &warner{}, &template.Spec, path.Child("spec")
	w.placement(spec, at)
	for _, old := range []struct{ key, instead string }{
		{"scheduler.alpha.kubernetes.io/critical-pod", `non-functional in v1.16+; use the "priorityClassName" field instead`},
		{"security.alpha.kubernetes.io/sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
		{"security.alpha.kubernetes.io/unsafe-sysctls", `non-functional in v1.11+; use the "sysctls" field instead`},
	} {
		if _, set := template.Annotations[old.key]; set {
			w.add(path.Child("metadata", "annotations").Key(old.key), "%s", old.instead)
		}
	}
	w.volumes(spec.Volumes, at.Child("volumes"))
	w.names(spec, at)
	for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
		w.fraction(spec.Overhead, name, at.Child("overhead"))
	}
	w.annotations(template, path)
	w.ports(spec, at)
	if s := spec.TerminationGracePeriodSeconds; s != nil && *s < 0 {
		w.add(at.Child("terminationGracePeriodSeconds"), "must be >= 0; negative values are invalid and will be treated as 1")
	}
	if a := spec.Affinity; a != nil && a.PodAffinity != nil {
		w.podTerms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("affinity", "podAffinity"))
	}
	if a := spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		w.podTerms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution, at.Child("affinity", "podAntiAffinity"))
	}
	if spec.DNSConfig != nil {
		for i, ip := range spec.DNSConfig.Nameservers {
			w.list = append(w.list, validation.GetWarningsForIP(at.Child("dnsConfig", "nameservers").Index(i), ip)...)
		}
	}
	for i, alias := range spec.HostAliases {
		w.list = append(w.list, validation.GetWarningsForIP(at.Child("hostAliases").Index(i).Child("ip"), alias.IP)...)
	}
	return w.list
}

// NameWarnings tells that pods' host names derive from the object's name.
func NameWarnings(name string) []string {
	faults := validation.IsDNS1123Label(name)
	if len(faults) == 0 {
		return nil
	}
	return []string{fmt.Sprintf("metadata.name: this is used in Pod names and hostnames, which can result in surprising behavior; a DNS label is recommended: %v", faults)}
}

// placement looks at what chooses nodes.
func (w *warner) placement(spec *corev1.PodSpec, path *field.Path) {
	for _, label := range slices.Sorted(maps.Keys(spec.NodeSelector)) {
		if text, old := DeprecatedNodeLabels[label]; old {
			w.add(path.Child("nodeSelector").Key(label), "%s", text)
		}
	}
	if a := spec.Affinity; a != nil && a.NodeAffinity != nil {
		at := path.Child("affinity", "nodeAffinity")
		if required := a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution; required != nil {
			for i, term := range required.NodeSelectorTerms {
				w.nodeTerm(term, false, at.Child("requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms").Index(i))
			}
		}
		for i, term := range a.NodeAffinity.PreferredDuringSchedulingIgnoredDuringExecution {
			w.nodeTerm(term.Preference, true, at.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("preference"))
		}
	}
	for i, c := range spec.TopologySpreadConstraints {
		at := path.Child("topologySpreadConstraints").Index(i)
		if text, old := DeprecatedNodeLabels[c.TopologyKey]; old {
			w.add(at.Child("topologyKey"), "%s is %s", c.TopologyKey, text)
		}
		if c.LabelSelector == nil {
			w.add(at.Child("labelSelector"), matchesNoPod)
		}
	}
}

// nodeTerm looks at a term's labels, and at the values that it wants if those
// were not validated.
func (w *warner) nodeTerm(term corev1.NodeSelectorTerm, values bool, path *field.Path) {
	for i, e := range term.MatchExpressions {
		at := path.Child("matchExpressions").Index(i)
		if text, old := DeprecatedNodeLabels[e.Key]; old {
			w.add(at.Child("key"), "%s is %s", e.Key, text)
		}
		for j := 0; values && j < len(e.Values); j++ {
			for _, fault := range validation.IsValidLabelValue(e.Values[j]) {
				w.add(at.Child("values").Index(j), "%s is invalid, %s", e.Values[j], fault)
			}
		}
	}
}

func (w *warner) podTerms(required []corev1.PodAffinityTerm, preferred []corev1.WeightedPodAffinityTerm, path *field.Path) {
	for i, term := range required {
		if term.LabelSelector == nil {
			w.add(path.Child("requiredDuringSchedulingIgnoredDuringExecution").Index(i).Child("labelSelector"), matchesNoPod)
		}
	}
	for i, term := range preferred {
		if term.PodAffinityTerm.LabelSelector == nil {
			w.add(path.Child("preferredDuringSchedulingIgnoredDuringExecution").Index(i).Child("podAffinityTerm", "labelSelector"), matchesNoPod)
		}
	}
}

// names looks for names and addresses that are there twice, or empty.
func (w *warner) names(spec *corev1.PodSpec, path *field.Path) {
	seen := map[string]bool{}
	for i, alias := range spec.HostAliases {
		if seen[alias.IP] {
			w.add(path.Child("hostAliases").Index(i).Child("ip"), "duplicate ip %q", alias.IP)
		}
		seen[alias.IP] = true
	}
	secrets, at := map[string]bool{}, path.Child("imagePullSecrets")
	for i, s := range spec.ImagePullSecrets {
		if secrets[s.Name] {
			w.add(at.Index(i).Child("name"), "duplicate name %q", s.Name)
		}
		secrets[s.Name] = true
	}
	for i, s := range spec.ImagePullSecrets {
		if s.Name == "" {
			w.add(at.Index(i).Child("name"), "invalid empty name %q", s.Name)
		}
	}
}

func (w *warner) fraction(list corev1.ResourceList, name corev1.ResourceName, path *field.Path) {
	if q, set := list[name]; set && q.MilliValue()%1000 != 0 {
		w.add(path.Key(string(name)), "fractional byte value %q is invalid, must be an integer", q.String())
	}
}

// annotations looks at annotations that became fields, and at what stands
// beside those fields in containers.
func (w *warner) annotations(template *corev1.PodTemplateSpec, path *field.Path) {
	const seccomp = `non-functional in v1.27+; use the "seccompProfile" field instead`
	notes, whole := path.Child("metadata", "annotations"), template.Spec.SecurityContext
	warn := func(key, text string) {
		if _, set := template.Annotations[key]; set {
			w.add(notes.Key(key), "%s", text)
		}
	}
	if whole == nil || whole.SeccompProfile == nil {
		warn(corev1.SeccompPodAnnotationKey, seccomp)
	}
	for c, at := range everyContainerAt(&template.Spec, path.Child("spec")) {
		if c.SecurityContext == nil || c.SecurityContext.SeccompProfile == nil {
			warn(corev1.SeccompContainerAnnotationKeyPrefix+c.Name, seccomp)
		}
		// Pods are warned when the annotation is copied to the field.
		if path != nil && (c.SecurityContext == nil || c.SecurityContext.AppArmorProfile == nil) {
			key := corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix + c.Name
			if whole == nil || whole.AppArmorProfile == nil || !apiequality.Semantic.DeepEqual(whole.AppArmorProfile, appArmorProfile(template.Annotations[key])) {
				warn(key, appArmorMoved)
			}
		}
		for _, name := range []corev1.ResourceName{corev1.ResourceMemory, corev1.ResourceEphemeralStorage} {
			w.fraction(c.Resources.Limits, name, at.Child("resources", "limits"))
			w.fraction(c.Resources.Requests, name, at.Child("resources", "requests"))
		}
		w.environment(c.Env, at.Child("env"))
	}
}

const appArmorMoved = `deprecated since v1.30; use the "appArmorProfile" field instead`

// environment looks for variables that hide others, unless they build on them.
func (w *warner) environment(list []corev1.EnvVar, path *field.Path) {
	seen := map[string]bool{}
	for i, e := range list {
		itself := "$(" + e.Name + ")"
		if seen[e.Name] && (e.ValueFrom != nil || e.Value == itself || !strings.Contains(e.Value, itself)) {
			w.add(path.Index(i), "hides previous definition of %q, which may be dropped when using apply", e.Name)
		}
		seen[e.Name] = true
	}
}

// ports looks for ports that collide within the pod.
func (w *warner) ports(spec *corev1.PodSpec, path *field.Path) {
	type place struct {
		path *field.Path
		port corev1.ContainerPort
	}
	places := map[string][]place{}
	for c, at := range everyContainerAt(spec, path) {
		for i, p := range c.Ports {
			here := place{at.Child("ports").Index(i), p}
			if p.HostIP != "" && p.HostPort == 0 {
				w.add(here.path, "hostIP set without hostPort: %+v", p)
			}
			key := fmt.Sprintf("%d/%s", p.ContainerPort, p.Protocol)
			for _, other := range places[key] {
				switch o := other.port; {
				case p.HostIP == o.HostIP && p.HostPort == o.HostPort:
					w.add(here.path, "duplicate port definition with %s", other.path)
				case p.HostPort == 0 || o.HostPort == 0:
					w.add(here.path, "overlapping port definition with %s", other.path)
				case p.HostPort == o.HostPort && (p.HostIP == "") != (o.HostIP == ""):
					w.add(here.path, "dangerously ambiguous port definition with %s", other.path)
				}
			}
			places[key] = append(places[key], here)
		}
	}
	named := map[string]*field.Path{}
	for c, at := range everyContainerAt(spec, path) {
		for i, p := range c.Ports {
			here := at.Child("ports").Index(i)
			if first := named[p.Name]; first != nil {
				w.add(here, "duplicate port name %q with %s, services and probes that select ports by name will use %s", p.Name, first, first)
			} else if p.Name != "" {
				named[p.Name] = here
			}
		}
	}
}
