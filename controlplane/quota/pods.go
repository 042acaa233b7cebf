package quota

import (
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	resourcehelper "k8s.io/component-helpers/resource"
	"k8s.io/utils/clock"

	"clusterctl/controlplane/api/core"
)

func newPodEvaluator(list generic.ListFuncByNamespace, now clock.PassiveClock) quota.Evaluator {
	return &evaluator{
		resource:    corev1.Resource("pods"),
		list:        list,
		handles:     handlesPod,
		matching:    podResources,
		scope:       podInScope,
		constraints: podConstraints,
		usage: func(object runtime.Object) (corev1.ResourceList, error) {
			pod, err := as[*corev1.Pod](object)
			if err != nil {
				return nil, err
			}
			return podUsage(pod, now.Now()), nil
		},
	}
}

// as gives the object its type.
func as[T runtime.Object](object runtime.Object) (T, error) {
	typed, ok := object.(T)
	if !ok {
		return typed, fmt.Errorf("measure for quota: expected a %T, got %T", typed, object)
	}
	return typed, nil
}

func handlesPod(a admission.Attributes) bool {
	switch a.GetSubresource() {
	case "":
		if a.GetOperation() != admission.Update {
			return a.GetOperation() == admission.Create
		}
		// Only a deadline can move a pod from one scope to another.
		pod, ok := a.GetObject().(*corev1.Pod)
		old, oldOK := a.GetOldObject().(*corev1.Pod)
		return ok && oldOK && terminating(pod) != terminating(old)
	case "resize":
		return a.GetOperation() == admission.Update
	}
	return false
}

const requestsPrefix = corev1.DefaultResourceRequestsPrefix

// podResources are those of names that pods use.
func podResources(names []corev1.ResourceName) []corev1.ResourceName {
	var matching []corev1.ResourceName
	for _, name := range names {
		switch name {
		case objectCount("pods"), corev1.ResourcePods,
			corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage,
			corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory, corev1.ResourceRequestsEphemeralStorage,
			corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory, corev1.ResourceLimitsEphemeralStorage:
			matching = append(matching, name)
			continue
		}
		requested, isRequest := strings.CutPrefix(string(name), requestsPrefix)
		switch {
		case strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix),
			strings.HasPrefix(string(name), corev1.ResourceRequestsHugePagesPrefix),
			isRequest && !native(name),
			isRequest && strings.HasPrefix(requested, resourcev1.ResourceDeviceClassPrefix):
			matching = append(matching, name)
		}
	}
	return matching
}

// native tells resources of Kubernetes from extended ones.
func native(name corev1.ResourceName) bool {
	return !strings.Contains(string(name), "/") || strings.Contains(string(name), corev1.ResourceDefaultNamespacePrefix)
}

// extended are resources that quotas know by the prefix of requests alone.
func extended(name corev1.ResourceName) bool {
	if strings.HasPrefix(string(name), resourcev1.ResourceDeviceClassPrefix) {
		return true
	}
	return !native(name) && !strings.HasPrefix(string(name), requestsPrefix) &&
		len(validation.IsQualifiedName(requestsPrefix+string(name))) == 0
}

// podUsage is what a pod uses: while it has not ended, what it asks for.
func podUsage(pod *corev1.Pod, now time.Time) corev1.ResourceList {
	usage := corev1.ResourceList{objectCount("pods"): count(1)}
	if ended(pod, now) {
		return usage
	}
	options := resourcehelper.PodResourcesOptions{UseStatusResources: true}
	return quota.Add(usage, computeUsage(resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options)))
}

// ended reports whether a pod has finished, or should have been gone by now:
// a lost node must not use up a quota.
func ended(pod *corev1.Pod, now time.Time) bool {
	if pod.Status.Phase == corev1.PodFailed || pod.Status.Phase == corev1.PodSucceeded {
		return true
	}
	if pod.DeletionTimestamp == nil || pod.DeletionGracePeriodSeconds == nil {
		return false
	}
	return now.After(pod.DeletionTimestamp.Add(time.Duration(*pod.DeletionGracePeriodSeconds) * time.Second))
}

func computeUsage(requests, limits corev1.ResourceList) corev1.ResourceList {
	usage := corev1.ResourceList{corev1.ResourcePods: count(1)}
	for name, quantity := range requests {
		switch {
		case name == corev1.ResourceCPU, name == corev1.ResourceMemory, name == corev1.ResourceEphemeralStorage,
			strings.HasPrefix(string(name), corev1.ResourceHugePagesPrefix):
			usage[name] = quantity
			usage[requestsPrefix+name] = quantity
		case extended(name):
			usage[requestsPrefix+name] = quantity
		}
	}
	for name, limit := range map[corev1.ResourceName]corev1.ResourceName{
		corev1.ResourceCPU:              corev1.ResourceLimitsCPU,
		corev1.ResourceMemory:           corev1.ResourceLimitsMemory,
		corev1.ResourceEphemeralStorage: corev1.ResourceLimitsEphemeralStorage,
	} {
		if quantity, ok := limits[name]; ok {
			usage[limit] = quantity
		}
	}
	return usage
}

// podConstraints wants every container to say how much CPU and memory it
// takes where a quota counts them, unless the pod does as a whole.
func podConstraints(required []corev1.ResourceName, object runtime.Object) error {
	pod, err := as[*corev1.Pod](object)
	if err != nil {
		return err
	}
	if resourcehelper.IsPodLevelResourcesSet(pod) {
		return nil
	}
	var missing []string
	for _, name := range slices.Sorted(slices.Values(required)) {
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceRequestsCPU, corev1.ResourceRequestsMemory,
			corev1.ResourceLimitsCPU, corev1.ResourceLimitsMemory:
		default:
			continue
		}
		var containers []string
		for _, c := range slices.Concat(pod.Spec.Containers, pod.Spec.InitContainers) {
			if _, ok := computeUsage(c.Resources.Requests, c.Resources.Limits)[name]; !ok {
				containers = append(containers, c.Name)
			}
		}
		if len(containers) > 0 {
			slices.Sort(containers)
			missing = append(missing, fmt.Sprintf("%s for: %s", name, strings.Join(slices.Compact(containers), ",")))
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("must specify %s", strings.Join(missing, "; "))
	}
	return nil
}

func podInScope(scope corev1.ScopedResourceSelectorRequirement, object runtime.Object) (bool, error) {
	pod, err := as[*corev1.Pod](object)
	if err != nil {
		return false, err
	}
	switch scope.ScopeName {
	case corev1.ResourceQuotaScopeTerminating:
		return terminating(pod), nil
	case corev1.ResourceQuotaScopeNotTerminating:
		return !terminating(pod), nil
	case corev1.ResourceQuotaScopeBestEffort:
		return core.QOSClass(pod) == corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopeNotBestEffort:
		return core.QOSClass(pod) != corev1.PodQOSBestEffort, nil
	case corev1.ResourceQuotaScopePriorityClass:
		return selects(scope, pod.Spec.PriorityClassName)
	case corev1.ResourceQuotaScopeCrossNamespacePodAffinity:
		return crossesNamespaces(pod.Spec.Affinity), nil
	}
	return false, nil
}

func terminating(pod *corev1.Pod) bool {
	return pod.Spec.ActiveDeadlineSeconds != nil && *pod.Spec.ActiveDeadlineSeconds >= 0
}

// selects reports whether a scope selects one of values; "" is none.
func selects(scope corev1.ScopedResourceSelectorRequirement, values ...string) (bool, error) {
	operator, ok := map[corev1.ScopeSelectorOperator]selection.Operator{
		corev1.ScopeSelectorOpIn: selection.In, corev1.ScopeSelectorOpNotIn: selection.NotIn,
		corev1.ScopeSelectorOpExists: selection.Exists, corev1.ScopeSelectorOpDoesNotExist: selection.DoesNotExist,
	}[scope.Operator]
	if !ok {
		return false, fmt.Errorf("%q is not a valid scope selector operator", scope.Operator)
	}
	requirement, err := labels.NewRequirement(string(scope.ScopeName), operator, scope.Values)
	if err != nil {
		return false, fmt.Errorf("parse scope selector: %w", err)
	}
	values = slices.DeleteFunc(values, func(v string) bool { return v == "" })
	if len(values) == 0 {
		return requirement.Matches(labels.Set{}), nil
	}
	return slices.ContainsFunc(values, func(v string) bool {
		return requirement.Matches(labels.Set{string(scope.ScopeName): v})
	}), nil
}

func crossesNamespaces(affinity *corev1.Affinity) bool {
	if affinity == nil {
		return false
	}
	var terms []corev1.PodAffinityTerm
	var weighted []corev1.WeightedPodAffinityTerm
	if a := affinity.PodAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	if a := affinity.PodAntiAffinity; a != nil {
		terms = append(terms, a.RequiredDuringSchedulingIgnoredDuringExecution...)
		weighted = append(weighted, a.PreferredDuringSchedulingIgnoredDuringExecution...)
	}
	for _, w := range weighted {
		terms = append(terms, w.PodAffinityTerm)
	}
	return slices.ContainsFunc(terms, func(t corev1.PodAffinityTerm) bool {
		return len(t.Namespaces) > 0 || t.NamespaceSelector != nil
	})
}
