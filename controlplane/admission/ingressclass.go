package admission

import (
	"context"
	"fmt"
	"slices"

	networkingv1 "k8s.io/api/networking/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/admission"
	listers "k8s.io/client-go/listers/networking/v1"
	"k8s.io/utils/ptr"
)

// defaultIngressClass gives ingresses that name no class the default one.
type defaultIngressClass struct {
	*admission.Handler
	classes listers.IngressClassLister
}

var _ admission.MutationInterface = (*defaultIngressClass)(nil)

func newDefaultIngressClass(config Config) (admission.Interface, error) {
	informer := config.Informers.Networking().V1().IngressClasses()
	p := &defaultIngressClass{admission.NewHandler(admission.Create), informer.Lister()}
	p.SetReadyFunc(informer.Informer().HasSynced)
	return p, nil
}

func (p *defaultIngressClass) Admit(_ context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	ingresses := schema.GroupResource{Group: networkingv1.GroupName, Resource: "ingresses"}
	if a.GetResource().GroupResource() != ingresses || a.GetSubresource() != "" {
		return nil
	}
	ingress, ok := a.GetObject().(*networkingv1.Ingress)
	if !ok {
		return apierrors.NewInternalError(fmt.Errorf("expected Ingress resource, got: %v", a.GetKind()))
	}
	// Before there was a field, an annotation named the class.
	if _, annotated := ingress.Annotations["kubernetes.io/ingress.class"]; annotated || ingress.Spec.IngressClassName != nil {
		return nil
	}
	if !p.WaitForReady() {
		return admission.NewForbidden(a, fmt.Errorf("not yet ready to handle request"))
	}
	classes, err := p.classes.List(labels.Everything())
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	classes = slices.DeleteFunc(classes, func(c *networkingv1.IngressClass) bool {
		return c.Annotations[networkingv1.AnnotationIsDefaultIngressClass] != "true"
	})
	if len(classes) > 0 {
		ingress.Spec.IngressClassName = ptr.To(newest(classes))
	}
	return nil
}
