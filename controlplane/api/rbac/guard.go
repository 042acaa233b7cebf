package rbac

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strings"

	rbacv1 "k8s.io/api/rbac/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/component-helpers/auth/rbac/validation"

	"clusterctl/controlplane/api"
)

// grants tells which rights an object would give. A nil list with no error
// means that the user is explicitly allowed to give them, whatever they are.
type grants func(ctx context.Context, obj runtime.Object, namespace string, g *guardian) ([]rbacv1.PolicyRule, error)

// guard makes an Extend that serves the resource so that nobody can write an
// object that gives rights which its writer does not have.
func guard(resource string, rules grants) func(*api.Environment, *registry.Store, *registry.Store) (map[string]rest.Storage, error) {
	return func(env *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
		if env.RuleResolver == nil {
			return nil, errors.New("environment has no rule resolver")
		}
		return map[string]rest.Storage{resource: &guarded{
			Resource: api.NewResource(store, nil, nil),
			guardian: &guardian{env: env},
			resource: resource,
			grants:   rules,
		}}, nil
	}
}

// guarded is the main resource of a kind of this group.
type guarded struct {
	*api.Resource
	*guardian
	resource string
	grants   grants
}

func (r *guarded) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	if err := r.check(ctx, obj); err != nil {
		return nil, err
	}
	return r.Resource.Create(ctx, obj, validate, options)
}

func (r *guarded) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	checked := rest.WrapUpdatedObjectInfo(info, func(ctx context.Context, obj, old runtime.Object) (runtime.Object, error) {
		// Whoever may update may also let the garbage collector finish.
		if onlyCollection(obj, old) {
			return obj, nil
		}
		return obj, r.check(ctx, obj)
	})
	return r.Resource.Update(ctx, name, checked, create, update, forceCreate, options)
}

// check refuses an object that gives more than its writer has.
func (r *guarded) check(ctx context.Context, obj runtime.Object) error {
	who, ok := request.UserFrom(ctx)
	if !ok {
		return apierrors.NewForbidden(rbacv1.Resource(r.resource), "", errors.New("no user on context"))
	}
	// The loopback identity has this group; it needs no rules.
	if slices.Contains(who.GetGroups(), user.SystemPrivilegedGroup) || r.mayEscalate(ctx, who) {
		return nil
	}
	namespace := request.NamespaceValue(ctx)
	rules, err := r.grants(ctx, obj, namespace, r.guardian)
	if err != nil || rules == nil {
		return err
	}
	if err := r.covered(ctx, who, namespace, rules); err != nil {
		accessor, metaErr := meta.Accessor(obj)
		if metaErr != nil {
			return metaErr
		}
		return apierrors.NewForbidden(rbacv1.Resource(r.resource), accessor.GetName(), err)
	}
	return nil
}

// guardian knows what users may do.
type guardian struct{ env *api.Environment }

// mayEscalate reports whether the request is on a role and its user has the
// verb "escalate" on it.
func (g *guardian) mayEscalate(ctx context.Context, who user.Info) bool {
	info, ok := request.RequestInfoFrom(ctx)
	if !ok || !info.IsResourceRequest || info.APIGroup != rbacv1.GroupName ||
		(info.Resource != "roles" && info.Resource != "clusterroles") {
		return false
	}
	return g.allowed(ctx, authorizer.AttributesRecord{
		User: who, Verb: "escalate", ResourceRequest: true,
		APIGroup: info.APIGroup, APIVersion: "*", Resource: info.Resource, Name: info.Name, Namespace: info.Namespace,
	})
}

func (g *guardian) allowed(ctx context.Context, attributes authorizer.Attributes) bool {
	// An error is no permission; some authorizers allow in spite of one.
	decision, _, _ := g.env.Authorizer.Authorize(ctx, attributes)
	return decision == authorizer.DecisionAllow
}

// boundRules returns the rules of the role that a binding in namespace refers
// to, or nil if the user has the verb "bind" on it.
func (g *guardian) boundRules(ctx context.Context, ref rbacv1.RoleRef, namespace string) ([]rbacv1.PolicyRule, error) {
	who, _ := request.UserFrom(ctx)
	resource := map[string]string{"ClusterRole": "clusterroles", "Role": "roles"}[ref.Kind]
	if resource == "" {
		return nil, fmt.Errorf("unsupported role reference kind: %q", ref.Kind)
	}
	if g.allowed(ctx, authorizer.AttributesRecord{
		User: who, Verb: "bind", ResourceRequest: true,
		APIGroup: ref.APIGroup, APIVersion: "*", Resource: resource, Name: ref.Name, Namespace: namespace,
	}) {
		return nil, nil
	}
	getter, ok := g.env.Lookup(rbacv1.GroupName + "/" + resource).(rest.Getter)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("look up %s: not served", resource))
	}
	// The context already carries the namespace of a Role; a ClusterRole has none.
	if ref.Kind == "ClusterRole" {
		ctx = request.WithNamespace(ctx, metav1.NamespaceNone)
	}
	obj, err := getter.Get(ctx, ref.Name, &metav1.GetOptions{})
	if err != nil {
		return nil, err
	}
	switch role := obj.(type) {
	case *rbacv1.ClusterRole:
		return append([]rbacv1.PolicyRule{}, role.Rules...), nil
	case *rbacv1.Role:
		return append([]rbacv1.PolicyRule{}, role.Rules...), nil
	default:
		return nil, apierrors.NewInternalError(fmt.Errorf("get %s %s: got a %T", resource, ref.Name, obj))
	}
}

// covered returns nil if the user has all the rights that rules give, or an
// error that lists those that are missing.
func (g *guardian) covered(ctx context.Context, who user.Info, namespace string, rules []rbacv1.PolicyRule) error {
	resources, urls, _, err := g.env.RuleResolver.RulesFor(ctx, who, namespace)
	owned := make([]rbacv1.PolicyRule, 0, len(resources)+len(urls))
	for _, r := range resources {
		owned = append(owned, rbacv1.PolicyRule{Verbs: r.GetVerbs(), APIGroups: r.GetAPIGroups(), Resources: r.GetResources(), ResourceNames: r.GetResourceNames()})
	}
	for _, r := range urls {
		owned = append(owned, rbacv1.PolicyRule{Verbs: r.GetVerbs(), NonResourceURLs: r.GetNonResourceURLs()})
	}
	ok, missing := validation.Covers(owned, rules)
	if ok {
		return nil
	}
	message := fmt.Sprintf("user %q (groups=%q) is attempting to grant RBAC permissions not currently held:\n%s",
		who.GetName(), who.GetGroups(), strings.Join(describe(missing), "\n"))
	if err != nil {
		message += fmt.Sprintf("; resolution errors: %v", []error{err})
	}
	return errors.New(message)
}

// describe prints rules in short and in order. Covers breaks rules down to one
// verb each; those that differ by the verb alone are put together again.
func describe(rules []rbacv1.PolicyRule) []string {
	var merged []rbacv1.PolicyRule
	for _, rule := range rules {
		i := slices.IndexFunc(merged, func(m rbacv1.PolicyRule) bool {
			return len(rule.NonResourceURLs) == 0 && slices.Equal(m.APIGroups, rule.APIGroups) &&
				slices.Equal(m.Resources, rule.Resources) && slices.Equal(m.ResourceNames, rule.ResourceNames)
		})
		if i < 0 {
			merged = append(merged, *rule.DeepCopy())
			continue
		}
		merged[i].Verbs = append(merged[i].Verbs, rule.Verbs...)
	}
	lines := map[string]bool{}
	for _, rule := range merged {
		var parts []string
		for _, part := range []struct {
			name   string
			values []string
		}{
			{"APIGroups", rule.APIGroups}, {"Resources", rule.Resources}, {"NonResourceURLs", rule.NonResourceURLs},
			{"ResourceNames", rule.ResourceNames}, {"Verbs", rule.Verbs},
		} {
			if len(part.values) > 0 {
				parts = append(parts, fmt.Sprintf("%s:%q", part.name, part.values))
			}
		}
		lines["{"+strings.Join(parts, ", ")+"}"] = true
	}
	return slices.Sorted(maps.Keys(lines))
}

// onlyCollection reports whether an update changes nothing but what garbage
// collection changes: owners and finalizers.
func onlyCollection(obj, old runtime.Object) bool {
	if old == nil || reflect.ValueOf(old).IsNil() {
		return false
	}
	changed := obj.DeepCopyObject()
	now, err := meta.Accessor(changed)
	if err != nil {
		return false
	}
	before, err := meta.Accessor(old)
	if err != nil || before.GetResourceVersion() == "" {
		return false
	}
	now.SetOwnerReferences(before.GetOwnerReferences())
	now.SetFinalizers(before.GetFinalizers())
	now.SetManagedFields(before.GetManagedFields())
	return apiequality.Semantic.DeepEqual(changed, old)
}
