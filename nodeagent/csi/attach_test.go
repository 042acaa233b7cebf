package csi

import (
	"fmt"
	"path/filepath"
	"testing"
	"time"

	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

// describe makes a CSIDriver.
func describe(t *testing.T, m *Manager, name string, attach bool) {
	t.Helper()
	object := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: name}, Spec: storagev1.CSIDriverSpec{AttachRequired: ptr.To(attach)}}
	if _, err := m.Client.StorageV1().CSIDrivers().Create(t.Context(), object, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
}

// watching starts a manager that has a driver, and waits until it follows changes
// of CSIDrivers: the client of tests forgets those before a watch.
func watching(t *testing.T, m *Manager) {
	t.Helper()
	told := make(chan struct{}, 1)
	report := m.Report
	m.Report = func() { report(); poke(told) }
	go m.Run(t.Context())
	for i := range 600 {
		describe(t, m, fmt.Sprintf("other-%d.example.com", i), false)
		select {
		case <-told:
			return
		case <-time.After(100 * time.Millisecond):
		}
	}
	t.Fatal("the node's status is not told to change")
}

func waitInUse(t *testing.T, m *Manager, want int) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); ; time.Sleep(20 * time.Millisecond) {
		used, err := m.InUse()
		if err != nil {
			t.Fatal(err)
		}
		if len(used) == want {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("in use: %v", used)
		}
	}
}

// A volume that is mounted when its driver comes to do without attaching stays
// mounted, and is no longer in the way of detaching it.
func TestDriversComeToDoWithoutAttaching(t *testing.T) {
	m, h, _, request := staged(t)
	if _, err := m.Mount(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	watching(t, m)
	waitInUse(t, m, 1) // what other drivers need does not count
	describe(t, m, driverName, false)
	waitInUse(t, m, 0)
	if calls := h.called(); calls != "stage publish" {
		t.Errorf("calls: %s", calls)
	}
	if err := m.Client.StorageV1().VolumeAttachments().Delete(t.Context(), AttachmentName("vol-1", driverName, "node"), metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	two := request
	two.Pod = testPod("two")
	if _, err := m.Mount(t.Context(), two); err != nil {
		t.Errorf("the second pod: %v", err)
	}
	// A driver without an object needs attaching.
	if err := m.Client.StorageV1().CSIDrivers().Delete(t.Context(), driverName, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	waitInUse(t, m, 1)
	for _, pod := range []string{"uid-one", "uid-two"} {
		if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", pod)); err != nil {
			t.Fatal(err)
		}
	}
	waitInUse(t, m, 0)
	if calls := h.called(); calls != "publish unpublish unpublish unstage" {
		t.Errorf("calls: %s", calls)
	}
}

// A pod that waits for an attachment goes on without once its driver does; what is
// left of the attachment is let go when the volume is in place.
func TestWaitingEndsWithTheNeedToAttach(t *testing.T) {
	m, h, _, request := staged(t)
	attachments := m.Client.StorageV1().VolumeAttachments()
	attachment, err := attachments.Get(t.Context(), AttachmentName("vol-1", driverName, "node"), metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	attachment.Status.Attached = false
	if _, err := attachments.UpdateStatus(t.Context(), attachment, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	watching(t, m)
	ended := make(chan error, 1)
	go func() {
		_, err := m.Mount(t.Context(), request)
		ended <- err
	}()
	waitInUse(t, m, 1) // the pod waits
	describe(t, m, driverName, false)
	// The driver does not believe it yet.
	if err := <-ended; err == nil || err.Error() != `MountVolume.MountDevice failed for volume "pv" : rpc error: code = FailedPrecondition desc = not attached` {
		t.Errorf("mounted: %v", err)
	}
	waitInUse(t, m, 1)
	h.mu.Lock()
	h.free = true
	h.mu.Unlock()
	if _, err := m.Mount(t.Context(), request); err != nil {
		t.Fatal(err)
	}
	waitInUse(t, m, 0)
	if err := m.Unmount(t.Context(), filepath.Join(m.Root, "pods", "uid-one")); err != nil {
		t.Fatal(err)
	}
}
