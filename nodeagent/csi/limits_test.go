package csi

import (
	"errors"
	"testing"
	"time"

	"google.golang.org/grpc/codes"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/utils/ptr"
)

func shownLimit(t *testing.T, m *Manager) int32 {
	t.Helper()
	node, err := m.Client.StorageV1().CSINodes().Get(t.Context(), "node", metav1.GetOptions{})
	if err != nil || len(node.Spec.Drivers) != 1 {
		t.Fatalf("CSINode %+v, error %v", node, err)
	}
	return *node.Spec.Drivers[0].Allocatable.Count
}

func (h *hostPath) setLimit(limit int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.limit = limit
}

func TestLimitsAreFollowed(t *testing.T) {
	h, plugin := serve(t)
	driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{NodeAllocatableUpdatePeriodSeconds: ptr.To[int64](1)}}
	m := manager(t, t.TempDir(), driver)
	go m.Run(t.Context())
	if err := m.Register(t.Context(), plugin); err != nil {
		t.Fatal(err)
	}
	h.setLimit(3)
	for deadline := time.Now().Add(time.Minute); shownLimit(t, m) != 3; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("CSINode shows %d", shownLimit(t, m))
		}
	}
}

// A driver that can attach no more is asked how many it can, if its limit changes.
func TestFullNodes(t *testing.T) {
	for name, test := range map[string]struct {
		period *int64
		code   codes.Code
		limit  bool
		shown  int32
	}{
		"its limit changes":    {ptr.To[int64](3600), codes.ResourceExhausted, true, 3},
		"its limit never does": {nil, codes.ResourceExhausted, false, 7},
		"something else":       {ptr.To[int64](3600), codes.Internal, false, 7},
	} {
		t.Run(name, func(t *testing.T) {
			driver := &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: driverName}, Spec: storagev1.CSIDriverSpec{NodeAllocatableUpdatePeriodSeconds: test.period}}
			m, h, _, request := staged(t, driver)
			if _, err := m.Mount(t.Context(), request); err != nil {
				t.Fatal(err)
			}
			h.setLimit(3)
			attachments := m.Client.StorageV1().VolumeAttachments()
			attachment, err := attachments.Get(t.Context(), AttachmentName("vol-1", driverName, "node"), metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			attachment.Status = storagev1.VolumeAttachmentStatus{AttachError: &storagev1.VolumeError{Message: "no room", ErrorCode: ptr.To(int32(test.code))}}
			if _, err := attachments.UpdateStatus(t.Context(), attachment, metav1.UpdateOptions{}); err != nil {
				t.Fatal(err)
			}
			// The pod has the volume, so nobody waits for it.
			_, err = m.Mount(t.Context(), request)
			failure := (*AttachError)(nil)
			if !errors.As(err, &failure) || failure.Limit != test.limit || err.Error() != `MountVolume.WaitForAttach failed for volume "pv" : no room` {
				t.Errorf("error %v", err)
			}
			if shown := shownLimit(t, m); shown != test.shown {
				t.Errorf("CSINode shows %d", shown)
			}
			if err := m.Unmount(t.Context(), m.Root+"/pods/uid-one"); err != nil {
				t.Fatal(err)
			}
		})
	}
}
