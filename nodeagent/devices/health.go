package devices

import (
	"context"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
)

const (
	// healthLasts is how long a driver's word on a device counts where it says
	// nothing else.
	healthLasts = 30 * time.Second
	// healthMessage is how much a driver may say of a device, in bytes.
	healthMessage = 1024
)

// health is a driver's last word on a device.
type health struct {
	status  v1.ResourceHealthStatus
	message string
	until   time.Time
}

// words are what one process of a driver said of its devices.
type words struct {
	by      *driver
	devices map[deviceKey]health
}

// deviceKey is a device of a driver.
type deviceKey struct{ pool, name string }

// Watch has wake called with a pod whenever the health of its devices may have
// changed. It is called once, before anything is prepared.
func (m *Manager) Watch(wake func(types.UID)) {
	m.Plugins.mu.Lock()
	m.Plugins.wake = wake
	m.Plugins.mu.Unlock()
	m.Claims.drivers.mu.Lock()
	defer m.Claims.drivers.mu.Unlock()
	m.Claims.drivers.told = func(driver string) {
		for _, uid := range m.Claims.users(driver) {
			wake(uid)
		}
	}
}

// Health is how the devices of a pod's containers are, by container, as the
// status of a pod has it.
func (m *Manager) Health(pod *v1.Pod) map[string][]v1.ResourceStatus {
	all := map[string][]v1.ResourceStatus{}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		if list := append(m.Plugins.health(pod.UID, c.Name), m.Claims.health(pod, c)...); len(list) > 0 {
			all[c.Name] = list
		}
	}
	return all
}

// health is how the devices are that a container has of plugins. What nobody
// knows of is taken to be well.
func (p *Plugins) health(pod types.UID, container string) []v1.ResourceStatus {
	p.mu.Lock()
	defer p.mu.Unlock()
	var list []v1.ResourceStatus
	grants := p.pods[pod][container]
	for _, name := range slices.Sorted(maps.Keys(grants)) {
		status := v1.ResourceStatus{Name: v1.ResourceName(name)}
		for _, id := range slices.Sorted(slices.Values(grants[name].IDs)) {
			word := v1.ResourceHealthStatusHealthy
			if pool := p.resources[name]; pool != nil {
				if d := pool.devices[id]; d != nil && (d.Health != pluginapi.Healthy || !pool.gone.IsZero()) {
					word = v1.ResourceHealthStatusUnhealthy
				}
			}
			status.Resources = append(status.Resources, v1.ResourceHealth{ResourceID: v1.ResourceID(id), Health: word})
		}
		list = append(list, status)
	}
	return list
}

// wakeUsers tells of the pods that have devices of the resource.
func (p *Plugins) wakeUsers(name string) {
	p.mu.Lock()
	wake := p.wake
	var users []types.UID
	for uid, containers := range p.pods {
		for _, grants := range containers {
			if grants[name] != nil {
				users = append(users, uid)
				break
			}
		}
	}
	p.mu.Unlock()
	if wake == nil {
		return
	}
	for _, uid := range users {
		wake(uid)
	}
}

// health is how the devices of the claims are that a container uses.
func (c *Claims) health(pod *v1.Pod, container *v1.Container) []v1.ResourceStatus {
	var list []v1.ResourceStatus
	for _, wanted := range container.Resources.Claims {
		i := slices.IndexFunc(pod.Spec.ResourceClaims, func(r v1.PodResourceClaim) bool { return r.Name == wanted.Name })
		if i < 0 {
			continue
		}
		claim, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i])
		if err != nil || claim == nil {
			continue
		}
		status := v1.ResourceStatus{Name: v1.ResourceName("claim:" + wanted.Name)}
		if wanted.Request != "" {
			status.Name += v1.ResourceName("/" + wanted.Request)
		}
		for driver, devices := range c.devices(types.NamespacedName{Namespace: pod.Namespace, Name: *claim}) {
			for _, device := range devices {
				if !serves(device.RequestNames, resourceclaim.BaseRequestRef(wanted.Request)) {
					continue
				}
				one := c.drivers.health(driver, deviceKey{device.PoolName, device.DeviceName})
				one.ResourceID = v1.ResourceID(driver + "/" + device.PoolName + "/" + device.DeviceName)
				if len(device.CdiDeviceIds) > 0 {
					one.ResourceID = v1.ResourceID(device.CdiDeviceIds[0])
				}
				if !slices.ContainsFunc(status.Resources, func(other v1.ResourceHealth) bool { return other.ResourceID == one.ResourceID }) {
					status.Resources = append(status.Resources, one)
				}
			}
		}
		if len(status.Resources) > 0 {
			list = append(list, status)
		}
	}
	return list
}

// devices are what drivers prepared for a claim, those of each driver in turn.
func (c *Claims) devices(claim types.NamespacedName) func(yield func(string, []*drav1.Device) bool) {
	return func(yield func(string, []*drav1.Device) bool) {
		c.mu.Lock()
		var drivers map[string][]*drav1.Device // replaced as a whole, never written to
		if one := c.claims[claim]; one != nil {
			drivers = one.Drivers
		}
		c.mu.Unlock()
		for _, driver := range slices.Sorted(maps.Keys(drivers)) {
			if !yield(driver, drivers[driver]) {
				return
			}
		}
	}
}

// users are the pods with claims on devices of the driver.
func (c *Claims) users(driver string) []types.UID {
	c.mu.Lock()
	defer c.mu.Unlock()
	var users []types.UID
	for _, one := range c.claims {
		if len(one.Drivers[driver]) > 0 {
			users = append(users, one.Pods...)
		}
	}
	return users
}

// health is the driver's word on a device, as far as it counts still.
func (d *Drivers) health(driver string, device deviceKey) v1.ResourceHealth {
	d.mu.Lock()
	defer d.mu.Unlock()
	word, ok := d.words[driver].devices[device]
	if !ok || time.Now().After(word.until) {
		return v1.ResourceHealth{Health: v1.ResourceHealthStatusUnknown}
	}
	result := v1.ResourceHealth{Health: word.status}
	if word.message != "" {
		result.Message = &word.message
	}
	return result
}

// listen follows what a driver says of its devices, if it says anything, until it
// ends or ctx does.
func (d *Drivers) listen(ctx context.Context, one *driver) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := drahealth.NewDRAResourceHealthClient(one.conn).NodeWatchResources(ctx, &drahealth.NodeWatchResourcesRequest{}, grpc.WaitForReady(true))
	if err != nil {
		return
	}
	var stale *time.Timer // wakes those whose devices were not spoken of again
	for {
		response, err := stream.Recv()
		if stale != nil {
			stale.Stop()
		}
		if err != nil {
			d.note(one, nil)
			return
		}
		said, shortest := map[deviceKey]health{}, time.Hour
		for _, device := range response.Devices {
			lasts := healthLasts
			if s := device.GetHealthCheckTimeoutSeconds(); s > 0 {
				lasts = time.Duration(s) * time.Second
			}
			shortest = min(shortest, lasts)
			said[deviceKey{device.GetDevice().GetPoolName(), device.GetDevice().GetDeviceName()}] = health{
				status: healthStatus(device.GetHealth()), message: shortened(device.GetMessage()), until: time.Now().Add(lasts)}
		}
		d.note(one, said)
		stale = time.AfterFunc(shortest+time.Second, func() { d.tell(one.name) })
	}
}

// note keeps what a driver said, and tells of it if it is new. What it says
// nothing of any more counts until its time is up; once it is gone (nil), nothing
// that it said does.
func (d *Drivers) note(one *driver, said map[deviceKey]health) {
	now := time.Now()
	d.mu.Lock()
	before := d.words[one.name]
	changed := false
	switch {
	case said != nil:
		for key, word := range said {
			old, ok := before.devices[key]
			changed = changed || !ok || old.status != word.status || old.message != word.message || now.After(old.until)
		}
		for key, word := range before.devices {
			if _, again := said[key]; !again && now.Before(word.until) {
				said[key] = word
			}
		}
		d.words[one.name] = words{one, said}
	case before.by == one: // and not its successor's
		changed = true
		delete(d.words, one.name)
	}
	d.mu.Unlock()
	if changed {
		d.tell(one.name)
	}
}

func (d *Drivers) tell(driver string) {
	d.mu.Lock()
	told := d.told
	d.mu.Unlock()
	if told != nil {
		told(driver)
	}
}

func healthStatus(s drahealth.HealthStatus) v1.ResourceHealthStatus {
	switch s {
	case drahealth.HealthStatus_HEALTHY:
		return v1.ResourceHealthStatusHealthy
	case drahealth.HealthStatus_UNHEALTHY:
		return v1.ResourceHealthStatusUnhealthy
	}
	return v1.ResourceHealthStatusUnknown
}

func shortened(message string) string {
	if len(message) <= healthMessage {
		return message
	}
	return message[:healthMessage-3] + "..."
}
