package admission

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/admission"
)

// nodeTaint gives every new node the taint of nodes that are not ready, so
// that no pod lands there before the node says that it is. The node lifecycle
// controller takes the taint away.
type nodeTaint struct{ *admission.Handler }

var _ admission.MutationInterface = nodeTaint{}

func newNodeTaint(Config) (admission.Interface, error) {
	return nodeTaint{admission.NewHandler(admission.Create)}, nil
}

func (nodeTaint) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("nodes") || a.GetSubresource() != "" {
		return nil
	}
	node, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	notReady := corev1.Taint{Key: corev1.TaintNodeNotReady, Effect: corev1.TaintEffectNoSchedule}
	for _, taint := range node.Spec.Taints {
		if taint.MatchTaint(&notReady) {
			return nil
		}
	}
	node.Spec.Taints = append(node.Spec.Taints, notReady)
	return nil
}
