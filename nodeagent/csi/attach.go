package csi

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/utils/ptr"
)

const (
	attachPoll    = 250 * time.Millisecond
	attachTimeout = 2 * time.Minute
	reportTimeout = 10 * time.Second
)

// AttachmentName is the VolumeAttachment of a volume and a node.
func AttachmentName(handle, driver, node string) string {
	return fmt.Sprintf("csi-%x", sha256.Sum256([]byte(handle+driver+node)))
}

// AttachError is why the control plane could not attach a volume.
type AttachError struct {
	Code    codes.Code
	Message string
	// Limit: the driver can attach no more to this node.
	Limit bool
}

func (e *AttachError) Error() string { return e.Message }

// waitAttached waits until the control plane says that the node has the volume, and
// knows that it is used: else it would be detached once the pod is gone, however
// long the agent takes to unmount it. For a pod that has the volume already it only
// looks.
func (w *mount) waitAttached(ctx context.Context) error {
	name := AttachmentName(w.Handle, w.Driver, w.NodeName)
	began := time.Now()
	if w.Pending && w.Report != nil {
		w.Report()
	}
	for {
		attachment, err := w.Client.StorageV1().VolumeAttachments().Get(ctx, name, metav1.GetOptions{})
		if w.Pending && (apierrors.IsNotFound(err) || w.doesWithout(w.Driver)) {
			// The driver may have come to do without.
			if object, err := w.Client.StorageV1().CSIDrivers().Get(ctx, w.Driver, metav1.GetOptions{}); err == nil && !ptr.Deref(object.Spec.AttachRequired, true) {
				w.object = object
				return nil
			}
		}
		switch {
		case err != nil:
			err = fmt.Errorf("volume %s has GET error for volume attachment %s: %w", w.Handle, name, err)
		case attachment.DeletionTimestamp != nil:
			err = errors.New("volume attachment is being deleted")
		case attachment.Status.Attached && w.Pending && !w.reported() && time.Since(began) < reportTimeout:
			err = fmt.Errorf("volume %s is not reported as in use yet", w.Handle)
		case attachment.Status.Attached:
			w.publish = attachment.Status.AttachmentMetadata
			return nil
		case attachment.Status.AttachError != nil:
			err = &AttachError{Code: codes.Code(ptr.Deref(attachment.Status.AttachError.ErrorCode, 0)), Message: attachment.Status.AttachError.Message}
		default:
			err = fmt.Errorf("volume %s is not attached for volume attachment %s", w.Handle, name)
		}
		if !w.Pending || time.Since(began) > attachTimeout {
			if failure, ok := err.(*AttachError); ok {
				w.full(ctx, failure)
			}
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(attachPoll):
		}
	}
}

func (w *mount) reported() bool {
	node := w.Node()
	return node == nil || slices.Contains(node.Status.VolumesInUse, w.unique())
}

// learnAttaching notes the drivers whose CSIDriver says that volumes need no
// attaching, and has the node's status tell soon what InUse names without theirs.
// No CSIDriver means that volumes are attached.
func (m *Manager) learnAttaching(objects storagelisters.CSIDriverLister) error {
	list, err := objects.List(labels.Everything())
	if err != nil {
		return err
	}
	without := map[string]bool{}
	for _, object := range list {
		if !ptr.Deref(object.Spec.AttachRequired, true) {
			without[object.Name] = true
		}
	}
	m.mu.Lock()
	changed := !maps.Equal(without, m.without)
	m.without = without
	m.mu.Unlock()
	if changed && m.Report != nil {
		m.Report()
	}
	return nil
}

// holds says whether a volume must not be detached from this host. An attachment
// from before its driver came to do without is let go once the volume is in place:
// until then the driver may still look for it.
func (m *Manager) holds(r *record) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return r.Attached && (r.Pending || m.busy[r.key()] != nil || !m.without[r.Driver])
}

// doesWithout says whether a driver's volumes need no attaching, as far as known.
func (m *Manager) doesWithout(driver string) bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.without[driver]
}
