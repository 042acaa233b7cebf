package admission

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	listers "k8s.io/client-go/listers/core/v1"
	kubeletapis "k8s.io/kubelet/pkg/apis"

	"clusterctl/controlplane/api/certificates"
	"clusterctl/controlplane/auth/node"
)

// nodeRestriction narrows down what nodes write, where it takes the content of
// objects to judge: their own Node with the labels that are theirs to set,
// pods bound to them, tokens for those, their own leases, slices of devices and
// certificates.
type nodeRestriction struct {
	*admission.Handler
	pods       listers.PodLister
	nodes      listers.NodeLister
	authorizer authorizer.Authorizer
}

var _ admission.MutationInterface = (*nodeRestriction)(nil)

func newNodeRestriction(config Config) (admission.Interface, error) {
	core := config.Informers.Core().V1()
	return &nodeRestriction{
		Handler:    admission.NewHandler(admission.Create, admission.Update, admission.Delete),
		pods:       core.Pods().Lister(),
		nodes:      core.Nodes().Lister(),
		authorizer: config.Authorizer,
	}, nil
}

func (p *nodeRestriction) Admit(ctx context.Context, a admission.Attributes, _ admission.ObjectInterfaces) error {
	name, isNode := node.Identity(a.GetUserInfo())
	if !isNode {
		return nil
	}
	if name == "" {
		return admission.NewForbidden(a, fmt.Errorf("could not determine node from user %q", a.GetUserInfo().GetName()))
	}
	resource := a.GetResource().Group + "/" + a.GetResource().Resource
	switch resource {
	case "/pods":
		return p.admitPod(name, a)
	case "/nodes":
		return admitNode(name, a)
	case "/persistentvolumeclaims":
		return admitClaim(name, a)
	case "/serviceaccounts":
		return p.admitToken(ctx, name, a)
	case "coordination.k8s.io/leases":
		if a.GetNamespace() != corev1.NamespaceNodeLease {
			return admission.NewForbidden(a, fmt.Errorf("can only access leases in the %q system namespace", corev1.NamespaceNodeLease))
		}
		return admitOwnName(name, "node lease", a)
	case "storage.k8s.io/csinodes":
		return admitOwnName(name, "CSINode", a)
	case "resource.k8s.io/resourceslices":
		return admitSlice(name, a)
	case "certificates.k8s.io/certificatesigningrequests":
		return admitRequest(name, a)
	default:
		return nil
	}
}

// admitOwnName allows objects with the node's name only.
func admitOwnName(name, what string, a admission.Attributes) error {
	requested := a.GetName()
	if a.GetOperation() == admission.Create {
		object, err := meta.Accessor(a.GetObject())
		if err != nil {
			return admission.NewForbidden(a, fmt.Errorf("unable to access the object name"))
		}
		requested = object.GetName()
	}
	if requested != name {
		return admission.NewForbidden(a, fmt.Errorf("can only access %s with the same name as the requesting node", what))
	}
	return nil
}

func admitNode(name string, a admission.Attributes) error {
	if a.GetName() != name {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify node %q", name, a.GetName()))
	}
	if a.GetOperation() == admission.Delete {
		return nil
	}
	now, ok := a.GetObject().(*corev1.Node)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if a.GetOperation() == admission.Create {
		if labels := forbiddenLabels(now.Labels, nil); len(labels) > 0 {
			return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to set the following labels: %s", name, strings.Join(labels, ", ")))
		}
		return nil
	}
	old, ok := a.GetOldObject().(*corev1.Node)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetOldObject()))
	}
	// A node that could choose its taints and labels could draw pods to itself.
	if !apiequality.Semantic.DeepEqual(now.Spec.Taints, old.Spec.Taints) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify taints", name))
	}
	if !apiequality.Semantic.DeepEqual(now.OwnerReferences, old.OwnerReferences) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to modify ownerReferences", name))
	}
	if labels := forbiddenLabels(now.Labels, old.Labels); len(labels) > 0 {
		return admission.NewForbidden(a, fmt.Errorf("is not allowed to modify labels: %s", strings.Join(labels, ", ")))
	}
	return nil
}

// forbiddenLabels returns the changed labels that a node may not set, sorted.
func forbiddenLabels(now, before map[string]string) []string {
	forbidden := map[string]bool{}
	check := func(labels, other map[string]string) {
		for key, value := range labels {
			if was, ok := other[key]; (!ok || was != value) && !nodesOwnLabel(key) {
				forbidden[key] = true
			}
		}
	}
	check(now, before)
	check(before, now)
	return slices.Sorted(maps.Keys(forbidden))
}

// nodesOwnLabel reports whether nodes may set a label: everything outside
// Kubernetes' name spaces, and within them what its agents are known to set.
func nodesOwnLabel(key string) bool {
	namespace, _, ok := strings.Cut(key, "/")
	if !ok {
		return true
	}
	within := func(domain string) bool { return namespace == domain || strings.HasSuffix(namespace, "."+domain) }
	if within(corev1.LabelNamespaceNodeRestriction) {
		return false
	}
	return !within("kubernetes.io") && !within("k8s.io") || kubeletapis.IsKubeletLabel(key)
}

func admitClaim(name string, a admission.Attributes) error {
	if a.GetSubresource() != "status" {
		return admission.NewForbidden(a, fmt.Errorf("may only update PVC status"))
	}
	if a.GetOperation() != admission.Update {
		return admission.NewForbidden(a, fmt.Errorf("unexpected operation %q", a.GetOperation()))
	}
	old, ok := a.GetOldObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetOldObject()))
	}
	now, ok := a.GetObject().(*corev1.PersistentVolumeClaim)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	before, after := old.DeepCopy(), now.DeepCopy()
	for _, claim := range []*corev1.PersistentVolumeClaim{before, after} {
		claim.ResourceVersion, claim.ManagedFields = "", nil
		claim.Status.Capacity, claim.Status.Conditions = nil, nil
		claim.Status.AllocatedResources, claim.Status.AllocatedResourceStatuses = nil, nil
	}
	if !apiequality.Semantic.DeepEqual(before, after) {
		return admission.NewForbidden(a, fmt.Errorf("node %q is not allowed to update fields other than status.quantity and status.conditions", name))
	}
	return nil
}

// admitSlice allows a node to make and delete slices of its own devices. Whether
// it may change one, the authorizer knows.
func admitSlice(name string, a admission.Attributes) error {
	object, verb := a.GetObject(), "create"
	switch a.GetOperation() {
	case admission.Create:
	case admission.Delete:
		object, verb = a.GetOldObject(), "delete"
	default:
		return nil
	}
	slice, ok := object.(*resourcev1.ResourceSlice)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", object))
	}
	if slice.Spec.NodeName == nil || *slice.Spec.NodeName != name {
		return admission.NewForbidden(a, fmt.Errorf("can only %s ResourceSlice with the same NodeName as the requesting node", verb))
	}
	return nil
}

// admitRequest wants the node's own name in certificates for nodes.
func admitRequest(name string, a admission.Attributes) error {
	if a.GetOperation() != admission.Create {
		return nil
	}
	csr, ok := a.GetObject().(*certificatesv1.CertificateSigningRequest)
	if !ok {
		return admission.NewForbidden(a, fmt.Errorf("unexpected type %T", a.GetObject()))
	}
	if csr.Spec.SignerName != certificatesv1.KubeletServingSignerName && csr.Spec.SignerName != certificatesv1.KubeAPIServerClientKubeletSignerName {
		return nil
	}
	request, err := certificates.ParseRequest(csr.Spec.Request)
	if err != nil {
		return admission.NewForbidden(a, fmt.Errorf("unable to parse csr: %w", err))
	}
	if request.Subject.CommonName != "system:node:"+name {
		return admission.NewForbidden(a, fmt.Errorf("can only create a node CSR with CN=system:node:%s", name))
	}
	return nil
}
