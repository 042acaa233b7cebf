package core

import (
	"fmt"
	"math"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/util/diff"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

const changeable = "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`," +
	"`spec.tolerations` (only additions to existing tolerations)," +
	"`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"

// validatePodUpdate checks a change of the pod itself: of its spec, little may
// change.
func validatePodUpdate(pod, old *corev1.Pod) field.ErrorList {
	path := field.NewPath("spec")
	errs := append(validatePod(pod), validateAnnotationChange(pod, old)...)
	for _, l := range []struct {
		name     string
		now, old []corev1.Container
	}{{"containers", pod.Spec.Containers, old.Spec.Containers}, {"initContainers", pod.Spec.InitContainers, old.Spec.InitContainers}} {
		if len(l.now) != len(l.old) {
			return append(errs, field.Forbidden(path.Child(l.name), "pod updates may not add or remove containers"))
		}
	}
	deadline := path.Child("activeDeadlineSeconds")
	switch now, was := pod.Spec.ActiveDeadlineSeconds, old.Spec.ActiveDeadlineSeconds; {
	case now == nil && was != nil:
		errs = append(errs, field.Invalid(deadline, now, "must not update from a positive integer to nil value"))
	case now != nil && (*now < 0 || *now > math.MaxInt32):
		return append(errs, field.Invalid(deadline, *now, validation.InclusiveRangeError(0, math.MaxInt32)))
	case now != nil && was != nil && *was < *now:
		return append(errs, field.Invalid(deadline, *now, "must be less than or equal to previous value"))
	}
	errs = append(errs, validateAddedTolerations(pod.Spec.Tolerations, old.Spec.Tolerations, path.Child("tolerations"))...)
	for i, g := range pod.Spec.SchedulingGates {
		if !slices.Contains(old.Spec.SchedulingGates, g) {
			errs = append(errs, field.Forbidden(path.Child("schedulingGates").Index(i).Child("name"), fmt.Sprintf("only deletion is allowed, but found new scheduling gate '%s'", g.Name)))
		}
	}
	if apiequality.Semantic.DeepEqual(pod.Spec, old.Spec) {
		return errs
	}
	// What may change is set back; then nothing may differ.
	rest := pod.Spec.DeepCopy()
	for i := range rest.Containers {
		rest.Containers[i].Image = old.Spec.Containers[i].Image
	}
	for i := range rest.InitContainers {
		rest.InitContainers[i].Image = old.Spec.InitContainers[i].Image
	}
	rest.ActiveDeadlineSeconds = old.Spec.ActiveDeadlineSeconds
	rest.SchedulingGates = old.Spec.SchedulingGates
	rest.Tolerations = old.Spec.Tolerations
	if len(old.Spec.SchedulingGates) > 0 {
		errs = append(errs, narrowGated(rest, &old.Spec, path)...)
	}
	if !apiequality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(path, fmt.Sprintf("pod updates may not change fields other than %s\n%v", changeable, diff.Diff(api.Shown(old.Spec), api.Shown(*rest)))))
	}
	return errs
}

// narrowGated allows a pod that still has scheduling gates to be narrowed down
// to fewer nodes, and sets what it allows back to the old.
func narrowGated(rest, old *corev1.PodSpec, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	for k, v := range old.NodeSelector {
		if now, kept := rest.NodeSelector[k]; !kept || now != v {
			errs = append(errs, field.Invalid(path.Child("nodeSelector"), rest.NodeSelector, "only additions to spec.nodeSelector are allowed (no mutations or deletions)"))
			break
		}
	}
	rest.NodeSelector = old.NodeSelector

	affinity := func(s *corev1.PodSpec) *corev1.NodeAffinity {
		if s.Affinity == nil {
			return nil
		}
		return s.Affinity.NodeAffinity
	}
	terms := func(a *corev1.NodeAffinity) []corev1.NodeSelectorTerm {
		if a == nil || a.RequiredDuringSchedulingIgnoredDuringExecution == nil {
			return nil
		}
		return a.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	}
	now, was := affinity(rest), affinity(old)
	if apiequality.Semantic.DeepEqual(now, was) {
		return errs
	}
	at := path.Child("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution", "nodeSelectorTerms")
	nowTerms, wasTerms := terms(now), terms(was)
	if len(wasTerms) > 0 && len(wasTerms) != len(nowTerms) {
		errs = append(errs, field.Invalid(at, nowTerms, "no additions/deletions to non-empty NodeSelectorTerms list are allowed"))
	} else {
		for i := range wasTerms {
			if !onlyAdds(nowTerms[i], wasTerms[i]) {
				errs = append(errs, field.Invalid(at.Index(i), nowTerms[i], "only additions are allowed (no mutations or deletions)"))
			}
		}
	}
	switch {
	case rest.Affinity == nil:
		rest.Affinity = &corev1.Affinity{NodeAffinity: was}
	case old.Affinity == nil && rest.Affinity.PodAffinity == nil && rest.Affinity.PodAntiAffinity == nil:
		rest.Affinity = nil
	default:
		rest.Affinity.NodeAffinity = was
	}
	return errs
}

// onlyAdds says whether a term has all of the old one's requirements, in
// place, and maybe more. A term without any selects nothing and stays so.
func onlyAdds(now, was corev1.NodeSelectorTerm) bool {
	if len(was.MatchExpressions)+len(was.MatchFields) == 0 {
		return len(now.MatchExpressions)+len(now.MatchFields) == 0
	}
	starts := func(now, was []corev1.NodeSelectorRequirement) bool {
		return len(now) >= len(was) && apiequality.Semantic.DeepEqual(now[:len(was)], was)
	}
	return starts(now.MatchExpressions, was.MatchExpressions) && starts(now.MatchFields, was.MatchFields)
}

func validateAddedTolerations(now, was []corev1.Toleration, path *field.Path) field.ErrorList {
	for _, old := range was {
		if !slices.ContainsFunc(now, func(t corev1.Toleration) bool {
			t.TolerationSeconds = old.TolerationSeconds
			return t == old
		}) {
			return field.ErrorList{field.Forbidden(path, "existing toleration can not be modified except its tolerationSeconds")}
		}
	}
	return nil
}

// validateAnnotationChange keeps annotations that describe how the pod came
// to be.
func validateAnnotationChange(pod, old *corev1.Pod) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("metadata", "annotations")
	for _, key := range sets.List(sets.KeySet(pod.Annotations).Union(sets.KeySet(old.Annotations))) {
		what := ""
		switch {
		case key == corev1.MirrorPodAnnotationKey:
			what = "mirror pod annotation"
		case strings.HasPrefix(key, corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix):
			what = "AppArmor annotations"
		default:
			continue
		}
		was, had := old.Annotations[key]
		now, has := pod.Annotations[key]
		if !had {
			errs = append(errs, field.Forbidden(path.Key(key), "may not add "+what))
		} else if !has || now != was {
			errs = append(errs, field.Forbidden(path.Key(key), "may not remove or update "+what))
		}
	}
	return errs
}

// validateEphemeralUpdate checks an update of the ephemeral containers, which
// may only grow in number.
func validateEphemeralUpdate(pod, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods do not support ephemeral containers")}
	}
	errs := append(validatePod(pod), validateAnnotationChange(pod, old)...)
	path := field.NewPath("spec", "ephemeralContainers")
	for _, was := range old.Spec.EphemeralContainers {
		i := slices.IndexFunc(pod.Spec.EphemeralContainers, func(c corev1.EphemeralContainer) bool { return c.Name == was.Name })
		if i < 0 {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be removed\n", was.Name)))
		} else if now := pod.Spec.EphemeralContainers[i]; !apiequality.Semantic.DeepEqual(was, now) {
			errs = append(errs, field.Forbidden(path, fmt.Sprintf("existing ephemeral containers %q may not be changed\n%v", was.Name, diff.Diff(api.Shown(was), api.Shown(now)))))
		}
	}
	return errs
}

// validateResize checks a change of a running pod's cpu and memory.
func validateResize(pod, old *corev1.Pod) field.ErrorList {
	if _, static := old.Annotations[corev1.MirrorPodAnnotationKey]; static {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "static pods cannot be resized")}
	}
	if isWindows(&old.Spec) {
		return field.ErrorList{field.Forbidden(field.NewPath(""), "windows pods cannot be resized")}
	}
	path := field.NewPath("spec")
	errs := validatePod(pod)
	if QOSClass(old) != QOSClass(pod) {
		errs = append(errs, field.Invalid(path, pod.Status.QOSClass, "Pod QOS Class may not change as a result of resizing"))
	}
	if i := slices.IndexFunc(old.Status.ContainerStatuses, func(s corev1.ContainerStatus) bool { return s.State.Running != nil }); i >= 0 && old.Status.ContainerStatuses[i].Resources == nil {
		errs = append(errs, field.Forbidden(path, "Pod running on node without support for resize"))
	}
	rest := pod.Spec.DeepCopy()
	removed := func(now, was *corev1.ResourceRequirements, path *field.Path, what string) {
		if lacks(now.Requests, was.Requests) {
			errs = append(errs, field.Forbidden(path.Child("requests"), what+" requests cannot be removed"))
		}
		if lacks(now.Limits, was.Limits) {
			errs = append(errs, field.Forbidden(path.Child("limits"), what+" limits cannot be removed"))
		}
	}
	if was := old.Spec.Resources; was != nil || rest.Resources != nil {
		if rest.Resources == nil {
			return append(errs, field.Forbidden(path.Child("resources"), "pod-level resources cannot be removed"))
		}
		if was != nil {
			removed(rest.Resources, was, path.Child("resources"), "pod-level resource")
		}
		unresize(rest.Resources, ptr.Deref(was, corev1.ResourceRequirements{}))
		if !apiequality.Semantic.DeepEqual(*rest.Resources, ptr.Deref(was, corev1.ResourceRequirements{})) {
			errs = append(errs, field.Forbidden(path, "only cpu and memory resources are mutable at pod-level"))
		}
		rest.Resources = was
	}
	order := append(sameOrder("containers", rest.Containers, old.Spec.Containers, path.Child("containers")),
		sameOrder("initContainers", rest.InitContainers, old.Spec.InitContainers, path.Child("initContainers"))...)
	if len(order) > 0 {
		return append(errs, order...)
	}
	for _, l := range []struct {
		name     string
		now, was []corev1.Container
		rigid    string
	}{
		{"initContainers", rest.InitContainers, old.Spec.InitContainers, "only cpu and memory resources for init or sidecar containers are mutable"},
		{"containers", rest.Containers, old.Spec.Containers, "only cpu and memory resources are mutable"},
	} {
		at := path.Child(l.name)
		for i := range l.now {
			removed(&l.now[i].Resources, &l.was[i].Resources, at.Index(i).Child("resources"), "resource")
			unresize(&l.now[i].Resources, l.was[i].Resources)
			if !apiequality.Semantic.DeepEqual(l.now[i], l.was[i]) {
				if l.name == "containers" {
					errs = append(errs, field.Forbidden(path, l.rigid))
				} else {
					errs = append(errs, field.Forbidden(at.Index(i), l.rigid))
				}
			}
		}
	}
	if len(errs) == 0 && !apiequality.Semantic.DeepEqual(*rest, old.Spec) {
		errs = append(errs, field.Forbidden(path, "only cpu and memory resources are mutable"))
	}
	return errs
}

// sameOrder says which containers are not those that they were.
func sameOrder(name string, now, was []corev1.Container, path *field.Path) (errs field.ErrorList) {
	if len(now) != len(was) {
		return field.ErrorList{field.Forbidden(path, name+" may not be added or removed on resize")}
	}
	for i := range now {
		if now[i].Name != was[i].Name {
			errs = append(errs, field.Forbidden(path.Index(i).Child("name"), name+" may not be renamed or reordered on resize"))
		}
	}
	return errs
}

// unresize sets cpu and memory back to what they were.
func unresize(now *corev1.ResourceRequirements, was corev1.ResourceRequirements) {
	back := func(now, was corev1.ResourceList) corev1.ResourceList {
		list := corev1.ResourceList{}
		for n, q := range now {
			list[n] = q
		}
		for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			delete(list, n)
			if q, had := was[n]; had {
				list[n] = q
			}
		}
		return list
	}
	now.Limits, now.Requests = back(now.Limits, was.Limits), back(now.Requests, was.Requests)
}

func lacks(now, was corev1.ResourceList) bool {
	for n := range was {
		if _, kept := now[n]; !kept {
			return true
		}
	}
	return false
}
