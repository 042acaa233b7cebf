package cgroups

import (
	v1 "k8s.io/api/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"
)

const (
	minShares   = 2
	maxShares   = 262144
	quotaPeriod = 100_000 // microseconds
	minQuota    = 1_000
)

// QOS is the pod's quality-of-service class.
func QOS(pod *v1.Pod) v1.PodQOSClass { return qos.GetPodQOS(pod) }

// Limits are what a cgroup allows. Zero values set nothing, save CPUShares.
type Limits struct {
	CPUShares int64 // as cgroup v1 counts them, 2 to 262144
	CPUQuota  int64 // microseconds in each 100 ms
	Memory    int64 // bytes
	PIDs      int64
}

// PodLimits are the limits of a pod's own cgroup: the sum of its containers'
// requests, and of their limits where every container has one.
func PodLimits(pod *v1.Pod) Limits {
	options := resourcehelper.PodResourcesOptions{}
	requests := resourcehelper.PodRequests(pod, options)
	limits := resourcehelper.PodLimits(pod, options)
	l := Limits{CPUShares: Shares(requests.Cpu().MilliValue())}
	if QOS(pod) == v1.PodQOSBestEffort {
		l.CPUShares = minShares
		return l
	}
	if everyContainerLimits(pod, v1.ResourceCPU) {
		l.CPUQuota = quota(limits.Cpu().MilliValue())
	}
	if everyContainerLimits(pod, v1.ResourceMemory) {
		l.Memory = limits.Memory().Value()
	}
	return l
}

func everyContainerLimits(pod *v1.Pod, name v1.ResourceName) bool {
	if pod.Spec.Resources != nil {
		if q, ok := pod.Spec.Resources.Limits[name]; ok && !q.IsZero() {
			return true
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			if q, ok := list[i].Resources.Limits[name]; !ok || q.IsZero() {
				return false
			}
		}
	}
	return true
}

// ContainerResources are what the runtime sets on the cgroup of container c.
// memoryCapacity is the node's, in bytes.
func ContainerResources(pod *v1.Pod, c *v1.Container, memoryCapacity int64) *criv1.LinuxContainerResources {
	request := c.Resources.Requests.Cpu()
	limit := c.Resources.Limits.Cpu()
	if _, requested := c.Resources.Requests[v1.ResourceCPU]; !requested {
		request = limit
	}
	r := &criv1.LinuxContainerResources{
		CpuShares:          Shares(request.MilliValue()),
		MemoryLimitInBytes: c.Resources.Limits.Memory().Value(),
		OomScoreAdj:        OOMScore(pod, c, memoryCapacity),
	}
	if !limit.IsZero() {
		r.CpuPeriod, r.CpuQuota = quotaPeriod, quota(limit.MilliValue())
	}
	return r
}

// OOMScore is the oom_score_adj of container c: the less it may claim to
// have been promised, the sooner it dies.
func OOMScore(pod *v1.Pod, c *v1.Container, memoryCapacity int64) int64 {
	const guaranteed, bestEffort = -997, 1000
	if pod.Spec.Priority != nil && *pod.Spec.Priority >= 2_000_001_000 {
		return guaranteed // system-node-critical
	}
	switch QOS(pod) {
	case v1.PodQOSGuaranteed:
		return guaranteed
	case v1.PodQOSBestEffort:
		return bestEffort
	}
	if memoryCapacity <= 0 {
		return bestEffort - 1
	}
	score := 1000 - 1000*c.Resources.Requests.Memory().Value()/memoryCapacity
	if c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways && len(pod.Spec.Containers) > 0 {
		least := pod.Spec.Containers[0].Resources.Requests.Memory().Value()
		for i := range pod.Spec.Containers {
			least = min(least, pod.Spec.Containers[i].Resources.Requests.Memory().Value())
		}
		score = min(score, 1000-1000*least/memoryCapacity) // a sidecar outlives those it serves
	}
	return min(max(score, 1000+guaranteed), bestEffort-1)
}

// Shares turns thousandths of a CPU into cgroup v1 shares.
func Shares(milli int64) int64 { return min(max(milli*1024/1000, minShares), maxShares) }

// Weight turns cgroup v1 shares into a cgroup v2 weight, 1 to 10000.
func Weight(shares int64) int64 { return 1 + (shares-minShares)*9999/(maxShares-minShares) }

func quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*quotaPeriod/1000, minQuota)
}
