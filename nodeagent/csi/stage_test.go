package csi

import (
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	v1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/utils/ptr"

	"clusterctl/nodeagent/plugins"
)

// staged is a manager with the driver and a volume that is attached.
func staged(t *testing.T, objects ...runtime.Object) (*Manager, *hostPath, plugins.Plugin, Request) {
	dir := root(t)
	h, plugin := serve(t)
	pv := testPV()
	pv.Spec.CSI.NodeStageSecretRef = nil
	m := manager(t, dir, append(objects, &storagev1.VolumeAttachment{
		ObjectMeta: metav1.ObjectMeta{Name: AttachmentName("vol-1", driverName, "node")},
		Status:     storagev1.VolumeAttachmentStatus{Attached: true, AttachmentMetadata: map[string]string{"told": "yes"}},
	})...)
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	return m, h, plugin, Request{Pod: testPod("one"), Volume: &v1.Volume{Name: "data"}, PV: pv}
}

// What surely did not happen is not undone; what may have happened is.
func TestFailuresToMount(t *testing.T) {
	for name, test := range map[string]struct {
		method     string
		code       codes.Code
		mount, end string // calls
		message    string
	}{
		"staging fails":               {"stage", codes.InvalidArgument, "stage", "", `MountVolume.MountDevice failed for volume "pv" : rpc error: code = InvalidArgument desc = told to fail`},
		"staging may have happened":   {"stage", codes.DeadlineExceeded, "stage", "unstage", `MountVolume.MountDevice failed for volume "pv" : rpc error: code = DeadlineExceeded desc = told to fail`},
		"publishing fails":            {"publish", codes.Internal, "stage publish", "unstage", `MountVolume.SetUp failed for volume "pv" : rpc error: code = Internal desc = told to fail`},
		"publishing may have happend": {"publish", codes.Aborted, "stage publish", "unpublish unstage", `MountVolume.SetUp failed for volume "pv" : rpc error: code = Aborted desc = told to fail`},
	} {
		t.Run(name, func(t *testing.T) {
			m, h, _, request := staged(t)
			h.fail(test.method, test.code)
			if _, err := m.Mount(t.Context(), request); err == nil || err.Error() != test.message {
				t.Errorf("mounted: %v", err)
			}
			if used, err := m.InUse(); err != nil || len(used) != 1 {
				t.Errorf("in use: %v, error %v", used, err)
			}
			if calls := h.called(); calls != test.mount {
				t.Errorf("to mount: %s", calls)
			}
			if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", "uid-one")); err != nil {
				t.Fatal(err)
			}
			if calls := h.called(); calls != test.end {
				t.Errorf("to unmount: %s", calls)
			}
			if used, err := m.InUse(); err != nil || len(used) != 0 {
				t.Errorf("in use afterwards: %v, error %v", used, err)
			}
		})
	}
}

// A volume that cannot be unstaged keeps no pod, is tried again, and is staged anew
// for a pod that comes meanwhile.
func TestUnstagingIsTriedAgain(t *testing.T) {
	m, h, plugin, request := staged(t)
	mount := func() {
		t.Helper()
		if _, err := m.Mount(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	unmount := func() {
		t.Helper()
		if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", "uid-one")); err != nil {
			t.Fatal(err)
		}
	}
	mount()
	h.fail("unstage", codes.Internal)
	unmount()
	if used, err := m.InUse(); err != nil || len(used) != 1 {
		t.Errorf("in use while it is staged: %v, error %v", used, err)
	}
	mount()
	if calls := h.called(); calls != "stage publish unpublish unstage stage publish" {
		t.Errorf("calls: %s", calls)
	}
	unmount()
	// An agent that was restarted goes on, once the driver is there.
	again := manager(t, m.Root)
	h.fail("unstage", codes.OK)
	go again.Run(t.Context())
	if err := again.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		used, err := again.InUse()
		if err != nil {
			t.Fatal(err)
		}
		if len(used) == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("still in use: %v", used)
		}
	}
	if calls := h.called(); !strings.HasSuffix(calls, "unpublish unstage unstage") {
		t.Errorf("calls: %s", calls)
	}
}

func TestOnePodHasWhatOneMayHave(t *testing.T) {
	m, _, _, request := staged(t)
	request.PV.Spec.AccessModes = []v1.PersistentVolumeAccessMode{v1.ReadWriteOncePod}
	for range 2 { // again: it has it
		if _, err := m.Mount(t.Context(), request); err != nil {
			t.Fatal(err)
		}
	}
	second := request
	second.Pod = testPod("two")
	if _, err := m.Mount(t.Context(), second); err == nil || !strings.HasSuffix(err.Error(), "already in use by another pod") {
		t.Errorf("the second pod: %v", err)
	}
	if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", "uid-one")); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Mount(t.Context(), second); err != nil {
		t.Errorf("once the first is gone: %v", err)
	}
	if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", "uid-two")); err != nil {
		t.Fatal(err)
	}
}

// A driver whose volumes are attached no more has nobody wait for that.
func TestAttachingIsGivenUp(t *testing.T) {
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}}
	m, h, _, request := staged(t, driver)
	if err := m.Client.StorageV1().VolumeAttachments().Delete(t.Context(), AttachmentName("vol-1", driverName, "node"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	done := make(chan error, 1)
	go func() {
		_, err := m.Mount(t.Context(), request)
		done <- err
	}()
	changed := driver.DeepCopy()
	changed.Spec.AttachRequired = ptr.To(false)
	if _, err := m.Client.StorageV1().CSIDrivers().Update(t.Context(), changed, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	// The fake driver wants to know that the volume is attached, so staging fails.
	if err := <-done; err == nil || !strings.Contains(err.Error(), "not attached") || h.called() != "stage" {
		t.Errorf("error %v", err)
	}
}

func TestTokensInSecrets(t *testing.T) {
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{
		AttachRequired: ptr.To(false), ServiceAccountTokenInSecrets: ptr.To(true), TokenRequests: []storagev1.TokenRequest{{Audience: "vault"}},
		VolumeLifecycleModes: []storagev1.VolumeLifecycleMode{storagev1.VolumeLifecycleEphemeral},
	}}
	m, h, _, _ := staged(t, driver)
	inline := Request{Pod: testPod("one"), Volume: &v1.Volume{Name: "own", VolumeSource: v1.VolumeSource{CSI: &v1.CSIVolumeSource{Driver: driverName}}}}
	if _, err := m.Mount(t.Context(), inline); err != nil {
		t.Fatal(err)
	}
	const key = "csi.storage.k8s.io/serviceAccount.tokens"
	if !strings.Contains(h.secrets[key], "token of one for vault") {
		t.Errorf("secrets: %v", h.secrets)
	}
	for _, told := range h.contexts {
		if told[key] != "" {
			t.Errorf("context: %v", told)
		}
	}
	if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", "uid-one")); err != nil {
		t.Fatal(err)
	}
}
