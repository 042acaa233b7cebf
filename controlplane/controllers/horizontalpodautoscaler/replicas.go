package horizontalpodautoscaler

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcehelpers "k8s.io/component-helpers/resource"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	// startup is how long the processor time of a pod that has just started is
	// looked at closely: starting is not load.
	startup = 5 * time.Minute
	// firstReady is how soon after its start a pod's last change of readiness
	// counts as its first: a pod that was unready by then never has been ready.
	firstReady = 30 * time.Second
)

var (
	errNoPods    = errors.New("no pods returned by selector while calculating replica count")
	errNoSamples = errors.New("did not receive metrics for targeted pods (pods might be unready)")
	errNoRequest = errors.New("no metrics returned matched known pods")
)

// sample is one measurement of a pod.
type sample struct {
	value  int64 // in thousandths
	at     time.Time
	window time.Duration // that it was measured over
}

// samples are those of pods, by name.
type samples map[string]sample

// tolerance is how far a ratio may be off 1 before anything is done.
type tolerance struct{ down, up float64 }

func (t tolerance) covers(ratio float64) bool { return 1-t.down <= ratio && ratio <= 1+t.up }

// sorted is what the samples of an autoscaler's pods are good for.
type sorted struct {
	usable           samples // of pods that take load
	ready            int     // pods that have a usable sample
	unready, missing []string
}

// sortPods tells apart pods that take load, that do not yet, and of which
// nothing is known. Those that go or have failed are left out. resource is
// empty for metrics that are none of a resource.
func sortPods(pods []*corev1.Pod, all samples, resource corev1.ResourceName, now time.Time) (sorted, error) {
	if len(pods) == 0 {
		return sorted{}, errNoPods
	}
	s := sorted{usable: maps.Clone(all)}
	for _, pod := range pods {
		measured, known := all[pod.Name]
		switch {
		case pod.DeletionTimestamp != nil || pod.Status.Phase == corev1.PodFailed:
			delete(s.usable, pod.Name)
		case pod.Status.Phase == corev1.PodPending:
			s.unready = append(s.unready, pod.Name)
			delete(s.usable, pod.Name)
		case !known:
			s.missing = append(s.missing, pod.Name)
		case resource == corev1.ResourceCPU && !settled(pod, measured, now):
			s.unready = append(s.unready, pod.Name)
			delete(s.usable, pod.Name)
		default:
			s.ready++
		}
	}
	if len(s.usable) == 0 {
		return s, errNoSamples
	}
	return s, nil
}

// settled reports whether a pod's processor time is that of its load, not of
// its start.
func settled(pod *corev1.Pod, measured sample, now time.Time) bool {
	ready := reconcile.PodCondition(pod, corev1.PodReady)
	if ready == nil || pod.Status.StartTime == nil {
		return false
	}
	since, unready := ready.LastTransitionTime.Time, ready.Status == corev1.ConditionFalse
	if pod.Status.StartTime.Add(startup).After(now) {
		return !unready && !measured.at.Before(since.Add(measured.window))
	}
	return !unready || !pod.Status.StartTime.Add(firstReady).After(since)
}

// size returns how many pods bring the ratio that measure finds down or up to 1.
// Pods that nothing is known of count for what keeps the answer careful: as
// fallback says on the way down, as idle on the way up.
func (s sorted) size(current int32, t tolerance, measure func(samples) (float64, error), fallback func(pod string) int64) (int32, error) {
	ratio, err := measure(s.usable)
	if err != nil {
		return 0, err
	}
	waiting := len(s.unready) > 0 && ratio > 1
	if !waiting && len(s.missing) == 0 {
		if t.covers(ratio) {
			return current, nil
		}
		return ceil(ratio * float64(s.ready)), nil
	}
	guessed := maps.Clone(s.usable)
	for _, pod := range s.missing {
		switch {
		case ratio < 1:
			guessed[pod] = sample{value: fallback(pod)}
		case ratio > 1:
			guessed[pod] = sample{}
		}
	}
	if waiting {
		for _, pod := range s.unready {
			guessed[pod] = sample{}
		}
	}
	careful, err := measure(guessed)
	if err != nil {
		return 0, err
	}
	if t.covers(careful) || (ratio < 1 && careful > 1) || (ratio > 1 && careful < 1) {
		return current, nil
	}
	size := ceil(careful * float64(len(guessed)))
	if (careful < 1 && size > current) || (careful > 1 && size < current) {
		return current, nil // guesses must not turn the direction
	}
	return size, nil
}

// average compares the average of s with target.
func average(s samples, target int64) (ratio float64, value int64) {
	total := int64(0)
	for _, m := range s {
		total += m.value
	}
	value = total / int64(len(s))
	return float64(value) / float64(target), value
}

// utilization compares what pods use with target percent of what they request.
func utilization(s samples, requests map[string]int64, target int32) (ratio float64, percent int32, value int64, err error) {
	var used, requested, pods int64
	for name, m := range s {
		if request, ok := requests[name]; ok {
			used, requested, pods = used+m.value, requested+request, pods+1
		}
	}
	if requested == 0 {
		return 0, 0, 0, errNoRequest
	}
	percent = int32(used * 100 / requested)
	return float64(percent) / float64(target), percent, used / pods, nil
}

// requestsOf returns what each pod, or one container of each, requests, in
// thousandths.
func requestsOf(pods []*corev1.Pod, container string, resource corev1.ResourceName) (map[string]int64, error) {
	requests := make(map[string]int64, len(pods))
	for _, pod := range pods {
		request, err := requestOf(pod, container, resource)
		if err != nil {
			return nil, err
		}
		requests[pod.Name] = request
	}
	return requests, nil
}

func requestOf(pod *corev1.Pod, container string, resource corev1.ResourceName) (int64, error) {
	if container == "" && resourcehelpers.IsPodLevelRequestsSet(pod) {
		q, ok := resourcehelpers.PodRequests(pod, resourcehelpers.PodResourcesOptions{})[resource]
		if !ok {
			return 0, fmt.Errorf("missing pod-level request for %s in Pod %s", resource, pod.Name)
		}
		return q.MilliValue(), nil
	}
	total, found := int64(0), container == ""
	count := func(c *corev1.Container) error {
		if container != "" && c.Name != container {
			return nil
		}
		q, ok := c.Resources.Requests[resource]
		if !ok {
			return fmt.Errorf("missing request for %s in container %s of Pod %s", resource, c.Name, pod.Name)
		}
		total, found = total+q.MilliValue(), true
		return nil
	}
	for i := range pod.Spec.Containers {
		if err := count(&pod.Spec.Containers[i]); err != nil {
			return 0, err
		}
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		if c.RestartPolicy == nil || *c.RestartPolicy != corev1.ContainerRestartPolicyAlways {
			continue
		}
		if err := count(c); err != nil {
			return 0, err
		}
	}
	if !found {
		return 0, fmt.Errorf("container %s not found in Pod %s", container, pod.Name)
	}
	return total, nil
}

// sizeByRatio is the size for a metric that is one value for all pods.
func sizeByRatio(current int32, ratio float64, t tolerance, pods []*corev1.Pod) (int32, error) {
	if current == 0 {
		return ceil(ratio), nil
	}
	if t.covers(ratio) {
		return current, nil
	}
	if len(pods) == 0 {
		return 0, fmt.Errorf("unable to calculate ready pods: %w", errNoPods)
	}
	ready := 0
	for _, pod := range pods {
		if pod.Status.Phase == corev1.PodRunning && reconcile.PodReady(pod) {
			ready++
		}
	}
	return ceil(ratio * float64(ready)), nil
}

// sizeByShare is the size at which each pod's share of usage is target; each is
// the share now.
func sizeByShare(current int32, usage, target int64, t tolerance) (size int32, each int64) {
	size = current
	if !t.covers(float64(usage) / (float64(target) * float64(current))) {
		size = ceil(float64(usage) / float64(target))
	}
	return size, ceil64(float64(usage) / float64(current))
}

// sum adds up values, none of which may overflow it.
func sum(values []int64) int64 {
	total := int64(0)
	for _, v := range values {
		if v > 0 && total > math.MaxInt64-v {
			return math.MaxInt64
		}
		total += v
	}
	return total
}

func ceil(f float64) int32 {
	return int32(min(ceil64(f), math.MaxInt32))
}

// ceil64 takes what is no number (a share of no pods) as the largest one.
func ceil64(f float64) int64 {
	if f = math.Ceil(f); f >= math.MaxInt64 || math.IsNaN(f) {
		return math.MaxInt64
	}
	return int64(f)
}
