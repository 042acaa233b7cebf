package review

import (
	"context"
	"fmt"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

// Definition is the whole story of one such kind.
type Definition[T api.Object] struct {
	GroupVersion schema.GroupVersion
	Kind         string
	Resource     string
	Singular     string
	Namespaced   bool
	New          func() T

	// Validate checks the question; nil means that every one is fine.
	Validate func(question T) field.ErrorList
	// Admissible refuses requests that are wrong in other ways than by a
	// field, before admission sees them; nil refuses none.
	Admissible func(ctx context.Context, question T) error
	// Answer returns the question with its answer. It may change it.
	Answer func(ctx context.Context, env *api.Environment, question T) (T, error)
}

// Define erases a definition's type.
func Define[T api.Object](d Definition[T]) api.Kind { return kind[T]{d} }

type kind[T api.Object] struct{ d Definition[T] }

func (k kind[T]) Name() schema.GroupVersionKind { return k.d.GroupVersion.WithKind(k.d.Kind) }

func (k kind[T]) GroupVersionResource() schema.GroupVersionResource {
	return k.d.GroupVersion.WithResource(k.d.Resource)
}

func (k kind[T]) Register(scheme *runtime.Scheme) error {
	internal := schema.GroupVersion{Group: k.d.GroupVersion.Group, Version: runtime.APIVersionInternal}
	for _, gv := range []schema.GroupVersion{k.d.GroupVersion, internal} {
		scheme.AddKnownTypeWithName(gv.WithKind(k.d.Kind), k.d.New())
	}
	return nil
}

func (k kind[T]) Storages(env *api.Environment) (map[string]rest.Storage, error) {
	return map[string]rest.Storage{k.d.Resource: &resource[T]{d: k.d, env: env}}, nil
}

type resource[T api.Object] struct {
	d   Definition[T]
	env *api.Environment
}

var (
	_ rest.Creater              = (*resource[api.Object])(nil)
	_ rest.Scoper               = (*resource[api.Object])(nil)
	_ rest.SingularNameProvider = (*resource[api.Object])(nil)
)

func (r *resource[T]) New() runtime.Object     { return r.d.New() }
func (r *resource[T]) Destroy()                {}
func (r *resource[T]) NamespaceScoped() bool   { return r.d.Namespaced }
func (r *resource[T]) GetSingularName() string { return r.d.Singular }

func (r *resource[T]) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, _ *metav1.CreateOptions) (runtime.Object, error) {
	question, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not a %s: %#v", r.d.Kind, obj))
	}
	if r.d.Validate != nil {
		if errs := r.d.Validate(question); len(errs) > 0 {
			// Kubernetes names the group only.
			return nil, apierrors.NewInvalid(schema.GroupKind{Group: r.d.GroupVersion.Group}, "", api.Show(errs))
		}
	}
	if r.d.Admissible != nil {
		if err := r.d.Admissible(ctx, question); err != nil {
			return nil, err
		}
	}
	if validate != nil {
		if err := validate(ctx, obj.DeepCopyObject()); err != nil {
			return nil, err
		}
	}
	return r.d.Answer(ctx, r.env, question)
}
