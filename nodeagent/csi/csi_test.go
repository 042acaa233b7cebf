package csi

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	events "k8s.io/client-go/tools/record"
	"k8s.io/utils/ptr"

	"clusterctl/nodeagent/plugins"
)

// hostPath is a driver whose volumes are directories of this machine. It really
// mounts them, twice: to stage and to publish.
type hostPath struct {
	csi.UnimplementedNodeServer
	dir string

	mu       sync.Mutex
	staged   map[string]int // calls, by volume
	contexts map[string]map[string]string
	secrets  map[string]string
	grown    int64
	limit    int64
	free     bool                  // volumes need no attaching
	fails    map[string]codes.Code // calls that fail, by method
	calls    []string              // those that stage, publish and undo it
}

// call notes a call, and fails if it has to.
func (h *hostPath) call(method string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.calls = append(h.calls, method)
	if code := h.fails[method]; code != codes.OK {
		return status.Error(code, "told to fail")
	}
	return nil
}

// fail has calls of a method end with a code from now on.
func (h *hostPath) fail(method string, code codes.Code) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.fails[method] = code
}

// called takes the calls since the last time.
func (h *hostPath) called() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	calls := strings.Join(h.calls, " ")
	h.calls = nil
	return calls
}

func (h *hostPath) NodeGetInfo(context.Context, *csi.NodeGetInfoRequest) (*csi.NodeGetInfoResponse, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return &csi.NodeGetInfoResponse{NodeId: "id-of-node", MaxVolumesPerNode: h.limit, AccessibleTopology: &csi.Topology{Segments: map[string]string{"example.com/rack": "r1"}}}, nil
}

func (h *hostPath) NodeGetCapabilities(context.Context, *csi.NodeGetCapabilitiesRequest) (*csi.NodeGetCapabilitiesResponse, error) {
	response := &csi.NodeGetCapabilitiesResponse{}
	for _, c := range []csi.NodeServiceCapability_RPC_Type{csi.NodeServiceCapability_RPC_STAGE_UNSTAGE_VOLUME, csi.NodeServiceCapability_RPC_EXPAND_VOLUME} {
		response.Capabilities = append(response.Capabilities, &csi.NodeServiceCapability{Type: &csi.NodeServiceCapability_Rpc{Rpc: &csi.NodeServiceCapability_RPC{Type: c}}})
	}
	return response, nil
}

func bind(from, to string) error {
	if err := os.MkdirAll(to, 0o750); err != nil {
		return err
	}
	if entries, err := os.ReadDir(to); err != nil || len(entries) > 0 {
		return err // bound before
	}
	return unix.Mount(from, to, "", unix.MS_BIND, "")
}

// unmount does nothing where nothing is mounted.
func unmount(path string) error {
	if err := unix.Unmount(path, 0); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return err
	}
	return nil
}

func (h *hostPath) NodeStageVolume(_ context.Context, r *csi.NodeStageVolumeRequest) (*csi.NodeStageVolumeResponse, error) {
	if err := h.call("stage"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if !h.free && r.PublishContext["told"] != "yes" {
		return nil, status.Error(codes.FailedPrecondition, "not attached")
	}
	h.staged[r.VolumeId]++
	h.secrets = r.Secrets
	source := filepath.Join(h.dir, r.VolumeId)
	if err := os.MkdirAll(filepath.Join(source, "lost+found"), 0o755); err != nil {
		return nil, err
	}
	return &csi.NodeStageVolumeResponse{}, bind(source, r.StagingTargetPath)
}

func (h *hostPath) NodeUnstageVolume(_ context.Context, r *csi.NodeUnstageVolumeRequest) (*csi.NodeUnstageVolumeResponse, error) {
	if err := h.call("unstage"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.staged[r.VolumeId] = 0
	return &csi.NodeUnstageVolumeResponse{}, unmount(r.StagingTargetPath)
}

func (h *hostPath) NodePublishVolume(_ context.Context, r *csi.NodePublishVolumeRequest) (*csi.NodePublishVolumeResponse, error) {
	if err := h.call("publish"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.contexts[r.VolumeId] = r.VolumeContext
	if r.StagingTargetPath == "" {
		h.secrets = r.Secrets
	}
	source := r.StagingTargetPath
	if source == "" {
		source = filepath.Join(h.dir, r.VolumeId)
		if err := os.MkdirAll(filepath.Join(source, "lost+found"), 0o755); err != nil {
			return nil, err
		}
	}
	return &csi.NodePublishVolumeResponse{}, bind(source, r.TargetPath)
}

func (h *hostPath) NodeUnpublishVolume(_ context.Context, r *csi.NodeUnpublishVolumeRequest) (*csi.NodeUnpublishVolumeResponse, error) {
	if err := h.call("unpublish"); err != nil {
		return nil, err
	}
	return &csi.NodeUnpublishVolumeResponse{}, unmount(r.TargetPath)
}

func (h *hostPath) NodeExpandVolume(_ context.Context, r *csi.NodeExpandVolumeRequest) (*csi.NodeExpandVolumeResponse, error) {
	if err := h.call("expand"); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.grown = r.CapacityRange.RequiredBytes
	return &csi.NodeExpandVolumeResponse{CapacityBytes: h.grown}, nil
}

const driverName = "hostpath.example.com"

// serve starts the driver; plugin is how it registers.
func serve(t *testing.T) (h *hostPath, plugin plugins.Plugin) {
	t.Helper()
	dir, err := os.MkdirTemp("", "csi") // short: paths of sockets are limited
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	h = &hostPath{dir: filepath.Join(dir, "data"), staged: map[string]int{}, contexts: map[string]map[string]string{}, limit: 7, fails: map[string]codes.Code{}}
	socket := filepath.Join(dir, "csi.sock")
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	csi.RegisterNodeServer(server, h)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return h, plugins.Plugin{Type: "CSIPlugin", Name: driverName, Endpoint: socket, Socket: socket, Versions: []string{"1.0.0"}}
}

func manager(t *testing.T, root string, objects ...runtime.Object) *Manager {
	t.Helper()
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: "node", UID: "node"}}
	used := node.DeepCopy()
	used.Status.VolumesInUse = []v1.UniqueVolumeName{"kubernetes.io/csi/" + driverName + "^vol-1"}
	var reported atomic.Bool
	return New(Config{
		NodeName: "node", Root: root, Client: fake.NewClientset(append(objects, node)...), Node: func() *v1.Node {
			if reported.Load() {
				return used
			}
			return node
		},
		Report: func() { reported.Store(true) },
		Token: func(_ context.Context, pod *v1.Pod, audience string, _ *int64) (string, time.Time, error) {
			return "token of " + pod.Name + " for " + audience, time.Unix(1e9, 0), nil
		},
		Recorder: events.NewFakeRecorder(100),
		Logger:   slog.New(slog.DiscardHandler),
	})
}

func TestDriversRegister(t *testing.T) {
	_, plugin := serve(t)
	m := manager(t, t.TempDir())
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	got, err := m.Client.StorageV1().CSINodes().Get(t.Context(), "node", metav1.GetOptions{})
	if err != nil || len(got.Spec.Drivers) != 1 || got.OwnerReferences[0].UID != "node" {
		t.Fatalf("CSINode %+v, error %v", got, err)
	}
	if d := got.Spec.Drivers[0]; d.Name != driverName || d.NodeID != "id-of-node" || *d.Allocatable.Count != 7 || d.TopologyKeys[0] != "example.com/rack" {
		t.Errorf("driver %+v", d)
	}
	node, err := m.Client.CoreV1().Nodes().Get(t.Context(), "node", metav1.GetOptions{})
	if err != nil || node.Labels["example.com/rack"] != "r1" {
		t.Errorf("labels %v, error %v", node.Labels, err)
	}
	other := plugin
	other.Socket = "/replaced"
	m.Deregister(t.Context(), other)
	if _, err := m.driver(driverName); err != nil {
		t.Error("a driver went with a socket that it no longer uses")
	}
	m.Deregister(t.Context(), plugin)
	if _, err := m.driver(driverName); err == nil {
		t.Error("the driver stays")
	}
	if got, err = m.Client.StorageV1().CSINodes().Get(t.Context(), "node", metav1.GetOptions{}); err != nil || len(got.Spec.Drivers) != 0 {
		t.Errorf("CSINode %+v, error %v", got, err)
	}
	plugin.Versions = []string{"0.3.0"}
	if err := m.Register(t.Context(), plugin); err == nil {
		t.Error("a driver of an old version registered")
	}
}

func testPV() *v1.PersistentVolume {
	return &v1.PersistentVolume{ObjectMeta: metav1.ObjectMeta{Name: "pv"}, Spec: v1.PersistentVolumeSpec{
		AccessModes: []v1.PersistentVolumeAccessMode{v1.ReadWriteOnce}, Capacity: v1.ResourceList{v1.ResourceStorage: resource.MustParse("2Gi")},
		PersistentVolumeSource: v1.PersistentVolumeSource{CSI: &v1.CSIPersistentVolumeSource{
			Driver: driverName, VolumeHandle: "vol-1", FSType: "ext4", VolumeAttributes: map[string]string{"size": "small"},
			NodeStageSecretRef: &v1.SecretReference{Namespace: "drivers", Name: "key"}}},
	}}
}

func testPod(name string) *v1.Pod {
	return &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}, Spec: v1.PodSpec{ServiceAccountName: "sa"}}
}

func root(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount")
	}
	return t.TempDir()
}

func TestVolumesComeAndGo(t *testing.T) {
	dir := root(t)
	h, plugin := serve(t)
	secret := &v1.Secret{ObjectMeta: metav1.ObjectMeta{Namespace: "drivers", Name: "key"}, Data: map[string][]byte{"k": []byte("hidden")}}
	m := manager(t, dir, secret)
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	request := func(pod string) Request {
		return Request{Pod: testPod(pod), Volume: &v1.Volume{Name: "data"}, PV: testPV()}
	}
	go func() { // attached a little later
		time.Sleep(100 * time.Millisecond)
		_, _ = m.Client.StorageV1().VolumeAttachments().Create(context.Background(), &storagev1.VolumeAttachment{
			ObjectMeta: metav1.ObjectMeta{Name: AttachmentName("vol-1", driverName, "node")},
			Status:     storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"told": "yes"}},
		}, metav1.CreateOptions{})
	}()
	one, err := m.Mount(t.Context(), request("one"))
	if err != nil {
		t.Fatal(err)
	}
	if !one.Group || h.secrets["k"] != "hidden" || h.contexts["vol-1"]["size"] != "small" {
		t.Errorf("mounted %+v, secrets %v, context %v", one, h.secrets, h.contexts)
	}
	if err := os.WriteFile(filepath.Join(one.Path, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	two, err := m.Mount(t.Context(), request("two"))
	if err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(filepath.Join(two.Path, "file")); err != nil || string(data) != "x" || h.staged["vol-1"] != 1 {
		t.Errorf("the second pod reads %q (%v), staged %d times", data, err, h.staged["vol-1"])
	}
	if used, err := m.InUse(); err != nil || len(used) != 1 || used[0] != "kubernetes.io/csi/"+driverName+"^vol-1" {
		t.Errorf("in use: %v, error %v", used, err)
	}
	podDir := func(pod string) string { return filepath.Join(dir, "pods", "uid-"+pod) }
	if err := m.Unmount(t.Context(), podDir("one")); err != nil {
		t.Fatal(err)
	}
	if h.staged["vol-1"] != 1 {
		t.Error("unstaged under the second pod")
	}
	// An agent that was restarted takes away what the one before it mounted, once
	// the driver has registered again.
	again := manager(t, dir)
	if err := again.Unmount(t.Context(), podDir("two")); err == nil || !strings.Contains(err.Error(), "not found in the list of registered CSI drivers") {
		t.Errorf("without its driver: %v", err)
	}
	if err := again.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	if err := again.Unmount(t.Context(), podDir("two")); err != nil {
		t.Fatal(err)
	}
	if err := again.Unmount(t.Context(), podDir("two")); err != nil {
		t.Errorf("unmounted twice: %v", err)
	}
	if used, err := again.InUse(); err != nil || len(used) != 0 || h.staged["vol-1"] != 0 {
		t.Errorf("in use %v (%v), staged %d", used, err, h.staged["vol-1"])
	}
	if _, err := os.Stat(filepath.Join(h.dir, "vol-1", "file")); err != nil {
		t.Errorf("data went with the pods: %v", err)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "plugins/kubernetes.io/csi", driverName, "*")); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
}

func TestInlineVolumes(t *testing.T) {
	dir := root(t)
	h, plugin := serve(t)
	inline := Request{Pod: testPod("one"), Volume: &v1.Volume{Name: "own", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName}}}}
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{
		PodInfoOnMount: ptr.To(true), RequiresRepublish: ptr.To(true), FSGroupPolicy: ptr.To(storagev1.FileFSGroupPolicy),
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral}, TokenRequests: []storagev1.TokenRequest{{Audience: "vault"}},
	}}
	m := manager(t, dir, driver)
	if _, err := m.Mount(t.Context(), inline); err == nil || !strings.Contains(err.Error(), "not found in the list") {
		t.Errorf("without the driver: %v", err)
	}
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	mounted, err := m.Mount(t.Context(), inline)
	if err != nil {
		t.Fatal(err)
	}
	if !mounted.Repeat || !mounted.Group {
		t.Errorf("mounted %+v", mounted)
	}
	for handle, told := range h.contexts {
		var tokens map[string]struct{ Token string }
		if err := json.Unmarshal([]byte(told["csi.storage.k8s.io/serviceAccount.tokens"]), &tokens); err != nil || tokens["vault"].Token != "token of one for vault" {
			t.Errorf("tokens %v, error %v", tokens, err)
		}
		if told["csi.storage.k8s.io/pod.name"] != "one" || told["csi.storage.k8s.io/ephemeral"] != "true" || !strings.HasPrefix(handle, "csi-") || len(h.staged) != 0 {
			t.Errorf("handle %s, context %v, staged %v", handle, told, h.staged)
		}
	}
	if used, err := m.InUse(); err != nil || len(used) != 0 {
		t.Errorf("in use: %v, error %v", used, err)
	}
	if err := m.Unmount(t.Context(), filepath.Join(dir, "pods", "uid-one")); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(mounted.Path); !os.IsNotExist(err) {
		t.Errorf("still there: %v", err)
	}
	m = manager(t, dir)
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mount(t.Context(), inline); err == nil || !strings.Contains(err.Error(), "(no CSIDriver object)") {
		t.Errorf("without a CSIDriver: %v", err)
	}
}
