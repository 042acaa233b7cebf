package runtime

import (
	"context"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// State is what a container does.
type State int

// The states of a container.
const (
	Created State = iota
	Running
	Exited
	Unknown
)

// Pod is what the runtime holds of one pod.
type Pod struct {
	UID        types.UID
	Namespace  string
	Name       string
	Sandboxes  []Sandbox   // newest first
	Containers []Container // newest first, of every sandbox
}

// Sandbox is one sandbox of a pod.
type Sandbox struct {
	ID        string
	Attempt   uint32
	Ready     bool
	CreatedAt time.Time
	IPs       []string // empty on the host's network
}

// Container is one run of a container of a pod.
type Container struct {
	ID          string
	URI         string // the ID as the API spells it, "containerd://…"
	SandboxID   string
	Name        string
	Attempt     uint32 // restarts before this run
	Hash        string
	State       State
	CreatedAt   time.Time
	StartedAt   time.Time
	FinishedAt  time.Time
	ExitCode    int32
	Reason      string
	Message     string
	Image       string // as the runtime names it
	ImageRef    string // repository@digest where known, else the image's ID
	LogPath     string
	User        *criv1.ContainerUser
	Resources   *criv1.ContainerResources
	Annotations map[string]string
}

// Sandbox is the newest sandbox, or nil.
func (p *Pod) Sandbox() *Sandbox {
	if len(p.Sandboxes) == 0 {
		return nil
	}
	return &p.Sandboxes[0]
}

// Latest is the newest run of the named container, or nil.
func (p *Pod) Latest(name string) *Container {
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			return &p.Containers[i]
		}
	}
	return nil
}

// Runs are all runs of the named container, newest first.
func (p *Pod) Runs(name string) []*Container {
	var runs []*Container
	for i := range p.Containers {
		if p.Containers[i].Name == name {
			runs = append(runs, &p.Containers[i])
		}
	}
	return runs
}

// Empty says that the runtime holds nothing of the pod.
func (p *Pod) Empty() bool { return len(p.Sandboxes) == 0 && len(p.Containers) == 0 }

// Pod observes everything that belongs to the pod uid.
func (r *Runtime) Pod(ctx context.Context, uid types.UID) (*Pod, error) {
	selector := map[string]string{LabelPodUID: string(uid)}
	sandboxes, err := r.ListPodSandbox(ctx, &criv1.PodSandboxFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := r.ListContainers(ctx, &criv1.ContainerFilter{LabelSelector: selector})
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	pod := &Pod{UID: uid}
	for _, s := range sandboxes {
		sandbox := Sandbox{
			ID:        s.Id,
			Attempt:   s.Metadata.GetAttempt(),
			Ready:     s.State == criv1.PodSandboxState_SANDBOX_READY,
			CreatedAt: time.Unix(0, s.CreatedAt),
		}
		pod.Namespace, pod.Name = s.Metadata.GetNamespace(), s.Metadata.GetName()
		if sandbox.Ready {
			full, err := r.PodSandboxStatus(ctx, s.Id, false)
			if err != nil && !IsNotFound(err) {
				return nil, fmt.Errorf("read sandbox %s: %w", s.Id, err)
			}
			if full != nil {
				sandbox.IPs = sandboxIPs(full.Status)
			}
		}
		pod.Sandboxes = append(pod.Sandboxes, sandbox)
	}
	for _, c := range containers {
		full, err := r.ContainerStatus(ctx, c.Id, false)
		if IsNotFound(err) {
			continue // removed since it was listed
		}
		if err != nil {
			return nil, fmt.Errorf("read container %s: %w", c.Id, err)
		}
		pod.Containers = append(pod.Containers, r.container(c.PodSandboxId, full.Status))
	}
	pod.sort()
	return pod, nil
}

// Sandbox observes one sandbox.
func (r *Runtime) Sandbox(ctx context.Context, id string) (Sandbox, error) {
	full, err := r.PodSandboxStatus(ctx, id, false)
	if err != nil {
		return Sandbox{}, fmt.Errorf("read sandbox %s: %w", id, err)
	}
	s := full.Status
	sandbox := Sandbox{ID: s.Id, Attempt: s.Metadata.GetAttempt(), Ready: s.State == criv1.PodSandboxState_SANDBOX_READY, CreatedAt: time.Unix(0, s.CreatedAt)}
	if sandbox.Ready {
		sandbox.IPs = sandboxIPs(s)
	}
	return sandbox, nil
}

// Container observes one container of a sandbox.
func (r *Runtime) Container(ctx context.Context, sandbox, id string) (Container, error) {
	full, err := r.ContainerStatus(ctx, id, false)
	if err != nil {
		return Container{}, fmt.Errorf("read container %s: %w", id, err)
	}
	return r.container(sandbox, full.Status), nil
}

// RemoveSandbox stops a sandbox and removes it with what is in it. Removing does
// both in containerd, which would run the network plugins twice if it was told to
// stop it before; CRI-O leaves the network of one that was not stopped.
func (r *Runtime) RemoveSandbox(ctx context.Context, id string) error {
	if r.name != containerd {
		if err := r.StopPodSandbox(ctx, id); err != nil {
			return fmt.Errorf("stop sandbox %s: %w", id, err)
		}
	}
	if err := r.RemovePodSandbox(ctx, id); err != nil {
		return fmt.Errorf("remove sandbox %s: %w", id, err)
	}
	return nil
}

// UIDs are the pods that the runtime holds anything of, with their names.
func (r *Runtime) UIDs(ctx context.Context) (map[types.UID]types.NamespacedName, error) {
	sandboxes, err := r.ListPodSandbox(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list sandboxes: %w", err)
	}
	containers, err := r.ListContainers(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list containers: %w", err)
	}
	uids := map[types.UID]types.NamespacedName{}
	note := func(labels map[string]string) {
		if uid := labels[LabelPodUID]; uid != "" {
			uids[types.UID(uid)] = types.NamespacedName{Namespace: labels[LabelPodNamespace], Name: labels[LabelPodName]}
		}
	}
	for _, s := range sandboxes {
		note(s.Labels)
	}
	for _, c := range containers {
		note(c.Labels)
	}
	return uids, nil
}

// IsNotFound says that the runtime does not know what it was asked about.
func IsNotFound(err error) bool { return status.Code(err) == codes.NotFound }

func sandboxIPs(s *criv1.PodSandboxStatus) []string {
	if s == nil || s.Network == nil {
		return nil
	}
	var ips []string
	if s.Network.Ip != "" {
		ips = append(ips, s.Network.Ip)
	}
	for _, more := range s.Network.AdditionalIps {
		ips = append(ips, more.Ip)
	}
	return ips
}

func (r *Runtime) container(sandbox string, s *criv1.ContainerStatus) Container {
	c := Container{
		ID:          s.Id,
		URI:         r.name + "://" + s.Id,
		SandboxID:   sandbox,
		Name:        s.Metadata.GetName(),
		Attempt:     s.Metadata.GetAttempt(),
		Hash:        s.Annotations[AnnotationHash],
		State:       State(s.State),
		CreatedAt:   timestamp(s.CreatedAt),
		StartedAt:   timestamp(s.StartedAt),
		FinishedAt:  timestamp(s.FinishedAt),
		ExitCode:    s.ExitCode,
		Reason:      s.Reason,
		Message:     s.Message,
		Image:       s.Image.GetUserSpecifiedImage(),
		ImageRef:    s.ImageRef,
		LogPath:     s.LogPath,
		User:        s.User,
		Resources:   s.Resources,
		Annotations: s.Annotations,
	}
	if c.Image == "" {
		c.Image = s.Image.GetImage()
	}
	if s.State == criv1.ContainerState_CONTAINER_UNKNOWN {
		c.State = Unknown
	}
	return c
}

func timestamp(nano int64) time.Time {
	if nano <= 0 {
		return time.Time{}
	}
	return time.Unix(0, nano)
}
