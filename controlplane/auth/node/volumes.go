package node

import (
	"fmt"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/tools/cache"
)

// What a node may do with volumes: a pod of the node refers to a claim, the
// claim's volume to the claim, and the volume to secrets of its driver.

// bySecret indexes volumes by "namespace/name" of the secrets that they name.
const bySecret = "clusterctl/secret"

func secretsOf(obj any) ([]string, error) {
	v, ok := obj.(*corev1.PersistentVolume)
	if !ok {
		return nil, fmt.Errorf("index secrets of %T: want a PersistentVolume", obj)
	}
	csi := v.Spec.CSI
	if csi == nil {
		return nil, nil
	}
	var keys []string
	for _, ref := range []*corev1.SecretReference{csi.NodePublishSecretRef, csi.NodeStageSecretRef, csi.NodeExpandSecretRef} {
		if ref != nil {
			keys = append(keys, ref.Namespace+"/"+ref.Name)
		}
	}
	return keys, nil
}

func addSecretIndex(informer cache.SharedIndexInformer) {
	if _, done := informer.GetIndexer().GetIndexers()[bySecret]; done {
		return
	}
	if err := informer.AddIndexers(cache.Indexers{bySecret: secretsOf}); err != nil {
		panic(fmt.Sprintf("node: index volumes by secret: %v", err))
	}
}

// uses says whether a pod of the node uses a volume.
func (a *nodeAuthorizer) uses(node string, v *corev1.PersistentVolume) bool {
	ref := v.Spec.ClaimRef
	if ref == nil {
		return false
	}
	pods, err := a.byNode.ByIndex(byNode, node+"/"+ref.Namespace)
	if err != nil {
		return false
	}
	for _, obj := range pods {
		if pod, ok := obj.(*corev1.Pod); ok && refers(pod, claim, ref.Name) {
			return true
		}
	}
	return false
}

func (a *nodeAuthorizer) mayReadVolume(node string, r authorizer.Attributes) (bool, string) {
	if reason := individually(r); reason != "" {
		return false, reason
	}
	v, err := a.volumes.Get(r.GetName())
	if err != nil || !a.uses(node, v) {
		return false, unrelated(node)
	}
	return true, ""
}

func (a *nodeAuthorizer) mayReadAttachment(node string, r authorizer.Attributes) (bool, string) {
	if reason := individually(r); reason != "" {
		return false, reason
	}
	attachment, err := a.attachments.Get(r.GetName())
	if err != nil || attachment.Spec.NodeName != node {
		return false, unrelated(node)
	}
	return true, ""
}

// individually says why a request is not one for a single object.
func individually(r authorizer.Attributes) string {
	switch {
	case r.GetVerb() != "get":
		return "can only get individual resources of this type"
	case r.GetSubresource() != "":
		return "cannot get subresource"
	case r.GetName() == "":
		return "No Object name found"
	}
	return ""
}

// mayReadSecret allows secrets of the node's pods, and of their volumes.
func (a *nodeAuthorizer) mayReadSecret(node string, r authorizer.Attributes) (bool, string) {
	allowed, reason := a.mayRead(node, secret, r)
	if allowed || r.GetSubresource() != "" || r.GetNamespace() == "" || r.GetName() == "" {
		return allowed, reason
	}
	switch r.GetVerb() {
	case "get", "list", "watch":
	default:
		return false, reason
	}
	volumes, err := a.bySecret.ByIndex(bySecret, r.GetNamespace()+"/"+r.GetName())
	if err != nil {
		return false, reason
	}
	for _, obj := range volumes {
		if v, ok := obj.(*corev1.PersistentVolume); ok && a.uses(node, v) {
			return true, ""
		}
	}
	return false, reason
}
