package host

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/klauspost/compress/zstd"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
	"google.golang.org/grpc"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"

	"clusterctl/bundle/ociarchive"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// fakeCRIO pulls images as its configuration says when it was last told to read
// it, and has one pod.
type fakeCRIO struct {
	criv1.UnimplementedRuntimeServiceServer
	criv1.UnimplementedImageServiceServer
	root string

	mu     sync.Mutex
	moved  map[string]string        // prefix to location
	pinned string                   // the drop-in
	images map[string]digest.Digest // by name
	log    []string
}

var (
	registryEntry = regexp.MustCompile(`(?:prefix|location) = "(.*)"\n(?:\[\[registry.mirror\]\]\n)?location = "(.*)"`)
	imageDropIn   = regexp.MustCompile(`"(.*)"`)
)

// reload is what SIGHUP does.
func (f *fakeCRIO) reload() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.moved = map[string]string{}
	raw, _ := os.ReadFile(f.root + hostconfig.CRIOLoading)
	for _, m := range registryEntry.FindAllStringSubmatch(string(raw), -1) {
		f.moved[m[1]] = m[2]
	}
	raw, _ = os.ReadFile(f.root + hostconfig.CRIOPins)
	f.pinned = string(raw)
}

func (f *fakeCRIO) PullImage(ctx context.Context, r *criv1.PullImageRequest) (*criv1.PullImageResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	name, location := r.Image.Image, ""
	for prefix, to := range f.moved {
		if rest, ok := strings.CutPrefix(name, prefix); ok && (rest[0] == '/' || rest[0] == ':') {
			location = to + rest
		}
	}
	if location == "" {
		return nil, fmt.Errorf("no registry for %s", name)
	}
	host, rest, _ := strings.Cut(location, "/")
	repository, tag, _ := strings.Cut(rest, ":")
	base := "http://" + host + "/v2/" + repository
	raw, err := fetch(ctx, base+"/manifests/"+tag)
	if err != nil {
		return nil, err
	}
	var manifest v1.Manifest
	if err := json.Unmarshal(raw, &manifest); err != nil {
		return nil, err
	}
	for _, layer := range append(manifest.Layers, manifest.Config) {
		blob, err := fetch(ctx, base+"/blobs/"+layer.Digest.String())
		if err != nil {
			return nil, err
		}
		if digest.FromBytes(blob) != layer.Digest {
			return nil, fmt.Errorf("%s is not what it is called", layer.Digest)
		}
	}
	f.images[name] = digest.FromBytes(raw)
	return &criv1.PullImageResponse{ImageRef: name}, nil
}

func fetch(ctx context.Context, url string) ([]byte, error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return nil, err
	}
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", url, answer.Status)
	}
	return io.ReadAll(answer.Body)
}

func (f *fakeCRIO) ImageStatus(_ context.Context, r *criv1.ImageStatusRequest) (*criv1.ImageStatusResponse, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	have, ok := f.images[r.Image.Image]
	if !ok {
		return &criv1.ImageStatusResponse{}, nil
	}
	return &criv1.ImageStatusResponse{Image: &criv1.Image{
		RepoDigests: []string{"clusterctl.dev/x@" + have.String()},
		Pinned:      slices.ContainsFunc(imageDropIn.FindAllStringSubmatch(f.pinned, -1), func(m []string) bool { return m[1] == r.Image.Image }),
	}}, nil
}

func (f *fakeCRIO) did(what, id string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.log = append(f.log, what+" "+id)
}

func (f *fakeCRIO) RemoveImage(_ context.Context, r *criv1.RemoveImageRequest) (*criv1.RemoveImageResponse, error) {
	f.did("remove", r.Image.Image)
	return &criv1.RemoveImageResponse{}, nil
}

func (f *fakeCRIO) ListContainers(context.Context, *criv1.ListContainersRequest) (*criv1.ListContainersResponse, error) {
	return &criv1.ListContainersResponse{Containers: []*criv1.Container{{Id: "c"}}}, nil
}

func (f *fakeCRIO) ListPodSandbox(context.Context, *criv1.ListPodSandboxRequest) (*criv1.ListPodSandboxResponse, error) {
	return &criv1.ListPodSandboxResponse{Items: []*criv1.PodSandbox{{Id: "s"}}}, nil
}

func (f *fakeCRIO) StopContainer(_ context.Context, r *criv1.StopContainerRequest) (*criv1.StopContainerResponse, error) {
	f.did("stop", r.ContainerId)
	return &criv1.StopContainerResponse{}, nil
}

func (f *fakeCRIO) StopPodSandbox(_ context.Context, r *criv1.StopPodSandboxRequest) (*criv1.StopPodSandboxResponse, error) {
	f.did("stop", r.PodSandboxId)
	return &criv1.StopPodSandboxResponse{}, nil
}

func (f *fakeCRIO) RemovePodSandbox(_ context.Context, r *criv1.RemovePodSandboxRequest) (*criv1.RemovePodSandboxResponse, error) {
	f.did("remove", r.PodSandboxId)
	return &criv1.RemovePodSandboxResponse{}, nil
}

// crioHost is a host whose CRI-O answers.
func crioHost(t *testing.T) (*Hand, *fakeInit, *fakeCRIO) {
	t.Helper()
	root, err := os.MkdirTemp("", "crio") // t.TempDir is too long for a socket
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(root) })
	fake := &fakeCRIO{root: root, images: map[string]digest.Digest{}}
	socket := filepath.Join(root, hostconfig.CRIOSock)
	if err := os.MkdirAll(filepath.Dir(socket), 0o755); err != nil {
		t.Fatal(err)
	}
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	criv1.RegisterRuntimeServiceServer(server, fake)
	criv1.RegisterImageServiceServer(server, fake)
	done := make(chan error, 1)
	go func() { done <- server.Serve(listener) }()
	t.Cleanup(func() { server.Stop(); <-done })
	init := newFakeInit()
	// As a process reads what a signal tells it to: some time later.
	init.hangUp = func(string) { time.AfterFunc(50*time.Millisecond, fake.reload) }
	return New(Options{Root: root, Init: init}), init, fake
}

func testImage(t *testing.T, name string) (archive []byte, target string) {
	t.Helper()
	var b bytes.Buffer
	d, err := ociarchive.Write(&b, ociarchive.Image{Name: name, Arch: "amd64", Files: []ociarchive.File{{Path: "/x", Mode: 0o755, Content: []byte("x")}}})
	if err != nil {
		t.Fatal(err)
	}
	return b.Bytes(), d.String()
}

func TestCRIOTakesImages(t *testing.T) {
	h, _, fake := crioHost(t)
	archive, target := testImage(t, "clusterctl.dev/pause:1")
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	archive = encoder.EncodeAll(archive, nil) // as it travels
	sum := digest.FromBytes(archive)
	if err := h.putBlob(sum.String(), bytes.NewReader(archive)); err != nil {
		t.Fatal(err)
	}
	op := &hostop.Image{Name: "clusterctl.dev/pause:1", Digest: sum.String(), Size: int64(len(archive)), Target: target, Runtime: hostconfig.RuntimeCRIO}
	check := func(op *hostop.Image, want string) {
		t.Helper()
		if differs, err := h.Check(t.Context(), op); err != nil || differs != want {
			t.Errorf("it %q, %v; want %q", differs, err, want)
		}
	}
	check(op, "is absent")
	if _, err := h.Apply(t.Context(), op, ignore); err != nil {
		t.Fatal(err)
	}
	check(op, "")
	other := *op
	other.Target = digest.FromString("another").String()
	check(&other, "is another")
	if h.exists(hostconfig.CRIOLoading) || h.exists(loadDir) {
		t.Error("what led CRI-O to the image is still there")
	}

	// A person's own image, of a registry with a port; what was loaded stays pinned.
	if err := h.writeFile(hostconfig.CRIOConf, 0o644, nil); err != nil {
		t.Fatal(err)
	}
	archive, _ = testImage(t, "registry.example.org:5000/team/app:2")
	names, err := h.importArchive(t.Context(), bytes.NewReader(archive))
	if err != nil || !slices.Equal(names, []string{"registry.example.org:5000/team/app:2"}) {
		t.Fatalf("loaded %q, %v", names, err)
	}
	check(op, "")
	if pinned, err := h.pinned(); err != nil || !slices.Equal(pinned, []string{"clusterctl.dev/pause:1", "registry.example.org:5000/team/app:2"}) {
		t.Errorf("pinned are %q, %v", pinned, err)
	}

	// A load that was broken off is brought to an end.
	if err := h.writeFile(hostconfig.CRIOLoading, 0o644, nil); err != nil {
		t.Fatal(err)
	}
	check(op, "was being loaded when that was broken off")

	for _, path := range []string{hostconfig.CRIOPins, hostconfig.CRIOLoading} {
		if err := os.Remove(h.path(path)); err != nil {
			t.Fatal(err)
		}
	}
	fake.reload() // whether or not one is under way
	check(op, "is not pinned")
}

// TestResetReleasesCRIO: pods, images and drop-ins of ours go, CRI-O stays.
func TestResetReleasesCRIO(t *testing.T) {
	for enabled, want := range map[bool]string{true: "start", false: "stop"} {
		h, init, fake := crioHost(t)
		const theirs = "/etc/crio/crio.conf.d/10-crun.conf"
		if err := h.writeFile(theirs, 0o644, []byte("theirs")); err != nil {
			t.Fatal(err)
		}
		for _, op := range []hostop.Op{
			&hostop.Directory{Path: filepath.Dir(hostconfig.CRIOConf), Mode: 0o755},
			&hostop.Directory{Path: hostconfig.CRIORegistries, Mode: 0o755},
			&hostop.File{Path: hostconfig.CRIOConf, Mode: 0o644, Content: []byte("ours")},
		} {
			if _, err := h.Apply(t.Context(), op, ignore); err != nil {
				t.Fatal(err)
			}
		}
		archive, _ := testImage(t, "clusterctl.dev/pause:1")
		if _, err := h.importArchive(t.Context(), bytes.NewReader(archive)); err != nil {
			t.Fatal(err)
		}
		init.unit(hostconfig.UnitCRIO).Enabled = enabled
		init.took()
		var did []string
		init.start = func(unit string) error {
			if h.exists(hostconfig.CRIOConf) {
				did = append(did, "start with our configuration")
			} else {
				did = append(did, "start")
			}
			return nil
		}
		init.stop = func(string) { did = append(did, "stop") }
		if err := h.Reset(t.Context(), ignore); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(did, []string{"start with our configuration", want}) {
			t.Errorf("enabled %v: CRI-O was %q", enabled, did)
		}
		fake.mu.Lock()
		told := fake.log
		fake.mu.Unlock()
		if want := []string{"stop c", "stop s", "remove s", "remove clusterctl.dev/pause:1"}; !slices.Equal(told, want) {
			t.Errorf("CRI-O was told to %q, want %q", told, want)
		}
		if h.exists(hostconfig.CRIOConf) || h.exists(hostconfig.CRIOPins) || h.exists(hostconfig.CRIORegistries) || !h.exists(theirs) {
			t.Error("reset left something of ours, or took something of theirs")
		}
	}
}
