package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/util/flowcontrol"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	podresources "k8s.io/kubelet/pkg/apis/podresources/v1"
)

// How often those who watch devices may ask in a second, and at once.
const (
	questions, questionsAtOnce = 100, 10
)

// PodResources tells programs of this host which container has which devices.
// CPUs and memory are nobody's own here, so that it tells nothing of those.
type PodResources struct {
	podresources.UnimplementedPodResourcesListerServer
	Socket  string // its folder is made
	Devices *Manager
	Pods    func() []*v1.Pod                     // of this host
	Pod     func(namespace, name string) *v1.Pod // nil if there is none
}

// Run serves until ctx ends. What an earlier run left of the socket is removed.
func (p *PodResources) Run(ctx context.Context) error {
	if err := os.MkdirAll(filepath.Dir(p.Socket), 0o750); err != nil {
		return fmt.Errorf("make folder of pod resources: %w", err)
	}
	if err := os.Remove(p.Socket); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove socket of an earlier run: %w", err)
	}
	listener, err := net.Listen("unix", p.Socket)
	if err != nil {
		return fmt.Errorf("listen for questions about pod resources: %w", err)
	}
	limiter := flowcontrol.NewTokenBucketRateLimiter(questions, questionsAtOnce)
	server := grpc.NewServer(grpc.UnaryInterceptor(func(ctx context.Context, request any, _ *grpc.UnaryServerInfo, answer grpc.UnaryHandler) (any, error) {
		if !limiter.TryAccept() {
			return nil, status.Error(codes.ResourceExhausted, "rejected by rate limit")
		}
		return answer(ctx, request)
	}))
	podresources.RegisterPodResourcesListerServer(server, p)
	defer context.AfterFunc(ctx, server.Stop)()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve pod resources: %w", err)
	}
	return nil
}

// List tells of all pods that have not ended.
func (p *PodResources) List(context.Context, *podresources.ListPodResourcesRequest) (*podresources.ListPodResourcesResponse, error) {
	response := &podresources.ListPodResourcesResponse{}
	for _, pod := range p.Pods() {
		if pod.Status.Phase != v1.PodSucceeded && pod.Status.Phase != v1.PodFailed {
			response.PodResources = append(response.PodResources, p.of(pod))
		}
	}
	return response, nil
}

// Get tells of one pod.
func (p *PodResources) Get(_ context.Context, request *podresources.GetPodResourcesRequest) (*podresources.GetPodResourcesResponse, error) {
	pod := p.Pod(request.PodNamespace, request.PodName)
	if pod == nil {
		return nil, fmt.Errorf("pod %s in namespace %s not found", request.PodName, request.PodNamespace)
	}
	return &podresources.GetPodResourcesResponse{PodResources: p.of(pod)}, nil
}

// GetAllocatableResources tells of all devices that containers can have, or do.
func (p *PodResources) GetAllocatableResources(context.Context, *podresources.AllocatableResourcesRequest) (*podresources.AllocatableResourcesResponse, error) {
	plugins := p.Devices.Plugins
	plugins.mu.Lock()
	defer plugins.mu.Unlock()
	response := &podresources.AllocatableResourcesResponse{}
	for _, name := range slices.Sorted(maps.Keys(plugins.resources)) {
		pool := plugins.resources[name]
		response.Devices = append(response.Devices, pool.describe(name, pool.healthy())...)
	}
	return response, nil
}

// of leaves out init containers that end before the pod's own begin.
func (p *PodResources) of(pod *v1.Pod) *podresources.PodResources {
	all := &podresources.PodResources{Name: pod.Name, Namespace: pod.Namespace}
	add := func(c *v1.Container) {
		all.Containers = append(all.Containers, &podresources.ContainerResources{
			Name: c.Name, Devices: p.Devices.Plugins.has(pod.UID, c.Name), DynamicResources: p.Devices.Claims.has(pod, c)})
	}
	for i := range pod.Spec.InitContainers {
		if c := &pod.Spec.InitContainers[i]; c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways {
			add(c)
		}
	}
	for i := range pod.Spec.Containers {
		add(&pod.Spec.Containers[i])
	}
	return all
}

// has are the devices that a container was given.
func (p *Plugins) has(pod types.UID, container string) []*podresources.ContainerDevices {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []*podresources.ContainerDevices
	grants := p.pods[pod][container]
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		list = append(list, p.resources[name].describe(name, grants[name].IDs)...)
	}
	return list
}

// describe names devices one by one, once for each NUMA node that it is near to
// if its plugin tells. The pool of a plugin that has not come back knows of none.
func (pool *pool) describe(name string, ids []string) []*podresources.ContainerDevices {
	var list []*podresources.ContainerDevices
	for _, id := range ids {
		var device *pluginapi.Device
		if pool != nil {
			device = pool.devices[id]
		}
		if device.GetTopology() == nil {
			list = append(list, &podresources.ContainerDevices{ResourceName: name, DeviceIds: []string{id}})
		}
		for _, node := range device.GetTopology().GetNodes() {
			list = append(list, &podresources.ContainerDevices{ResourceName: name, DeviceIds: []string{id},
				Topology: &podresources.TopologyInfo{Nodes: []*podresources.NUMANode{{ID: node.GetID()}}}})
		}
	}
	return list
}

// has are the prepared claims that a container uses, with all that drivers
// prepared for them.
func (c *Claims) has(pod *v1.Pod, container *v1.Container) []*podresources.DynamicResource {
	c.mu.Lock()
	defer c.mu.Unlock()
	var list []*podresources.DynamicResource
	add := func(name string) {
		one := c.claims[types.NamespacedName{Namespace: pod.Namespace, Name: name}]
		if one == nil || !slices.Contains(one.Pods, pod.UID) {
			return
		}
		resource := &podresources.DynamicResource{ClaimName: one.Name, ClaimNamespace: one.Namespace}
		for _, driver := range slices.Sorted(maps.Keys(one.Drivers)) {
			for _, d := range one.Drivers[driver] {
				device := &podresources.ClaimResource{DriverName: driver, PoolName: d.PoolName, DeviceName: d.DeviceName, ShareId: d.ShareId}
				for _, id := range d.CdiDeviceIds {
					device.CdiDevices = append(device.CdiDevices, &podresources.CDIDevice{Name: id})
				}
				resource.ClaimResources = append(resource.ClaimResources, device)
			}
		}
		list = append(list, resource)
	}
	for i := range pod.Spec.ResourceClaims {
		wanted := pod.Spec.ResourceClaims[i].Name
		if !slices.ContainsFunc(container.Resources.Claims, func(r v1.ResourceClaim) bool { return r.Name == wanted }) {
			continue
		}
		name, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || name == nil {
			continue // not made yet, or none is needed
		}
		add(*name)
	}
	if len(extendedRequests(pod, container.Name)) > 0 {
		add(pod.Status.ExtendedResourceClaimStatus.ResourceClaimName)
	}
	return list
}
