package runtime

import (
	"context"
	"log/slog"
	"net"
	"path/filepath"
	"testing"
	"time"

	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// crio answers on a socket as CRI-O does; an old one tells no driver.
type crio struct {
	criv1.UnimplementedRuntimeServiceServer
	criv1.UnimplementedImageServiceServer
	driver criv1.CgroupDriver
	old    bool
}

func (c *crio) Version(context.Context, *criv1.VersionRequest) (*criv1.VersionResponse, error) {
	return &criv1.VersionResponse{Version: "0.1.0", RuntimeName: "cri-o", RuntimeVersion: "1.36.0", RuntimeApiVersion: "v1"}, nil
}

func (c *crio) RuntimeConfig(ctx context.Context, r *criv1.RuntimeConfigRequest) (*criv1.RuntimeConfigResponse, error) {
	if c.old {
		return c.UnimplementedRuntimeServiceServer.RuntimeConfig(ctx, r)
	}
	return &criv1.RuntimeConfigResponse{Linux: &criv1.LinuxRuntimeConfiguration{CgroupDriver: c.driver}}, nil
}

func (c *crio) ImageFsInfo(context.Context, *criv1.ImageFsInfoRequest) (*criv1.ImageFsInfoResponse, error) {
	return &criv1.ImageFsInfoResponse{}, nil
}

func (c *crio) ListPodSandbox(context.Context, *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	return &criv1.ListPodSandboxResponse{}, nil
}

func (c *crio) ListContainers(context.Context, *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	return &criv1.ListContainersResponse{Containers: []*criv1.Container{{Id: "1"}}}, nil
}

func (c *crio) ContainerStatus(context.Context, *criv1.ContainerStatusRequest) (*criv1.ContainerStatusResponse, error) {
	return &criv1.ContainerStatusResponse{Status: &criv1.ContainerStatus{
		Id: "1", Metadata: &criv1.ContainerMetadata{Name: "c"}, Image: &criv1.ImageSpec{Image: "i"}, ImageRef: "i",
		State: criv1.ContainerState_CONTAINER_RUNNING, CreatedAt: 1, StartedAt: 1}}, nil
}

func TestAnotherRuntimeSaysWhatItIs(t *testing.T) {
	for name, c := range map[string]struct {
		runtime crio
		driver  string
	}{
		"systemd":  {crio{driver: criv1.CgroupDriver_SYSTEMD}, "systemd"},
		"cgroupfs": {crio{driver: criv1.CgroupDriver_CGROUPFS}, "cgroupfs"},
		"old":      {crio{old: true}, ""},
	} {
		t.Run(name, func(t *testing.T) {
			socket := filepath.Join(t.TempDir(), "s")
			listener, err := net.Listen("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			server := grpc.NewServer()
			criv1.RegisterRuntimeServiceServer(server, &c.runtime)
			criv1.RegisterImageServiceServer(server, &c.runtime)
			done := make(chan error, 1)
			go func() { done <- server.Serve(listener) }()
			t.Cleanup(func() { server.Stop(); <-done })
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			r, err := Connect(ctx, "unix://"+socket, slog.New(slog.DiscardHandler))
			if err != nil {
				t.Fatal(err)
			}
			if driver, err := r.CgroupDriver(ctx); err != nil || driver != c.driver {
				t.Errorf("cgroup driver %q, %v", driver, err)
			}
			pod, err := r.Pod(ctx, "u")
			if err != nil {
				t.Fatal(err)
			}
			if uri := pod.Latest("c").URI; uri != "cri-o://1" {
				t.Errorf("the API is told of %s", uri)
			}
		})
	}
}
