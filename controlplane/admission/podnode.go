package admission

import (
	"context"
	"errors"
	"fmt"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/admission"
	listers "k8s.io/client-go/listers/core/v1"
	resourcehelper "k8s.io/component-helpers/resource"
)

// topologyLabels tells pods, by labels, in which zone and region their node
// stands.
type topologyLabels struct {
	*admission.Handler
	nodes listers.NodeLister
}

var _ admission.MutationInterface = (*topologyLabels)(nil)

func newTopologyLabels(config Config) (admission.Interface, error) {
	informer := config.Informers.Core().V1().Nodes()
	p := &topologyLabels{admission.NewHandler(admission.Create), informer.Lister()}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

func (p *topologyLabels) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") {
		return nil
	}
	// The labels of a binding become the pod's.
	var object *metav1.ObjectMeta
	var name string
	switch o := a.GetObject().(type) {
	case *corev1.Pod:
		if a.GetSubresource() == "" {
			object, name = &o.ObjectMeta, o.Spec.NodeName
		}
	case *corev1.Binding:
		if a.GetSubresource() == "binding" && o.Target.Kind == "Node" {
			object, name = &o.ObjectMeta, o.Target.Name
		}
	}
	if name == "" {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	node, err := p.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look up node %s: %w", name, err)
	}
	for _, key := range []string{corev1.LabelTopologyZone, corev1.LabelTopologyRegion} {
		if value, ok := node.Labels[key]; ok {
			metav1.SetMetaDataLabel(object, key, value)
		}
	}
	return nil
}

// podResize refuses to resize pods beyond what their node has altogether.
type podResize struct {
	*admission.Handler
	nodes listers.NodeLister
}

var _ admission.ValidationInterface = (*podResize)(nil)

func newPodResize(config Config) (admission.Interface, error) {
	informer := config.Informers.Core().V1().Nodes()
	p := &podResize{admission.NewHandler(admission.Update), informer.Lister()}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

func (p *podResize) Validate(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	if a.GetResource().GroupResource() != corev1.Resource("pods") || a.GetSubresource() != "resize" {
		return nil
	}
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("expected a pod but got a %T", a.GetObject()))
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return apierrors.NewBadRequest(fmt.Sprintf("expected an old pod but got a %T", a.GetOldObject()))
	}
	if pod.Spec.NodeName == "" || pod.Generation == old.Generation {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	node, err := p.nodes.Get(pod.Spec.NodeName)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("failed to get node %q: %w", pod.Spec.NodeName, err))
	}
	if system := node.Labels[corev1.LabelOSStable]; system != "" && system != "linux" {
		return refuseResize(a, "UnsupportedPlatform", fmt.Errorf("pod resize is only supported on linux nodes, node %q is %q", node.Name, system))
	}
	requests := resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
	var short []string
	if r := requests.Cpu(); r.Cmp(*node.Status.Allocatable.Cpu()) > 0 {
		short = append(short, fmt.Sprintf("cpu, requested: %d, allocatable: %d", r.MilliValue(), node.Status.Allocatable.Cpu().MilliValue()))
	}
	if r := requests.Memory(); r.Cmp(*node.Status.Allocatable.Memory()) > 0 {
		short = append(short, fmt.Sprintf("memory, requested: %d, allocatable: %d", r.Value(), node.Status.Allocatable.Memory().Value()))
	}
	if len(short) > 0 {
		return refuseResize(a, "NodeCapacity", fmt.Errorf("node didn't have enough allocatable resources: %s", strings.Join(short, "; ")))
	}
	return nil
}

// refuseResize tells the cause in a form for programs too.
func refuseResize(a admission.Attributes, cause metav1.CauseType, why error) error {
	refused := admission.NewForbidden(a, why)
	var status *apierrors.StatusError
	if errors.As(refused, &status) {
		status.ErrStatus.Details.Causes = append(status.ErrStatus.Details.Causes, metav1.StatusCause{Type: cause})
	}
	return refused
}
