package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes/fake"
)

// policyObjects turns the notation of policy/*.txt into objects.
func policyObjects(t *testing.T, text string) []runtime.Object {
	t.Helper()
	var p Policy
	if err := parse(text, &p); err != nil {
		t.Fatal(err)
	}
	return p.objects()
}

func (p Policy) objects() []runtime.Object {
	var objs []runtime.Object
	for _, o := range p.ClusterRoles {
		objs = append(objs, o)
	}
	for _, o := range p.ClusterRoleBindings {
		objs = append(objs, o)
	}
	for _, o := range p.Roles {
		objs = append(objs, o)
	}
	for _, o := range p.RoleBindings {
		objs = append(objs, o)
	}
	return objs
}

func newAuthorizer(t *testing.T, objs ...runtime.Object) *Authorizer {
	t.Helper()
	factory := informers.NewSharedInformerFactory(fake.NewClientset(objs...), 0)
	a := NewAuthorizer(factory)
	ctx, cancel := context.WithCancel(context.Background())
	factory.Start(ctx.Done())
	t.Cleanup(func() { cancel(); factory.Shutdown() })
	factory.WaitForCacheSync(ctx.Done())
	return a
}

// request reads "verb group/resource[/subresource][:name] [namespace]", or
// "verb /path".
func request(t *testing.T, u user.Info, text string) authorizer.Attributes {
	t.Helper()
	words := strings.Fields(text)
	if len(words) < 2 {
		t.Fatalf("request %q", text)
	}
	a := authorizer.AttributesRecord{User: u, Verb: words[0]}
	if strings.HasPrefix(words[1], "/") {
		a.Path = words[1]
		return a
	}
	a.ResourceRequest, a.APIVersion = true, "v1"
	path, name, _ := strings.Cut(words[1], ":")
	a.Name = name
	parts := strings.Split(path, "/")
	a.APIGroup, a.Resource = parts[0], parts[1]
	if a.APIGroup == "core" {
		a.APIGroup = ""
	}
	if len(parts) > 2 {
		a.Subresource = parts[2]
	}
	if len(words) > 2 {
		a.Namespace = words[2]
	}
	return a
}

const samples = `
clusterrole reader
  get list | core apps | pods pods/log deployments
clusterrole scaler
  get update | * | */scale
clusterrole one
  get | core | secrets | mine yours
clusterrole urls
  get | /healthz /api/*
clusterrole all
  * | * | *
  * | *
role n1/writer
  * | core | pods
clusterbinding readers
  grants clusterrole reader
  to user:ann
  to group:readers
clusterbinding scalers
  grants clusterrole scaler
  to user:sam
clusterbinding ones
  grants clusterrole one
  to user:one
clusterbinding urls
  grants clusterrole urls
  to group:system:authenticated
clusterbinding masters
  grants clusterrole all
  to group:masters
clusterbinding robots
  grants clusterrole reader
  to serviceaccount:n1/robot
clusterbinding dangling
  grants clusterrole gone
  to user:dan
binding n1/writers
  grants role writer
  to user:bob
  to serviceaccount:n2/robot
binding n2/local
  grants clusterrole reader
  to user:bob
binding n1/dangling
  grants role gone
  to user:dan
`

func TestAuthorize(t *testing.T) {
	a := newAuthorizer(t, append(policyObjects(t, samples), &rbacv1.RoleBinding{
		ObjectMeta: metav1.ObjectMeta{Namespace: "n3", Name: "implied"},
		RoleRef:    rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: "ClusterRole", Name: "reader"},
		Subjects:   []rbacv1.Subject{{Kind: rbacv1.ServiceAccountKind, Name: "bot"}},
	})...)
	for _, test := range []struct {
		user, groups, request string
		allowed               bool
		reason                string
	}{
		{"ann", "", "get core/pods:x n1", true, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to User "ann"`},
		{"zoe", "readers", "list apps/deployments n9", true, `RBAC: allowed by ClusterRoleBinding "readers" of ClusterRole "reader" to Group "readers"`},
		{"ann", "", "get core/pods/log:x n1", true, ""},
		{"ann", "", "get core/pods/exec:x n1", false, ""},
		{"ann", "", "delete core/pods:x n1", false, ""},
		{"ann", "", "get batch/pods:x n1", false, ""},
		{"ann", "", "list core/pods", true, ""},
		{"readers", "", "list core/pods", false, ""},
		{"sam", "", "update apps/deployments/scale:d n1", true, ""},
		{"sam", "", "update apps/deployments:d n1", false, ""},
		{"sam", "", "update apps/deployments/status:d n1", false, ""},
		{"one", "", "get core/secrets:mine n1", true, ""},
		{"one", "", "get core/secrets:other n1", false, ""},
		{"one", "", "list core/secrets n1", false, ""},
		{"any", "system:authenticated", "get /healthz", true, ""},
		{"any", "system:authenticated", "get /api/v1/x", true, ""},
		{"any", "system:authenticated", "post /healthz", false, ""},
		{"any", "system:authenticated", "get /healthz/etcd", false, ""},
		{"any", "masters", "approve certificates.k8s.io/signers:x", true, ""},
		{"any", "masters", "delete /metrics", true, ""},
		{"system:serviceaccount:n1:robot", "", "get core/pods:x n5", true, `RBAC: allowed by ClusterRoleBinding "robots" of ClusterRole "reader" to ServiceAccount "robot/n1"`},
		{"system:serviceaccount:n2:robot", "", "delete core/pods:x n1", true, `RBAC: allowed by RoleBinding "writers/n1" of Role "writer" to ServiceAccount "robot/n2"`},
		{"system:serviceaccount:n2:robot", "", "delete core/pods:x n2", false, ""},
		{"system:serviceaccount:n3:bot", "", "get core/pods:x n3", true, `RBAC: allowed by RoleBinding "implied/n3" of ClusterRole "reader" to ServiceAccount "bot/n3"`},
		{"system:serviceaccount:n3:bot", "", "get core/pods:x n1", false, ""},
		{"bob", "", "delete core/pods:x n1", true, ""},
		{"bob", "", "delete core/pods:x n2", false, ""},
		{"bob", "", "get core/pods:x n2", true, ""},
		{"bob", "", "list core/pods", false, ""},
		{"dan", "", "get core/pods:x", false, `RBAC: clusterrole.rbac.authorization.k8s.io "gone" not found`},
		{"dan", "", "get core/pods:x n1", false, `RBAC: [clusterrole.rbac.authorization.k8s.io "gone" not found, role.rbac.authorization.k8s.io "gone" not found]`},
	} {
		t.Run(test.user+" "+test.request, func(t *testing.T) {
			u := &user.DefaultInfo{Name: test.user, Groups: strings.Fields(test.groups)}
			decision, reason, err := a.Authorize(context.Background(), request(t, u, test.request))
			if err != nil {
				t.Fatal(err)
			}
			want := authorizer.DecisionNoOpinion
			if test.allowed {
				want = authorizer.DecisionAllow
			}
			if decision != want {
				t.Errorf("decision %v, want %v (%s)", decision, want, reason)
			}
			if test.reason != "" && reason != test.reason {
				t.Errorf("reason %q, want %q", reason, test.reason)
			}
		})
	}
}

func TestRulesFor(t *testing.T) {
	a := newAuthorizer(t, policyObjects(t, samples)...)
	// Both the user and the group are subjects of one binding: it counts once.
	u := &user.DefaultInfo{Name: "ann", Groups: []string{"readers", "system:authenticated"}}
	resources, urls, incomplete, err := a.RulesFor(context.Background(), u, "n1")
	if err != nil || incomplete {
		t.Fatalf("incomplete %v, error %v", incomplete, err)
	}
	if len(resources) != 1 || strings.Join(resources[0].GetResources(), " ") != "pods pods/log deployments" {
		t.Errorf("resource rules %v", resources)
	}
	if len(urls) != 1 || strings.Join(urls[0].GetNonResourceURLs(), " ") != "/healthz /api/*" {
		t.Errorf("URL rules %v", urls)
	}
	if _, _, _, err := a.RulesFor(context.Background(), &user.DefaultInfo{Name: "dan"}, "n1"); err == nil {
		t.Error("no error for bindings to roles that are gone")
	}
}
