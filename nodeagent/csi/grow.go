package csi

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// growth is what this process knows of the growing of a volume's file system.
type growth struct {
	size    resource.Quantity // that it has on this host, at least
	failed  bool              // the driver could not grow it
	offline bool              // the driver does not grow it while it is in use
}

// notNeeded is on claims whose volumes no node has to grow.
const notNeeded = "volume.kubernetes.io/node-expansion-not-required"

// Grow has the file system of a mounted volume follow the volume where that
// grew, and says so in the claim's status and by events.
func (m *Manager) Grow(ctx context.Context, request Request, claim *v1.PersistentVolumeClaim, mounted *Mounted) error {
	w := &mount{Manager: m, Request: request}
	if err := w.describe(ctx); err != nil {
		return err
	}
	defer m.lock(w.key())()
	size, shown := request.PV.Spec.Capacity[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	m.mu.Lock()
	known, ok := m.sizes[w.key()]
	m.mu.Unlock()
	if !ok {
		known.size = shown
	}
	defer func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.sizes[w.key()] = known
	}()
	switch {
	case size.Cmp(known.size) <= 0, known.offline:
		return nil
	case request.ReadOnly:
		if !ok {
			w.tell(claim, v1.EventTypeWarning, "FileSystemResizeFailed", "MountVolume.NodeExpandVolume failed for volume %q requested read-only file system", w.PVName)
		}
		return nil
	}
	state := claim.Status.AllocatedResourceStatuses[v1.ResourceStorage]
	if state == "" && claim.Status.AllocatedResources == nil {
		return w.growUnasked(ctx, claim, mounted, size, &known)
	}
	return w.growAllocated(ctx, claim, mounted, state, &known)
}

// growUnasked grows a volume whose claim does not tell how far its growing is: its
// resizer is an old one.
func (w *mount) growUnasked(ctx context.Context, claim *v1.PersistentVolumeClaim, mounted *Mounted, size resource.Quantity, known *growth) error {
	switch err := w.expand(ctx, mounted, size); {
	case errors.Is(err, errCannotExpand):
		known.size = size
		return nil
	case status.Code(err) == codes.FailedPrecondition:
		known.offline = true
		return nil
	case err != nil:
		return err
	}
	known.size = size
	w.grew(claim)
	if shown := claim.Status.Capacity[v1.ResourceStorage]; shown.Cmp(size) >= 0 {
		return nil
	}
	return w.setGrown(ctx, claim, size)
}

// growAllocated grows a volume to the size that the claim was allocated.
func (w *mount) growAllocated(ctx context.Context, claim *v1.PersistentVolumeClaim, mounted *Mounted, state v1.ClaimResourceStatus, known *growth) error {
	size, shown, asked := claim.Status.AllocatedResources[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage], claim.Spec.Resources.Requests[v1.ResourceStorage]
	// Another node grew it, or none has to.
	done := shown.Cmp(size) >= 0 && state == ""
	everywhere := done && slices.Contains(claim.Spec.AccessModes, v1.ReadWriteMany) && !metav1.HasAnnotation(claim.ObjectMeta, notNeeded)
	switch {
	case everywhere, state == v1.PersistentVolumeClaimNodeResizePending, state == v1.PersistentVolumeClaimNodeResizeInProgress:
	case done:
		known.size = size
		return nil
	default:
		return nil
	}
	var err error
	if !done {
		claim, err = w.changeClaim(ctx, claim, func(s *v1.PersistentVolumeClaimStatus) {
			s.AllocatedResourceStatuses[v1.ResourceStorage] = v1.PersistentVolumeClaimNodeResizeInProgress
		})
		if err != nil {
			return err
		}
	}
	if err := w.expand(ctx, mounted, size); err != nil {
		if done && errors.Is(err, errCannotExpand) {
			known.size = size
			return nil
		}
		var told error
		if errors.Is(err, errCannotExpand) || isFinal(err) {
			hopeless := infeasible(err) || known.failed && asked.Cmp(size) != 0
			known.failed = true
			_, told = w.changeClaim(ctx, claim, func(s *v1.PersistentVolumeClaimStatus) {
				if hopeless { // the resizer goes on with the size that is asked for now
					s.AllocatedResourceStatuses = map[v1.ResourceName]v1.ClaimResourceStatus{v1.ResourceStorage: v1.PersistentVolumeClaimNodeResizeInfeasible}
				}
				resizeFailed(s, fmt.Sprintf("failed to expand pvc with %v", err))
			})
		}
		if status.Code(err) == codes.FailedPrecondition {
			known.offline = true
			return told
		}
		return errors.Join(err, told)
	}
	known.size, known.failed = size, false
	w.grew(claim)
	if done {
		return nil
	}
	return w.setGrown(ctx, claim, size)
}

// expandFailed are the words that users know.
const expandFailed = "Expander.NodeExpand failed to expand the volume"

// errCannotExpand is of drivers that never grow file systems.
var errCannotExpand = errors.New("NodeExpand is not supported by the CSI driver")

// expand has the driver grow the file system.
func (w *mount) expand(ctx context.Context, mounted *Mounted, size resource.Quantity) error {
	if !w.driver.expands {
		return fmt.Errorf("%w %s", errCannotExpand, w.Driver)
	}
	secrets, err := w.readSecrets(ctx, "NodeExpandSecretRef", w.PV.Spec.CSI.NodeExpandSecretRef)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	_, err = w.driver.NodeExpandVolume(ctx, &csi.NodeExpandVolumeRequest{
		VolumeId: w.Handle, VolumePath: mounted.Path, StagingTargetPath: filepath.Join(w.Root, w.staging()),
		CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()}, VolumeCapability: w.capability(), Secrets: secrets,
	})
	if err != nil {
		return fmt.Errorf("%s : %w", expandFailed, err)
	}
	return nil
}

// infeasible says whether trying again would come to the same.
func infeasible(err error) bool {
	switch status.Code(err) {
	case codes.InvalidArgument, codes.OutOfRange, codes.NotFound:
		return true
	}
	return false
}

func (w *mount) grew(claim *v1.PersistentVolumeClaim) {
	w.tell(claim, v1.EventTypeNormal, "FileSystemResizeSuccessful", "MountVolume.NodeExpandVolume succeeded for volume %q %s", w.PVName, w.NodeName)
}

// tell tells pod and claim.
func (w *mount) tell(claim *v1.PersistentVolumeClaim, kind, reason, format string, args ...any) {
	w.Recorder.Eventf(w.Pod, kind, reason, format, args...)
	w.Recorder.Eventf(claim, kind, reason, format, args...)
}

// resizing are the conditions of a claim that grows.
var resizing = []v1.PersistentVolumeClaimConditionType{
	v1.PersistentVolumeClaimResizing, v1.PersistentVolumeClaimFileSystemResizePending,
	v1.PersistentVolumeClaimControllerResizeError, v1.PersistentVolumeClaimNodeResizeError,
}

func resizeFailed(s *v1.PersistentVolumeClaimStatus, message string) {
	if slices.ContainsFunc(s.Conditions, func(c v1.PersistentVolumeClaimCondition) bool {
		return c.Type == v1.PersistentVolumeClaimNodeResizeError && c.Status == v1.ConditionTrue
	}) {
		return
	}
	s.Conditions = append(slices.DeleteFunc(s.Conditions, func(c v1.PersistentVolumeClaimCondition) bool {
		return c.Type == v1.PersistentVolumeClaimNodeResizeError
	}),
		v1.PersistentVolumeClaimCondition{Type: v1.PersistentVolumeClaimNodeResizeError, Status: v1.ConditionTrue, LastTransitionTime: metav1.Now(), Message: message})
}

// setGrown ends the growing of a claim.
func (w *mount) setGrown(ctx context.Context, claim *v1.PersistentVolumeClaim, size resource.Quantity) error {
	_, err := w.changeClaim(ctx, claim, func(s *v1.PersistentVolumeClaimStatus) {
		if s.Capacity == nil {
			s.Capacity = v1.ResourceList{}
		}
		s.Capacity[v1.ResourceStorage] = size
		s.Conditions = slices.DeleteFunc(s.Conditions, func(c v1.PersistentVolumeClaimCondition) bool { return slices.Contains(resizing, c.Type) })
		delete(s.AllocatedResourceStatuses, v1.ResourceStorage)
	})
	return err
}

// changeClaim changes the claim's status, if it is still the one that was read.
func (w *mount) changeClaim(ctx context.Context, claim *v1.PersistentVolumeClaim, edit func(*v1.PersistentVolumeClaimStatus)) (*v1.PersistentVolumeClaim, error) {
	changed := claim.DeepCopy()
	edit(&changed.Status)
	changed, err := w.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, changed, metav1.UpdateOptions{})
	if err != nil {
		return nil, fmt.Errorf("update status of claim: %w", err)
	}
	return changed, nil
}
