package devices

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/validation"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"

	"clusterctl/nodeagent/checkpoint"
	"clusterctl/nodeagent/plugins"
)

const (
	// pluginTimeout bounds one call to a device plugin.
	pluginTimeout = time.Minute
	// leaving is how long the devices of a plugin that went still count, as
	// devices that cannot be given to anybody.
	leaving = 5 * time.Minute
)

// Plugins are the device plugins of this host, their devices, and who has them.
// Plugins register in two ways: by asking at the socket that Run serves, and by
// the plugin registry. Safe for concurrent use.
type Plugins struct {
	ctx    context.Context // of NewPlugins
	dir    string          // of the sockets
	file   string          // checkpoint
	logger *slog.Logger

	changed chan struct{}
	wake    func(types.UID) // a pod whose devices may have changed; nil: nobody asks

	allocating sync.Mutex // one pod at a time chooses devices

	mu        sync.Mutex
	resources map[string]*pool
	pods      map[types.UID]map[string]map[string]*grant // by container and resource
}

// pool is the devices of one resource.
type pool struct {
	devices map[string]*pluginapi.Device
	gone    time.Time // when its plugin went; zero: it is there
	plugin  *plugin   // nil: it has not come back since the agent started
}

// plugin is one life of a device plugin.
type plugin struct {
	client  pluginapi.DevicePluginClient
	options *pluginapi.DevicePluginOptions
	socket  string // of its registration; empty: it asked
	stop    context.CancelFunc
}

// grant is the devices that a container has of one resource, and what it needs
// to have them.
type grant struct {
	IDs      []string                             `json:"ids"`
	Response *pluginapi.ContainerAllocateResponse `json:"response"`
}

// grantsOfPods is what outlives the agent.
type grantsOfPods struct {
	Resources []string                                   `json:"resources"`
	Pods      map[types.UID]map[string]map[string]*grant `json:"pods"`
}

// NewPlugins reads what an earlier run left in file. What plugins are followed
// by ends with ctx.
func NewPlugins(ctx context.Context, dir, file string, logger *slog.Logger) (*Plugins, error) {
	p := &Plugins{ctx: ctx, dir: dir, file: file, logger: logger, changed: make(chan struct{}, 1),
		resources: map[string]*pool{}, pods: map[types.UID]map[string]map[string]*grant{}}
	var from grantsOfPods
	if err := checkpoint.Load(file, &from); err != nil {
		return nil, err
	}
	maps.Copy(p.pods, from.Pods)
	for _, name := range from.Resources {
		p.resources[name] = &pool{}
	}
	return p, nil
}

// save writes the checkpoint. p.mu is held.
func (p *Plugins) save() error {
	return checkpoint.Store(p.file, grantsOfPods{Resources: slices.Sorted(maps.Keys(p.resources)), Pods: p.pods})
}

// Changed tells that Extended has changed.
func (p *Plugins) Changed() <-chan struct{} { return p.changed }

func (p *Plugins) tell() {
	select {
	case p.changed <- struct{}{}:
	default:
	}
}

// Extended is the resources that plugins bring to the node. Those of plugins
// that are gone are zero: nothing else would make the API forget them.
func (p *Plugins) Extended() (capacity, allocatable v1.ResourceList) {
	p.mu.Lock()
	defer p.mu.Unlock()
	capacity, allocatable = v1.ResourceList{}, v1.ResourceList{}
	for name, pool := range p.resources {
		all, healthy := len(pool.devices), len(pool.healthy())
		if !pool.gone.IsZero() && time.Since(pool.gone) > leaving {
			all = 0
		}
		capacity[v1.ResourceName(name)] = *resource.NewQuantity(int64(all), resource.DecimalSI)
		allocatable[v1.ResourceName(name)] = *resource.NewQuantity(int64(healthy), resource.DecimalSI)
	}
	return capacity, allocatable
}

// healthy are the devices that can be given away, in order.
func (pool *pool) healthy() []string {
	if pool.plugin == nil || !pool.gone.IsZero() {
		return nil
	}
	var ids []string
	for _, id := range slices.Sorted(maps.Keys(pool.devices)) {
		if pool.devices[id].Health == pluginapi.Healthy {
			ids = append(ids, id)
		}
	}
	return ids
}

// Run serves registrations until ctx ends. Sockets of an earlier run are
// removed, by which plugins notice that they have to register again.
func (p *Plugins) Run(ctx context.Context) error {
	if err := os.MkdirAll(p.dir, 0o750); err != nil {
		return fmt.Errorf("make folder of device plugins: %w", err)
	}
	entries, err := os.ReadDir(p.dir)
	if err != nil {
		return fmt.Errorf("read folder of device plugins: %w", err)
	}
	for _, e := range entries {
		if e.Type()&fs.ModeSocket == 0 {
			continue
		}
		if err := os.Remove(filepath.Join(p.dir, e.Name())); err != nil {
			return fmt.Errorf("remove socket of an earlier run: %w", err)
		}
	}
	listener, err := net.Listen("unix", filepath.Join(p.dir, filepath.Base(pluginapi.KubeletSocket)))
	if err != nil {
		return fmt.Errorf("listen for device plugins: %w", err)
	}
	server := grpc.NewServer()
	pluginapi.RegisterRegistrationServer(server, registrations{plugins: p})
	stop := context.AfterFunc(ctx, server.Stop)
	defer stop()
	if err := server.Serve(listener); err != nil && ctx.Err() == nil && !errors.Is(err, grpc.ErrServerStopped) {
		return fmt.Errorf("serve device plugins: %w", err)
	}
	return nil
}

// registrations answers plugins that ask.
type registrations struct {
	pluginapi.UnimplementedRegistrationServer
	plugins *Plugins
}

func (r registrations) Register(ctx context.Context, request *pluginapi.RegisterRequest) (*pluginapi.Empty, error) {
	if request.Version != pluginapi.Version {
		return nil, fmt.Errorf("requested API version %q is not supported by kubelet. Supported version is %q", request.Version, pluginapi.Version)
	}
	endpoint := filepath.Join(r.plugins.dir, filepath.Base(request.Endpoint))
	return &pluginapi.Empty{}, r.plugins.add(request.ResourceName, endpoint, "", request.Options)
}

var _ plugins.Handler = (*Plugins)(nil)

// Register implements plugins.Handler.
func (p *Plugins) Register(ctx context.Context, one plugins.Plugin) error {
	if !slices.Contains(one.Versions, pluginapi.Version) {
		return fmt.Errorf("manager version, %s, is not among plugin supported versions %v", pluginapi.Version, one.Versions)
	}
	conn, err := plugins.Dial(one.Endpoint)
	if err != nil {
		return err
	}
	defer conn.Close()
	options, err := pluginapi.NewDevicePluginClient(conn).GetDevicePluginOptions(ctx, &pluginapi.Empty{})
	if err != nil {
		return fmt.Errorf("ask device plugin for its options: %w", err)
	}
	return p.add(one.Name, one.Endpoint, one.Socket, options)
}

// Deregister implements plugins.Handler.
func (p *Plugins) Deregister(_ context.Context, one plugins.Plugin) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if pool := p.resources[one.Name]; pool != nil && pool.plugin != nil && pool.plugin.socket == one.Socket {
		pool.plugin.stop()
	}
}

// isExtended says whether plugins may bring a resource of this name.
func isExtended(name string) bool {
	return strings.Contains(name, "/") && !strings.Contains(name, v1.ResourceDefaultNamespacePrefix) &&
		!strings.HasPrefix(name, v1.DefaultResourceRequestsPrefix) && len(validation.IsQualifiedName(v1.DefaultResourceRequestsPrefix+name)) == 0
}

// add begins to follow a plugin; it takes the place of an earlier one.
func (p *Plugins) add(name, endpoint, socket string, options *pluginapi.DevicePluginOptions) error {
	if !isExtended(name) {
		return fmt.Errorf("the ResourceName %q is invalid", name)
	}
	conn, err := plugins.Dial(endpoint)
	if err != nil {
		return err
	}
	ctx, stop := context.WithCancel(p.ctx)
	one := &plugin{client: pluginapi.NewDevicePluginClient(conn), options: options, socket: socket, stop: stop}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.resources[name] == nil {
		p.resources[name] = &pool{}
	}
	pool := p.resources[name]
	if pool.plugin != nil {
		pool.plugin.stop()
	}
	pool.plugin, pool.gone = one, time.Time{}
	p.logger.Info("device plugin registered", "resource", name, "endpoint", endpoint)
	go func() {
		defer conn.Close()
		defer stop()
		err := p.follow(ctx, name, one)
		p.mu.Lock()
		gone := pool.plugin == one && p.ctx.Err() == nil
		if gone {
			pool.gone = time.Now()
			p.logger.Info("device plugin gone", "resource", name, "error", err)
			p.tell()
			time.AfterFunc(leaving+time.Second, p.tell)
		}
		p.mu.Unlock()
		if gone {
			p.wakeUsers(name)
		}
	}()
	return p.save()
}

// follow takes in what a plugin says of its devices until it ends.
func (p *Plugins) follow(ctx context.Context, name string, one *plugin) error {
	stream, err := one.client.ListAndWatch(ctx, &pluginapi.Empty{}, grpc.WaitForReady(false))
	if err != nil {
		return fmt.Errorf("list devices: %w", err)
	}
	for {
		response, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("follow devices: %w", err)
		}
		devices := map[string]*pluginapi.Device{}
		for _, d := range response.Devices {
			devices[d.ID] = d
		}
		p.mu.Lock()
		changed := false
		if pool := p.resources[name]; pool.plugin == one {
			changed = !maps.EqualFunc(pool.devices, devices, func(a, b *pluginapi.Device) bool { return a.Health == b.Health })
			pool.devices = devices
		}
		p.mu.Unlock()
		p.tell()
		if changed {
			p.wakeUsers(name)
		}
	}
}
