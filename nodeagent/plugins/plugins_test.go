package plugins

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	registration "k8s.io/kubelet/pkg/apis/pluginregistration/v1"
)

type fakePlugin struct {
	registration.UnimplementedRegistrationServer
	info registration.PluginInfo

	mu   sync.Mutex
	told []*registration.RegistrationStatus
}

func (f *fakePlugin) GetInfo(context.Context, *registration.InfoRequest) (*registration.PluginInfo, error) {
	return &f.info, nil
}

func (f *fakePlugin) NotifyRegistrationStatus(_ context.Context, s *registration.RegistrationStatus) (*registration.RegistrationStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.told = append(f.told, s)
	return &registration.RegistrationStatusResponse{}, nil
}

func (f *fakePlugin) last() *registration.RegistrationStatus {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(f.told) == 0 {
		return nil
	}
	return f.told[len(f.told)-1]
}

// serve puts the plugin's socket into the folder until stop is called.
func (f *fakePlugin) serve(t *testing.T, socket string) (stop func()) {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	registration.RegisterRegistrationServer(server, f)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return server.Stop
}

type fakeHandler struct {
	mu     sync.Mutex
	refuse error
	now    map[string]Plugin
}

func (h *fakeHandler) Register(_ context.Context, p Plugin) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.refuse != nil {
		return h.refuse
	}
	h.now[p.Name] = p
	return nil
}

func (h *fakeHandler) Deregister(_ context.Context, p Plugin) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.now, p.Name)
}

func (h *fakeHandler) has(name string) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	_, ok := h.now[name]
	return ok
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func TestPluginsComeAndGo(t *testing.T) {
	dir, err := os.MkdirTemp("", "reg") // short: paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	handler := &fakeHandler{now: map[string]Plugin{}}
	r := &Registry{Dir: dir, Handlers: map[string]Handler{"kind": handler}, Logger: slog.New(slog.DiscardHandler)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- r.Run(ctx) }()
	defer func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	}()
	good := &fakePlugin{info: registration.PluginInfo{Type: "kind", Name: "good", Endpoint: "/its/own.sock", SupportedVersions: []string{"1.0.0"}}}
	stop := good.serve(t, filepath.Join(dir, "good.sock"))
	odd := &fakePlugin{info: registration.PluginInfo{Type: "unheard", Name: "odd"}}
	odd.serve(t, filepath.Join(dir, "odd.sock"))
	eventually(t, "the plugin to be told that it is registered", func() bool { s := good.last(); return s != nil && s.PluginRegistered })
	handler.mu.Lock()
	p := handler.now["good"]
	handler.mu.Unlock()
	if p.Endpoint != "/its/own.sock" || p.Type != "kind" || len(p.Versions) != 1 {
		t.Errorf("registered %+v", p)
	}
	eventually(t, "the odd one to be refused", func() bool { s := odd.last(); return s != nil && !s.PluginRegistered && s.Error != "" })
	stop()
	eventually(t, "the plugin to be forgotten", func() bool { return !handler.has("good") })

	handler.mu.Lock()
	handler.refuse = errors.New("not yet")
	handler.mu.Unlock()
	late := &fakePlugin{info: registration.PluginInfo{Type: "kind", Name: "late"}}
	late.serve(t, filepath.Join(dir, "late.sock"))
	eventually(t, "the late one to be refused", func() bool { s := late.last(); return s != nil && s.Error == "not yet" })
	handler.mu.Lock()
	handler.refuse = nil
	handler.mu.Unlock()
	eventually(t, "the late one to be registered after all", func() bool { return handler.has("late") })
}

// Drivers that are updated while they run name their sockets by UID.
func TestSocketsMayHaveLongPaths(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("long", 30))
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	open, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer open.Close()
	listener, err := net.Listen("unix", fmt.Sprintf("/proc/self/fd/%d/s", open.Fd()))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	conn, err := connect(t.Context(), filepath.Join(dir, "s"))
	if err != nil {
		t.Fatal(err)
	}
	_ = conn.Close()
	if _, err := connect(t.Context(), filepath.Join(dir, "none")); err == nil {
		t.Error("connected to nothing")
	}
}
