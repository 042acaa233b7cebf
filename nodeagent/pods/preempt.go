package pods

import (
	"cmp"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"

	"clusterctl/nodeagent/cgroups"
	"clusterctl/nodeagent/eviction"
)

// What is said of a pod that had to go.
const (
	preemptReason  = "Preempting"
	preemptMessage = "Preempted in order to admit critical pod"
	preemptExcuse  = "Pod was preempted by Kubelet to accommodate a critical pod."
)

// preempt ends a pod in order to let a critical one in, which needs what is short.
func (a *Agent) preempt(pod *v1.Pod, short v1.ResourceName) {
	a.mu.Lock()
	w := a.workers[pod.UID]
	a.mu.Unlock()
	if w == nil {
		return
	}
	end := &End{Phase: v1.PodFailed, Reason: preemptReason, Message: preemptMessage, Grace: 30, Since: time.Now(),
		Disrupted: v1.PodReasonTerminationByKubelet, Excuse: preemptExcuse}
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		end.Grace = *g
	}
	if w.finishWith(end) {
		a.event(pod, "", v1.EventTypeWarning, preemptReason, preemptMessage)
		a.Metrics.Preempted(string(short))
	}
}

// victims are the pods that have to go for pod to have what is short: as few as
// can be, guaranteed ones last. It fails where all of them would not do. It is a
// pure function.
func victims(pod *v1.Pod, others []*v1.Pod, short []shortage) ([]*v1.Pod, error) {
	needs := need{}
	for _, s := range short {
		needs[s.name] = s.missing()
	}
	classes := map[v1.PodQOSClass][]*v1.Pod{}
	var all []*v1.Pod
	for _, other := range others {
		if preemptable(pod, other) {
			classes[cgroups.QOS(other)] = append(classes[cgroups.QOS(other)], other)
			all = append(all, other)
		}
	}
	if left := needs.without(all); len(left) > 0 {
		return nil, fmt.Errorf("no set of running pods found to reclaim resources: %s", left)
	}
	bestEffort, burstable := classes[v1.PodQOSBestEffort], classes[v1.PodQOSBurstable]
	guaranteed := nearest(classes[v1.PodQOSGuaranteed], needs.without(slices.Concat(bestEffort, burstable)))
	burstable = nearest(burstable, needs.without(slices.Concat(bestEffort, guaranteed)))
	bestEffort = nearest(bestEffort, needs.without(slices.Concat(burstable, guaranteed)))
	return slices.Concat(bestEffort, burstable, guaranteed), nil
}

// preemptable says that other has to go where pod cannot be otherwise.
func preemptable(pod, other *v1.Pod) bool {
	if eviction.Critical(pod) && !eviction.Critical(other) {
		return true
	}
	return pod.Spec.Priority != nil && other.Spec.Priority != nil && *pod.Spec.Priority > *other.Spec.Priority
}

// need is how much is missing of each resource, more than nothing.
type need map[v1.ResourceName]int64

// without is what is missing still when pods are gone.
func (n need) without(pods []*v1.Pod) need {
	left := need{}
	for name, missing := range n {
		for _, pod := range pods {
			missing -= requested(pod, name)
		}
		if missing > 0 {
			left[name] = missing
		}
	}
	return left
}

// distance is how far the end of pod is from meeting the need; each resource counts
// alike.
func (n need) distance(pod *v1.Pod) float64 {
	sum := 0.0
	for _, name := range slices.Sorted(maps.Keys(n)) { // in order, so that equals are equal
		missing := n[name]
		if left := float64(missing - requested(pod, name)); left > 0 {
			sum += left / float64(missing) * left / float64(missing)
		}
	}
	return sum
}

func (n need) String() string {
	var parts []string
	for name, missing := range n {
		parts = append(parts, fmt.Sprintf("(res: %s, q: %d), ", name, missing))
	}
	slices.Sort(parts)
	return "[" + strings.Join(parts, "") + "]"
}

// nearest takes one pod after the other that comes nearest to meeting the need, the
// smaller one where two come as near, until it is met.
func nearest(pods []*v1.Pod, n need) []*v1.Pod {
	pods = slices.Clone(pods)
	var chosen []*v1.Pod
	for len(n) > 0 && len(pods) > 0 {
		best := slices.MinFunc(pods, func(a, b *v1.Pod) int {
			return cmp.Or(cmp.Compare(n.distance(a), n.distance(b)),
				cmp.Compare(requested(a, v1.ResourceMemory), requested(b, v1.ResourceMemory)),
				cmp.Compare(requested(a, v1.ResourceCPU), requested(b, v1.ResourceCPU)), cmp.Compare(a.UID, b.UID))
		})
		chosen, n = append(chosen, best), n.without([]*v1.Pod{best})
		pods = slices.DeleteFunc(pods, func(pod *v1.Pod) bool { return pod == best })
	}
	return chosen
}

func requested(pod *v1.Pod, name v1.ResourceName) int64 {
	if name == v1.ResourcePods {
		return 1
	}
	return count(name, resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})[name])
}
