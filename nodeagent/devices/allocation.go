package devices

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Which container has which devices of plugins.

// Refusal says that a pod cannot have the devices it was to get: there are fewer
// than the API thought.
type Refusal struct{ Err error }

func (r *Refusal) Error() string {
	return fmt.Sprintf("Allocate failed due to %v, which is unexpected", r.Err)
}
func (r *Refusal) Unwrap() error { return r.Err }

// Allocate gives the containers of a pod the devices that they ask for, as far
// as they do not have them; its error is a Refusal unless ctx ended. Containers
// that run after an init container use its devices again.
func (p *Plugins) Allocate(ctx context.Context, pod *v1.Pod) error {
	reusable := map[string][]string{} // by resource
	each := func(c *v1.Container, passesOn bool) error {
		for _, name := range slices.Sorted(maps.Keys(c.Resources.Limits)) {
			if Claimed(pod, c.Name, string(name)) {
				continue
			}
			limit := c.Resources.Limits[name]
			ids, err := p.allocate(ctx, pod.UID, c.Name, string(name), int(limit.Value()), reusable[string(name)])
			if err != nil && ctx.Err() == nil {
				return &Refusal{err}
			}
			if err != nil {
				return err
			}
			left := slices.DeleteFunc(slices.Clone(reusable[string(name)]), func(id string) bool { return slices.Contains(ids, id) })
			if passesOn {
				left = append(left, ids...)
			}
			reusable[string(name)] = left
		}
		return nil
	}
	for i := range pod.Spec.InitContainers {
		c := &pod.Spec.InitContainers[i]
		sidecar := c.RestartPolicy != nil && *c.RestartPolicy == v1.ContainerRestartPolicyAlways
		if err := each(c, !sidecar); err != nil {
			return err
		}
	}
	for i := range pod.Spec.Containers {
		if err := each(&pod.Spec.Containers[i], false); err != nil {
			return err
		}
	}
	return nil
}

// allocate gives one container so many devices of a resource, those that it can
// use again first. Of a resource that no plugin brought it gives none.
func (p *Plugins) allocate(ctx context.Context, pod types.UID, container, name string, count int, reusable []string) ([]string, error) {
	p.allocating.Lock()
	defer p.allocating.Unlock()
	p.mu.Lock()
	pool := p.resources[name]
	if pool == nil || count == 0 {
		p.mu.Unlock()
		return nil, nil
	}
	if has := p.pods[pod][container][name]; has != nil {
		p.mu.Unlock()
		return has.IDs, nil
	}
	taken := map[string]bool{}
	for _, containers := range p.pods {
		for _, resources := range containers {
			if g := resources[name]; g != nil {
				for _, id := range g.IDs {
					taken[id] = true
				}
			}
		}
	}
	free := slices.DeleteFunc(pool.healthy(), func(id string) bool { return taken[id] })
	plugin := pool.plugin
	p.mu.Unlock()

	ids := slices.Clone(reusable[:min(count, len(reusable))])
	if missing := count - len(ids); missing > len(free) {
		return nil, fmt.Errorf("requested number of devices unavailable for %s. Requested: %d, Available: %d", name, missing, len(free))
	} else if missing > 0 {
		ids = append(ids, p.prefer(ctx, plugin, name, free, ids, count)...)
	}
	if plugin == nil {
		return nil, fmt.Errorf("unknown Device Plugin %s", name)
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	response, err := plugin.client.Allocate(ctx, &pluginapi.AllocateRequest{ContainerRequests: []*pluginapi.ContainerAllocateRequest{{DevicesIds: ids}}})
	if err != nil {
		return nil, fmt.Errorf("allocate devices of %s: %w", name, err)
	}
	if len(response.ContainerResponses) == 0 {
		return nil, fmt.Errorf("no containers return in allocation response of %s", name)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pods[pod] == nil {
		p.pods[pod] = map[string]map[string]*grant{}
	}
	if p.pods[pod][container] == nil {
		p.pods[pod][container] = map[string]*grant{}
	}
	p.pods[pod][container][name] = &grant{IDs: ids, Response: response.ContainerResponses[0]}
	return ids, p.save()
}

// prefer chooses what is missing to count devices from free: those that the
// plugin prefers, if it has an opinion.
func (p *Plugins) prefer(ctx context.Context, plugin *plugin, name string, free, have []string, count int) []string {
	missing := count - len(have)
	if plugin == nil || !plugin.options.GetGetPreferredAllocationAvailable() || missing == len(free) {
		return free[:missing]
	}
	ctx, cancel := context.WithTimeout(ctx, pluginTimeout)
	defer cancel()
	response, err := plugin.client.GetPreferredAllocation(ctx, &pluginapi.PreferredAllocationRequest{ContainerRequests: []*pluginapi.ContainerPreferredAllocationRequest{{
		AvailableDeviceIDs: slices.Concat(free, have), MustIncludeDeviceIDs: have, AllocationSize: int32(count)}}})
	if err != nil || len(response.ContainerResponses) == 0 {
		p.logger.Warn("device plugin does not say which devices it prefers", "resource", name, "error", err)
		return free[:missing]
	}
	var chosen []string
	for _, id := range slices.Concat(response.ContainerResponses[0].DeviceIDs, free) {
		if len(chosen) < missing && slices.Contains(free, id) && !slices.Contains(chosen, id) {
			chosen = append(chosen, id)
		}
	}
	return chosen
}

// Free gives back the devices of a pod.
func (p *Plugins) Free(pod types.UID) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.pods[pod] == nil {
		return nil
	}
	delete(p.pods, pod)
	return p.save()
}

// Pods are those that have devices.
func (p *Plugins) Pods() []types.UID {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Collect(maps.Keys(p.pods))
}

// access adds what a container needs to have its devices, and has plugins that
// want it prepare them for a start.
func (p *Plugins) access(ctx context.Context, pod types.UID, container string, a *Access) error {
	type start struct {
		name   string
		ids    []string
		plugin *plugin
	}
	var starts []start
	p.mu.Lock()
	grants := p.pods[pod][container]
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		g := grants[name]
		a.add(g.Response)
		if pool := p.resources[name]; pool != nil && pool.plugin != nil && pool.plugin.options.GetPreStartRequired() {
			starts = append(starts, start{name, g.IDs, pool.plugin})
		}
	}
	p.mu.Unlock()
	for _, s := range starts {
		ctx, cancel := context.WithTimeout(ctx, pluginapi.KubeletPreStartContainerRPCTimeoutInSecs*time.Second)
		_, err := s.plugin.client.PreStartContainer(ctx, &pluginapi.PreStartContainerRequest{DevicesIds: s.ids})
		cancel()
		if err != nil {
			return fmt.Errorf("prepare devices of %s for a start: %w", s.name, err)
		}
	}
	return nil
}
