package pods

import (
	"context"
	"fmt"
	"slices"

	v1 "k8s.io/api/core/v1"
)

func userNamespaces(f *v1.NodeRuntimeHandlerFeatures) *bool    { return f.UserNamespaces }
func recursiveReadOnly(f *v1.NodeRuntimeHandlerFeatures) *bool { return f.RecursiveReadOnlyMounts }

// supports says what the runtime tells of one of its handlers.
func supports(node *v1.Node, handler string, feature func(*v1.NodeRuntimeHandlerFeatures) *bool) bool {
	for _, h := range node.Status.RuntimeHandlers {
		if h.Name == handler {
			return h.Features != nil && isTrue(feature(h.Features))
		}
	}
	return false
}

// recursive says whether a mount is to be read-only with all that is mounted
// below it, where the pod's handler can do that or cannot.
func recursive(m *v1.VolumeMount, supported bool) (bool, error) {
	if m.RecursiveReadOnly == nil || *m.RecursiveReadOnly == v1.RecursiveReadOnlyDisabled {
		return false, nil
	}
	fault := func(why string) (bool, error) {
		return false, fmt.Errorf("volume %q requested recursive read-only mode, but it is %s", m.Name, why)
	}
	switch {
	case !m.ReadOnly:
		return fault("not read-only")
	case m.MountPropagation != nil && *m.MountPropagation != v1.MountPropagationNone:
		return fault(fmt.Sprintf("not compatible with propagation %q", *m.MountPropagation))
	case *m.RecursiveReadOnly == v1.RecursiveReadOnlyIfPossible:
		return supported, nil
	case !supported:
		return fault("not supported by the runtime")
	}
	return true, nil
}

// mountsRecursively says whether the handler of the pod's runtime class can mount
// what container c wants read-only recursively; it is only asked where that matters.
func (a *Agent) mountsRecursively(ctx context.Context, pod *v1.Pod, c *v1.Container) (bool, error) {
	if !slices.ContainsFunc(c.VolumeMounts, func(m v1.VolumeMount) bool { return m.RecursiveReadOnly != nil }) {
		return false, nil
	}
	handler, err := a.runtimeHandler(ctx, pod)
	if err != nil {
		return false, err
	}
	node := a.Config.Node()
	return node != nil && supports(node, handler, recursiveReadOnly), nil
}
