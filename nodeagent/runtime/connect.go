package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	cri "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	client "k8s.io/cri-client/pkg"
)

// requestTimeout bounds one CRI call that the client library puts a bound on.
const requestTimeout = 2 * time.Minute

// containerd is what containerd calls itself.
const containerd = "containerd"

// Runtime is a connection to the container runtime. It survives restarts of
// the runtime: calls fail meanwhile and work again afterwards. Safe for
// concurrent use.
type Runtime struct {
	cri.RuntimeService
	Images cri.ImageManagerService

	name     string // of the program, as it calls itself: containerd, "cri-o"
	logger   *slog.Logger
	observer Observer // nil: nobody wants to know
}

// New wraps CRI services of containerd that exist already.
func New(service cri.RuntimeService, images cri.ImageManagerService, logger *slog.Logger) *Runtime {
	return &Runtime{name: containerd, RuntimeService: service, Images: images, logger: logger}
}

// Connect dials the CRI socket ("unix:///run/…") and waits until the runtime
// answers or ctx ends.
func Connect(ctx context.Context, socket string, logger *slog.Logger) (*Runtime, error) {
	for delay := 200 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		service, err := client.NewRemoteRuntimeService(ctx, socket, requestTimeout, nil, false)
		if err == nil {
			var images cri.ImageManagerService
			images, err = client.NewRemoteImageService(ctx, socket, requestTimeout, nil, false)
			if err == nil {
				var version *criv1.VersionResponse
				if version, err = service.Version(ctx, "v1"); err == nil {
					r := New(service, images, logger)
					r.name = version.RuntimeName
					return r, nil
				}
				_ = images.Close(ctx)
			}
			_ = service.Close(ctx)
		}
		logger.Warn("container runtime does not answer yet", "socket", socket, "error", err)
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("connect to container runtime at %s: %w", socket, ctx.Err())
		case <-time.After(delay):
		}
	}
}

// CgroupDriver is how the runtime names control groups, "cgroupfs" or "systemd";
// empty if it does not tell.
func (r *Runtime) CgroupDriver(ctx context.Context) (string, error) {
	config, err := r.RuntimeConfig(ctx)
	if status.Code(err) == codes.Unimplemented {
		return "", nil
	}
	if err != nil {
		return "", fmt.Errorf("ask the runtime for its cgroup driver: %w", err)
	}
	if config.GetLinux() == nil {
		return "", nil
	}
	switch driver := config.Linux.CgroupDriver; driver {
	case criv1.CgroupDriver_CGROUPFS:
		return "cgroupfs", nil
	case criv1.CgroupDriver_SYSTEMD:
		return "systemd", nil
	default:
		return "", fmt.Errorf("the runtime has a cgroup driver that is not known: %s", driver)
	}
}
