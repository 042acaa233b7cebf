package rbac

import (
	"context"
	"fmt"
	"slices"

	rbacv1 "k8s.io/api/rbac/v1"
	utilerrors "k8s.io/apimachinery/pkg/util/errors"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/client-go/informers"
	listers "k8s.io/client-go/listers/rbac/v1"
	"k8s.io/client-go/tools/cache"
)

// Authorizer decides by the RBAC objects that its informers hold. Before they
// have synced it has no opinion on requests that none of the objects seen so
// far allows. It is safe for concurrent use.
type Authorizer struct {
	clusterBindings, bindings cache.Indexer
	clusterRoles              listers.ClusterRoleLister
	roles                     listers.RoleLister
}

var (
	_ authorizer.Authorizer   = (*Authorizer)(nil)
	_ authorizer.RuleResolver = (*Authorizer)(nil)
)

// bySubject indexes bindings by the subjects that they grant to: "u:name" or
// "g:name", behind "namespace/" in the case of RoleBindings. Service accounts
// are indexed as the users they are.
const bySubject = "clusterctl/subject"

// NewAuthorizer registers its informers with the factory, which the caller
// starts. It panics on a factory that has been shut down already.
func NewAuthorizer(factory informers.SharedInformerFactory) *Authorizer {
	rbac := factory.Rbac().V1()
	return &Authorizer{
		clusterBindings: indexed(rbac.ClusterRoleBindings().Informer(), func(obj any) ([]string, error) {
			binding, ok := obj.(*rbacv1.ClusterRoleBinding)
			if !ok {
				return nil, fmt.Errorf("index subjects of %T: want a ClusterRoleBinding", obj)
			}
			return subjectKeys(binding.Subjects, ""), nil
		}),
		bindings: indexed(rbac.RoleBindings().Informer(), func(obj any) ([]string, error) {
			binding, ok := obj.(*rbacv1.RoleBinding)
			if !ok {
				return nil, fmt.Errorf("index subjects of %T: want a RoleBinding", obj)
			}
			return subjectKeys(binding.Subjects, binding.Namespace), nil
		}),
		clusterRoles: rbac.ClusterRoles().Lister(),
		roles:        rbac.Roles().Lister(),
	}
}

func indexed(informer cache.SharedIndexInformer, index cache.IndexFunc) cache.Indexer {
	if _, done := informer.GetIndexer().GetIndexers()[bySubject]; !done {
		if err := informer.AddIndexers(cache.Indexers{bySubject: index}); err != nil {
			panic(fmt.Sprintf("rbac: index bindings by subject: %v", err))
		}
	}
	return informer.GetIndexer()
}

func subjectKeys(subjects []rbacv1.Subject, namespace string) []string {
	keys := make([]string, 0, len(subjects))
	for _, s := range subjects {
		switch s.Kind {
		case rbacv1.UserKind:
			keys = append(keys, key(namespace, 'u', s.Name))
		case rbacv1.GroupKind:
			keys = append(keys, key(namespace, 'g', s.Name))
		case rbacv1.ServiceAccountKind:
			home := s.Namespace
			if home == "" {
				home = namespace
			}
			if home != "" {
				keys = append(keys, key(namespace, 'u', serviceaccount.MakeUsername(home, s.Name)))
			}
		}
	}
	return keys
}

func key(namespace string, kind byte, name string) string {
	if namespace == "" {
		return string(kind) + ":" + name
	}
	return namespace + "/" + string(kind) + ":" + name
}

// Authorize implements authorizer.Authorizer. It never denies: what no rule
// allows is left to other authorizers.
func (a *Authorizer) Authorize(_ context.Context, request authorizer.Attributes) (authorizer.Decision, string, error) {
	if request.GetUser() == nil {
		return authorizer.DecisionNoOpinion, "", nil
	}
	var reason string
	var errs []error
	a.visit(request.GetUser(), request.GetNamespace(), func(g grant) bool {
		if g.err != nil {
			errs = append(errs, g.err)
			return true
		}
		if Allows(g.rules, request) {
			reason = "RBAC: allowed by " + g.source(request.GetUser())
			return false
		}
		return true
	})
	if reason != "" {
		return authorizer.DecisionAllow, reason, nil
	}
	if len(errs) > 0 {
		reason = fmt.Sprintf("RBAC: %v", utilerrors.NewAggregate(errs))
	}
	return authorizer.DecisionNoOpinion, reason, nil
}

// RulesFor implements authorizer.RuleResolver. With an error it still returns
// the rules of all roles that could be found.
func (a *Authorizer) RulesFor(_ context.Context, u user.Info, namespace string) ([]authorizer.ResourceRuleInfo, []authorizer.NonResourceRuleInfo, bool, error) {
	var resources []authorizer.ResourceRuleInfo
	var urls []authorizer.NonResourceRuleInfo
	var errs []error
	a.visit(u, namespace, func(g grant) bool {
		if g.err != nil {
			errs = append(errs, g.err)
		}
		for _, rule := range g.rules {
			if len(rule.Resources) > 0 {
				resources = append(resources, &authorizer.DefaultResourceRuleInfo{
					Verbs: rule.Verbs, APIGroups: rule.APIGroups, Resources: rule.Resources, ResourceNames: rule.ResourceNames,
				})
			}
			if len(rule.NonResourceURLs) > 0 {
				urls = append(urls, &authorizer.DefaultNonResourceRuleInfo{Verbs: rule.Verbs, NonResourceURLs: rule.NonResourceURLs})
			}
		}
		return true
	})
	return resources, urls, false, utilerrors.NewAggregate(errs)
}

// grant is what one binding gives, or why it gives nothing.
type grant struct {
	rules           []rbacv1.PolicyRule
	err             error
	kind            string
	namespace, name string
	role            rbacv1.RoleRef
	subjects        []rbacv1.Subject
}

func (g grant) source(u user.Info) string {
	name := g.name
	if g.namespace != "" {
		name += "/" + g.namespace
	}
	text := fmt.Sprintf("%s %q of %s %q", g.kind, name, g.role.Kind, g.role.Name)
	for _, s := range g.subjects {
		if !isSubject(u, s, g.namespace) {
			continue
		}
		who := s.Name
		if s.Kind == rbacv1.ServiceAccountKind {
			home := s.Namespace
			if home == "" {
				home = g.namespace
			}
			who += "/" + home
		}
		return fmt.Sprintf("%s to %s %q", text, s.Kind, who)
	}
	return text
}

func isSubject(u user.Info, s rbacv1.Subject, namespace string) bool {
	keys := subjectKeys([]rbacv1.Subject{s}, namespace)
	return len(keys) == 1 && slices.Contains(userKeys(u, namespace), keys[0])
}

func userKeys(u user.Info, namespace string) []string {
	keys := make([]string, 0, 1+len(u.GetGroups()))
	keys = append(keys, key(namespace, 'u', u.GetName()))
	for _, group := range u.GetGroups() {
		if k := key(namespace, 'g', group); !slices.Contains(keys, k) {
			keys = append(keys, k)
		}
	}
	return keys
}

// visit calls f with what each binding of the user grants cluster-wide, and
// in the namespace unless that is empty, until f returns false. No binding is
// visited twice.
func (a *Authorizer) visit(u user.Info, namespace string, f func(grant) bool) {
	var seen []string
	for _, k := range userKeys(u, "") {
		objs, err := a.clusterBindings.ByIndex(bySubject, k)
		if err != nil && !f(grant{err: err}) {
			return
		}
		for _, obj := range objs {
			b := obj.(*rbacv1.ClusterRoleBinding)
			if len(b.Subjects) > 1 {
				if slices.Contains(seen, b.Name) {
					continue
				}
				seen = append(seen, b.Name)
			}
			g := grant{kind: "ClusterRoleBinding", name: b.Name, role: b.RoleRef, subjects: b.Subjects}
			g.rules, g.err = a.rules(b.RoleRef, "")
			if !f(g) {
				return
			}
		}
	}
	if namespace == "" {
		return
	}
	seen = seen[:0]
	for _, k := range userKeys(u, namespace) {
		objs, err := a.bindings.ByIndex(bySubject, k)
		if err != nil && !f(grant{err: err}) {
			return
		}
		for _, obj := range objs {
			b := obj.(*rbacv1.RoleBinding)
			if len(b.Subjects) > 1 {
				if slices.Contains(seen, b.Name) {
					continue
				}
				seen = append(seen, b.Name)
			}
			g := grant{kind: "RoleBinding", namespace: b.Namespace, name: b.Name, role: b.RoleRef, subjects: b.Subjects}
			g.rules, g.err = a.rules(b.RoleRef, namespace)
			if !f(g) {
				return
			}
		}
	}
}

func (a *Authorizer) rules(ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	switch {
	case ref.Kind == "ClusterRole":
		role, err := a.clusterRoles.Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	case ref.Kind == "Role" && namespace != "":
		role, err := a.roles.Roles(namespace).Get(ref.Name)
		if err != nil {
			return nil, err
		}
		return role.Rules, nil
	default:
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
}
