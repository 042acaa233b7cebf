package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/containerd/v2/core/images/archive"
	"github.com/containerd/containerd/v2/plugins/content/local"
	"github.com/distribution/reference"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

const (
	loadDir       = hostconfig.HandDir + "/load" // an archive's content while CRI-O takes it
	reloadLimit   = time.Minute                  // for CRI-O to read its configuration again
	reloadAsk     = 200 * time.Millisecond
	pullLimit     = 10 * time.Minute
	sandboxLimit  = 2 * time.Minute
	crioPinsStart = "# Written by clusterctl: images that it loaded, so that they are kept.\n[crio.image]\npinned_images = [\n"
)

// crio connects to the host's CRI-O.
func (h *Hand) crio() (*grpc.ClientConn, error) {
	socket := h.path(hostconfig.CRIOSock)
	if _, err := os.Stat(socket); err != nil {
		return nil, fmt.Errorf("CRI-O does not run: %w", err)
	}
	conn, err := grpc.NewClient("unix://"+socket, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, fmt.Errorf("connect to CRI-O: %w", err)
	}
	return conn, nil
}

func (h *Hand) checkCRIOImage(ctx context.Context, name, target string) (string, error) {
	if _, err := os.Stat(h.path(hostconfig.CRIOSock)); err != nil {
		return "CRI-O does not run yet", nil
	}
	if h.exists(hostconfig.CRIOLoading) {
		return "was being loaded when that was broken off", nil
	}
	conn, err := h.crio()
	if err != nil {
		return "", err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	answer, err := criv1.NewImageServiceClient(conn).ImageStatus(ctx, &criv1.ImageStatusRequest{Image: &criv1.ImageSpec{Image: name}})
	switch {
	case err != nil:
		return "", fmt.Errorf("look up image: %w", err)
	case answer.Image == nil:
		return "is absent", nil
	case !slices.ContainsFunc(answer.Image.RepoDigests, func(digest string) bool { return strings.HasSuffix(digest, "@"+target) }):
		return "is another", nil
	case !answer.Image.Pinned:
		return "is not pinned", nil
	}
	return "", nil
}

// named is an image of an archive.
type named struct {
	repository string // in full: docker.io/library/app
	tag        string
	target     v1.Descriptor
}

func (n named) String() string { return n.repository + ":" + n.tag }

// loadIntoCRIO has CRI-O take images of an archive into its storage, and keep
// them: name, which is to be the one with the digest target, or all that the
// archive names where name is empty. It returns their names.
//
// CRI-O takes images from registries only. So the hand is one, on loopback, while
// this lasts, and a drop-in tells CRI-O to ask it for those very names.
func (h *Hand) loadIntoCRIO(ctx context.Context, stream io.Reader, name, target string) (names []string, err error) {
	if err := os.RemoveAll(h.path(loadDir)); err != nil {
		return nil, fmt.Errorf("remove what a load left: %w", err)
	}
	defer os.RemoveAll(h.path(loadDir))
	store, err := local.NewStore(h.path(loadDir))
	if err != nil {
		return nil, fmt.Errorf("unpack the archive: %w", err)
	}
	index, err := archive.ImportIndex(ctx, store, stream)
	if err != nil {
		return nil, fmt.Errorf("unpack the archive: %w", err)
	}
	found, err := namedImages(ctx, store, index)
	if err != nil {
		return nil, err
	}
	if name != "" {
		i := slices.IndexFunc(found, func(image named) bool { return image.target.Digest.String() == target })
		if i < 0 {
			return nil, fmt.Errorf("the archive does not hold %s", target)
		}
		image, err := newNamed(name, found[i].target)
		if err != nil {
			return nil, err
		}
		found = []named{image}
	}
	for _, image := range found {
		names = append(names, image.String())
	}
	conn, err := h.crio()
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	registry, err := serveRegistry(store, found)
	if err != nil {
		return nil, err
	}
	defer registry.Close()
	if err := h.pin(names); err != nil {
		return nil, err
	}
	if err := h.writeForeign(hostconfig.CRIOLoading, registry.config()); err != nil {
		return nil, err
	}
	defer func() {
		if removal := os.Remove(h.path(hostconfig.CRIOLoading)); removal != nil {
			err = errors.Join(err, fmt.Errorf("stop leading CRI-O to the images: %w", removal))
		}
		err = errors.Join(err, h.init.HangUp(ctx, hostconfig.UnitCRIO))
	}()
	service := criv1.NewImageServiceClient(conn)
	if err := h.awaitReload(ctx, service, registry); err != nil {
		return nil, err
	}
	for _, name := range names {
		if err := pull(ctx, service, name); err != nil {
			return nil, err
		}
	}
	return names, nil
}

// namedImages are the images that an index names.
func namedImages(ctx context.Context, store content.Provider, index v1.Descriptor) ([]named, error) {
	manifests, err := images.Children(ctx, store, index)
	if err != nil {
		return nil, fmt.Errorf("read the archive's index: %w", err)
	}
	var found []named
	for _, m := range manifests {
		text := m.Annotations[images.AnnotationImageName]
		if text == "" {
			text = m.Annotations[v1.AnnotationRefName]
		}
		if text == "" {
			continue
		}
		image, err := newNamed(text, m)
		if err != nil {
			return nil, fmt.Errorf("read the archive's index: %w", err)
		}
		found = append(found, image)
	}
	if len(found) == 0 {
		return nil, errors.New("import image: the archive names no image")
	}
	return found, nil
}

// newNamed makes a name full, as Docker's are.
func newNamed(text string, target v1.Descriptor) (named, error) {
	name, err := reference.ParseNormalizedNamed(text)
	if err != nil {
		return named{}, fmt.Errorf("image name %q: %w", text, err)
	}
	tagged, ok := reference.TagNameOnly(name).(reference.Tagged)
	if !ok {
		return named{}, fmt.Errorf("image name %q has no tag", text)
	}
	return named{name.Name(), tagged.Tag(), target}, nil
}

// awaitReload has CRI-O read its configuration again, and waits until it asks the
// registry for what nothing but that configuration leads there.
func (h *Hand) awaitReload(ctx context.Context, service criv1.ImageServiceClient, registry *registry) error {
	if err := h.init.HangUp(ctx, hostconfig.UnitCRIO); err != nil {
		return err
	}
	return until(ctx, reloadLimit, reloadAsk, func(string) {}, func(ctx context.Context) (string, error) {
		// It fails in any case: there is no such image.
		_, err := service.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: registry.probe()}})
		if registry.asked() {
			return "", nil
		}
		return fmt.Sprintf("CRI-O has not read its configuration again: %v", err), nil
	})
}

func pull(ctx context.Context, service criv1.ImageServiceClient, name string) error {
	ctx, cancel := context.WithTimeout(ctx, pullLimit)
	defer cancel()
	if _, err := service.PullImage(ctx, &criv1.PullImageRequest{Image: &criv1.ImageSpec{Image: name}}); err != nil {
		return fmt.Errorf("have CRI-O take image %s: %w", name, err)
	}
	return nil
}

// pin adds names to the images that CRI-O keeps when it collects garbage.
func (h *Hand) pin(names []string) error {
	pinned, err := h.pinned()
	if err != nil {
		return err
	}
	pinned = append(pinned, names...)
	slices.Sort(pinned)
	content := crioPinsStart
	for _, name := range slices.Compact(pinned) {
		content += fmt.Sprintf("  %q,\n", name)
	}
	return h.writeForeign(hostconfig.CRIOPins, []byte(content+"]\n"))
}

// pinned are the images that were loaded.
func (h *Hand) pinned() ([]string, error) {
	raw, err := os.ReadFile(h.path(hostconfig.CRIOPins))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which images were loaded: %w", err)
	}
	var names []string
	for line := range strings.Lines(string(raw)) {
		if name, ok := strings.CutSuffix(strings.TrimSpace(line), `",`); ok {
			names = append(names, strings.TrimPrefix(name, `"`))
		}
	}
	return names, nil
}

// writeForeign writes a file outside our directories so that a reset finds it.
func (h *Hand) writeForeign(path string, content []byte) error {
	file := &hostop.File{Path: path, Mode: 0o644, Content: content}
	if err := h.record(file); err != nil {
		return err
	}
	return h.applyFile(file)
}

// emptyCRIO takes the pods and the loaded images out of CRI-O, which alone knows
// how; it still has our configuration.
func (r *reset) emptyCRIO(ctx context.Context) error {
	if err := r.init.Start(ctx, hostconfig.UnitCRIO); err != nil {
		return err
	}
	conn, err := r.crio()
	if err != nil {
		return err
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, sandboxLimit)
	defer cancel()
	pods, service := criv1.NewRuntimeServiceClient(conn), criv1.NewImageServiceClient(conn)
	containers, err := pods.ListContainers(ctx, &criv1.ListContainersRequest{Filter: &criv1.ContainerFilter{
		State: &criv1.ContainerStateValue{State: criv1.ContainerState_CONTAINER_RUNNING}}})
	if err != nil {
		return fmt.Errorf("list containers: %w", err)
	}
	sandboxes, err := pods.ListPodSandbox(ctx, &criv1.ListPodSandboxRequest{})
	if err != nil {
		return fmt.Errorf("list pods: %w", err)
	}
	var faults []error
	do := func(_ any, err error) {
		if err != nil {
			faults = append(faults, err)
		}
	}
	for _, c := range containers.Containers { // at once; a pod would give them their time
		do(pods.StopContainer(ctx, &criv1.StopContainerRequest{ContainerId: c.Id}))
	}
	for _, s := range sandboxes.Items {
		do(pods.StopPodSandbox(ctx, &criv1.StopPodSandboxRequest{PodSandboxId: s.Id}))
		do(pods.RemovePodSandbox(ctx, &criv1.RemovePodSandboxRequest{PodSandboxId: s.Id}))
	}
	if len(sandboxes.Items) > 0 {
		r.report(fmt.Sprintf("removed %d pods", len(sandboxes.Items)))
	}
	names, err := r.pinned()
	do(nil, err)
	for _, name := range names {
		do(service.RemoveImage(ctx, &criv1.RemoveImageRequest{Image: &criv1.ImageSpec{Image: name}}))
	}
	if len(names) > 0 {
		r.report(fmt.Sprintf("removed %d images", len(names)))
	}
	return errors.Join(faults...)
}

// releaseCRIO leaves CRI-O to itself: with the configuration that it had, running
// where it does so from boot.
func (r *reset) releaseCRIO(ctx context.Context) error {
	status, err := r.init.Status(ctx, hostconfig.UnitCRIO)
	if err != nil || !status.Installed {
		return err
	}
	if !status.Enabled {
		r.report("stopped CRI-O, which is not enabled")
		return r.init.Stop(ctx, hostconfig.UnitCRIO)
	}
	r.report("restarted CRI-O")
	return r.init.Restart(ctx, hostconfig.UnitCRIO)
}
