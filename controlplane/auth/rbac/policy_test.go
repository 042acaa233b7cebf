package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/kubernetes/fake"
)

func TestDefaultPolicy(t *testing.T) {
	client := fake.NewClientset()
	if err := EnsurePolicy(context.Background(), client); err != nil {
		t.Fatal(err)
	}
	client.ClearActions()
	if err := EnsurePolicy(context.Background(), client); err != nil {
		t.Fatal(err)
	}
	for _, action := range client.Actions() {
		if verb := action.GetVerb(); verb != "get" && verb != "list" {
			t.Errorf("second run: %s %s", verb, action.GetResource().Resource)
		}
	}

	policy := DefaultPolicy()
	for _, role := range policy.ClusterRoles {
		stored, err := client.RbacV1().ClusterRoles().Get(context.Background(), role.Name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		role.Rules = stored.Rules
	}
	a := newAuthorizer(t, append(policy.objects(), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "home", Name: "edit"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "edit"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "eve"}},
	}, &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "home", Name: "admin"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "admin"},
		Subjects:   []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "ada"}},
	})...)
	const (
		manager   = "system:kube-controller-manager"
		scheduler = "system:kube-scheduler"
	)
	for _, test := range []struct {
		user, groups, request string
		allowed               bool
	}{
		{"admin", "system:masters", "delete core/nodes:n", true},
		{"nobody", "system:unauthenticated", "get /healthz", true},
		{"nobody", "system:unauthenticated", "get /api", false},
		{"nobody", "system:unauthenticated", "get core/pods:p home", false},
		{"joe", "system:authenticated", "get /apis/apps/v1", true},
		{"joe", "system:authenticated", "create authorization.k8s.io/selfsubjectaccessreviews", true},
		{"joe", "system:authenticated", "get core/pods:p home", false},
		{"eve", "", "get core/pods:p home", true},
		{"eve", "", "create apps/deployments home", true},
		{"eve", "", "create rbac.authorization.k8s.io/roles home", false},
		{"eve", "", "create apps/deployments away", false},
		{"ada", "", "create rbac.authorization.k8s.io/roles home", true},
		{"ada", "", "get core/pods/log:p home", true},
		{"ada", "", "update core/resourcequotas:q home", false},
		{scheduler, "", "create core/pods/binding:p home", true},
		{scheduler, "", "watch core/nodes", true},
		{scheduler, "", "update coordination.k8s.io/leases:kube-scheduler kube-system", true},
		{scheduler, "", "patch core/pods/status:p home", true},
		{scheduler, "", "create events.k8s.io/events home", true},
		{scheduler, "", "update core/nodes:n", false},
		{manager, "", "update coordination.k8s.io/leases:kube-controller-manager kube-system", true},
		{manager, "", "create core/pods home", true},
		{manager, "", "update apps/deployments/status:d home", true},
		{manager, "", "create apps/replicasets home", true},
		{manager, "", "update core/nodes/status:n", true},
		{manager, "", "patch core/nodes:n", true},
		{manager, "", "update core/namespaces/finalize:n", true},
		{manager, "", "deletecollection example.com/things home", true},
		{manager, "", "create core/serviceaccounts home", true},
		{manager, "", "create networking.k8s.io/ipaddresses:10.96.0.9", true},
		{manager, "", "create core/configmaps home", true},
		{manager, "", "create discovery.k8s.io/endpointslices home", true},
		{manager, "", "sign certificates.k8s.io/signers:kubernetes.io/kubelet-serving", true},
		{manager, "", "update certificates.k8s.io/certificatesigningrequests/approval:c", true},
		{manager, "", "approve certificates.k8s.io/signers:kubernetes.io/kubelet-serving", true},
		{manager, "", "approve certificates.k8s.io/signers:kubernetes.io/kube-apiserver-client", false},
		{manager, "", "escalate rbac.authorization.k8s.io/clusterroles:edit", true},
		{"system:serviceaccount:kube-system:job-controller", "", "create core/pods home", true},
		{"system:node:a", "system:nodes", "watch core/nodes", true},
		{"system:node:a", "system:nodes", "watch discovery.k8s.io/endpointslices", true},
		{"system:node:a", "system:nodes", "watch core/pods", true},
		{"system:node:a", "system:nodes", "delete core/pods:p home", false},
		{"system:node:a", "system:nodes", "watch networking.k8s.io/networkpolicies", true},
		{"system:node:a", "system:nodes", "watch core/secrets", false},
		{"system:bootstrap:abcdef", "system:bootstrappers:clusterctl:node", "create certificates.k8s.io/certificatesigningrequests", true},
		{"kube-apiserver-kubelet-client", "", "get core/nodes/metrics:n", true},
	} {
		u := &user.DefaultInfo{Name: test.user, Groups: strings.Fields(test.groups)}
		decision, reason, err := a.Authorize(context.Background(), request(t, u, test.request))
		if err != nil || (decision == authorizer.DecisionAllow) != test.allowed {
			t.Errorf("%s %s: allowed %v, want %v (%s, %v)", test.user, test.request, decision == authorizer.DecisionAllow, test.allowed, reason, err)
		}
	}
}

func TestEnsurePolicyKeepsAndRestores(t *testing.T) {
	ctx := context.Background()
	own := rbacv1.PolicyRule{Verbs: []string{"get"}, APIGroups: []string{"example.com"}, Resources: []string{"things"}}
	client := fake.NewClientset(
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:kube-dns"}, Rules: []rbacv1.PolicyRule{own}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "system:basic-user",
			Annotations: map[string]string{rbacv1.AutoUpdateAnnotationKey: "false"}}},
		&rbacv1.ClusterRole{ObjectMeta: metav1.ObjectMeta{Name: "things", Labels: map[string]string{aggregateLabel + "view": "true"}},
			Rules: []rbacv1.PolicyRule{own}},
		&rbacv1.ClusterRoleBinding{ObjectMeta: metav1.ObjectMeta{Name: "system:basic-user"},
			RoleRef:  rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "system:basic-user"},
			Subjects: []rbacv1.Subject{{APIGroup: rbacv1.GroupName, Kind: rbacv1.UserKind, Name: "extra"}}},
	)
	if err := EnsurePolicy(ctx, client); err != nil {
		t.Fatal(err)
	}
	get := func(name string) *rbacv1.ClusterRole {
		role, err := client.RbacV1().ClusterRoles().Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return role
	}
	allows := func(role *rbacv1.ClusterRole, text string) bool {
		return Allows(role.Rules, request(t, &user.DefaultInfo{}, text))
	}
	if dns := get("system:kube-dns"); !allows(dns, "get example.com/things:x") || !allows(dns, "watch core/services") {
		t.Errorf("system:kube-dns has rules %v", dns.Rules)
	}
	if basic := get("system:basic-user"); len(basic.Rules) != 0 {
		t.Errorf("protected role was changed to %v", basic.Rules)
	}
	for _, name := range []string{"view", "edit", "admin"} {
		if !allows(get(name), "get example.com/things:x") {
			t.Errorf("%s lacks the rule of a role aggregated to view", name)
		}
	}
	binding, err := client.RbacV1().ClusterRoleBindings().Get(ctx, "system:basic-user", metav1.GetOptions{})
	if err != nil || len(binding.Subjects) != 2 {
		t.Errorf("binding has subjects %v (%v), want the extra one and the default", binding.Subjects, err)
	}
}

func TestParseErrors(t *testing.T) {
	for _, test := range []struct{ text, want string }{
		{"  get | core | pods", "line 1: content before the first object"},
		{"clusterrole", `line 1: "clusterrole" lacks a name`},
		{"role name", `line 1: "role name" lacks a name`},
		{"thing a", `line 1: unknown kind "thing"`},
		{"# c\nclusterrole a\n  get", `line 3: rule "get" has 1 columns, want 2 to 4`},
		{"clusterrole a\n  get | | pods", `line 2: rule "get | | pods" has an empty column`},
		{"clusterbinding a\n  to bob", `line 2: unknown kind of subject "bob"`},
		{"clusterbinding a\n  to user:", `line 2: "to user:" lacks a name`},
		{"clusterbinding a\n  grants thing x", `line 2: cannot read "grants thing x"`},
	} {
		var p Policy
		if err := parse(test.text, &p); err == nil || err.Error() != test.want {
			t.Errorf("parse %q: error %v, want %q", test.text, err, test.want)
		}
	}
}
