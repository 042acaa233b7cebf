package admission

import (
	"context"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	coordinationv1 "k8s.io/api/coordination/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	resourcev1 "k8s.io/api/resource/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/utils/ptr"
)

// edit returns a changed copy.
func edit[T interface{ DeepCopy() T }](o T, change func(T)) T {
	c := o.DeepCopy()
	change(c)
	return c
}

func TestNodeRestriction(t *testing.T) {
	one := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "one", UID: "node-uid", Labels: map[string]string{"kubernetes.io/hostname": "one"}}}
	two := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "two"}}
	mine := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "mine", UID: "pod-uid"}, Spec: corev1.PodSpec{
		NodeName: "one", ServiceAccountName: "sa",
		Volumes: []corev1.Volume{{Name: "t", VolumeSource: corev1.VolumeSource{Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{}},
			{ServiceAccountToken: &corev1.ServiceAccountTokenProjection{Audience: "vault"}},
		}}}}},
	}}
	other := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "other", UID: "other-uid"}, Spec: corev1.PodSpec{NodeName: "two"}}
	mirror := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "mirror", Annotations: map[string]string{corev1.MirrorPodAnnotationKey: "x"},
			OwnerReferences: []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: "one", UID: "node-uid", Controller: ptr.To(true)}}},
		Spec: corev1.PodSpec{NodeName: "one"},
	}
	token := func(pod, uid string, audiences ...string) *authenticationv1.TokenRequest {
		return &authenticationv1.TokenRequest{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "sa"}, Spec: authenticationv1.TokenRequestSpec{
			Audiences:      audiences,
			BoundObjectRef: &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod, UID: types.UID(uid)},
		}}
	}
	lease := func(namespace, name string) *coordinationv1.Lease {
		return &coordinationv1.Lease{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: name}}
	}
	slice := func(node string) *resourcev1.ResourceSlice {
		return &resourcev1.ResourceSlice{ObjectMeta: metav1.ObjectMeta{Name: "slice"}, Spec: resourcev1.ResourceSliceSpec{NodeName: &node}}
	}
	eviction := func(name string) *policyv1.Eviction {
		return &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: name}}
	}
	csr := func(signer, name string) *certificatesv1.CertificateSigningRequest {
		return requestFor(signer, signingRequest(t, name, "system:nodes"))
	}
	claim := &corev1.PersistentVolumeClaim{ObjectMeta: metav1.ObjectMeta{Namespace: "ns", Name: "c"}}
	p := configure(t, newNodeRestriction, allow("request-serviceaccounts-token-audience special sa"), one, two, mine, other).(*nodeRestriction)

	const create, update, remove = admission.Create, admission.Update, admission.Delete
	for _, test := range []struct {
		name      string
		operation admission.Operation
		resource  string
		obj, old  runtime.Object
		err       string
	}{
		{"own node", create, "/nodes", one, nil, ""},
		{"other node", create, "/nodes", two, nil, `node "one" is not allowed to modify node "two"`},
		{"kubelet's labels", create, "/nodes", edit(one, func(n *corev1.Node) { n.Labels["node.kubernetes.io/kind"] = "x"; n.Labels["example.com/a"] = "b" }), nil, ""},
		{"role label", create, "/nodes", edit(one, func(n *corev1.Node) { n.Labels["node-role.kubernetes.io/control-plane"] = "" }), nil,
			`node "one" is not allowed to set the following labels: node-role.kubernetes.io/control-plane`},
		{"restricted label", update, "/nodes", edit(one, func(n *corev1.Node) { n.Labels["a.node-restriction.kubernetes.io/b"] = "c" }), one,
			"is not allowed to modify labels: a.node-restriction.kubernetes.io/b"},
		{"removed label", update, "/nodes", one, edit(one, func(n *corev1.Node) { n.Labels["foo.k8s.io/b"] = "c" }), "is not allowed to modify labels: foo.k8s.io/b"},
		{"taints", update, "/nodes", edit(one, func(n *corev1.Node) { n.Spec.Taints = []corev1.Taint{{Key: "k"}} }), one, `node "one" is not allowed to modify taints`},
		{"owners", update, "/nodes", edit(one, func(n *corev1.Node) { n.OwnerReferences = []metav1.OwnerReference{{}} }), one, `node "one" is not allowed to modify ownerReferences`},
		{"status", update, "/nodes/status", edit(one, func(n *corev1.Node) { n.Status.Phase = "x" }), one, ""},

		{"mirror pod", create, "/pods", mirror, nil, ""},
		{"plain pod", create, "/pods", mine, nil, `pod does not have "kubernetes.io/config.mirror" annotation, node "one" can only create mirror pods`},
		{"mirror elsewhere", create, "/pods", edit(mirror, func(p *corev1.Pod) { p.Spec.NodeName = "two" }), nil, "can only create pods with spec.nodeName set to itself"},
		{"mirror without owner", create, "/pods", edit(mirror, func(p *corev1.Pod) { p.OwnerReferences = nil }), nil, "can only create pods with an owner reference set to itself"},
		{"mirror of an earlier node", create, "/pods", edit(mirror, func(p *corev1.Pod) { p.OwnerReferences[0].UID = "old" }), nil, "node one UID mismatch: expected old got node-uid"},
		{"mirror with account", create, "/pods", edit(mirror, func(p *corev1.Pod) { p.Spec.ServiceAccountName = "sa" }), nil, `node "one" can not create pods that reference serviceaccounts`},
		{"mirror with claim", create, "/pods", edit(mirror, func(p *corev1.Pod) {
			p.Spec.Volumes = []corev1.Volume{{VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{}}}}
		}), nil, `node "one" can not create pods that reference persistentvolumeclaims`},
		{"update pod", update, "/pods", mine, mine, `node "one" can only create and delete mirror pods`},
		{"delete own pod", remove, "/pods", nil, mine, ""},
		{"delete other pod", remove, "/pods", nil, other, `node "one" can only delete pods with spec.nodeName set to itself`},
		{"pod status", update, "/pods/status", edit(mine, func(p *corev1.Pod) { p.Status.Phase = "Running" }), mine, ""},
		{"other pod's status", update, "/pods/status", other, other, `node "one" can only update pod status for pods with spec.nodeName set to itself`},
		{"labels through status", update, "/pods/status", edit(mine, func(p *corev1.Pod) { p.Labels = map[string]string{"a": "b"} }), mine, "cannot update labels through pod status"},
		{"binding", create, "/pods/binding", mine, nil, `unexpected pod subresource "binding"`},
		{"evict own", create, "/pods/eviction", eviction("mine"), nil, ""},
		{"evict other", create, "/pods/eviction", eviction("other"), nil, "node one can only evict pods with spec.nodeName set to itself"},

		{"token", create, "/serviceaccounts/token", token("mine", "pod-uid"), nil, ""},
		{"token for an audience", create, "/serviceaccounts/token", token("mine", "pod-uid", "vault"), nil, ""},
		{"token for a special audience", create, "/serviceaccounts/token", token("mine", "pod-uid", "special"), nil, ""},
		{"token for another audience", create, "/serviceaccounts/token", token("mine", "pod-uid", "bank"), nil,
			`audience "bank" not found in pod spec volume, system:node:one is not authorized to request tokens for this audience`},
		{"token for two audiences", create, "/serviceaccounts/token", token("mine", "pod-uid", "vault", "bank"), nil, "node may only request 0 or 1 audiences"},
		{"token of an earlier pod", create, "/serviceaccounts/token", token("mine", "old"), nil, "does not match the UID in record"},
		{"token without uid", create, "/serviceaccounts/token", token("mine", ""), nil, "node requested token with a pod binding without a uid"},
		{"token of another node", create, "/serviceaccounts/token", token("other", "other-uid"), nil, "node requested token bound to a pod scheduled on a different node"},
		{"unbound token", create, "/serviceaccounts/token", edit(token("mine", "pod-uid"), func(r *authenticationv1.TokenRequest) { r.Spec.BoundObjectRef = nil }), nil,
			"node requested token not bound to a pod"},

		{"own lease", create, "coordination.k8s.io/leases", lease("kube-node-lease", "one"), nil, ""},
		{"other lease", create, "coordination.k8s.io/leases", lease("kube-node-lease", "two"), nil, "can only access node lease with the same name as the requesting node"},
		{"lease elsewhere", update, "coordination.k8s.io/leases", lease("kube-system", "one"), lease("kube-system", "one"), `can only access leases in the "kube-node-lease" system namespace`},

		{"own slice", create, "resource.k8s.io/resourceslices", slice("one"), nil, ""},
		{"other slice", create, "resource.k8s.io/resourceslices", slice("two"), nil, "can only create ResourceSlice with the same NodeName as the requesting node"},
		{"delete own slice", remove, "resource.k8s.io/resourceslices", nil, slice("one"), ""},
		{"delete other slice", remove, "resource.k8s.io/resourceslices", nil, slice("two"), "can only delete ResourceSlice with the same NodeName as the requesting node"},
		{"delete slice of no node", remove, "resource.k8s.io/resourceslices", nil, &resourcev1.ResourceSlice{}, "can only delete ResourceSlice with the same NodeName as the requesting node"},

		{"own certificate", create, requests, csr(certificatesv1.KubeAPIServerClientKubeletSignerName, "system:node:one"), nil, ""},
		{"serving certificate of another", create, requests, csr(certificatesv1.KubeletServingSignerName, "system:node:two"), nil, "can only create a node CSR with CN=system:node:one"},
		{"other signer", create, requests, csr("example.com/signer", "whoever"), nil, ""},

		{"claim", update, "/persistentvolumeclaims", claim, claim, "may only update PVC status"},
		{"claim's capacity", update, "/persistentvolumeclaims/status", edit(claim, func(c *corev1.PersistentVolumeClaim) {
			c.Status.Conditions = []corev1.PersistentVolumeClaimCondition{{Type: "x"}}
		}), claim, ""},
		{"claim's phase", update, "/persistentvolumeclaims/status", edit(claim, func(c *corev1.PersistentVolumeClaim) { c.Status.Phase = "Lost" }), claim,
			`node "one" is not allowed to update fields other than status.quantity and status.conditions`},
		{"something else", create, "/configmaps", &corev1.ConfigMap{}, nil, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			wantError(t, p.Admit(context.Background(), write(test.operation, nodeOne, test.resource, test.obj, test.old), nil), test.err)
			if err := p.Admit(context.Background(), write(test.operation, anna, test.resource, test.obj, test.old), nil); err != nil {
				t.Errorf("for a user that is no node: %v", err)
			}
		})
	}
	nameless := &user.DefaultInfo{Name: "system:node:", Groups: []string{"system:nodes"}}
	wantError(t, p.Admit(context.Background(), write(create, nameless, "/nodes", one, nil), nil), `could not determine node from user "system:node:"`)
}
