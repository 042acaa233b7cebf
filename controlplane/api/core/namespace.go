package core

import (
	"context"
	"errors"
	"fmt"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	storeerr "k8s.io/apiserver/pkg/storage/errors"
	"k8s.io/apiserver/pkg/util/dryrun"

	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

var namespaces = schema.GroupResource{Resource: "namespaces"}

func namespaceKind() api.Kind {
	return api.Define(api.Definition[*corev1.Namespace]{
		GroupVersion: groupVersion, Kind: "Namespace", Resource: "namespaces", Singular: "namespace",
		ShortNames: []string{"ns"}, ClusterScope: true,
		New:     func() *corev1.Namespace { return &corev1.Namespace{} },
		NewList: func() runtime.Object { return &corev1.NamespaceList{} },

		NameValidation: apivalidation.ValidateNamespaceName,
		Default:        defaultNamespace,
		PrepareForCreate: func(_ context.Context, n *corev1.Namespace) {
			n.Status.Phase = corev1.NamespaceActive
			if !slices.Contains(n.Spec.Finalizers, corev1.FinalizerKubernetes) {
				n.Spec.Finalizers = append(n.Spec.Finalizers, corev1.FinalizerKubernetes)
			}
			defaultNamespace(n) // a generated name is known only now
		},
		// Finalizers of the spec change through the finalize subresource only.
		PrepareForUpdate: func(_ context.Context, n, old *corev1.Namespace) { n.Spec.Finalizers = old.Spec.Finalizers },
		Validate:         func(_ context.Context, n *corev1.Namespace) field.ErrorList { return validateNamespace(n) },
		ValidateUpdate:   func(_ context.Context, n, _ *corev1.Namespace) field.ErrorList { return validateNamespace(n) },
		Status: &api.Status[*corev1.Namespace]{
			Copy:         func(to, from *corev1.Namespace) { to.Status = from.Status },
			Validate:     func(_ context.Context, n, _ *corev1.Namespace) field.ErrorList { return validateNamespacePhase(n) },
			KeepMetadata: true,
		},
		Fields: func(n *corev1.Namespace) fields.Set {
			return fields.Set{"status.phase": string(n.Status.Phase)}
		},
		FieldNames: []string{"status.phase"},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), columns.Text("Status", "The status of the namespace"), columns.Age(),
		},
		Row: func(n *corev1.Namespace) []any {
			return []any{n.Name, string(n.Status.Phase), columns.Since(n.CreationTimestamp.Time)}
		},
		ReturnDeleted: true,
		Extend:        extendNamespaces,
	})
}

func defaultNamespace(n *corev1.Namespace) {
	if n.Name != "" {
		if n.Labels == nil {
			n.Labels = map[string]string{}
		}
		n.Labels[corev1.LabelMetadataName] = n.Name
	}
	if n.Status.Phase == "" {
		n.Status.Phase = corev1.NamespaceActive
	}
}

func validateNamespace(n *corev1.Namespace) field.ErrorList {
	var errs field.ErrorList
	path := field.NewPath("spec", "finalizers")
	for _, f := range n.Spec.Finalizers {
		errs = append(errs, apivalidation.ValidateFinalizerName(string(f), path)...)
		errs = append(errs, kubeFinalizer(string(f), path)...)
	}
	return errs
}

func validateNamespacePhase(n *corev1.Namespace) field.ErrorList {
	path := field.NewPath("status", "Phase")
	switch phase := n.Status.Phase; {
	case n.DeletionTimestamp.IsZero() && phase != corev1.NamespaceActive:
		return field.ErrorList{field.Invalid(path, phase, "may only be 'Active' if `deletionTimestamp` is empty")}
	case !n.DeletionTimestamp.IsZero() && phase != corev1.NamespaceTerminating:
		return field.ErrorList{field.Invalid(path, phase, "may only be 'Terminating' if `deletionTimestamp` is not empty")}
	}
	return nil
}

func extendNamespaces(_ *api.Environment, store, status *registry.Store) (map[string]rest.Storage, error) {
	// A namespace goes once neither it nor its content is waited for.
	gone := func(ctx context.Context, key string, object, existing runtime.Object) bool {
		n, ok := object.(*corev1.Namespace)
		return ok && len(n.Spec.Finalizers) == 0 && registry.ShouldDeleteDuringUpdate(ctx, key, object, existing)
	}
	store.ShouldDeleteDuringUpdate, status.ShouldDeleteDuringUpdate = gone, gone
	return map[string]rest.Storage{
		"namespaces": &namespaceResource{Resource: api.NewResource(store, []string{"ns"}, nil)},
		"namespaces/finalize": finalizing{newPart(store, updating[*corev1.Namespace]{
			keep: func(n, old *corev1.Namespace) { n.Status = old.Status },
			validate: func(n, _ *corev1.Namespace) field.ErrorList {
				var errs field.ErrorList
				for i, f := range n.Spec.Finalizers {
					path := field.NewPath("spec", "finalizers").Index(i)
					errs = append(errs, apivalidation.ValidateFinalizerName(string(f), path)...)
					errs = append(errs, kubeFinalizer(string(f), path)...)
				}
				return errs
			},
		})},
	}, nil
}

// finalizing is updated only: nobody reads or patches a namespace there.
type finalizing struct{ whole *part }

var _ rest.Updater = finalizing{}

func (f finalizing) New() runtime.Object { return f.whole.New() }

// Destroy does nothing: the main resource owns the store.
func (finalizing) Destroy() {}

func (f finalizing) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return f.whole.Update(ctx, name, info, create, update, forceCreate, options)
}

// GetResetFieldsFilter implements rest.ResetFieldsFilterStrategy.
func (f finalizing) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter {
	return f.whole.GetResetFieldsFilter()
}

// namespaceResource deletes in two steps: the first request marks the
// namespace, so that its content is removed; when that is done and the
// finalizers of its spec are gone, a second one removes it.
type namespaceResource struct{ *api.Resource }

// namespaces are deleted one by one: the library's collection delete would
// pass by Delete below.
var _ rest.GracefulDeleter = (*namespaceResource)(nil)

// DeleteCollection refuses, as Kubernetes serves no such verb for namespaces.
func (*namespaceResource) DeleteCollection() {}

func (r *namespaceResource) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	object, err := r.Get(ctx, name, &metav1.GetOptions{})
	if err != nil {
		return nil, false, err
	}
	current, ok := object.(*corev1.Namespace)
	if !ok {
		return nil, false, fmt.Errorf("delete namespace %s: got a %T", name, object)
	}
	if options == nil {
		options = metav1.NewDeleteOptions(0)
	}
	if options.Preconditions == nil {
		options.Preconditions = &metav1.Preconditions{}
	}
	p := options.Preconditions
	if p.UID == nil {
		p.UID = &current.UID
	} else if *p.UID != current.UID {
		return nil, false, apierrors.NewConflict(namespaces, name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", *p.UID, current.UID)) //nolint:staticcheck // as clients know it
	}
	if p.ResourceVersion != nil && *p.ResourceVersion != current.ResourceVersion {
		return nil, false, apierrors.NewConflict(namespaces, name, fmt.Errorf("Precondition failed: ResourceVersion in precondition: %v, ResourceVersion in object meta: %v", *p.ResourceVersion, current.ResourceVersion)) //nolint:staticcheck // as clients know it
	}
	if current.DeletionTimestamp.IsZero() {
		marked, err := r.mark(ctx, name, validate, options)
		return marked, false, err
	}
	if len(current.Spec.Finalizers) > 0 {
		return current, false, nil
	}
	return r.Resource.Delete(ctx, name, validate, options)
}

// mark begins the end of a namespace.
func (r *namespaceResource) mark(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, error) {
	key, err := r.KeyFunc(ctx, name)
	if err != nil {
		return nil, err
	}
	out := &corev1.Namespace{}
	preconditions := &storage.Preconditions{UID: options.Preconditions.UID, ResourceVersion: options.Preconditions.ResourceVersion}
	err = r.Storage.GuaranteedUpdate(ctx, key, out, false, preconditions, storage.SimpleUpdate(func(object runtime.Object) (runtime.Object, error) {
		n, ok := object.(*corev1.Namespace)
		if !ok {
			return nil, fmt.Errorf("mark namespace %s: got a %T", name, object)
		}
		if err := validate(ctx, n); err != nil {
			return nil, err
		}
		if n.DeletionTimestamp.IsZero() {
			now := metav1.Now()
			n.DeletionTimestamp = &now
		}
		n.Status.Phase = corev1.NamespaceTerminating
		propagate(n, options)
		return n, nil
	}), dryrun.IsDryRun(options.DryRun), nil)
	if err != nil {
		err = storeerr.InterpretUpdateError(storeerr.InterpretGetError(err, namespaces, name), namespaces, name)
		if status := apierrors.APIStatus(nil); !errors.As(err, &status) {
			err = apierrors.NewInternalError(err)
		}
		return nil, err
	}
	return out, nil
}

// propagate sets the finalizers that stand for the deletion's propagation.
func propagate(n *corev1.Namespace, options *metav1.DeleteOptions) {
	set := func(finalizer string, policy metav1.DeletionPropagation, orphan bool) {
		has := slices.Contains(n.Finalizers, finalizer)
		want := has
		if options.OrphanDependents != nil { //nolint:staticcheck // old clients send it
			want = *options.OrphanDependents == orphan //nolint:staticcheck // see above
		} else if options.PropagationPolicy != nil {
			want = *options.PropagationPolicy == policy
		}
		switch {
		case want && !has:
			n.Finalizers = append(n.Finalizers, finalizer)
		case !want && has:
			n.Finalizers = slices.DeleteFunc(n.Finalizers, func(f string) bool { return f == finalizer })
		}
	}
	set(metav1.FinalizerOrphanDependents, metav1.DeletePropagationOrphan, true)
	set(metav1.FinalizerDeleteDependents, metav1.DeletePropagationForeground, false)
}
