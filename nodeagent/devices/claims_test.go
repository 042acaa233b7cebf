package devices

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/grpc"
	v1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"
	clienttesting "k8s.io/client-go/testing"
	drav1 "k8s.io/kubelet/pkg/apis/dra/v1"
	drav1beta1 "k8s.io/kubelet/pkg/apis/dra/v1beta1"
	"k8s.io/utils/ptr"

	"clusterctl/nodeagent/plugins"
)

// testDriver is a DRA driver that remembers what it was asked for.
type testDriver struct {
	drav1.UnimplementedDRAPluginServer
	mu     sync.Mutex
	calls  []string // "prepare UID", "unprepare UID"
	refuse string
	fail   error
}

func (d *testDriver) NodePrepareResources(_ context.Context, r *drav1.NodePrepareResourcesRequest) (*drav1.NodePrepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	response := &drav1.NodePrepareResourcesResponse{Claims: map[string]*drav1.NodePrepareResourceResponse{}}
	for _, c := range r.Claims {
		d.calls = append(d.calls, "prepare "+c.Uid)
		response.Claims[c.Uid] = &drav1.NodePrepareResourceResponse{Error: d.refuse, Devices: []*drav1.Device{
			{RequestNames: []string{"r"}, PoolName: "p", DeviceName: "d", CdiDeviceIds: []string{"example.com/d=" + c.Name}},
			{RequestNames: []string{"s/sub"}, PoolName: "p", DeviceName: "e", CdiDeviceIds: []string{"example.com/e=" + c.Name}},
		}}
	}
	return response, d.fail
}

func (d *testDriver) NodeUnprepareResources(_ context.Context, r *drav1.NodeUnprepareResourcesRequest) (*drav1.NodeUnprepareResourcesResponse, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	response := &drav1.NodeUnprepareResourcesResponse{Claims: map[string]*drav1.NodeUnprepareResourceResponse{}}
	for _, c := range r.Claims {
		d.calls = append(d.calls, "unprepare "+c.Uid)
		response.Claims[c.Uid] = &drav1.NodeUnprepareResourceResponse{Error: d.refuse}
	}
	return response, d.fail
}

func (d *testDriver) set(refuse string, fail error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.refuse, d.fail = refuse, fail
}

func (d *testDriver) asked() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.calls)
}

// shortDir is a directory with a path short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "dev")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	return dir
}

// listen serves on a socket; stopping it removes the socket.
func listen(t *testing.T, socket string, register func(*grpc.Server)) *grpc.Server {
	t.Helper()
	listener, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := grpc.NewServer()
	register(server)
	go func() { _ = server.Serve(listener) }()
	t.Cleanup(server.Stop)
	return server
}

func eventually(t *testing.T, what string, check func() bool) {
	t.Helper()
	for deadline := time.Now().Add(30 * time.Second); !check(); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain for %s", what)
		}
	}
}

func claimPod(name string, claims ...string) *v1.Pod {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID(name)}}
	for _, c := range claims {
		pod.Spec.ResourceClaims = append(pod.Spec.ResourceClaims, v1.PodResourceClaim{Name: "for-" + c, ResourceClaimName: ptr.To(c)})
	}
	return pod
}

func allocated(name string, pods ...string) *resourcev1.ResourceClaim {
	claim := &resourcev1.ResourceClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name, UID: types.UID("uid-" + name)}}
	claim.Status.Allocation = &resourcev1.AllocationResult{Devices: resourcev1.DeviceAllocationResult{Results: []resourcev1.DeviceRequestAllocationResult{
		{Request: "r", Driver: "d.example.com", Pool: "p", Device: "d"}}}}
	for _, p := range pods {
		claim.Status.ReservedFor = append(claim.Status.ReservedFor, resourcev1.ResourceClaimConsumerReference{Resource: "pods", Name: p, UID: types.UID(p)})
	}
	return claim
}

// world is a node with one driver.
type world struct {
	client  *fake.Clientset
	drivers *Drivers
	driver  *testDriver
	server  *grpc.Server
	plugin  plugins.Plugin
	file    string
}

func newWorld(t *testing.T, claims ...*resourcev1.ResourceClaim) *world {
	t.Helper()
	dir := shortDir(t)
	w := &world{client: fake.NewClientset(), driver: &testDriver{}, file: filepath.Join(dir, "c", "claims.json")}
	for _, c := range claims {
		if err := w.client.Tracker().Add(c); err != nil {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	t.Cleanup(cancel)
	w.drivers = NewDrivers(ctx, w.client, "n1", slog.New(slog.DiscardHandler))
	w.drivers.absence = 20 * time.Millisecond
	w.plugin = plugins.Plugin{Name: "d.example.com", Endpoint: filepath.Join(dir, "d.sock"), Socket: "reg.sock", Versions: []string{drav1.DRAPluginService}}
	w.server = listen(t, w.plugin.Endpoint, func(s *grpc.Server) { drav1.RegisterDRAPluginServer(s, w.driver) })
	return w
}

func (w *world) claims(t *testing.T) *Claims {
	t.Helper()
	c, err := NewClaims(w.client, w.drivers, w.file)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func (w *world) register(t *testing.T) {
	t.Helper()
	if err := w.drivers.Register(t.Context(), w.plugin); err != nil {
		t.Fatal(err)
	}
}

func TestClaimsArePreparedOnceAndUnpreparedWithTheirLastPod(t *testing.T) {
	w := newWorld(t, allocated("own", "a"), allocated("shared", "a", "b"))
	w.register(t)
	c := w.claims(t)
	a, b := claimPod("a", "own", "shared"), claimPod("b", "shared")
	for range 2 {
		for _, pod := range []*v1.Pod{a, b} {
			if err := c.Prepare(t.Context(), pod); err != nil {
				t.Fatal(err)
			}
		}
	}
	want := []string{"prepare uid-own", "prepare uid-shared"}
	if got := w.driver.asked(); !slices.Equal(got, want) {
		t.Fatalf("driver was asked %v, want %v", got, want)
	}
	for request, want := range map[string]string{"": "example.com/d=own example.com/e=own", "r": "example.com/d=own", "s": "example.com/e=own", "x": ""} {
		ids, err := c.ids(a, &v1.Container{Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "for-own", Request: request}}}})
		if err != nil || strings.Join(ids, " ") != want {
			t.Errorf("request %q: %v, %v", request, ids, err)
		}
	}
	// Another run of the agent knows what this one did.
	c = w.claims(t)
	if pods := c.Pods(); len(pods) != 3 {
		t.Errorf("pods with claims: %v", pods)
	}
	if err := c.Unprepare(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if _, err := c.ids(b, &v1.Container{Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "for-shared"}}}}); err != nil {
		t.Errorf("the claim that b still uses: %v", err)
	}
	for range 2 {
		if err := c.Unprepare(t.Context(), "b"); err != nil {
			t.Fatal(err)
		}
	}
	want = append(want, "unprepare uid-own", "unprepare uid-shared")
	if got := w.driver.asked(); !slices.Equal(got, want) || len(c.Pods()) != 0 || len(w.claims(t).Pods()) != 0 {
		t.Errorf("driver was asked %v, want %v; left %v", got, want, c.Pods())
	}
}

// The claim that the scheduler made for a pod's extended resources is in its status
// alone, as are the requests that serve each container.
func TestExtendedResourcesByClaim(t *testing.T) {
	w := newWorld(t, allocated("made", "a"))
	w.register(t)
	c, pod := w.claims(t), claimPod("a")
	pod.Status.ExtendedResourceClaimStatus = &v1.PodExtendedResourceClaimStatus{ResourceClaimName: "made", RequestMappings: []v1.ContainerExtendedResourceRequest{
		{ContainerName: "one", ResourceName: "e/gpu", RequestName: "r"}, {ContainerName: "two", ResourceName: "e/gpu", RequestName: "r"},
		{ContainerName: "two", ResourceName: "e/nic", RequestName: "s"},
	}}
	if err := c.Prepare(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	for container, want := range map[string]string{"one": "example.com/d=made", "two": "example.com/d=made example.com/e=made", "none": ""} {
		ids, err := c.ids(pod, &v1.Container{Name: container})
		if err != nil || strings.Join(ids, " ") != want {
			t.Errorf("container %s has %v, %v", container, ids, err)
		}
		if got := len(c.has(pod, &v1.Container{Name: container})); (got == 1) != (want != "") {
			t.Errorf("container %s has %d claims", container, got)
		}
	}
	for _, of := range []struct {
		container, resource string
		want                bool
	}{{"one", "e/gpu", true}, {"one", "e/nic", false}, {"", "e/nic", true}, {"", "e/other", false}} {
		if got := Claimed(pod, of.container, of.resource); got != of.want {
			t.Errorf("%s of %q is claimed: %v", of.resource, of.container, got)
		}
	}
	if err := c.Unprepare(t.Context(), pod.UID); err != nil || len(c.Pods()) != 0 {
		t.Errorf("left %v, %v", c.Pods(), err)
	}
}

func TestPrepareRefuses(t *testing.T) {
	open := allocated("open", "a")
	open.Status.Allocation = nil
	w := newWorld(t, allocated("mine", "a"), allocated("other", "b"), open)
	c := w.claims(t)
	for claim, want := range map[string]string{
		"mine": "DRA driver d.example.com is not registered", "other": "is not allowed to use ResourceClaim other", "open": "not allocated", "gone": "not found",
	} {
		if err := c.Prepare(t.Context(), claimPod("a", claim)); err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want %s", claim, err, want)
		}
	}
	// Nothing was asked of the driver that is not there, and nothing need be undone.
	if err := c.Unprepare(t.Context(), "a"); err != nil || len(c.Pods()) != 0 {
		t.Errorf("left %v, %v", c.Pods(), err)
	}
}

func TestFailuresOfDriversAreTriedAgain(t *testing.T) {
	w := newWorld(t, allocated("c", "a"))
	w.register(t)
	c, pod := w.claims(t), claimPod("a", "c")
	for _, failure := range []struct {
		refuse string
		fail   error
		want   string
	}{{"no", nil, "NodePrepareResources failed for ResourceClaim c: no"}, {"", errors.New("broken"), "broken"}} {
		w.driver.set(failure.refuse, failure.fail)
		if err := c.Prepare(t.Context(), pod); err == nil || !strings.Contains(err.Error(), failure.want) {
			t.Errorf("got %v, want %s", err, failure.want)
		}
		if _, err := c.ids(pod, &v1.Container{Resources: v1.ResourceRequirements{Claims: []v1.ResourceClaim{{Name: "for-c"}}}}); err == nil {
			t.Error("a container gets devices that are not prepared")
		}
	}
	w.driver.set("", nil)
	if err := c.Prepare(t.Context(), pod); err != nil {
		t.Fatal(err)
	}
	w.driver.set("busy", nil)
	if err := c.Unprepare(t.Context(), "a"); err == nil || len(c.Pods()) != 1 {
		t.Errorf("forgot a claim that is not unprepared: %v", err)
	}
	w.driver.set("", nil)
	if err := c.Unprepare(t.Context(), "a"); err != nil || len(c.Pods()) != 0 {
		t.Errorf("left %v: %v", c.Pods(), err)
	}
}

func TestClaimMadeAnewWaitsForTheOldOne(t *testing.T) {
	w := newWorld(t, allocated("c", "a"))
	w.register(t)
	c := w.claims(t)
	if err := c.Prepare(t.Context(), claimPod("a", "c")); err != nil {
		t.Fatal(err)
	}
	again := allocated("c", "b")
	again.UID = "uid-again"
	if err := w.client.Tracker().Update(resourcev1.SchemeGroupVersion.WithResource("resourceclaims"), again, "ns"); err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(t.Context(), claimPod("b", "c")); err == nil || !strings.Contains(err.Error(), "different UID uid-c still exists") {
		t.Errorf("prepared over another: %v", err)
	}
	if err := c.Unprepare(t.Context(), "a"); err != nil {
		t.Fatal(err)
	}
	if err := c.Prepare(t.Context(), claimPod("b", "c")); err != nil {
		t.Error(err)
	}
}

func TestOlderServiceIsSpokenTo(t *testing.T) {
	w := newWorld(t, allocated("c", "a"))
	old := w.plugin
	old.Endpoint, old.Socket, old.Versions = filepath.Join(shortDir(t), "old.sock"), "old", []string{drav1beta1.DRAPluginService}
	listen(t, old.Endpoint, func(s *grpc.Server) {
		drav1beta1.RegisterDRAPluginServer(s, drav1beta1.V1ServerWrapper{DRAPluginServer: w.driver})
	})
	if err := w.drivers.Register(t.Context(), old); err != nil {
		t.Fatal(err)
	}
	if err := w.claims(t).Prepare(t.Context(), claimPod("a", "c")); err != nil {
		t.Error(err)
	}
	old.Versions = []string{"v9.DRAPlugin"}
	if err := w.drivers.Register(t.Context(), old); err == nil {
		t.Error("registered a version that nobody speaks")
	}
}

// wiped counts removals of the driver's slices.
func (w *world) wiped() int {
	n := 0
	for _, action := range w.client.Actions() {
		if d, ok := action.(clienttesting.DeleteCollectionAction); ok && d.GetListRestrictions().Fields.String() == "spec.driver=d.example.com,spec.nodeName=n1" {
			n++
		}
	}
	return n
}

func TestSlicesOfAVanishedDriverAreRemoved(t *testing.T) {
	w := newWorld(t)
	w.register(t)
	update := w.plugin
	update.Socket = "update"
	if err := w.drivers.Register(t.Context(), update); err != nil {
		t.Fatal(err)
	}
	w.drivers.Deregister(t.Context(), w.plugin)
	time.Sleep(3 * w.drivers.absence)
	if n := w.wiped(); n != 0 {
		t.Fatalf("removed slices of a driver that is being updated %d times", n)
	}
	w.drivers.Deregister(t.Context(), update)
	eventually(t, "slices to be removed", func() bool { return w.wiped() == 1 })
}

func TestSlicesOfADriverThatDiedAreRemoved(t *testing.T) {
	w := newWorld(t)
	w.register(t)
	w.server.Stop() // its registration socket stays
	eventually(t, "slices to be removed", func() bool { return w.wiped() > 0 })
}

func TestSlicesLeftFromBeforeAreRemoved(t *testing.T) {
	w := newWorld(t)
	if err := w.client.Tracker().Add(&resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "s"}, Spec: resourcev1.ResourceSliceSpec{Driver: "d.example.com", NodeName: ptr.To("n1")}}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- w.drivers.Run(ctx) }()
	eventually(t, "slices to be removed", func() bool { return w.wiped() == 1 })
	cancel()
	if err := <-done; err != nil {
		t.Error(err)
	}
}
