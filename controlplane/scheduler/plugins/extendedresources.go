package plugins

import (
	"cmp"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/scheduler/picture"
)

// extended is what the extended resources of a pod come to as requests for
// devices, and which request serves which container.
type extended struct {
	requests []resourcev1.DeviceRequest
	mappings []v1.ContainerExtendedResourceRequest
}

// newExtended translates the resources, which have to be devices of classes.
func newExtended(pod *v1.Pod, resources []v1.ResourceName, classOf func(v1.ResourceName) *resourcev1.DeviceClass) *extended {
	e := &extended{}
	for _, resource := range resources {
		if class := classOf(resource); class != nil {
			e.add(pod, resource, class.Name)
		}
	}
	slices.SortFunc(e.requests, func(a, b resourcev1.DeviceRequest) int { return cmp.Compare(a.Name, b.Name) })
	return e
}

// add translates one resource. A container that runs as long as the pod does has
// devices of its own. An init container ends before those that come after it
// begin, and so has theirs, together with those that all such containers share
// and of which there are as many as the one that lacks most needs.
func (e *extended) add(pod *v1.Pod, resource v1.ResourceName, class string) {
	containers := slices.Concat(pod.Spec.InitContainers, pod.Spec.Containers)
	passing := func(i int) bool {
		c := &containers[i]
		return i < len(pod.Spec.InitContainers) && ptr.Deref(c.RestartPolicy, "") != v1.ContainerRestartPolicyAlways
	}
	asked := func(i int) int64 {
		quantity := containers[i].Resources.Requests[resource]
		n, _ := quantity.AsInt64()
		return n
	}
	request := func(i int, count int64) *resourcev1.DeviceRequest {
		return &resourcev1.DeviceRequest{Name: requestName(i, &containers[i], resource), Exactly: &resourcev1.ExactDeviceRequest{
			DeviceClassName: class, AllocationMode: resourcev1.DeviceAllocationModeExactCount, Count: count,
		}}
	}
	serve := func(i int, request string) {
		e.mappings = append(e.mappings, v1.ContainerExtendedResourceRequest{ContainerName: containers[i].Name, ResourceName: string(resource), RequestName: request})
	}
	lasting := make([]*resourcev1.DeviceRequest, len(containers))
	for i := range containers {
		if n := asked(i); n > 0 && !passing(i) {
			lasting[i] = request(i, n)
			e.requests = append(e.requests, *lasting[i])
			serve(i, lasting[i].Name)
		}
	}
	var shared *resourcev1.DeviceRequest
	var sharing []int // indexes of mappings
	for i := range containers {
		lacks := asked(i)
		if lacks == 0 || !passing(i) {
			continue
		}
		for _, later := range lasting[i:] {
			if later != nil && lacks > 0 {
				serve(i, later.Name)
				lacks -= later.Exactly.Count
			}
		}
		if lacks <= 0 {
			continue
		}
		if shared == nil || shared.Exactly.Count < lacks {
			shared = request(i, lacks)
		}
		sharing = append(sharing, len(e.mappings))
		serve(i, "")
	}
	if shared == nil {
		return
	}
	e.requests = append(e.requests, *shared)
	for _, i := range sharing {
		e.mappings[i].RequestName = shared.Name
	}
}

// requestName is Kubernetes': by the places of a container in its pod, and of the
// resource among the container's.
func requestName(index int, container *v1.Container, resource v1.ResourceName) string {
	names := slices.Sorted(maps.Keys(container.Resources.Requests))
	return fmt.Sprintf("container-%d-request-%d", index, slices.Index(names, resource))
}

// claim is the claim with these requests, as it is to be made for the pod.
func (e *extended) claim(pod *v1.Pod) *resourcev1.ResourceClaim {
	return &resourcev1.ResourceClaim{
		ObjectMeta: metav1.ObjectMeta{
			Namespace: pod.Namespace, GenerateName: pod.Name + "-extended-resources-",
			Annotations:     map[string]string{resourcev1.ExtendedResourceClaimAnnotation: "true"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID, Controller: ptr.To(true)}},
		},
		Spec: resourcev1.ResourceClaimSpec{Devices: resourcev1.DeviceClaim{Requests: e.requests}},
	}
}

// extendedOn is what a node has to give as devices; nil: nothing. Resources that
// the node says it has are its device plugin's.
func (s *search) extendedOn(n *picture.Node) *extended {
	var left []v1.ResourceName
	for _, name := range s.backed {
		if n.Allocatable.Other[name] == 0 {
			left = append(left, name)
		}
	}
	if len(left) == 0 {
		return nil
	}
	key := fmt.Sprint(left)
	if s.extended[key] == nil {
		s.extended[key] = newExtended(s.pod, left, s.classOf)
	}
	return s.extended[key]
}
