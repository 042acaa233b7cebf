package admission

import (
	"context"
	"fmt"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/auth/node"
)

// What nodeRestriction says about pods, and about tokens for pods.

func (p *nodeRestriction) admitPod(name string, a admission.Attributes) error {
	switch a.GetSubresource() {
	case "":
		switch a.GetOperation() {
		case admission.Create:
			return p.admitMirror(name, a)
		case admission.Delete:
			return p.admitOwnPod(name, a.GetName(), "node %q can only delete pods with spec.nodeName set to itself", a)
		default:
			return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q, node %q can only create and delete mirror pods", a.GetOperation(), name))
		}
	case "status":
		return admitPodStatus(name, a)
	case "eviction":
		if a.GetOperation() != admission.Create {
			return admission.NewForbidden(a, fmt.Errorf("unexpected operation %s", a.GetOperation()))
		}
		eviction, ok := a.GetObject().(*policyv1.Eviction)
		if !ok {
			return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
		}
		pod := a.GetName()
		if pod == "" {
			pod = eviction.Name
		}
		if pod == "" {
			return admission.NewForbidden(a, fmt.Errorf("could not determine pod from request data"))
		}
		return p.admitOwnPod(name, pod, "node %s can only evict pods with spec.nodeName set to itself", a)
	default:
		return admission.NewForbidden(a, fmt.Errorf("unexpected pod subresource %q, only 'status' and 'eviction' are allowed", a.GetSubresource()))
	}
}

func (p *nodeRestriction) admitOwnPod(name, pod, message string, a admission.Attributes) error {
	existing, err := p.pods.Pods(a.GetNamespace()).Get(pod)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if existing.Spec.NodeName != name {
		return admission.NewForbidden(a, fmt.Errorf(message, name))
	}
	return nil
}

// admitMirror allows the pods that stand for a node's static ones: bound to
// the node, owned by it, and without reference to other objects.
func (p *nodeRestriction) admitMirror(name string, a admission.Attributes) error {
	pod, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if !isMirror(pod) {
		return admission.NewForbidden(a, fmt.Errorf("pod does not have %q annotation, node %q can only create mirror pods", corev1.MirrorPodAnnotationKey, name))
	}
	if pod.Spec.NodeName != name {
		return admission.NewForbidden(a, fmt.Errorf("node %q can only create pods with spec.nodeName set to itself", name))
	}
	if len(pod.OwnerReferences) > 1 {
		return admission.NewForbidden(a, fmt.Errorf("node %q can only create pods with a single owner reference set to itself", name))
	}
	if len(pod.OwnerReferences) == 0 {
		return admission.NewForbidden(a, fmt.Errorf("node %q can only create pods with an owner reference set to itself", name))
	}
	owner := pod.OwnerReferences[0]
	switch {
	case owner.APIVersion != "v1" || owner.Kind != "Node" || owner.Name != name:
		return admission.NewForbidden(a, fmt.Errorf("node %q can only create pods with an owner reference set to itself", name))
	case !ptr.Deref(owner.Controller, false):
		return admission.NewForbidden(a, fmt.Errorf("node %q can only create pods with a controller owner reference set to itself", name))
	case ptr.Deref(owner.BlockOwnerDeletion, false):
		return admission.NewForbidden(a, fmt.Errorf("node %q must not set blockOwnerDeletion on an owner reference", name))
	}
	existing, err := p.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("error looking up node %s to verify uid: %v", name, err))
	}
	if owner.UID != existing.UID {
		return admission.NewForbidden(a, fmt.Errorf("node %s UID mismatch: expected %s got %s", name, owner.UID, existing.UID))
	}
	if what := referencedObjects(pod); what != "" {
		return admission.NewForbidden(a, fmt.Errorf("node %q can not create pods that reference %s", name, what))
	}
	return nil
}

// referencedObjects names the kind of API object that the pod needs, or
// nothing.
func referencedObjects(pod *corev1.Pod) (what string) {
	if pod.Spec.ServiceAccountName != "" {
		return "serviceaccounts"
	}
	node.Secrets(pod, func(string) { what = "secrets" })
	if what != "" {
		return what
	}
	node.ConfigMaps(pod, func(string) { what = "configmaps" })
	if what != "" {
		return what
	}
	if len(pod.Spec.ResourceClaims) > 0 {
		return "resourceclaims"
	}
	for _, volume := range pod.Spec.Volumes {
		switch v := volume.VolumeSource; {
		case v.CSI != nil:
			return "csidrivers (via CSI volumes)"
		case v.Glusterfs != nil:
			return "endpoints (via glusterFS volumes)"
		case v.PersistentVolumeClaim != nil:
			return "persistentvolumeclaims"
		case v.Ephemeral != nil:
			return "persistentvolumeclaims (via ephemeral volumes)"
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				switch {
				case source.ServiceAccountToken != nil:
					return "serviceaccounts (via projected volumes)"
				case source.ClusterTrustBundle != nil:
					return "clustertrustbundles"
				case source.PodCertificate != nil:
					return "podcertificates"
				}
			}
		}
	}
	return ""
}

func admitPodStatus(name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Update {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q", a.GetOperation()))
	}
	old, ok := a.GetOldObject().(*corev1.Pod)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetOldObject()))
	}
	now, ok := a.GetObject().(*corev1.Pod)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	switch {
	case old.Spec.NodeName != name:
		return admission.NewForbidden(a, fmt.Errorf("node %q can only update pod status for pods with spec.nodeName set to itself", name))
	case !labels.Equals(old.Labels, now.Labels):
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update labels through pod status", name))
	case !apiequality.Semantic.DeepEqual(old.Status.ResourceClaimStatuses, now.Status.ResourceClaimStatuses):
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update resource claim statues", name))
	case !apiequality.Semantic.DeepEqual(old.Status.ExtendedResourceClaimStatus, now.Status.ExtendedResourceClaimStatus):
		return admission.NewForbidden(a, fmt.Errorf("node %q cannot update extended resource claim status", name))
	}
	return nil
}

// admitToken allows tokens that are bound to a pod of the node, for audiences
// that the pod asks for.
func (p *nodeRestriction) admitToken(ctx context.Context, name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create || a.GetSubresource() != "token" {
		return nil
	}
	request, ok := a.GetObject().(*authenticationv1.TokenRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	bound := request.Spec.BoundObjectRef
	if bound == nil || bound.APIVersion != "v1" || bound.Kind != "Pod" || bound.Name == "" {
		return admission.NewForbidden(a, fmt.Errorf("node requested token not bound to a pod"))
	}
	if bound.UID == "" {
		return admission.NewForbidden(a, fmt.Errorf("node requested token with a pod binding without a uid"))
	}
	pod, err := p.pods.Pods(a.GetNamespace()).Get(bound.Name)
	if apierrors.IsNotFound(err) {
		return err
	}
	if err != nil {
		return admission.NewForbidden(a, err)
	}
	if bound.UID != pod.UID {
		return admission.NewForbidden(a, fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", bound.UID))
	}
	if pod.Spec.NodeName != name {
		return admission.NewForbidden(a, fmt.Errorf("node requested token bound to a pod scheduled on a different node"))
	}
	if err := p.checkAudience(ctx, request.Spec.Audiences, pod, a); err != nil {
		return admission.NewForbidden(a, err)
	}
	return nil
}

func (p *nodeRestriction) checkAudience(ctx context.Context, audiences []string, pod *corev1.Pod, a admission.Attributes) error {
	audience := ""
	switch len(audiences) {
	case 0:
	case 1:
		audience = audiences[0]
	default:
		return fmt.Errorf("node may only request 0 or 1 audiences")
	}
	for _, volume := range pod.Spec.Volumes {
		if volume.Projected == nil {
			continue
		}
		for _, source := range volume.Projected.Sources {
			if source.ServiceAccountToken != nil && source.ServiceAccountToken.Audience == audience {
				return nil
			}
		}
	}
	// An administrator may allow an audience (as the resource) for an account
	// (as its name), whatever pods ask for.
	decision, _, err := p.authorizer.Authorize(ctx, authorizer.AttributesRecord{
		User: a.GetUserInfo(), Verb: "request-serviceaccounts-token-audience", ResourceRequest: true,
		Namespace: a.GetNamespace(), APIVersion: "v1", Resource: audience, Name: a.GetName(),
	})
	user := a.GetUserInfo().GetName()
	switch {
	case decision == authorizer.DecisionAllow:
		return nil
	case err != nil:
		return fmt.Errorf("audience %q not found in pod spec volume, error authorizing %s to request tokens for this audience: %w", audience, user, err)
	default:
		return fmt.Errorf("audience %q not found in pod spec volume, %s is not authorized to request tokens for this audience", audience, user)
	}
}
