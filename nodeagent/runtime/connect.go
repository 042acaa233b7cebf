package runtime

import (
	"context"
	"fmt"
	"log/slog"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	client "k8s.io/cri-client/pkg"
)

// requestTimeout bounds one CRI call that the client library puts a bound on.
const requestTimeout = 2 * time.Minute

// Runtime is a connection to the container runtime. It survives restarts of
// the runtime: calls fail meanwhile and work again afterwards. Safe for
// concurrent use.
type Runtime struct {
	cri.RuntimeService
	Images cri.ImageManagerService

	logger   *slog.Logger
	observer Observer // nil: nobody wants to know
}

// New wraps CRI services that exist already.
func New(service cri.RuntimeService, images cri.ImageManagerService, logger *slog.Logger) *Runtime {
	return &Runtime{RuntimeService: service, Images: images, logger: logger}
}

// Connect dials the CRI socket ("unix:///run/…") and waits until the runtime
// answers or ctx ends.
func Connect(ctx context.Context, socket string, logger *slog.Logger) (*Runtime, error) {
	for delay := 200 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		service, err := client.NewRemoteRuntimeService(ctx, socket, requestTimeout, nil, false)
		if err == nil {
			images, err := client.NewRemoteImageService(ctx, socket, requestTimeout, nil, false)
			if err == nil {
				return New(service, images, logger), nil
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
