package node

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	"k8s.io/apimachinery/pkg/selection"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/core/v1"
	resourcelisters "k8s.io/client-go/listers/resource/v1"
	storagelisters "k8s.io/client-go/listers/storage/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/auth/rbac"
)

// byNode indexes pods by "node/namespace". A decision looks through the pods
// of one node in one namespace, so that no graph of references has to be kept:
// a pod counts from the moment the informer has it until it is gone.
const byNode = "clusterctl/node-namespace"

type nodeAuthorizer struct {
	pods        listers.PodLister
	byNode      cache.Indexer
	volumes     listers.PersistentVolumeLister
	bySecret    cache.Indexer
	attachments storagelisters.VolumeAttachmentLister
	slices      resourcelisters.ResourceSliceLister
	// common are the rules for what is not narrowed down below.
	common []rbacv1.PolicyRule
}

var (
	_ authorizer.Authorizer   = (*nodeAuthorizer)(nil)
	_ authorizer.RuleResolver = (*nodeAuthorizer)(nil)
)

// NewAuthorizer returns the authorizer for node agents; it has no opinion on
// anybody else, nor on what it does not allow. It registers its informers with
// the factory, which the caller starts, and panics on a factory that has been
// shut down already.
func NewAuthorizer(factory informers.SharedInformerFactory) authorizer.Authorizer {
	pods := factory.Core().V1().Pods()
	informer := pods.Informer()
	if _, done := informer.GetIndexer().GetIndexers()[byNode]; !done {
		err := informer.AddIndexers(cache.Indexers{byNode: func(obj any) ([]string, error) {
			pod, ok := obj.(*corev1.Pod)
			if !ok {
				return nil, fmt.Errorf("index node of %T: want a Pod", obj)
			}
			if pod.Spec.NodeName == "" {
				return nil, nil
			}
			return []string{pod.Spec.NodeName + "/" + pod.Namespace}, nil
		}})
		if err != nil {
			panic(fmt.Sprintf("node: index pods by node: %v", err))
		}
	}
	volumes := factory.Core().V1().PersistentVolumes()
	addSecretIndex(volumes.Informer())
	a := &nodeAuthorizer{
		volumes: volumes.Lister(), bySecret: volumes.Informer().GetIndexer(),
		attachments: factory.Storage().V1().VolumeAttachments().Lister(),
		pods:        pods.Lister(), byNode: informer.GetIndexer(), slices: factory.Resource().V1().ResourceSlices().Lister(),
	}
	roles := rbac.DefaultPolicy().ClusterRoles
	if i := slices.IndexFunc(roles, func(r *rbacv1.ClusterRole) bool { return r.Name == "system:node" }); i >= 0 {
		a.common = roles[i].Rules
	}
	return a
}

// RulesFor implements authorizer.RuleResolver: what a node may do depends on
// its pods and cannot be listed.
func (a *nodeAuthorizer) RulesFor(_ context.Context, u user.Info, _ string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	if _, isNode := Identity(u); isNode {
		return nil, nil, true, errors.New("node authorizer does not support user rule resolution")
	}
	return nil, nil, false, nil
}

// Authorize implements authorizer.Authorizer.
func (a *nodeAuthorizer) Authorize(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	node, isNode := Identity(request.GetUser())
	if !isNode {
		return authorizer.DecisionNoOpinion, "", nil
	}
	if node == "" {
		return authorizer.DecisionNoOpinion, fmt.Sprintf("unknown node for user %q", request.GetUser().GetName()), nil
	}
	allowed, reason := a.decide(node, request)
	if allowed {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

func (a *nodeAuthorizer) decide(node string, r authorizer.Attributes) (allowed bool, reason string) {
	if !r.IsResourceRequest() {
		return rbac.Allows(a.common, r), ""
	}
	switch r.GetAPIGroup() + "/" + r.GetResource() {
	case "/secrets":
		return a.mayReadSecret(node, r)
	case "/configmaps":
		return a.mayRead(node, configMap, r)
	case "/serviceaccounts":
		return a.mayUseAccount(node, r)
	case "/persistentvolumeclaims":
		return a.mayUseClaim(node, r)
	case "/pods":
		return a.mayUsePod(node, r)
	case "/nodes":
		return mayUseNode(node, r)
	case "coordination.k8s.io/leases":
		return mayUseLease(node, r)
	case "storage.k8s.io/csinodes":
		return mayUseOwn(node, "CSINode", r)
	case "resource.k8s.io/resourceclaims":
		return a.mayReadDeviceClaim(node, r)
	case "resource.k8s.io/resourceslices":
		return a.mayUseSlice(node, r)
	case "/persistentvolumes":
		return a.mayReadVolume(node, r)
	case "storage.k8s.io/volumeattachments":
		return a.mayReadAttachment(node, r)
	case "certificates.k8s.io/podcertificaterequests":
		// What ties these to a node is a kind that is not served.
		return false, unrelated(node)
	default:
		return rbac.Allows(a.common, r), ""
	}
}

func unrelated(node string) string {
	return fmt.Sprintf("no relationship found between node '%s' and this object", node)
}

// referred reports whether a pod of the node refers to the named object.
func (a *nodeAuthorizer) referred(node string, kind reference, r authorizer.Attributes) (bool, string) {
	if r.GetName() == "" {
		return false, "No Object name found"
	}
	// The index exists, which is all that could fail.
	pods, err := a.byNode.ByIndex(byNode, node+"/"+r.GetNamespace())
	if err != nil {
		return false, err.Error()
	}
	for _, obj := range pods {
		if pod, ok := obj.(*corev1.Pod); ok && refers(pod, kind, r.GetName()) {
			return true, ""
		}
	}
	return false, unrelated(node)
}

// mayRead allows get, and list and watch of single objects.
func (a *nodeAuthorizer) mayRead(node string, kind reference, r authorizer.Attributes) (bool, string) {
	switch {
	case !slices.Contains([]string{"get", "list", "watch"}, r.GetVerb()):
		return false, "can only read resources of this type"
	case r.GetSubresource() != "":
		return false, "cannot read subresource"
	case r.GetNamespace() == "":
		return false, "can only read namespaced object of this type"
	}
	return a.referred(node, kind, r)
}

// mayUseAccount allows reading accounts of the node's pods, and making tokens
// for them.
func (a *nodeAuthorizer) mayUseAccount(node string, r authorizer.Attributes) (bool, string) {
	if r.GetVerb() == "get" && r.GetSubresource() == "" {
		return a.mayRead(node, serviceAccount, r)
	}
	if r.GetVerb() != "create" || r.GetName() == "" {
		return false, "can only create tokens for individual service accounts"
	}
	if r.GetSubresource() != "token" {
		return false, "can only create token subresource of serviceaccount"
	}
	return a.referred(node, serviceAccount, r)
}

func (a *nodeAuthorizer) mayUseClaim(node string, r authorizer.Attributes) (bool, string) {
	switch r.GetSubresource() {
	case "":
		if r.GetVerb() != "get" {
			return false, "can only get individual resources of this type"
		}
	case "status":
		if r.GetVerb() != "get" && r.GetVerb() != "update" && r.GetVerb() != "patch" {
			return false, "can only get/update/patch this type"
		}
	default:
		return false, "cannot get subresource"
	}
	return a.referred(node, claim, r)
}

func (a *nodeAuthorizer) mayUsePod(node string, r authorizer.Attributes) (bool, string) {
	verb := r.GetVerb()
	switch r.GetSubresource() {
	case "":
		switch verb {
		case "get":
			return a.ownPod(node, r)
		case "list", "watch":
			if selects(r, "spec.nodeName", node) {
				return true, ""
			}
			if r.GetName() != "" {
				return a.ownPod(node, r)
			}
			return false, "can only list/watch pods with spec.nodeName field selector"
		case "create", "delete":
			// NodeRestriction knows whether it is a mirror pod, bound to the node.
			return true, ""
		}
	case "status":
		return verb == "update" || verb == "patch", ""
	case "eviction":
		return verb == "create", ""
	}
	return false, ""
}

func (a *nodeAuthorizer) ownPod(node string, r authorizer.Attributes) (bool, string) {
	pod, err := a.pods.Pods(r.GetNamespace()).Get(r.GetName())
	if err != nil || pod.Spec.NodeName != node {
		return false, unrelated(node)
	}
	return true, ""
}

// selects reports whether a request sees only objects whose field has value.
func selects(r authorizer.Attributes, field, value string) bool {
	// Requirements that could not be read are left out, which never narrows.
	requirements, _ := r.GetFieldSelector()
	for _, q := range requirements {
		if q.Field == field && q.Operator == selection.Equals && q.Value == value {
			return true
		}
	}
	return false
}

func mayUseNode(node string, r authorizer.Attributes) (bool, string) {
	verb := r.GetVerb()
	switch r.GetSubresource() {
	case "":
		switch verb {
		case "create", "update", "patch":
			// NodeRestriction knows which node it is.
			return true, ""
		case "get", "list", "watch":
			switch r.GetName() {
			case node:
				return true, ""
			case "":
				return false, fmt.Sprintf("node '%s' cannot read all nodes, only its own Node object", node)
			default:
				return false, fmt.Sprintf("node '%s' cannot read '%s', only its own Node object", node, r.GetName())
			}
		}
	case "status":
		return verb == "update" || verb == "patch", ""
	}
	return false, ""
}

func mayUseLease(node string, r authorizer.Attributes) (bool, string) {
	if r.GetNamespace() != corev1.NamespaceNodeLease {
		return false, fmt.Sprintf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease)
	}
	return mayUseOwn(node, "node lease", r)
}

// mayUseOwn allows a node the object of its own name. On create the name is
// not known here; NodeRestriction checks it.
func mayUseOwn(node, what string, r authorizer.Attributes) (bool, string) {
	switch {
	case !slices.Contains([]string{"get", "create", "update", "patch", "delete"}, r.GetVerb()):
		return false, fmt.Sprintf("can only get, create, update, patch, or delete a %s", what)
	case r.GetSubresource() != "":
		return false, fmt.Sprintf("cannot authorize %s subresources", what)
	case r.GetVerb() != "create" && r.GetName() != node:
		return false, fmt.Sprintf("can only access %s with the same name as the requesting node", what)
	}
	return true, ""
}
