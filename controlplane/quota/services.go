package quota

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/admission"
	quota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	"k8s.io/utils/ptr"
)

func newServiceEvaluator(list generic.ListFuncByNamespace) quota.Evaluator {
	return &evaluator{
		resource: corev1.Resource("services"),
		list:     list,
		// An update can change the type.
		handles: func(a admission.Attributes) bool {
			return a.GetSubresource() == "" && (a.GetOperation() == admission.Create || a.GetOperation() == admission.Update)
		},
		matching: func(names []corev1.ResourceName) []corev1.ResourceName {
			return quota.Intersection(names, []corev1.ResourceName{
				objectCount("services"), corev1.ResourceServices, corev1.ResourceServicesNodePorts, corev1.ResourceServicesLoadBalancers,
			})
		},
		usage: serviceUsage,
	}
}

// serviceUsage counts the node ports that a service will have; when it is
// created, they are not allocated yet.
func serviceUsage(object runtime.Object) (corev1.ResourceList, error) {
	service, err := as[*corev1.Service](object)
	if err != nil {
		return nil, err
	}
	balancers, ports := 0, 0
	switch service.Spec.Type {
	case corev1.ServiceTypeNodePort:
		ports = len(service.Spec.Ports)
	case corev1.ServiceTypeLoadBalancer:
		balancers = 1
		for _, port := range service.Spec.Ports {
			if port.NodePort != 0 || ptr.Deref(service.Spec.AllocateLoadBalancerNodePorts, true) {
				ports++
			}
		}
	}
	return corev1.ResourceList{
		objectCount("services"):              count(1),
		corev1.ResourceServices:              count(1),
		corev1.ResourceServicesNodePorts:     count(ports),
		corev1.ResourceServicesLoadBalancers: count(balancers),
	}, nil
}
