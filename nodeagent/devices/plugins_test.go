package devices

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
	"k8s.io/utils/ptr"

	"clusterctl/nodeagent/plugins"
)

const gpu = "example.com/gpu"

// testPlugin is a device plugin with devices that a test changes.
type testPlugin struct {
	pluginapi.UnimplementedDevicePluginServer
	options *pluginapi.DevicePluginOptions
	lists   chan []*pluginapi.Device

	mu        sync.Mutex
	allocated [][]string
	started   [][]string
	fail      error
}

func (p *testPlugin) GetDevicePluginOptions(context.Context, *pluginapi.Empty) (*pluginapi.DevicePluginOptions, error) {
	return p.options, nil
}

func (p *testPlugin) ListAndWatch(_ *pluginapi.Empty, stream pluginapi.DevicePlugin_ListAndWatchServer) error {
	p.mu.Lock()
	lists := p.lists // those of a later server are not for this stream
	p.mu.Unlock()
	for {
		select {
		case <-stream.Context().Done():
			return nil
		case list := <-lists:
			if err := stream.Send(&pluginapi.ListAndWatchResponse{Devices: list}); err != nil {
				return err
			}
		}
	}
}

// GetPreferredAllocation prefers the last devices.
func (p *testPlugin) GetPreferredAllocation(_ context.Context, r *pluginapi.PreferredAllocationRequest) (*pluginapi.PreferredAllocationResponse, error) {
	one := r.ContainerRequests[0]
	ids := slices.Sorted(slices.Values(one.AvailableDeviceIDs))
	return &pluginapi.PreferredAllocationResponse{ContainerResponses: []*pluginapi.ContainerPreferredAllocationResponse{{DeviceIDs: ids[len(ids)-int(one.AllocationSize):]}}}, nil
}

func (p *testPlugin) Allocate(_ context.Context, r *pluginapi.AllocateRequest) (*pluginapi.AllocateResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.fail != nil {
		return nil, p.fail
	}
	ids := r.ContainerRequests[0].DevicesIds
	p.allocated = append(p.allocated, ids)
	return &pluginapi.AllocateResponse{ContainerResponses: []*pluginapi.ContainerAllocateResponse{{
		Envs: map[string]string{"GPUS": strings.Join(ids, ",")}, Annotations: map[string]string{"a": "b"},
		Mounts:  []*pluginapi.Mount{{ContainerPath: "/lib/gpu", HostPath: "/opt/gpu", ReadOnly: true}},
		Devices: []*pluginapi.DeviceSpec{{ContainerPath: "/dev/gpu", HostPath: "/dev/" + ids[0], Permissions: "rw"}}, CdiDevices: []*pluginapi.CDIDevice{{Name: "example.com/gpu=" + ids[0]}},
	}}}, nil
}

func (p *testPlugin) PreStartContainer(_ context.Context, r *pluginapi.PreStartContainerRequest) (*pluginapi.PreStartContainerResponse, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.started = append(p.started, r.DevicesIds)
	return &pluginapi.PreStartContainerResponse{}, nil
}

// breaks makes allocations fail; nil mends it.
func (p *testPlugin) breaks(with error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.fail = with
}

// asked is the devices that were allocated, and those of starts.
func (p *testPlugin) asked() (allocated, started [][]string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.allocated), slices.Clone(p.started)
}

func deviceList(healthy, sick int) []*pluginapi.Device {
	var list []*pluginapi.Device
	for i := range healthy + sick {
		d := &pluginapi.Device{ID: fmt.Sprint("gpu", i), Health: pluginapi.Healthy}
		if i >= healthy {
			d.Health = pluginapi.Unhealthy
		}
		list = append(list, d)
	}
	return list
}

// agent is the device plugins' side of a node agent, which a test can restart.
type agent struct {
	*Plugins
	stop func()
}

func startPlugins(t *testing.T, dir string) *agent {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	p, err := NewPlugins(ctx, filepath.Join(dir, "s"), filepath.Join(dir, "plugins.json"), slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() { done <- p.Run(ctx) }()
	stop := sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return &agent{p, stop}
}

// serve starts a plugin and has it register at the agent's socket.
func (p *testPlugin) serve(t *testing.T, dir, name string) *grpc.Server {
	t.Helper()
	p.mu.Lock()
	p.lists = make(chan []*pluginapi.Device, 1)
	p.mu.Unlock()
	server := listen(t, filepath.Join(dir, "s", name), func(s *grpc.Server) { pluginapi.RegisterDevicePluginServer(s, p) })
	conn, err := plugins.Dial(filepath.Join(dir, "s", "kubelet.sock"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, err := pluginapi.NewRegistrationClient(conn).Register(t.Context(), &pluginapi.RegisterRequest{
		Version: pluginapi.Version, Endpoint: name, ResourceName: gpu, Options: p.options}, grpc.WaitForReady(true)); err != nil {
		t.Fatal(err)
	}
	return server
}

func (a *agent) counts() string {
	capacity, allocatable := a.Extended()
	q, r := capacity[gpu], allocatable[gpu]
	return fmt.Sprintf("%d/%d of %d", r.Value(), q.Value(), len(capacity))
}

func (a *agent) awaits(t *testing.T, want string) {
	t.Helper()
	eventually(t, want+", now "+a.counts(), func() bool { return a.counts() == want })
}

func gpuPod(name string, counts ...int64) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Name: name, UID: types.UID(name)}}
	for i, n := range counts {
		pod.Spec.Containers = append(pod.Spec.Containers, v1.Container{Name: fmt.Sprint("c", i), Resources: v1.ResourceRequirements{
			Limits: v1.ResourceList{gpu: *resource.NewQuantity(n, resource.DecimalSI), v1.ResourceCPU: resource.MustParse("1")}}})
	}
	return pod
}

func TestDevicePluginsBringResources(t *testing.T) {
	dir := shortDir(t)
	a := startPlugins(t, dir)
	eventually(t, "socket", func() bool { return dialable(filepath.Join(dir, "s", "kubelet.sock")) })
	p := &testPlugin{options: &pluginapi.DevicePluginOptions{}}
	server := p.serve(t, dir, "gpu.sock")
	p.lists <- deviceList(2, 1)
	a.awaits(t, "2/3 of 1")
	p.lists <- deviceList(3, 0)
	a.awaits(t, "3/3 of 1")
	select {
	case <-a.Changed():
	default:
		t.Error("nobody was told")
	}
	server.Stop()
	a.awaits(t, "0/3 of 1")
	a.mu.Lock()
	a.resources[gpu].gone = a.resources[gpu].gone.Add(-2 * leaving)
	a.mu.Unlock()
	a.awaits(t, "0/0 of 1")
	p.serve(t, dir, "gpu.sock")
	p.lists <- deviceList(1, 0)
	a.awaits(t, "1/1 of 1")
	// After a restart the node says that it has none, until the plugin is back.
	a.stop()
	a = startPlugins(t, dir)
	a.awaits(t, "0/0 of 1")
}

func dialable(socket string) bool {
	conn, err := plugins.Dial(socket)
	if err != nil {
		return false
	}
	defer conn.Close()
	_, err = pluginapi.NewRegistrationClient(conn).Register(context.Background(), &pluginapi.RegisterRequest{Version: "none"})
	return err != nil && strings.Contains(err.Error(), "is not supported by kubelet")
}

func TestDevicesAreAllocated(t *testing.T) {
	dir := shortDir(t)
	a := startPlugins(t, dir)
	eventually(t, "socket", func() bool { return dialable(filepath.Join(dir, "s", "kubelet.sock")) })
	p := &testPlugin{options: &pluginapi.DevicePluginOptions{GetPreferredAllocationAvailable: true, PreStartRequired: true}}
	p.serve(t, dir, "gpu.sock")
	p.lists <- deviceList(4, 1)
	a.awaits(t, "4/5 of 1")
	manager := &Manager{Plugins: a.Plugins, Claims: newWorld(t).claims(t)}

	one := gpuPod("one", 1, 1, 0)
	for range 2 {
		if err := manager.Prepare(t.Context(), one); err != nil {
			t.Fatal(err)
		}
	}
	if got, _ := p.asked(); fmt.Sprint(got) != "[[gpu3] [gpu2]]" {
		t.Errorf("allocated %v", got)
	}
	access, err := manager.Access(t.Context(), one, &one.Spec.Containers[1])
	if err != nil || access.Env["GPUS"] != "gpu2" || access.Annotations["a"] != "b" || access.Mounts[0].HostPath != "/opt/gpu" || access.Devices[0].HostPath != "/dev/gpu2" || access.CDI[0] != "example.com/gpu=gpu2" {
		t.Errorf("access %+v, %v", access, err)
	}
	if _, started := p.asked(); fmt.Sprint(started) != "[[gpu2]]" {
		t.Errorf("told of starts with %v", started)
	}
	var refusal *Refusal
	if err := manager.Prepare(t.Context(), gpuPod("many", 3)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "Requested: 3, Available: 2") {
		t.Errorf("more than there are: %v", err)
	}
	p.breaks(errors.New("broken"))
	if err := manager.Prepare(t.Context(), gpuPod("broken", 1)); !errors.As(err, &refusal) || !strings.Contains(err.Error(), "broken") {
		t.Errorf("a plugin that fails: %v", err)
	}
	p.breaks(nil)

	// What was given away stays so over a restart, until the pod goes.
	a.stop()
	a = startPlugins(t, dir)
	eventually(t, "socket", func() bool { return dialable(filepath.Join(dir, "s", "kubelet.sock")) })
	manager.Plugins = a.Plugins
	if err := manager.Prepare(t.Context(), one); err != nil || fmt.Sprint(manager.Pods()) != "[one]" {
		t.Errorf("after a restart %v has devices, %v", manager.Pods(), err)
	}
	p.serve(t, dir, "gpu2.sock")
	p.lists <- deviceList(4, 1)
	a.awaits(t, "4/5 of 1")
	if err := manager.Prepare(t.Context(), gpuPod("two", 2)); err != nil {
		t.Error(err)
	}
	if got, _ := p.asked(); fmt.Sprint(got[len(got)-1]) != "[gpu0 gpu1]" {
		t.Errorf("allocated %v", got)
	}
	if err := manager.Unprepare(t.Context(), "one"); err != nil {
		t.Error(err)
	}
	if err := manager.Prepare(t.Context(), gpuPod("three", 2)); err != nil {
		t.Error(err)
	}
}

func TestInitContainersPassDevicesOn(t *testing.T) {
	dir := shortDir(t)
	a := startPlugins(t, dir)
	eventually(t, "socket", func() bool { return dialable(filepath.Join(dir, "s", "kubelet.sock")) })
	p := &testPlugin{options: &pluginapi.DevicePluginOptions{}}
	p.serve(t, dir, "gpu.sock")
	p.lists <- deviceList(3, 0)
	a.awaits(t, "3/3 of 1")
	pod, init := gpuPod("p", 1), gpuPod("i", 2, 1).Spec.Containers
	init[0].Name, init[1].Name, init[1].RestartPolicy = "first", "sidecar", ptr.To(v1.ContainerRestartPolicyAlways)
	pod.Spec.InitContainers = init
	if err := a.Allocate(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	if got, _ := p.asked(); fmt.Sprint(got) != "[[gpu0 gpu1] [gpu0] [gpu1]]" {
		t.Errorf("allocated %v", got)
	}
}

func TestDevicePluginsOfTheRegistry(t *testing.T) {
	dir := shortDir(t)
	a := startPlugins(t, dir)
	p := &testPlugin{options: &pluginapi.DevicePluginOptions{PreStartRequired: true}, lists: make(chan []*pluginapi.Device, 1)}
	endpoint := filepath.Join(dir, "e.sock")
	listen(t, endpoint, func(s *grpc.Server) { pluginapi.RegisterDevicePluginServer(s, p) })
	one := plugins.Plugin{Name: gpu, Endpoint: endpoint, Socket: "r", Versions: []string{pluginapi.Version}}
	if err := a.Register(t.Context(), one); err != nil {
		t.Fatal(err)
	}
	p.lists <- deviceList(1, 0)
	a.awaits(t, "1/1 of 1")
	a.Deregister(t.Context(), one)
	a.awaits(t, "0/1 of 1")
	one.Name = "cpu"
	if err := a.Register(t.Context(), one); err == nil || !strings.Contains(err.Error(), `the ResourceName "cpu" is invalid`) {
		t.Errorf("brought the host's own: %v", err)
	}
}
