package core

import (
	"context"
	"fmt"
	"strconv"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/warning"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
)

func podKind() api.Kind {
	kind := api.Define(api.Definition[*corev1.Pod]{
		GroupVersion: groupVersion, Kind: "Pod", Resource: "pods", Singular: "pod",
		ShortNames: []string{"po"}, Categories: []string{"all"},
		New:     func() *corev1.Pod { return &corev1.Pod{} },
		NewList: func() runtime.Object { return &corev1.PodList{} },

		Default:          defaultPod,
		PrepareForCreate: prepareNewPod,
		PrepareForUpdate: func(_ context.Context, pod, _ *corev1.Pod) { mirrorServiceAccount(pod) },
		Validate:         func(_ context.Context, pod *corev1.Pod) field.ErrorList { return validateNewPod(pod) },
		ValidateUpdate:   func(_ context.Context, pod, old *corev1.Pod) field.ErrorList { return validatePodUpdate(pod, old) },
		Warnings:         podWarnings,
		Spec:             func(pod *corev1.Pod) any { return pod.Spec },
		Status: &api.Status[*corev1.Pod]{
			Copy:         func(to, from *corev1.Pod) { to.Status = from.Status },
			Prepare:      preparePodStatus,
			Validate:     func(_ context.Context, pod, old *corev1.Pod) field.ErrorList { return validatePodStatus(pod, old) },
			Warnings:     podStatusWarnings,
			KeepMetadata: true,
		},
		GracefulDelete: podGracePeriod,
		ReturnDeleted:  true,

		Fields: podFields,
		FieldNames: []string{"spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName",
			"spec.hostNetwork", "status.phase", "status.podIP", "status.podIPs", "status.nominatedNodeName"},
		IndexFields: []string{"spec.nodeName"},
		Columns:     podColumns,
		Row:         podRow,
		Extend:      extendPods,
	})
	return registering{kind, registerPodOptions}
}

func podFields(pod *corev1.Pod) fields.Set {
	ip := pod.Status.PodIP
	if len(pod.Status.PodIPs) > 0 {
		ip = pod.Status.PodIPs[0].IP
	}
	return fields.Set{
		"spec.nodeName":            pod.Spec.NodeName,
		"spec.restartPolicy":       string(pod.Spec.RestartPolicy),
		"spec.schedulerName":       pod.Spec.SchedulerName,
		"spec.serviceAccountName":  pod.Spec.ServiceAccountName,
		"spec.hostNetwork":         strconv.FormatBool(pod.Spec.HostNetwork),
		"status.phase":             string(pod.Status.Phase),
		"status.podIP":             ip,
		"status.nominatedNodeName": pod.Status.NominatedNodeName,
	}
}

// mirrorServiceAccount keeps the old name of serviceAccountName, which
// admission may have set after defaulting.
func mirrorServiceAccount(pod *corev1.Pod) {
	pod.Spec.DeprecatedServiceAccount = pod.Spec.ServiceAccountName
}

func prepareNewPod(ctx context.Context, pod *corev1.Pod) {
	mirrorServiceAccount(pod)
	pod.Status = corev1.PodStatus{Phase: corev1.PodPending, QOSClass: QOSClass(pod)}
	if len(pod.Spec.SchedulingGates) > 0 {
		SetPodCondition(&pod.Status, corev1.PodCondition{
			Type: corev1.PodScheduled, Status: corev1.ConditionFalse, Reason: corev1.PodReasonSchedulingGated,
			Message: "Scheduling is blocked due to non-empty scheduling gates",
		})
	}
	mergeLabelKeys(pod)
	copyAppArmorAnnotations(ctx, pod)
}

// preparePodStatus keeps what a reporter that knows less leaves out.
func preparePodStatus(_ context.Context, pod, old *corev1.Pod) {
	now, was := &pod.Status, &old.Status
	if now.QOSClass == "" {
		now.QOSClass = was.QOSClass
	}
	if now.ObservedGeneration == 0 {
		now.ObservedGeneration = was.ObservedGeneration
	}
	seen := map[corev1.PodConditionType][]int64{}
	for _, c := range was.Conditions {
		seen[c.Type] = append(seen[c.Type], c.ObservedGeneration)
	}
	for i := range now.Conditions {
		c := &now.Conditions[i]
		if list := seen[c.Type]; len(list) > 0 {
			if c.ObservedGeneration == 0 {
				c.ObservedGeneration = list[0]
			}
			seen[c.Type] = list[1:]
		}
	}
	syncPodIPs(now)
	// Fields whose features are off.
	now.NodeAllocatableResourceClaimStatuses = nil
	for _, list := range [][]corev1.ContainerStatus{now.ContainerStatuses, now.InitContainerStatuses, now.EphemeralContainerStatuses} {
		for i := range list {
			for j := range list[i].VolumeMounts {
				list[i].VolumeMounts[j].VolumeStatus = nil
			}
		}
	}
}

// SetPodCondition puts a condition into a pod's status, with the time of its
// last transition, and reports whether that changed anything.
func SetPodCondition(status *corev1.PodStatus, condition corev1.PodCondition) bool {
	condition.LastTransitionTime = metav1.Now()
	for i := range status.Conditions {
		old := &status.Conditions[i]
		if old.Type != condition.Type {
			continue
		}
		if old.Status == condition.Status {
			condition.LastTransitionTime = old.LastTransitionTime
		}
		same := old.Status == condition.Status && old.Reason == condition.Reason && old.Message == condition.Message &&
			old.LastProbeTime.Equal(&condition.LastProbeTime)
		*old = condition
		return !same
	}
	status.Conditions = append(status.Conditions, condition)
	return true
}

// mergeLabelKeys writes the pod's own values of matchLabelKeys and
// mismatchLabelKeys into the selectors beside them.
func mergeLabelKeys(pod *corev1.Pod) {
	merge := func(selector *metav1.LabelSelector, keys []string, op metav1.LabelSelectorOperator) {
		if selector == nil {
			return
		}
		for _, k := range keys {
			if v, labelled := pod.Labels[k]; labelled {
				selector.MatchExpressions = append(selector.MatchExpressions, metav1.LabelSelectorRequirement{Key: k, Operator: op, Values: []string{v}})
			}
		}
	}
	term := func(t *corev1.PodAffinityTerm) {
		merge(t.LabelSelector, t.MatchLabelKeys, metav1.LabelSelectorOpIn)
		merge(t.LabelSelector, t.MismatchLabelKeys, metav1.LabelSelectorOpNotIn)
	}
	terms := func(must []corev1.PodAffinityTerm, like []corev1.WeightedPodAffinityTerm) {
		for i := range must {
			term(&must[i])
		}
		for i := range like {
			term(&like[i].PodAffinityTerm)
		}
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAffinity != nil {
		terms(a.PodAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	if a := pod.Spec.Affinity; a != nil && a.PodAntiAffinity != nil {
		terms(a.PodAntiAffinity.RequiredDuringSchedulingIgnoredDuringExecution, a.PodAntiAffinity.PreferredDuringSchedulingIgnoredDuringExecution)
	}
	for i := range pod.Spec.TopologySpreadConstraints {
		c := &pod.Spec.TopologySpreadConstraints[i]
		merge(c.LabelSelector, c.MatchLabelKeys, metav1.LabelSelectorOpIn)
	}
}

// copyAppArmorAnnotations turns the annotations that once named AppArmor
// profiles into the field that node agents read.
func copyAppArmorAnnotations(ctx context.Context, pod *corev1.Pod) {
	if isWindows(&pod.Spec) || len(pod.Annotations) == 0 {
		return
	}
	var whole *corev1.AppArmorProfile
	if pod.Spec.SecurityContext != nil {
		whole = pod.Spec.SecurityContext.AppArmorProfile
	}
	for c := range everyContainer(&pod.Spec, true) {
		said, annotated := pod.Annotations[corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix+c.Name]
		if !annotated || c.SecurityContext != nil && c.SecurityContext.AppArmorProfile != nil {
			continue
		}
		profile := appArmorProfile(said)
		valid := profile != nil && len(validateAppArmor(profile, nil)) == 0
		if valid && apiequality.Semantic.DeepEqual(profile, whole) {
			continue
		}
		warning.AddWarning(ctx, "", fmt.Sprintf("metadata.annotations[%s%s]: %s", corev1.DeprecatedAppArmorBetaContainerAnnotationKeyPrefix, c.Name, appArmorMoved))
		if !valid {
			continue
		}
		if c.SecurityContext == nil {
			c.SecurityContext = &corev1.SecurityContext{}
		}
		c.SecurityContext.AppArmorProfile = profile
	}
}

func appArmorProfile(annotation string) *corev1.AppArmorProfile {
	const local = corev1.DeprecatedAppArmorBetaProfileNamePrefix
	switch {
	case annotation == corev1.DeprecatedAppArmorBetaProfileNameUnconfined:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeUnconfined}
	case annotation == corev1.DeprecatedAppArmorBetaProfileRuntimeDefault:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}
	case len(annotation) > len(local) && annotation[:len(local)] == local:
		return &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeLocalhost, LocalhostProfile: ptr.To(annotation[len(local):])}
	}
	return nil
}

// podGracePeriod decides how long a pod may take to end: what the client says,
// or the pod; none at all where nothing runs that could end.
func podGracePeriod(_ context.Context, pod *corev1.Pod, options *metav1.DeleteOptions) bool {
	if options == nil {
		return false
	}
	period := ptr.Deref(options.GracePeriodSeconds, ptr.Deref(pod.Spec.TerminationGracePeriodSeconds, 0))
	ended := pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded
	if pod.Spec.NodeName == "" || ended {
		period = 0
	} else if period < 0 {
		period = 1
	}
	options.GracePeriodSeconds = &period
	return true
}

// podStatusWarnings tells of addresses in odd forms.
func podStatusWarnings(pod *corev1.Pod) (warnings []string) {
	path := field.NewPath("status")
	for i, a := range pod.Status.PodIPs {
		warnings = append(warnings, validation.GetWarningsForIP(path.Child("podIPs").Index(i).Child("ip"), a.IP)...)
	}
	for i, a := range pod.Status.HostIPs {
		warnings = append(warnings, validation.GetWarningsForIP(path.Child("hostIPs").Index(i).Child("ip"), a.IP)...)
	}
	return warnings
}

func podWarnings(_ context.Context, pod, old *corev1.Pod) []string {
	if old != nil {
		return nil
	}
	var warnings []string
	if faults := validation.IsDNS1123Label(pod.Name); len(faults) > 0 {
		warnings = append(warnings, fmt.Sprintf("metadata.name: this is used in the Pod's hostname, which can result in surprising behavior; a DNS label is recommended: %v", faults))
	}
	return append(warnings, PodTemplateWarnings(&corev1.PodTemplateSpec{ObjectMeta: pod.ObjectMeta, Spec: pod.Spec}, nil)...)
}

// QOSClass is the quality of service that a pod's requests and limits earn it.
func QOSClass(pod *corev1.Pod) corev1.PodQOSClass {
	lists := []*corev1.ResourceRequirements{pod.Spec.Resources}
	if pod.Spec.Resources == nil {
		lists = nil
		for c := range everyContainer(&pod.Spec, false) {
			lists = append(lists, &c.Resources)
		}
	}
	anything, guaranteed := false, true
	requests, limits := map[corev1.ResourceName]int64{}, map[corev1.ResourceName]int64{}
	for _, r := range lists {
		for _, n := range []corev1.ResourceName{corev1.ResourceCPU, corev1.ResourceMemory} {
			request, limit := r.Requests[n], r.Limits[n]
			anything = anything || request.Sign() > 0 || limit.Sign() > 0
			guaranteed = guaranteed && limit.Sign() > 0
			requests[n] += request.MilliValue()
			limits[n] += limit.MilliValue()
		}
	}
	for n := range requests {
		guaranteed = guaranteed && requests[n] == limits[n]
	}
	switch {
	case !anything:
		return corev1.PodQOSBestEffort
	case guaranteed:
		return corev1.PodQOSGuaranteed
	}
	return corev1.PodQOSBurstable
}
