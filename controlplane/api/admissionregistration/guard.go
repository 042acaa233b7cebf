package admissionregistration

import (
	"context"
	"fmt"
	"slices"
	"strings"

	admissionv1 "k8s.io/api/admissionregistration/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

// Who writes a policy with parameters, or binds one, has it read objects on the
// server's behalf; so they have to be allowed to read these objects themselves.

type extend = func(*api.Environment, *registry.Store, *registry.Store) (map[string]rest.Storage, error)

// guardPolicy checks that a user may read all objects of the kind of the
// parameters of a policy.
func guardPolicy[T api.Object](kind func(T) *admissionv1.ParamKind) extend {
	return func(env *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
		guard(store, field.NewPath("spec", "paramKind"), func(ctx context.Context, obj, old runtime.Object) error {
			now := kind(obj.(T))
			if now == nil || old != nil && apiequality.Semantic.DeepEqual(now, kind(old.(T))) {
				return nil
			}
			may, err := mayRead(ctx, env, authorizer.AttributesRecord{Verb: "get", Name: "*", Namespace: "*"}, now)
			if err == nil && !may {
				err = fmt.Errorf(`user %v must have "get" permission on all objects of the referenced paramKind (kind=%s, apiVersion=%s)`, who(ctx), now.Kind, now.APIVersion)
			}
			return err
		})
		return nil, nil
	}
}

// bound is what a binding binds.
type bound struct {
	policy string
	ref    *admissionv1.ParamRef
}

// guardBinding checks that a user may read the parameters a binding names.
func guardBinding[T api.Object](policies string, binds func(T) bound) extend {
	return func(env *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
		guard(store, field.NewPath("spec", "paramRef"), func(ctx context.Context, obj, old runtime.Object) error {
			now := binds(obj.(T))
			if now.ref == nil {
				return nil
			}
			if old != nil {
				if was := binds(old.(T)); was.policy == now.policy && apiequality.Semantic.DeepEqual(was.ref, now.ref) {
					return nil
				}
			}
			verb := "get"
			if now.ref.Name == "" {
				verb = "list"
			}
			kind := paramKindOf(ctx, env, policies, now.policy)
			may, err := mayRead(ctx, env, authorizer.AttributesRecord{Verb: verb, Name: now.ref.Name, Namespace: now.ref.Namespace}, kind)
			switch {
			case err != nil || may:
				return err
			case kind == nil:
				return fmt.Errorf(`unable to get policy %s to determine minimum required permissions and user %v does not have "%v" permission for all groups, versions and resources`, now.policy, who(ctx), verb)
			}
			return fmt.Errorf(`user %v does not have "%v" permission on the object referenced by paramRef`, who(ctx), verb)
		})
		return nil, nil
	}
}

// paramKindOf returns the kind of a policy's parameters; nil if there is none,
// or no such policy yet.
func paramKindOf(ctx context.Context, env *api.Environment, policies, name string) *admissionv1.ParamKind {
	getter, ok := env.Lookup(groupVersion.Group + "/" + policies).(rest.Getter)
	if !ok {
		return nil
	}
	object, err := getter.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil
	}
	switch policy := object.(type) {
	case *admissionv1.ValidatingAdmissionPolicy:
		return policy.Spec.ParamKind
	case *admissionv1.MutatingAdmissionPolicy:
		return policy.Spec.ParamKind
	}
	return nil
}

func who(ctx context.Context) user.Info {
	u, _ := request.UserFrom(ctx)
	return u
}

// mayRead asks the authorizer about objects of a kind, or of all kinds where
// kind is nil or nobody serves it.
func mayRead(ctx context.Context, env *api.Environment, ask authorizer.AttributesRecord, kind *admissionv1.ParamKind) (bool, error) {
	ask.User = who(ctx)
	if ask.User == nil {
		return false, fmt.Errorf("cannot identify user to authorize read access to parameters")
	}
	if slices.Contains(ask.User.GetGroups(), user.SystemPrivilegedGroup) {
		return true, nil
	}
	ask.ResourceRequest = true
	ask.APIGroup, ask.APIVersion, ask.Resource = "*", "*", "*"
	if kind != nil {
		if gv, err := schema.ParseGroupVersion(kind.APIVersion); err == nil {
			ask.APIGroup, ask.APIVersion = gv.Group, gv.Version
			ask.Resource = resourceOf(env, kind)
		}
	}
	decision, _, err := env.Authorizer.Authorize(ctx, ask)
	if err != nil {
		return false, fmt.Errorf("failed to authorize request: %w", err)
	}
	return decision == authorizer.DecisionAllow, nil
}

// resourceOf finds the resource of a kind among what is served; "*" if there
// is none.
func resourceOf(env *api.Environment, kind *admissionv1.ParamKind) string {
	list, err := env.Client.Discovery().ServerResourcesForGroupVersion(kind.APIVersion)
	if err != nil {
		return "*"
	}
	for _, r := range list.APIResources {
		if r.Kind == kind.Kind && !strings.Contains(r.Name, "/") {
			return r.Name
		}
	}
	return "*"
}

// guard adds a check to what a store's strategies validate. It runs on sound
// objects only.
func guard(store *registry.Store, path *field.Path, check func(ctx context.Context, obj, old runtime.Object) error) {
	store.CreateStrategy = guardedCreate{store.CreateStrategy, path, check}
	store.UpdateStrategy = guardedUpdate{store.UpdateStrategy, path, check}
}

type guardedCreate struct {
	rest.RESTCreateStrategy
	path  *field.Path
	check func(ctx context.Context, obj, old runtime.Object) error
}

// Validate implements rest.RESTCreateStrategy.
func (g guardedCreate) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	errs := g.RESTCreateStrategy.Validate(ctx, obj)
	if len(errs) == 0 {
		if err := g.check(ctx, obj, nil); err != nil {
			errs = field.ErrorList{field.Forbidden(g.path, err.Error())}
		}
	}
	return errs
}

type guardedUpdate struct {
	rest.RESTUpdateStrategy
	path  *field.Path
	check func(ctx context.Context, obj, old runtime.Object) error
}

// ValidateUpdate implements rest.RESTUpdateStrategy.
func (g guardedUpdate) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	errs := g.RESTUpdateStrategy.ValidateUpdate(ctx, obj, old)
	if len(errs) == 0 {
		if err := g.check(ctx, obj, old); err != nil {
			errs = field.ErrorList{field.Forbidden(g.path, err.Error())}
		}
	}
	return errs
}
