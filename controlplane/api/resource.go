package api

import (
	"context"

	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	"k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/stack"
)

// Resource serves a store as a kind's main resource.
type Resource struct {
	*registry.Store
	shortNames, categories []string
}

// NewResource is for kinds whose Extend wraps the store's verbs: embed the
// result and override.
func NewResource(store *registry.Store, shortNames, categories []string) *Resource {
	return &Resource{Store: store, shortNames: shortNames, categories: categories}
}

var (
	_ rest.StandardStorage    = (*Resource)(nil)
	_ rest.ShortNamesProvider = (*Resource)(nil)
	_ rest.CategoriesProvider = (*Resource)(nil)
)

func (r *Resource) ShortNames() []string { return r.shortNames }
func (r *Resource) Categories() []string { return r.categories }

// Update implements rest.Updater.
func (r *Resource) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceCreate bool, options *v1.UpdateOptions) (runtime.Object, bool, error) {
	stack.Deep()
	return r.Store.Update(ctx, name, info, create, update, forceCreate, options)
}

// Delete implements rest.GracefulDeleter.
func (r *Resource) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *v1.DeleteOptions) (runtime.Object, bool, error) {
	stack.Deep()
	return r.Store.Delete(withAskedGrace(ctx, options), name, validate, options)
}

// DeleteCollection implements rest.CollectionDeleter.
func (r *Resource) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *v1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	return r.Store.DeleteCollection(withAskedGrace(ctx, options), validate, options, list)
}

type askedGraceKey struct{}

// withAskedGrace remembers the grace period that a client asked for. A deletion
// writes what is decided for an object over it, and decides again where the
// object was an old one from the cache: without this, a pod that the cache
// does not know as bound would be gone at once, with its containers running.
func withAskedGrace(ctx context.Context, options *v1.DeleteOptions) context.Context {
	if options == nil {
		return ctx
	}
	return context.WithValue(ctx, askedGraceKey{}, options.GracePeriodSeconds)
}

// StatusResource serves a kind's status: get, update and patch.
type StatusResource struct{ store *registry.Store }

// NewStatusResource serves store, whose UpdateStrategy writes the status.
func NewStatusResource(store *registry.Store) *StatusResource { return &StatusResource{store} }

var (
	_ rest.Patcher             = (*StatusResource)(nil)
	_ rest.TableConvertor      = (*StatusResource)(nil)
	_ rest.ResetFieldsStrategy = (*StatusResource)(nil)
)

func (r *StatusResource) New() runtime.Object { return r.store.New() }

// Destroy does nothing: the main resource owns the store.
func (r *StatusResource) Destroy() {}

func (r *StatusResource) Get(ctx context.Context, name string, options *v1.GetOptions) (runtime.Object, error) {
	return r.store.Get(ctx, name, options)
}

func (r *StatusResource) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *v1.UpdateOptions) (runtime.Object, bool, error) {
	stack.Deep()
	return r.store.Update(ctx, name, info, create, update, false, options)
}

func (r *StatusResource) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return r.store.GetResetFields()
}

func (r *StatusResource) ConvertToTable(ctx context.Context, object, options runtime.Object) (*v1.Table, error) {
	return r.store.ConvertToTable(ctx, object, options)
}
