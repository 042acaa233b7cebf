package devices

import (
	"context"
	"fmt"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Manager gives pods their devices. Safe for concurrent use.
type Manager struct {
	Claims *Claims
}

// Access is what a container needs to have its devices.
type Access struct {
	CDI []string // names of devices of the Container Device Interface
}

// Prepare makes the pod's devices ready; again, it does what is left to do.
func (m *Manager) Prepare(ctx context.Context, pod *v1.Pod) error {
	if err := m.Claims.Prepare(ctx, pod); err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}

// Unprepare gives them back, once nothing of the pod runs.
func (m *Manager) Unprepare(ctx context.Context, pod types.UID) error {
	if err := m.Claims.Unprepare(ctx, pod); err != nil {
		return fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return nil
}

// Pods are those that have devices.
func (m *Manager) Pods() []types.UID { return m.Claims.Pods() }

// Access is what a container of a prepared pod needs.
func (m *Manager) Access(_ context.Context, pod *v1.Pod, container *v1.Container) (*Access, error) {
	ids, err := m.Claims.ids(pod, container)
	if err != nil {
		return nil, err
	}
	return &Access{CDI: ids}, nil
}
