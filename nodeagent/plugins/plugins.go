package plugins

import (
	"context"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

const (
	period      = time.Second      // how often the folder is looked at
	lastRetry   = 30 * time.Second // between tries to register a plugin that fails
	callTimeout = 30 * time.Second
)

// Plugin is one that registered.
type Plugin struct {
	Type     string // registration.CSIPlugin, registration.DRAPlugin …
	Name     string
	Endpoint string   // the socket of its service, which may be the registration's
	Versions []string // of its service
	Socket   string   // of its registration
}

// Handler takes plugins of one type. Calls for one folder follow one another.
type Handler interface {
	// Register takes a plugin into use; an error is told to it, and it is tried
	// again later.
	Register(ctx context.Context, p Plugin) error
	// Deregister is called once the plugin's registration socket is gone.
	Deregister(ctx context.Context, p Plugin)
}

// Registry is the folder and who takes what is found there.
type Registry struct {
	Dir      string
	Handlers map[string]Handler // by type
	Logger   *slog.Logger

	known map[string]*entry // by path of socket
}

type entry struct {
	made   time.Time // of the socket: a new one is a new plugin
	plugin *Plugin   // nil: not registered yet
	next   time.Time // when it is tried again
	wait   time.Duration
}

// Run follows the folder until ctx ends.
func (r *Registry) Run(ctx context.Context) error {
	if err := os.MkdirAll(r.Dir, 0o750); err != nil {
		return fmt.Errorf("make plugin registry: %w", err)
	}
	r.known = map[string]*entry{}
	ticker := time.NewTicker(period)
	defer ticker.Stop()
	for {
		r.look(ctx)
		select {
		case <-ctx.Done():
			return nil
		case <-ticker.C:
		}
	}
}

// look registers what came and takes leave of what went.
func (r *Registry) look(ctx context.Context) {
	found := map[string]time.Time{}
	err := filepath.WalkDir(r.Dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.Type()&fs.ModeSocket == 0 || strings.HasPrefix(e.Name(), ".") {
			return nil
		}
		if info, err := e.Info(); err == nil {
			found[path] = info.ModTime()
		}
		return nil
	})
	if err != nil {
		r.Logger.Warn("cannot read the plugin registry", "folder", r.Dir, "error", err)
		return
	}
	for path, e := range r.known {
		if made, there := found[path]; there && made.Equal(e.made) {
			continue
		}
		delete(r.known, path)
		if e.plugin != nil {
			r.Logger.Info("plugin is gone", "type", e.plugin.Type, "name", e.plugin.Name)
			r.Handlers[e.plugin.Type].Deregister(ctx, *e.plugin)
		}
	}
	for path, made := range found {
		e := r.known[path]
		if e == nil {
			e = &entry{made: made, wait: period}
			r.known[path] = e
		}
		if e.plugin != nil || time.Now().Before(e.next) || ctx.Err() != nil {
			continue
		}
		plugin, err := r.register(ctx, path)
		if err != nil {
			e.wait = min(2*e.wait, lastRetry)
			e.next = time.Now().Add(e.wait)
			r.Logger.Warn("cannot register plugin", "socket", path, "error", err)
			continue
		}
		e.plugin = plugin
		r.Logger.Info("plugin registered", "type", plugin.Type, "name", plugin.Name, "endpoint", plugin.Endpoint)
	}
}

// Dial connects to a plugin's socket. Nothing is sent before the first call.
func Dial(socket string) (*grpc.ClientConn, error) {
	return grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return connect(ctx, socket) }))
}

// longest is how long the path of a socket may be for the kernel.
const longest = 107

// connect connects to a socket. Plugins make theirs below /var/lib/kubelet, which
// is a link to a longer path: too long, it goes by the descriptor of its directory.
func connect(ctx context.Context, socket string) (net.Conn, error) {
	if len(socket) > longest {
		dir, err := os.Open(filepath.Dir(socket))
		if err != nil {
			return nil, fmt.Errorf("open directory of socket: %w", err)
		}
		defer dir.Close()
		socket = fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(socket))
	}
	return (&net.Dialer{}).DialContext(ctx, "unix", socket)
}

func (r *Registry) register(ctx context.Context, socket string) (*Plugin, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	conn, err := Dial(socket)
	if err != nil {
		return nil, fmt.Errorf("connect: %w", err)
	}
	defer conn.Close()
	client := registration.NewRegistrationClient(conn)
	info, err := client.GetInfo(ctx, &registration.InfoRequest{})
	if err != nil {
		return nil, fmt.Errorf("ask who it is: %w", err)
	}
	p := &Plugin{Type: info.Type, Name: info.Name, Endpoint: info.Endpoint, Versions: info.SupportedVersions, Socket: socket}
	if p.Endpoint == "" {
		p.Endpoint = socket
	}
	handler := r.Handlers[p.Type]
	if handler == nil {
		err = fmt.Errorf("no handler registered for plugin type: %s at socket %s", p.Type, socket)
	} else {
		err = handler.Register(ctx, *p)
	}
	status := &registration.RegistrationStatus{PluginRegistered: err == nil}
	if err != nil {
		status.Error = err.Error()
	}
	if _, told := client.NotifyRegistrationStatus(ctx, status); told != nil && err == nil {
		err = fmt.Errorf("tell plugin that it is registered: %w", told)
		handler.Deregister(ctx, *p)
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}
