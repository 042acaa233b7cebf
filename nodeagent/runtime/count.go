package runtime

import (
	"context"
	"time"

	cri "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Observer is told of every call to the runtime.
type Observer interface {
	Operation(name string, took time.Duration, err error)
	Relisted(at time.Time, took time.Duration)
}

// Observe has the observer told of every call from now on. It is called before
// the runtime is in use.
func (r *Runtime) Observe(o Observer) {
	r.RuntimeService = observedRuntime{r.RuntimeService, o}
	r.Images = observedImages{r.Images, o}
	r.observer = o
}

// observed times a call.
func observed[T any](o Observer, name string, call func() (T, error)) (T, error) {
	began := time.Now()
	result, err := call()
	o.Operation(name, time.Since(began), err)
	return result, err
}

func observedError(o Observer, name string, call func() error) error {
	_, err := observed(o, name, func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// observedRuntime passes on what pods are run with; the rest is as it was.
type observedRuntime struct {
	cri.RuntimeService
	to Observer
}

func (r observedRuntime) RunPodSandbox(ctx context.Context, config *criv1.PodSandboxConfig, handler string) (string, error) {
	return observed(r.to, "run_podsandbox", func() (string, error) { return r.RuntimeService.RunPodSandbox(ctx, config, handler) })
}

func (r observedRuntime) StopPodSandbox(ctx context.Context, id string) error {
	return observedError(r.to, "stop_podsandbox", func() error { return r.RuntimeService.StopPodSandbox(ctx, id) })
}

func (r observedRuntime) RemovePodSandbox(ctx context.Context, id string) error {
	return observedError(r.to, "remove_podsandbox", func() error { return r.RuntimeService.RemovePodSandbox(ctx, id) })
}

func (r observedRuntime) PodSandboxStatus(ctx context.Context, id string, verbose bool) (*criv1.PodSandboxStatusResponse, error) {
	return observed(r.to, "podsandbox_status", func() (*criv1.PodSandboxStatusResponse, error) {
		return r.RuntimeService.PodSandboxStatus(ctx, id, verbose)
	})
}

func (r observedRuntime) ListPodSandbox(ctx context.Context, filter *criv1.PodSandboxFilter) ([]*criv1.PodSandbox, error) {
	return observed(r.to, "list_podsandbox", func() ([]*criv1.PodSandbox, error) { return r.RuntimeService.ListPodSandbox(ctx, filter) })
}

func (r observedRuntime) CreateContainer(ctx context.Context, sandbox string, config *criv1.ContainerConfig, sandboxConfig *criv1.PodSandboxConfig) (string, error) {
	return observed(r.to, "create_container", func() (string, error) {
		return r.RuntimeService.CreateContainer(ctx, sandbox, config, sandboxConfig)
	})
}

func (r observedRuntime) StartContainer(ctx context.Context, id string) error {
	return observedError(r.to, "start_container", func() error { return r.RuntimeService.StartContainer(ctx, id) })
}

func (r observedRuntime) StopContainer(ctx context.Context, id string, timeout int64) error {
	return observedError(r.to, "stop_container", func() error { return r.RuntimeService.StopContainer(ctx, id, timeout) })
}

func (r observedRuntime) RemoveContainer(ctx context.Context, id string) error {
	return observedError(r.to, "remove_container", func() error { return r.RuntimeService.RemoveContainer(ctx, id) })
}

func (r observedRuntime) ListContainers(ctx context.Context, filter *criv1.ContainerFilter) ([]*criv1.Container, error) {
	return observed(r.to, "list_containers", func() ([]*criv1.Container, error) { return r.RuntimeService.ListContainers(ctx, filter) })
}

func (r observedRuntime) ContainerStatus(ctx context.Context, id string, verbose bool) (*criv1.ContainerStatusResponse, error) {
	return observed(r.to, "container_status", func() (*criv1.ContainerStatusResponse, error) {
		return r.RuntimeService.ContainerStatus(ctx, id, verbose)
	})
}

func (r observedRuntime) UpdateContainerResources(ctx context.Context, id string, resources *criv1.ContainerResources) error {
	return observedError(r.to, "update_container", func() error { return r.RuntimeService.UpdateContainerResources(ctx, id, resources) })
}

func (r observedRuntime) ExecSync(ctx context.Context, id string, cmd []string, timeout time.Duration) (stdout, stderr []byte, err error) {
	err = observedError(r.to, "exec_sync", func() error {
		stdout, stderr, err = r.RuntimeService.ExecSync(ctx, id, cmd, timeout)
		return err
	})
	return stdout, stderr, err
}

func (r observedRuntime) Status(ctx context.Context, verbose bool) (*criv1.StatusResponse, error) {
	return observed(r.to, "status", func() (*criv1.StatusResponse, error) { return r.RuntimeService.Status(ctx, verbose) })
}

// observedImages is the same for images.
type observedImages struct {
	cri.ImageManagerService
	to Observer
}

func (i observedImages) ListImages(ctx context.Context, filter *criv1.ImageFilter) ([]*criv1.Image, error) {
	return observed(i.to, "list_images", func() ([]*criv1.Image, error) { return i.ImageManagerService.ListImages(ctx, filter) })
}

func (i observedImages) ImageStatus(ctx context.Context, image *criv1.ImageSpec, verbose bool) (*criv1.ImageStatusResponse, error) {
	return observed(i.to, "image_status", func() (*criv1.ImageStatusResponse, error) {
		return i.ImageManagerService.ImageStatus(ctx, image, verbose)
	})
}

func (i observedImages) PullImage(ctx context.Context, image *criv1.ImageSpec, auth *criv1.AuthConfig, sandbox *criv1.PodSandboxConfig) (string, error) {
	return observed(i.to, "pull_image", func() (string, error) { return i.ImageManagerService.PullImage(ctx, image, auth, sandbox) })
}

func (i observedImages) RemoveImage(ctx context.Context, image *criv1.ImageSpec) error {
	return observedError(i.to, "remove_image", func() error { return i.ImageManagerService.RemoveImage(ctx, image) })
}
