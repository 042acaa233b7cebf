package node

import (
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/dynamic-resource-allocation/resourceclaim"
)

// What a node may do with claims of devices and with slices of its own devices.

func (a *nodeAuthorizer) mayReadDeviceClaim(node string, r authorizer.Attributes) (bool, string) {
	if r.GetVerb() != "get" {
		return false, "can only get individual resources of this type"
	}
	if r.GetSubresource() != "" {
		return false, "cannot get subresource"
	}
	return a.referred(node, deviceClaim, r)
}

func refersToDeviceClaim(pod *corev1.Pod, name string) bool {
	for i := range pod.Spec.ResourceClaims {
		// A claim that is not made yet cannot be asked for.
		if got, _, err := resourceclaim.Name(pod, &pod.Spec.ResourceClaims[i]); err == nil && got != nil && *got == name {
			return true
		}
	}
	extended := pod.Status.ExtendedResourceClaimStatus
	return extended != nil && extended.ResourceClaimName == name
}

func (a *nodeAuthorizer) mayUseSlice(node string, r authorizer.Attributes) (bool, string) {
	if r.GetSubresource() != "" {
		return false, "cannot authorize ResourceSlice subresources"
	}
	switch r.GetVerb() {
	case "create":
		// NodeRestriction knows whose slice it is.
		return true, ""
	case "get", "update", "patch", "delete":
		slice, err := a.slices.Get(r.GetName())
		if err != nil || slice.Spec.NodeName == nil || *slice.Spec.NodeName != node {
			return false, unrelated(node)
		}
		return true, ""
	case "watch", "list", "deletecollection":
		if selects(r, resourcev1.ResourceSliceSelectorNodeName, node) {
			return true, ""
		}
		return false, "can only list/watch/deletecollection resourceslices with nodeName field selector"
	}
	return false, "only the following verbs are allowed for a ResourceSlice: get, watch, list, create, update, patch, delete, deletecollection"
}
