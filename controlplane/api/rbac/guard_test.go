package rbac

import (
	"context"
	"strings"
	"testing"

	rbacv1 "k8s.io/api/rbac/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

// world is an authorizer that allows "verb resource:name", a resolver that
// gives everybody owned, and a store of roles.
type world struct {
	allowed string
	owned   []rbacv1.PolicyRule
	err     error
	roles   map[string]runtime.Object
	rest.Storage
}

func (w *world) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	if w.allowed == a.GetVerb()+" "+a.GetResource()+":"+a.GetName() && a.GetAPIGroup() == rbacv1.GroupName {
		return authorizer.DecisionAllow, "", nil
	}
	return authorizer.DecisionNoOpinion, "", nil
}

func (w *world) RulesFor(context.Context, user.Info, string) (r []authorizer.ResourceRuleInfo, n []authorizer.NonResourceRuleInfo, _ bool, _ error) {
	for _, rule := range w.owned {
		if len(rule.NonResourceURLs) > 0 {
			n = append(n, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
			continue
		}
		r = append(r, &authorizer.DefaultResourceRuleInfo{Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames})
	}
	return r, n, false, w.err
}

// Get finds roles by "namespace/name".
func (w *world) Get(ctx context.Context, name string, _ *metav1.GetOptions) (runtime.Object, error) {
	if role, ok := w.roles[request.NamespaceValue(ctx)+"/"+name]; ok {
		return role, nil
	}
	return nil, apierrors.NewNotFound(rbacv1.Resource("roles"), name)
}

func TestGuard(t *testing.T) {
	meta := metav1.ObjectMeta{Name: "x"}
	withRules := func(rules ...rbacv1.PolicyRule) *rbacv1.Role { return &rbacv1.Role{ObjectMeta: meta, Rules: rules} }
	binding := func(kind, name string) *rbacv1.RoleBinding {
		return &rbacv1.RoleBinding{ObjectMeta: meta, RoleRef: rbacv1.RoleRef{APIGroup: rbacv1.GroupName, Kind: kind, Name: name}}
	}
	clusterBinding := &rbacv1.ClusterRoleBinding{ObjectMeta: meta, RoleRef: binding("ClusterRole", "reader").RoleRef}
	aggregated := &rbacv1.ClusterRole{ObjectMeta: meta, AggregationRule: &rbacv1.AggregationRule{ClusterRoleSelectors: []metav1.LabelSelector{{}}}}
	for _, test := range []struct {
		name     string
		resource string
		obj      runtime.Object
		groups   []string
		allowed  string
		owned    []rbacv1.PolicyRule
		err      error
		want     string
	}{
		{name: "has it", resource: "roles", obj: withRules(pods("get")), owned: []rbacv1.PolicyRule{pods("get", "list")}},
		{name: "gives nothing", resource: "roles", obj: withRules()},
		{name: "has it not", resource: "roles", obj: withRules(pods("get", "delete")), owned: []rbacv1.PolicyRule{pods("get")},
			want: "roles.rbac.authorization.k8s.io \"x\" is forbidden: user \"eve\" (groups=[]) is attempting to grant RBAC permissions not currently held:\n{APIGroups:[\"\"], Resources:[\"pods\"], Verbs:[\"delete\"]}"},
		{name: "knows not all it has", resource: "roles", obj: withRules(pods("get")), err: errNoRoles, want: "; resolution errors: [some roles are gone]"},
		{name: "may escalate", resource: "roles", obj: withRules(pods("get")), allowed: "escalate roles:x"},
		{name: "may escalate another", resource: "roles", obj: withRules(pods("get")), allowed: "escalate roles:y", want: "not currently held"},
		{name: "master", resource: "roles", obj: withRules(pods("get")), groups: []string{"system:masters"}},
		{name: "aggregates", resource: "clusterroles", obj: aggregated, owned: []rbacv1.PolicyRule{pods("*")}, want: "not currently held"},
		{name: "aggregates with all rights", resource: "clusterroles", obj: aggregated, owned: everything},
		{name: "binds what it has", resource: "rolebindings", obj: binding("ClusterRole", "reader"), owned: []rbacv1.PolicyRule{pods("*")}},
		{name: "binds what it has not", resource: "rolebindings", obj: binding("ClusterRole", "reader"), want: `rolebindings.rbac.authorization.k8s.io "x" is forbidden`},
		{name: "binds a role here", resource: "rolebindings", obj: binding("Role", "local"), owned: []rbacv1.PolicyRule{pods("get")}},
		{name: "binds a role of nowhere", resource: "rolebindings", obj: binding("Role", "gone"), want: `"gone" not found`},
		{name: "may bind", resource: "rolebindings", obj: binding("ClusterRole", "reader"), allowed: "bind clusterroles:reader"},
		{name: "may bind what is not there", resource: "rolebindings", obj: binding("Role", "gone"), allowed: "bind roles:gone"},
		{name: "escalate is not bind", resource: "rolebindings", obj: binding("ClusterRole", "reader"), allowed: "escalate rolebindings:x", want: "is forbidden"},
		{name: "binds in the cluster", resource: "clusterrolebindings", obj: clusterBinding, owned: []rbacv1.PolicyRule{pods("get")}},
		{name: "binds in the cluster what it has not", resource: "clusterrolebindings", obj: clusterBinding, want: `clusterrolebindings.rbac.authorization.k8s.io "x" is forbidden`},
	} {
		t.Run(test.name, func(t *testing.T) {
			w := &world{allowed: test.allowed, owned: test.owned, err: test.err, roles: map[string]runtime.Object{
				"/reader":  &rbacv1.ClusterRole{Rules: []rbacv1.PolicyRule{pods("get")}},
				"ns/local": &rbacv1.Role{Rules: []rbacv1.PolicyRule{pods("get")}},
			}}
			env := &api.Environment{Authorizer: w, RuleResolver: w, Lookup: func(string) rest.Storage { return w }}
			extend := map[string]func() (map[string]rest.Storage, error){
				"roles":               func() (map[string]rest.Storage, error) { return role.Extend(env, nil, nil) },
				"clusterroles":        func() (map[string]rest.Storage, error) { return clusterRole.Extend(env, nil, nil) },
				"rolebindings":        func() (map[string]rest.Storage, error) { return roleBinding.Extend(env, nil, nil) },
				"clusterrolebindings": func() (map[string]rest.Storage, error) { return clusterRoleBinding.Extend(env, nil, nil) },
			}
			storages, err := extend[test.resource]()
			if err != nil {
				t.Fatal(err)
			}
			info := &request.RequestInfo{IsResourceRequest: true, APIGroup: rbacv1.GroupName, Resource: test.resource, Name: "x"}
			ctx := request.WithUser(request.WithRequestInfo(context.Background(), info), &user.DefaultInfo{Name: "eve", Groups: test.groups})
			if !strings.HasPrefix(test.resource, "cluster") {
				ctx = request.WithNamespace(ctx, "ns")
			}
			err = storages[test.resource].(*guarded).check(ctx, test.obj)
			if test.want == "" && err != nil || test.want != "" && (err == nil || !strings.Contains(err.Error(), test.want)) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
	if _, err := role.Extend(&api.Environment{}, nil, nil); err == nil {
		t.Error("roles are served without a way to know what users may do")
	}
}

func TestOnlyCollection(t *testing.T) {
	old := &rbacv1.Role{ObjectMeta: metav1.ObjectMeta{Name: "x", ResourceVersion: "1", Finalizers: []string{"f"}}, Rules: []rbacv1.PolicyRule{pods("get")}}
	finished := old.DeepCopy()
	finished.Finalizers = nil
	wider := finished.DeepCopy()
	wider.Rules = append(wider.Rules, pods("list"))
	if !onlyCollection(finished, old) {
		t.Error("removal of a finalizer counts as a change of rights")
	}
	if onlyCollection(wider, old) {
		t.Error("a change of rules hides behind the removal of a finalizer")
	}
	if onlyCollection(&rbacv1.Role{}, &rbacv1.Role{}) {
		t.Error("the creation of a role counts as garbage collection")
	}
}
