package images

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	v1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	cri "k8s.io/cri-api/pkg/apis"
)

// Reasons a container waits for its image, as its status shows them.
const (
	ReasonPull       = "ErrImagePull"
	ReasonBackOff    = "ImagePullBackOff"
	ReasonNeverPull  = "ErrImageNeverPull"
	ReasonInspection = "ImageInspectError"
	ReasonInvalid    = "InvalidImageName"
)

// Pulling is the reason of the event that a pull begins with.
const Pulling = "Pulling"

const (
	firstBackOff = 10 * time.Second
	maxBackOff   = 5 * time.Minute
)

// Fault says why there is no image; Reason is one of the constants above.
type Fault struct {
	Reason  string
	Message string
	Until   time.Time // when a pull may be tried again
	Err     error
}

func (f *Fault) Error() string { return f.Message }
func (f *Fault) Unwrap() error { return f.Err }

// Report receives what happens on the way, for the pod's events.
type Report func(eventType, reason, message string)

// Puller brings images to the host. Safe for concurrent use.
type Puller struct {
	images cri.ImageManagerService
	pulls  *pulls
	now    func() time.Time

	mu      sync.Mutex
	waiting map[string]backOff // by pod and image
	slots   chan struct{}
}

type backOff struct {
	delay   time.Duration
	until   time.Time
	message string
}

// New makes a puller that pulls at most parallel images at a time, and remembers in
// dir who may use them.
func New(images cri.ImageManagerService, parallel int, dir string) *Puller {
	return &Puller{images: images, pulls: newPulls(dir), now: time.Now, waiting: map[string]backOff{}, slots: make(chan struct{}, parallel)}
}

// Recover does what is left to do of pulls during which an agent before this one
// ended.
func (p *Puller) Recover(ctx context.Context) error { return p.pulls.recover(ctx, p.images) }

// Ensure returns the reference by which the runtime knows the image of c,
// after a pull if the policy wants one. A failure is a *Fault.
func (p *Puller) Ensure(ctx context.Context, pod *v1.Pod, c *v1.Container, sandbox *criv1.PodSandboxConfig, secrets []v1.Secret, report Report) (string, error) {
	name := Normalize(c.Image)
	if name == "" {
		message := fmt.Sprintf("Failed to apply default image tag %q: couldn't parse image name: invalid reference format", c.Image)
		report(v1.EventTypeWarning, "InspectFailed", message)
		return "", &Fault{Reason: ReasonInvalid, Message: message, Until: p.now().Add(maxBackOff)}
	}
	spec := &criv1.ImageSpec{Image: name, UserSpecifiedImage: c.Image}
	ref, err := p.present(ctx, spec)
	if err != nil {
		message := fmt.Sprintf("Failed to inspect image %q: %v", c.Image, err)
		report(v1.EventTypeWarning, "InspectFailed", message)
		return "", &Fault{Reason: ReasonInspection, Message: message, Until: p.now().Add(firstBackOff), Err: err}
	}
	policy, credentials := c.ImagePullPolicy, Credentials(name, secrets)
	if ref != "" && policy != v1.PullAlways && p.pulls.allowed(name, ref, credentials) {
		report(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Container image %q already present on machine and can be accessed by the pod", c.Image))
		return ref, nil
	}
	if policy == v1.PullNever {
		message := fmt.Sprintf("Container image %q is not present with pull policy of Never", c.Image)
		report(v1.EventTypeWarning, ReasonNeverPull, message)
		return "", &Fault{Reason: ReasonNeverPull, Message: message, Until: p.now().Add(firstBackOff)}
	}
	key := string(pod.UID) + "/" + name
	if fault := p.backingOff(key, c.Image); fault != nil {
		report(v1.EventTypeNormal, "BackOff", fmt.Sprintf("Back-off pulling image %q", c.Image))
		return "", fault
	}
	report(v1.EventTypeNormal, Pulling, fmt.Sprintf("Pulling image %q", c.Image))
	began := p.now()
	ref, err = p.pull(ctx, spec, sandbox, credentials)
	if err != nil {
		message := fmt.Sprintf("failed to pull image %q: %v", c.Image, err)
		report(v1.EventTypeWarning, "Failed", fmt.Sprintf("Failed to pull image %q: %v", c.Image, err))
		report(v1.EventTypeWarning, "Failed", "Error: "+ReasonPull)
		return "", &Fault{Reason: ReasonPull, Message: message, Until: p.failed(key, message), Err: err}
	}
	p.mu.Lock()
	delete(p.waiting, key)
	p.mu.Unlock()
	took := p.now().Sub(began).Round(time.Millisecond)
	report(v1.EventTypeNormal, "Pulled", fmt.Sprintf("Successfully pulled image %q in %v.", c.Image, took))
	return ref, nil
}

// Forget drops the back-off of a pod's images.
func (p *Puller) Forget(pod *v1.Pod) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k := range p.waiting {
		if strings.HasPrefix(k, string(pod.UID)+"/") {
			delete(p.waiting, k)
		}
	}
}

func (p *Puller) present(ctx context.Context, spec *criv1.ImageSpec) (string, error) {
	r, err := p.images.ImageStatus(ctx, spec, false)
	if err != nil {
		return "", err
	}
	return r.GetImage().GetId(), nil
}

func (p *Puller) pull(ctx context.Context, spec *criv1.ImageSpec, sandbox *criv1.PodSandboxConfig, credentials []Credential) (ref string, err error) {
	select {
	case p.slots <- struct{}{}:
		defer func() { <-p.slots }()
	case <-ctx.Done():
		return "", ctx.Err()
	}
	if err := p.pulls.begin(spec.Image); err != nil {
		return "", fmt.Errorf("note that it is pulled: %w", err)
	}
	var from *source
	defer func() {
		known := ref
		if known != "" {
			// The runtime may return another name than its own for the image.
			if id, err := p.present(ctx, spec); err == nil && id != "" {
				known = id
			}
		}
		// What cannot be noted has the registry asked again for the next pod.
		_ = p.pulls.end(spec.Image, known, from)
	}()
	if len(credentials) == 0 {
		return p.images.PullImage(ctx, spec, nil, sandbox)
	}
	for _, c := range credentials {
		if ref, err = p.images.PullImage(ctx, spec, c.Auth, sandbox); err == nil {
			from = &c.From
			return ref, nil
		}
	}
	return "", err
}

func (p *Puller) backingOff(key, image string) *Fault {
	p.mu.Lock()
	defer p.mu.Unlock()
	b, ok := p.waiting[key]
	if !ok || !p.now().Before(b.until) {
		return nil
	}
	message := fmt.Sprintf("Back-off pulling image %q: %s: %s", image, ReasonPull, b.message)
	return &Fault{Reason: ReasonBackOff, Message: message, Until: b.until}
}

func (p *Puller) failed(key, message string) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	b := p.waiting[key]
	b.delay = min(max(2*b.delay, firstBackOff), maxBackOff)
	b.until = p.now().Add(b.delay)
	b.message = message
	p.waiting[key] = b
	// Ask again at once: what comes back then is the back-off itself, which
	// is what the status has to show while it lasts.
	return p.now().Add(time.Second)
}

// List are the images on the host as a node's status shows them, largest
// first, at most limit.
func List(ctx context.Context, images cri.ImageManagerService, limit int) ([]v1.ContainerImage, error) {
	all, err := images.ListImages(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("list images: %w", err)
	}
	list := make([]v1.ContainerImage, 0, len(all))
	for _, image := range all {
		names := append(append([]string{}, image.RepoDigests...), image.RepoTags...)
		if len(names) > 0 {
			list = append(list, v1.ContainerImage{Names: names, SizeBytes: int64(image.Size)})
		}
	}
	sortBySize(list)
	return list[:min(len(list), limit)], nil
}
