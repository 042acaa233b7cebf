package csi

import (
	"context"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/container-storage-interface/spec/lib/go/csi"
	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// Grow has the file system of a mounted volume follow the volume where that
// grew, and says so in the claim's status.
func (m *Manager) Grow(ctx context.Context, request Request, claim *v1.PersistentVolumeClaim, mounted *Mounted) (grown bool, err error) {
	size, shown := request.PV.Spec.Capacity[v1.ResourceStorage], claim.Status.Capacity[v1.ResourceStorage]
	if size.Cmp(shown) <= 0 {
		return false, nil
	}
	w := &mount{Manager: m, Request: request}
	if err := w.describe(ctx); err != nil {
		return false, err
	}
	if w.readOnly() {
		return false, nil
	}
	if w.driver.expands {
		defer m.lock(w.key())()
		ctx, cancel := context.WithTimeout(ctx, callTimeout)
		defer cancel()
		secrets, err := m.readSecrets(ctx, request.PV.Spec.CSI.NodeExpandSecretRef)
		if err != nil {
			return false, err
		}
		expand := &csi.NodeExpandVolumeRequest{
			VolumeId: w.Handle, VolumePath: mounted.Path, CapacityRange: &csi.CapacityRange{RequiredBytes: size.Value()},
			VolumeCapability: w.capability(), Secrets: secrets,
		}
		if w.driver.stages {
			expand.StagingTargetPath = filepath.Join(m.Root, w.staging())
		}
		if _, err := w.driver.NodeExpandVolume(ctx, expand); err != nil {
			return false, fmt.Errorf("rpc NodeExpandVolume: %w", err)
		}
	}
	done := claim.DeepCopy()
	if done.Status.Capacity == nil {
		done.Status.Capacity = v1.ResourceList{}
	}
	done.Status.Capacity[v1.ResourceStorage] = size
	done.Status.Conditions = slices.DeleteFunc(done.Status.Conditions, func(c v1.PersistentVolumeClaimCondition) bool {
		return c.Type == v1.PersistentVolumeClaimResizing || c.Type == v1.PersistentVolumeClaimFileSystemResizePending || c.Type == v1.PersistentVolumeClaimNodeResizeError
	})
	delete(done.Status.AllocatedResourceStatuses, v1.ResourceStorage)
	if _, err := m.Client.CoreV1().PersistentVolumeClaims(claim.Namespace).UpdateStatus(ctx, done, metav1.UpdateOptions{}); err != nil {
		return true, fmt.Errorf("say that the file system grew: %w", err)
	}
	return true, nil
}
