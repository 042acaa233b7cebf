package devices

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	pluginapi "k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1"
)

// Manager gives pods their devices. Safe for concurrent use.
type Manager struct {
	Claims  *Claims
	Plugins *Plugins
}

// Access is what a container needs to have its devices.
type Access struct {
	CDI         []string // names of devices of the Container Device Interface
	Env         map[string]string
	Annotations map[string]string
	Mounts      []*criv1.Mount
	Devices     []*criv1.Device
}

// add adds what a device plugin answered.
func (a *Access) add(r *pluginapi.ContainerAllocateResponse) {
	if a.Env == nil {
		a.Env, a.Annotations = map[string]string{}, map[string]string{}
	}
	maps.Copy(a.Env, r.GetEnvs())
	maps.Copy(a.Annotations, r.GetAnnotations())
	for _, m := range r.GetMounts() {
		if !slices.ContainsFunc(a.Mounts, func(other *criv1.Mount) bool { return other.ContainerPath == m.ContainerPath }) {
			a.Mounts = append(a.Mounts, &criv1.Mount{ContainerPath: m.ContainerPath, HostPath: m.HostPath, Readonly: m.ReadOnly})
		}
	}
	for _, d := range r.GetDevices() {
		if !slices.ContainsFunc(a.Devices, func(other *criv1.Device) bool { return other.ContainerPath == d.ContainerPath }) {
			a.Devices = append(a.Devices, &criv1.Device{ContainerPath: d.ContainerPath, HostPath: d.HostPath, Permissions: d.Permissions})
		}
	}
	for _, d := range r.GetCdiDevices() {
		if !slices.Contains(a.CDI, d.Name) {
			a.CDI = append(a.CDI, d.Name)
		}
	}
}

// Prepare makes the pod's devices ready; again, it does what is left to do.
func (m *Manager) Prepare(ctx context.Context, pod *v1.Pod) error {
	if err := m.Plugins.Allocate(ctx, pod); err != nil {
		return err
	}
	if err := m.Claims.Prepare(ctx, pod); err != nil {
		return fmt.Errorf("prepare dynamic resources: %w", err)
	}
	return nil
}

// Unprepare gives them back, once nothing of the pod runs.
func (m *Manager) Unprepare(ctx context.Context, pod types.UID) error {
	err := m.Claims.Unprepare(ctx, pod)
	if err != nil {
		err = fmt.Errorf("unprepare dynamic resources: %w", err)
	}
	return errors.Join(err, m.Plugins.Free(pod))
}

// Pods are those that have devices.
func (m *Manager) Pods() []types.UID { return append(m.Claims.Pods(), m.Plugins.Pods()...) }

// Access is what a container of a prepared pod needs, asked just before it is
// made.
func (m *Manager) Access(ctx context.Context, pod *v1.Pod, container *v1.Container) (*Access, error) {
	ids, err := m.Claims.ids(pod, container)
	if err != nil {
		return nil, err
	}
	a := &Access{CDI: ids}
	return a, m.Plugins.access(ctx, pod.UID, container.Name, a)
}
