package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"slices"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"clusterctl/controlplane/auth/rbac"
	"clusterctl/hostconfig"
)

// as is a client with a certificate of user in groups.
func (c *Cluster) as(t *testing.T, user string, groups ...string) kubernetes.Interface {
	t.Helper()
	return clients(t, must(c.Certificate(user, groups...))(t))
}

func TestDefaultPolicyIsInPlace(t *testing.T) {
	c, ctx := Start(t), t.Context()
	for _, role := range rbac.DefaultPolicy().ClusterRoles {
		got := must(c.Client.RbacV1().ClusterRoles().Get(ctx, role.Name, metav1.GetOptions{}))(t)
		if len(got.Rules) == 0 {
			t.Errorf("%s has no rules", role.Name)
		}
	}
}

func TestNobodyGivesMoreThanTheyHave(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	must(c.Client.RbacV1().RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Name: "admin"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "eve-" + ns}},
	}, metav1.CreateOptions{}))(t)
	eve := c.as(t, "eve-"+ns).RbacV1()
	role := func(name string, resource string) *rbacv1.Role {
		return &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: name}, Rules: []rbacv1.PolicyRule{{APIGroups: []string{""}, Resources: []string{resource}, Verbs: []string{"get", "update"}}}}
	}
	eventually(t, "eve is an administrator here", func(ctx context.Context) (bool, error) {
		_, err := eve.Roles(ns).Create(ctx, role("mine", "pods"), metav1.CreateOptions{})
		return err == nil, err
	})
	_, err := eve.Roles(ns).Create(ctx, role("more", "resourcequotas"), metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `is attempting to grant RBAC permissions not currently held:`+"\n"+`{APIGroups:[""], Resources:["resourcequotas"], Verbs:["update"]}`) {
		t.Errorf("more rights: %v", err)
	}
	mine := must(eve.Roles(ns).Get(ctx, "mine", metav1.GetOptions{}))(t)
	mine.Rules[0].Resources = []string{"resourcequotas"}
	if _, err := eve.Roles(ns).Update(ctx, mine, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a role grows: %v", err)
	}
	bind := func(name, kind, role string) error {
		_, err := eve.RoleBindings(ns).Create(ctx, &rbacv1.RoleBinding{
			ObjectMeta: metav1.ObjectMeta{Name: name},
			RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: role},
			Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: "User", Name: "friend"}},
		}, metav1.CreateOptions{})
		return err
	}
	if err := bind("mine", "Role", "mine"); err != nil {
		t.Errorf("bind an own role: %v", err)
	}
	if err := bind("view", "ClusterRole", "view"); err != nil {
		t.Errorf("bind a smaller role: %v", err)
	}
	if err := bind("all", "ClusterRole", "cluster-admin"); !apierrors.IsForbidden(err) {
		t.Errorf("bind all rights: %v", err)
	}
	if err := bind("gone", "Role", "gone"); !apierrors.IsNotFound(err) {
		t.Errorf("bind a role that is not there: %v", err)
	}
	if _, err := eve.ClusterRoles().Create(ctx, &rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "x"}}, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("cluster role: %v", err)
	}
}

func TestReviews(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	can := func(client kubernetes.Interface, a authorizationv1.ResourceAttributes) bool {
		t.Helper()
		review := must(client.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, &authorizationv1.SelfSubjectAccessReview{
			Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: &a}}, metav1.CreateOptions{}))(t)
		return review.Status.Allowed
	}
	manager := c.as(t, "system:kube-controller-manager")
	if !can(manager, authorizationv1.ResourceAttributes{Verb: "create", Resource: "pods", Namespace: ns}) ||
		!can(manager, authorizationv1.ResourceAttributes{Verb: "patch", Group: "apps", Resource: "replicasets", Namespace: ns}) {
		t.Error("the controller manager cannot do its work")
	}
	joe := c.as(t, "joe")
	if can(joe, authorizationv1.ResourceAttributes{Verb: "get", Resource: "secrets", Namespace: ns}) {
		t.Error("joe reads secrets")
	}
	rules := must(joe.AuthorizationV1().SelfSubjectRulesReviews().Create(ctx, &authorizationv1.SelfSubjectRulesReview{
		Spec: authorizationv1.SelfSubjectRulesReviewSpec{Namespace: ns}}, metav1.CreateOptions{}))(t)
	if !slices.ContainsFunc(rules.Status.ResourceRules, func(r authorizationv1.ResourceRule) bool {
		return slices.Contains(r.Resources, "selfsubjectaccessreviews")
	}) || rules.Status.Incomplete {
		t.Errorf("rules %+v", rules.Status)
	}
	local := must(c.Client.AuthorizationV1().LocalSubjectAccessReviews(ns).Create(ctx, &authorizationv1.LocalSubjectAccessReview{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns},
		Spec: authorizationv1.SubjectAccessReviewSpec{User: "joe", ResourceAttributes: &authorizationv1.ResourceAttributes{
			Verb: "get", Resource: "secrets", Namespace: ns}}}, metav1.CreateOptions{}))(t)
	if local.Status.Allowed {
		t.Error("joe reads secrets, by a local review")
	}
	who := must(joe.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{}))(t)
	if who.Status.UserInfo.Username != "joe" || !slices.Contains(who.Status.UserInfo.Groups, "system:authenticated") {
		t.Errorf("joe is %+v", who.Status.UserInfo)
	}
	token := must(c.Client.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t)
	for value, want := range map[string]bool{token.Status.Token: true, "junk": false} {
		review := must(c.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: value}}, metav1.CreateOptions{}))(t)
		if review.Status.Authenticated != want || want && review.Status.User.Username != "system:serviceaccount:"+ns+":default" {
			t.Errorf("review %+v, want %v", review.Status, want)
		}
	}
}

func TestNodeSeesWhatIsItsOwn(t *testing.T) {
	c, ctx := Start(t), t.Context()
	ns := c.namespace(t)
	name := "node-" + ns
	agent := c.as(t, "system:node:"+name, "system:nodes")
	node := &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"node-role.kubernetes.io/worker": ""}}}
	if _, err := agent.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "is not allowed to set the following labels: node-role.kubernetes.io/worker") {
		t.Errorf("a node gives itself a role: %v", err)
	}
	node.Labels = map[string]string{"kubernetes.io/hostname": name}
	node = must(agent.CoreV1().Nodes().Create(ctx, node, metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		_ = c.Client.CoreV1().Nodes().Delete(context.Background(), name, metav1.DeleteOptions{})
	})
	if len(node.Spec.Taints) != 1 || node.Spec.Taints[0].Key != corev1.TaintNodeNotReady {
		t.Errorf("a new node has taints %v", node.Spec.Taints)
	}
	must(c.Client.CoreV1().Secrets(ns).Create(ctx, &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: "s"}}, metav1.CreateOptions{}))(t)
	get := func(ctx context.Context) error {
		_, err := agent.CoreV1().Secrets(ns).Get(ctx, "s", metav1.GetOptions{})
		return err
	}
	if err := get(ctx); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), "no relationship found between node '"+name+"' and this object") {
		t.Errorf("a secret of no pod: %v", err)
	}
	pod := simplePod("p")
	pod.Spec.Volumes = []corev1.Volume{{Name: "v", VolumeSource: corev1.VolumeSource{Secret: &corev1.SecretVolumeSource{SecretName: "s"}}}}
	must(c.Client.CoreV1().Pods(ns).Create(ctx, pod, metav1.CreateOptions{}))(t)
	if err := bind(ctx, c, ns, "p", name); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the pod's node reads its secret", func(ctx context.Context) (bool, error) {
		err := get(ctx)
		return err == nil, err
	})
	// Pods of other nodes are peers in network policies, and nothing more.
	must(agent.CoreV1().Pods("").List(ctx, metav1.ListOptions{}))(t)
	foreign := must(c.Client.CoreV1().Pods(ns).Create(ctx, simplePod("foreign"), metav1.CreateOptions{}))(t)
	if err := bind(ctx, c, ns, "foreign", "elsewhere"); err != nil {
		t.Fatal(err)
	}
	if _, err := agent.CoreV1().Pods(ns).UpdateStatus(ctx, foreign, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("the status of another node's pod: %v", err)
	}
	if err := agent.CoreV1().Pods(ns).Delete(ctx, "foreign", metav1.DeleteOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("deletion of another node's pod: %v", err)
	}
	if list := must(agent.CoreV1().Pods("").List(ctx, metav1.ListOptions{FieldSelector: "spec.nodeName=" + name}))(t); len(list.Items) != 1 {
		t.Errorf("own pods: %d", len(list.Items))
	}
	running := must(agent.CoreV1().Pods(ns).Get(ctx, "p", metav1.GetOptions{}))(t)
	running.Status.Phase = corev1.PodRunning
	must(agent.CoreV1().Pods(ns).UpdateStatus(ctx, running, metav1.UpdateOptions{}))(t)
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
		APIVersion: "v1", Kind: "Pod", Name: "p", UID: running.UID}}}
	must(agent.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", request, metav1.CreateOptions{}))(t)
	request.Spec.BoundObjectRef = nil
	if _, err := agent.CoreV1().ServiceAccounts(ns).CreateToken(ctx, "default", request, metav1.CreateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("token for no pod: %v", err)
	}
	// The service proxy and the routes are the agent's work.
	must(agent.CoreV1().Services("").List(ctx, metav1.ListOptions{}))(t)
	must(agent.DiscoveryV1().EndpointSlices("").List(ctx, metav1.ListOptions{}))(t)
	must(agent.CoreV1().Nodes().List(ctx, metav1.ListOptions{}))(t)
	other := c.as(t, "system:node:other", "system:nodes")
	if _, err := other.CoreV1().Secrets(ns).Get(ctx, "s", metav1.GetOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("another node reads the secret: %v", err)
	}
}

func TestSigningRequestFromAskingToIssue(t *testing.T) {
	c, ctx := Start(t), t.Context()
	key := must(ecdsa.GenerateKey(elliptic.P256(), rand.Reader))(t)
	der := must(x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: pkix.Name{CommonName: "system:node:csr", Organization: []string{"system:nodes"}}}, key))(t)
	agent := c.as(t, "system:node:csr", "system:nodes").CertificatesV1().CertificateSigningRequests()
	admin := c.Client.CertificatesV1().CertificateSigningRequests()
	csr := must(agent.Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{GenerateName: "csr-"},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request:    pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}),
			SignerName: "example.com/nodes", Usages: []certificatesv1.KeyUsage{certificatesv1.UsageClientAuth}, Username: "root",
		},
	}, metav1.CreateOptions{}))(t)
	t.Cleanup(func() { _ = admin.Delete(context.Background(), csr.Name, metav1.DeleteOptions{}) })
	if csr.Spec.Username != "system:node:csr" || !slices.Contains(csr.Spec.Groups, "system:nodes") {
		t.Errorf("requester %q of %q", csr.Spec.Username, csr.Spec.Groups)
	}
	approved := csr.DeepCopy()
	approved.Status.Conditions = []certificatesv1.CertificateSigningRequestCondition{{Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "Test"}}
	if _, err := agent.UpdateApproval(ctx, csr.Name, approved, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("a node approves its own request: %v", err)
	}
	// The controller manager may approve, but for the signers of the cluster only.
	manager := c.as(t, "system:kube-controller-manager").CertificatesV1().CertificateSigningRequests()
	if _, err := manager.UpdateApproval(ctx, csr.Name, approved, metav1.UpdateOptions{}); !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `user not permitted to approve requests with signerName "example.com/nodes"`) {
		t.Errorf("approval for a foreign signer: %v", err)
	}
	approved = must(admin.UpdateApproval(ctx, csr.Name, approved, metav1.UpdateOptions{}))(t)
	if c := approved.Status.Conditions[0]; c.LastUpdateTime.IsZero() {
		t.Errorf("condition %+v", c)
	}
	approved.Status.Certificate = []byte("junk")
	if _, err := admin.UpdateStatus(ctx, approved, metav1.UpdateOptions{}); !apierrors.IsInvalid(err) {
		t.Errorf("junk for a certificate: %v", err)
	}
	approved.Status.Certificate = c.CA.Certificate(hostconfig.AuthorityCluster)
	issued := must(admin.UpdateStatus(ctx, approved, metav1.UpdateOptions{}))(t)
	if len(issued.Status.Certificate) == 0 || len(issued.Status.Conditions) != 1 {
		t.Errorf("issued %+v", issued.Status)
	}
}
