package host

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"time"

	containerd "github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/images"
	"github.com/containerd/errdefs"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// imageNamespace is where the CRI plugin keeps its images.
const imageNamespace = "k8s.io"

// imageLabels make the CRI plugin take an image as its own at once, and keep
// image collection away from it.
var imageLabels = map[string]string{
	"io.cri-containerd.image":  "managed",
	"io.cri-containerd.pinned": "pinned",
}

// containerd connects to the host's containerd.
func (h *Hand) containerd() (*containerd.Client, error) {
	socket := h.path(hostconfig.CRISock)
	if _, err := os.Stat(socket); err != nil {
		return nil, fmt.Errorf("containerd does not run: %w", err)
	}
	client, err := containerd.New(socket, containerd.WithDefaultNamespace(imageNamespace), containerd.WithTimeout(5*time.Second))
	if err != nil {
		return nil, fmt.Errorf("connect to containerd: %w", err)
	}
	return client, nil
}

func (h *Hand) checkImage(ctx context.Context, o *hostop.Image) (string, error) {
	if o.Runtime == hostconfig.RuntimeCRIO {
		return h.checkCRIOImage(ctx, o.Name, o.Target)
	}
	if _, err := os.Stat(h.path(hostconfig.CRISock)); err != nil {
		return "containerd does not run yet", nil
	}
	client, err := h.containerd()
	if err != nil {
		return "", err
	}
	defer client.Close()
	image, err := client.GetImage(ctx, o.Name)
	switch {
	case errdefs.IsNotFound(err):
		return "is absent", nil
	case err != nil:
		return "", fmt.Errorf("look up image: %w", err)
	case image.Target().Digest.String() != o.Target:
		return "is another", nil
	}
	for key, value := range imageLabels {
		if image.Labels()[key] != value {
			return "is not pinned", nil
		}
	}
	unpacked, err := image.IsUnpacked(ctx, h.snapshotter())
	if err != nil {
		return "", fmt.Errorf("look at image: %w", err)
	}
	if !unpacked {
		return "is not unpacked", nil
	}
	return "", nil
}

func (h *Hand) applyImage(ctx context.Context, o *hostop.Image) error {
	archive, err := h.openBlob(o.Digest)
	if err != nil {
		return err
	}
	defer archive.Close()
	if o.Runtime == hostconfig.RuntimeCRIO {
		if _, err := h.loadIntoCRIO(ctx, archive, o.Name, o.Target); err != nil {
			return err
		}
		h.dropBlob(o.Digest)
		return nil
	}
	client, err := h.containerd()
	if err != nil {
		return err
	}
	defer client.Close()
	found, err := h.importInto(ctx, client, archive, imageLabels)
	if err != nil {
		return err
	}
	i := slices.IndexFunc(found, func(i images.Image) bool { return i.Target.Digest.String() == o.Target })
	if i < 0 {
		return fmt.Errorf("the archive does not hold %s", o.Target)
	}
	if found[i].Name != o.Name {
		named := images.Image{Name: o.Name, Target: found[i].Target, Labels: imageLabels}
		if _, err := client.ImageService().Create(ctx, named); errdefs.IsAlreadyExists(err) {
			_, err = client.ImageService().Update(ctx, named)
			if err != nil {
				return fmt.Errorf("name image: %w", err)
			}
		} else if err != nil {
			return fmt.Errorf("name image: %w", err)
		}
	}
	h.dropBlob(o.Digest)
	return nil
}

// importArchive imports an archive that a person sent and returns the names of
// its images.
func (h *Hand) importArchive(ctx context.Context, archive io.Reader) ([]string, error) {
	if h.exists(hostconfig.CRIOConf) {
		return h.loadIntoCRIO(ctx, archive, "", "")
	}
	client, err := h.containerd()
	if err != nil {
		return nil, err
	}
	defer client.Close()
	// An image that a person loads is pinned: no registry would give it again.
	found, err := h.importInto(ctx, client, archive, imageLabels)
	if err != nil {
		return nil, err
	}
	names := []string{}
	for _, image := range found {
		names = append(names, image.Name)
	}
	return names, nil
}

// importInto imports an archive and unpacks its images.
func (h *Hand) importInto(ctx context.Context, client *containerd.Client, archive io.Reader, labels map[string]string) ([]images.Image, error) {
	found, err := client.Import(ctx, archive, containerd.WithImageLabels(labels))
	if err != nil {
		return nil, fmt.Errorf("import image: %w", err)
	}
	if len(found) == 0 {
		return nil, errors.New("import image: the archive names no image")
	}
	for _, image := range found {
		if err := containerd.NewImage(client, image).Unpack(ctx, h.snapshotter()); err != nil {
			return nil, fmt.Errorf("unpack image %s: %w", image.Name, err)
		}
	}
	return found, nil
}

var snapshotterLine = regexp.MustCompile(`(?m)^\s*snapshotter\s*=\s*["']([a-z0-9-]+)["']`)

// snapshotter is the one that containerd's configuration gives to pods.
func (h *Hand) snapshotter() string {
	if raw, err := os.ReadFile(h.path(hostconfig.CtrConf)); err == nil {
		if m := snapshotterLine.FindSubmatch(raw); m != nil {
			return string(m[1])
		}
	}
	return "overlayfs"
}
