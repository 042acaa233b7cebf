package devices

import (
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	drahealth "k8s.io/kubelet/pkg/apis/dra-health/v1alpha1"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
)

// healthDriver says what it is told to of its devices.
type healthDriver struct {
	drahealth.UnimplementedDRAResourceHealthServer
	words chan []*drahealth.DeviceHealth
}

func (d *healthDriver) NodeWatchResources(_ *drahealth.NodeWatchResourcesRequest, stream drahealth.DRAResourceHealth_NodeWatchResourcesServer) error {
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case devices, ok := <-d.words:
			if !ok {
				return nil
			}
			if err := stream.Send(&drahealth.NodeWatchResourcesResponse{Devices: devices}); err != nil {
				return err
			}
		}
	}
}

// woken counts how often each pod was woken.
type woken struct {
	mu   sync.Mutex
	pods map[types.UID]int
}

func (w *woken) wake(uid types.UID) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.pods[uid]++
}

func (w *woken) count(uid types.UID) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pods[uid]
}

func healthOf(m *Manager, pod *v1.Pod) string {
	var list []string
	for _, status := range m.Health(pod)["c"] {
		for _, r := range status.Resources {
			message := ""
			if r.Message != nil {
				message = " " + *r.Message
			}
			list = append(list, string(status.Name)+" "+string(r.ResourceID)+" "+string(r.Health)+message)
		}
	}
	return strings.Join(list, "; ")
}

func TestHealthOfClaimedDevices(t *testing.T) {
	w := newWorld(t, allocated("own", "a"))
	driver := &healthDriver{words: make(chan []*drahealth.DeviceHealth)}
	w.plugin.Endpoint = filepath.Join(shortDir(t), "h.sock")
	listen(t, w.plugin.Endpoint, func(s *grpc.Server) {
		drav1.RegisterDRAPluginServer(s, w.driver)
		drahealth.RegisterDRAResourceHealthServer(s, driver)
	})
	m := &Manager{Claims: w.claims(t), Plugins: &Plugins{}}
	told := &woken{pods: map[types.UID]int{}}
	m.Watch(told.wake)
	w.register(t)
	pod := claimPod("a", "own")
	pod.Spec.Containers = []v1.Container{{Name: "c", Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "for-own", Request: "r"}}}}}
	if err := m.Claims.Prepare(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	const unknown = "claim:for-own/r example.com/d=own Unknown"
	if got := healthOf(m, pod); got != unknown {
		t.Errorf("before the driver said anything: %s", got)
	}
	device := func(health drahealth.HealthStatus, message string) []*drahealth.DeviceHealth {
		devices := w.claims(t).claims[types.NamespacedName{Namespace: "ns", Name: "own"}].Drivers["d.example.com"]
		id := &drahealth.DeviceIdentifier{PoolName: devices[0].PoolName, DeviceName: devices[0].DeviceName}
		return []*drahealth.DeviceHealth{{Device: id, Health: health, Message: message, HealthCheckTimeoutSeconds: 3600}}
	}
	driver.words <- device(drahealth.HealthStatus_HEALTHY, "")
	eventually(t, "health", func() bool { return healthOf(m, pod) == "claim:for-own/r example.com/d=own Healthy" })
	driver.words <- device(drahealth.HealthStatus_UNHEALTHY, strings.Repeat("x", 2000))
	want := "claim:for-own/r example.com/d=own Unhealthy " + strings.Repeat("x", 1021) + "..."
	eventually(t, "illness", func() bool { return healthOf(m, pod) == want })
	eventually(t, "two wakings", func() bool { return told.count("a") == 2 })
	driver.words <- device(drahealth.HealthStatus_UNHEALTHY, strings.Repeat("x", 2000)) // nothing new
	close(driver.words)
	eventually(t, "the end of the driver's word", func() bool { return healthOf(m, pod) == unknown && told.count("a") == 3 })
}

func TestHealthOfPluginDevices(t *testing.T) {
	dir := shortDir(t)
	a := startPlugins(t, dir)
	eventually(t, "socket", func() bool { return dialable(filepath.Join(dir, "s", "kubelet.sock")) })
	p := &testPlugin{options: &pluginapi.DevicePluginOptions{}}
	server := p.serve(t, dir, "gpu.sock")
	m := &Manager{Claims: &Claims{drivers: &Drivers{}}, Plugins: a.Plugins}
	told := &woken{pods: map[types.UID]int{}}
	m.Watch(told.wake)
	p.lists <- []*pluginapi.Device{{ID: "0", Health: pluginapi.Healthy}}
	a.awaits(t, "1/1 of 1")
	pod := gpuPod("a", 1)
	pod.Spec.Containers[0].Name = "c"
	if err := a.Allocate(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got := healthOf(m, pod); got != gpu+" 0 Healthy" {
		t.Errorf("healthy: %s", got)
	}
	p.lists <- []*pluginapi.Device{{ID: "0", Health: pluginapi.Unhealthy}}
	eventually(t, "illness", func() bool { return healthOf(m, pod) == gpu+" 0 Unhealthy" && told.count("a") == 1 })
	p.lists <- []*pluginapi.Device{{ID: "0", Health: pluginapi.Healthy}}
	eventually(t, "health", func() bool { return healthOf(m, pod) == gpu+" 0 Healthy" && told.count("a") == 2 })
	server.Stop()
	eventually(t, "its end", func() bool { return healthOf(m, pod) == gpu+" 0 Unhealthy" && told.count("a") == 3 })
}
