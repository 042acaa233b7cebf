package eviction

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"
)

// Usage is what a pod uses, in bytes and counts.
type Usage struct {
	Memory     int64
	Layers     Space // what containers wrote to their own file systems
	Local      Space // logs, and volumes on the node's disk
	Processes  int64
	Containers map[string]ContainerUsage
	EmptyDirs  map[string]int64 // by volume, those on disk
}

// ContainerUsage is what one container uses, in bytes.
type ContainerUsage struct {
	Memory, Disk int64 // Disk: what it wrote, and its logs
}

// Space is room on a disk.
type Space struct{ Bytes, Inodes int64 }

// Layout says which disk is which. The zero Layout is a host with one.
type Layout struct {
	ImagesApart bool // images are not on the node's disk
	LayersApart bool // what containers write is not on the node's disk
}

// freesImages says that what ran short is on the disk of images.
func (l Layout) freesImages(s Signal) bool {
	switch s {
	case NodeDisk, NodeInodes:
		return !l.ImagesApart
	case ImageDisk, ImageInodes:
		return true
	}
	return false
}

// of is what the pod uses of what the signal measures: of disks, what lies on the one
// that ran short.
func (u Usage) of(s Signal, l Layout) int64 {
	switch s {
	case Memory, PodsMemory:
		return u.Memory
	case PIDs:
		return u.Processes
	}
	layers, local := !l.LayersApart, true // on the node's disk
	if s == ImageDisk || s == ImageInodes {
		layers, local = l.LayersApart == l.ImagesApart, !l.ImagesApart
	}
	var sum Space
	if layers {
		sum = u.Layers
	}
	if local {
		sum.Bytes += u.Local.Bytes
		sum.Inodes += u.Local.Inodes
	}
	if s == NodeInodes || s == ImageInodes {
		return sum.Inodes
	}
	return sum.Bytes
}

// Pod is a pod that runs, and what it uses.
type Pod struct {
	*v1.Pod
	Usage
}

// Rank sorts pods, the first to be evicted first: those that use more of the
// resource than they asked for, those of the lowest priority, those that are
// the furthest beyond what they asked for. Nobody asks for inodes: who has any is
// beyond that.
func Rank(pods []Pod, s Signal, l Layout) {
	name := s.resource()
	beyond := func(p Pod) int64 {
		requests := resourcehelper.PodRequests(p.Pod, resourcehelper.PodResourcesOptions{})
		asked := requests[name]
		return p.of(s, l) - asked.Value()
	}
	exceeds := func(p Pod) int {
		if s != PIDs && beyond(p) > 0 {
			return 0
		}
		return 1
	}
	slices.SortStableFunc(pods, func(a, b Pod) int {
		return cmp.Or(cmp.Compare(exceeds(a), exceeds(b)), cmp.Compare(priority(a.Pod), priority(b.Pod)), cmp.Compare(beyond(b), beyond(a)))
	})
}

func priority(pod *v1.Pod) int32 {
	if p := pod.Spec.Priority; p != nil {
		return *p
	}
	return 0
}

// systemCritical is the lowest priority of pods that the cluster cannot do
// without.
const systemCritical = 2_000_000_000

// Critical says that the pod is spared: the host or the cluster needs it, or
// nobody would start it again.
func Critical(pod *v1.Pod) bool {
	return pod.Annotations["kubernetes.io/config.source"] == "file" || priority(pod) >= systemCritical
}

// Cause is why a pod has to go.
type Cause struct {
	Message string
	// Annotations of the event say it for programs: what ran short, who used more of
	// it than asked for, and how much. Pods that outgrew their own limits have none.
	Annotations map[string]string
	// Disrupts says that the pod goes for the host's sake, not for its own faults.
	Disrupts bool
}

// Keys of a cause's annotations, as they are upstream. Lists are joined by commas.
const (
	starvedResource   = "starved_resource"
	offendingPod      = "offending_pod"
	offendingPodUsage = "offending_pod_usage"
	offenders         = "offending_containers"
	offendersUsage    = "offending_containers_usage"
)

// explain says why a pod is evicted for a threshold.
func explain(pod Pod, t Threshold, o Observations) Cause {
	name := t.Signal.resource()
	cause := Cause{Disrupts: true, Annotations: map[string]string{starvedResource: string(name), offenders: "", offendersUsage: ""}}
	var names, amounts []string
	var b strings.Builder
	fmt.Fprintf(&b, "The node was low on resource: %v. ", name)
	fmt.Fprintf(&b, "Threshold quantity: %v, available: %v. ", t.Least.quantity(o[t.Signal].Capacity), o.quantity(t.Signal))
	if name != v1.ResourceMemory && name != v1.ResourceEphemeralStorage {
		cause.Message = b.String()
		return cause
	}
	if name == v1.ResourceMemory && resourcehelper.IsPodLevelResourcesSet(pod.Pod) {
		if request, ok := pod.Spec.Resources.Requests[name]; ok {
			used := resource.NewQuantity(pod.Memory, resource.BinarySI)
			larger(&b, "Pod", pod.Name, used, request, name)
			cause.Annotations[offendingPod], cause.Annotations[offendingPodUsage] = pod.Name, used.String()
		}
	}
	for _, list := range [][]v1.Container{pod.Spec.Containers, pod.Spec.InitContainers} {
		for i := range list {
			used, ok := pod.Containers[list[i].Name]
			if !ok {
				continue
			}
			amount := used.Memory
			if name == v1.ResourceEphemeralStorage {
				amount = used.Disk
			}
			request := list[i].Resources.Requests[name]
			if q := resource.NewQuantity(amount, resource.BinarySI); q.Cmp(request) > 0 {
				larger(&b, "Container", list[i].Name, q, request, name)
				names, amounts = append(names, list[i].Name), append(amounts, q.String())
			}
		}
	}
	cause.Annotations[offenders], cause.Annotations[offendersUsage] = strings.Join(names, ","), strings.Join(amounts, ",")
	cause.Message = b.String()
	return cause
}

// larger says how much of a resource something uses, and was to use.
func larger(b *strings.Builder, kind, who string, used *resource.Quantity, request resource.Quantity, name v1.ResourceName) {
	fmt.Fprintf(b, "%s %s was using %s, request is %s, has larger consumption of %v. ", kind, who, used, request.String(), name)
}

// HasStorageLimits says that a pod's local storage has to be watched.
func HasStorageLimits(pod *v1.Pod) bool {
	for i := range pod.Spec.Volumes {
		if e := pod.Spec.Volumes[i].EmptyDir; e != nil && e.Medium == v1.StorageMediumDefault && e.SizeLimit != nil && e.SizeLimit.Sign() > 0 {
			return true
		}
	}
	limits := resourcehelper.PodLimits(pod, resourcehelper.PodResourcesOptions{})
	_, ok := limits[v1.ResourceEphemeralStorage]
	return ok
}

// Limits of local storage, as evictions for them are counted.
const (
	emptyDirLimit  = "emptydirfs.limit"
	podLimit       = "ephemeralpodfs.limit"
	containerLimit = "ephemeralcontainerfs.limit"
)

// Outgrown says which limit of local storage the pod exceeds; empty if none.
func Outgrown(pod Pod) (limit, message string) {
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.EmptyDir == nil || v.EmptyDir.SizeLimit == nil || v.EmptyDir.SizeLimit.Sign() <= 0 {
			continue
		}
		if used, ok := pod.EmptyDirs[v.Name]; ok && used > v.EmptyDir.SizeLimit.Value() {
			return emptyDirLimit, fmt.Sprintf("Usage of EmptyDir volume %q exceeds the limit %q. ", v.Name, v.EmptyDir.SizeLimit.String())
		}
	}
	limits := resourcehelper.PodLimits(pod.Pod, resourcehelper.PodResourcesOptions{})
	if most, ok := limits[v1.ResourceEphemeralStorage]; ok && pod.Layers.Bytes+pod.Local.Bytes > most.Value() {
		return podLimit, fmt.Sprintf("Pod ephemeral local storage usage exceeds the total limit of containers %s. ", most.String())
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		most := c.Resources.Limits.StorageEphemeral()
		if !most.IsZero() && pod.Containers[c.Name].Disk > most.Value() {
			return containerLimit, fmt.Sprintf("Container %s exceeded its local ephemeral storage limit %q. ", c.Name, most.String())
		}
	}
	return "", ""
}
