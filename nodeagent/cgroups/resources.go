package cgroups

import (
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/kubectl/pkg/util/qos"
)

// Below these, what was asked for and what a cgroup shows cannot be told apart.
const (
	MinShares     = 2  // shares
	MinMilliLimit = 10 // thousandths of a CPU
)

// QuotaPeriod is what quotas are counted in, in microseconds.
const QuotaPeriod = 100_000

const (
	minShares = MinShares
	maxShares = 262144
	minQuota  = 1_000
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
	limit := limitOf(pod, c, v1.ResourceCPU)
	memory := limitOf(pod, c, v1.ResourceMemory)
	if _, requested := c.Resources.Requests[v1.ResourceCPU]; !requested {
		request = limit
	}
	r := amounts(request, limit, memory)
	r.OomScoreAdj = OOMScore(pod, c, memoryCapacity)
	withoutSwap(r)
	if hostHasHugetlb() {
		r.HugepageLimits = hugePageLimits(pod, c, HugePageSizes())
	}
	return r
}

// amounts are what the runtime sets for these. Where the kernel can (cgroups v2),
// a group that is out of memory dies as a whole: no container limps on without
// some of its processes.
func amounts(request, limit, memory *resource.Quantity) *criv1.LinuxContainerResources {
	r := &criv1.LinuxContainerResources{CpuShares: Shares(request.MilliValue()), MemoryLimitInBytes: memory.Value()}
	if !limit.IsZero() {
		r.CpuPeriod, r.CpuQuota = QuotaPeriod, quota(limit.MilliValue())
	}
	if hostIsUnified() {
		r.Unified = map[string]string{"memory.oom.group": "1"}
	}
	return r
}

// SandboxResources are what the runtime is told of a pod as a whole: what its
// containers have together, and what the sandbox takes besides.
func SandboxResources(pod *v1.Pod) (resources, overhead *criv1.LinuxContainerResources) {
	options := resourcehelper.PodResourcesOptions{ExcludeOverhead: true}
	requests, limits := resourcehelper.PodRequests(pod, options), resourcehelper.PodLimits(pod, options)
	request := requests.Cpu()
	if _, requested := requests[v1.ResourceCPU]; !requested {
		request = limits.Cpu()
	}
	overhead = &criv1.LinuxContainerResources{}
	if o := pod.Spec.Overhead; o != nil {
		overhead = amounts(o.Cpu(), o.Cpu(), o.Memory())
	}
	return amounts(request, limits.Cpu(), limits.Memory()), overhead
}

// Resources are the limits as the runtime is told of them, without what the pod's
// sandbox takes.
func (l Limits) Resources(pod *v1.Pod) *criv1.LinuxContainerResources {
	cpu, memory := pod.Spec.Overhead.Cpu().MilliValue(), pod.Spec.Overhead.Memory().Value()
	r := &criv1.LinuxContainerResources{CpuShares: Shares(MilliFromShares(l.CPUShares) - cpu)}
	if l.CPUQuota > 0 {
		r.CpuPeriod, r.CpuQuota = QuotaPeriod, l.CPUQuota-quota(cpu)
	}
	if l.Memory > 0 {
		r.MemoryLimitInBytes = l.Memory - memory
	}
	return r
}

// limitOf is the container's limit, or else the whole pod's.
func limitOf(pod *v1.Pod, c *v1.Container, name v1.ResourceName) *resource.Quantity {
	limit := c.Resources.Limits[name]
	if limit.IsZero() && pod.Spec.Resources != nil {
		limit = pod.Spec.Resources.Limits[name]
	}
	return &limit
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

// MilliFromShares turns cgroup v1 shares into thousandths of a CPU.
func MilliFromShares(shares int64) int64 { return (shares*1000 + 1023) / 1024 }

// MilliFromQuota turns a quota in each period into thousandths of a CPU; 0 is
// no limit.
func MilliFromQuota(quota, period int64) int64 {
	if quota <= 0 || period <= 0 {
		return 0
	}
	return quota * 1000 / period
}

func quota(milli int64) int64 {
	if milli == 0 {
		return 0
	}
	return max(milli*QuotaPeriod/1000, minQuota)
}
