package core

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/api"
)

var groupVersion = corev1.SchemeGroupVersion

// Kinds lists the kinds of the core group.
func Kinds() []api.Kind {
	return []api.Kind{
		namespaceKind(), nodeKind(), podKind(), podTemplateKind(), replicationControllerKind(),
		serviceKind(), endpointsKind(), configMapKind(), secretKind(), serviceAccountKind(), eventKind(),
		persistentVolumeKind(), persistentVolumeClaimKind(), limitRangeKind(), resourceQuotaKind(), componentStatusKind{},
	}
}

// registering is a kind that brings types beside its own: conversions of the
// options of its subresources, say.
type registering struct {
	api.Kind
	register func(*runtime.Scheme) error
}

// Register implements api.Kind.
func (k registering) Register(scheme *runtime.Scheme) error {
	if err := k.Kind.Register(scheme); err != nil {
		return err
	}
	return k.register(scheme)
}

// updating is the strategy of a subresource that writes part of an object's
// spec; what it does not say is the main resource's.
type updating[T api.Object] struct {
	rest.RESTUpdateStrategy
	// keep resets all of obj that the subresource does not write to old's.
	keep     func(obj, old T)
	validate func(obj, old T) field.ErrorList
	// spec is what counts for the generation; nil where none is kept.
	spec func(obj T) any
}

func (s updating[T]) PrepareForUpdate(_ context.Context, obj, old runtime.Object) {
	o, p := obj.(T), old.(T)
	s.keep(o, p)
	if s.spec != nil && !apiequality.Semantic.DeepEqual(s.spec(o), s.spec(p)) {
		o.SetGeneration(p.GetGeneration() + 1)
	}
}

func (s updating[T]) ValidateUpdate(_ context.Context, obj, old runtime.Object) field.ErrorList {
	return s.validate(obj.(T), old.(T))
}

func (updating[T]) WarningsOnUpdate(context.Context, runtime.Object, runtime.Object) []string {
	return nil
}

// part serves such a subresource: get, update and patch of the whole object.
type part struct {
	store *registry.Store
	// owns are the fields the subresource writes, for server-side apply; nil
	// leaves it to the store's strategy.
	owns fieldpath.Filter
}

// newPart copies store, whose hooks have to be set already, and gives it the
// subresource's strategy.
func newPart[T api.Object](store *registry.Store, strategy updating[T], owns ...*fieldpath.SetMatcher) *part {
	s := *store
	strategy.RESTUpdateStrategy = store.UpdateStrategy
	s.UpdateStrategy = strategy
	p := &part{store: &s}
	if len(owns) > 0 {
		p.owns = fieldpath.NewIncludeMatcherFilter(owns...)
	}
	return p
}

var (
	_ rest.Patcher                   = (*part)(nil)
	_ rest.ResetFieldsFilterStrategy = (*part)(nil)
)

func (p *part) New() runtime.Object { return p.store.New() }

// Destroy does nothing: the main resource owns the store.
func (p *part) Destroy() {}

func (p *part) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	return p.store.Get(ctx, name, options)
}

func (p *part) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	return p.store.Update(ctx, name, info, create, update, false, options)
}

// GetResetFieldsFilter implements rest.ResetFieldsFilterStrategy.
func (p *part) GetResetFieldsFilter() map[fieldpath.APIVersion]fieldpath.Filter {
	if p.owns == nil {
		return nil
	}
	return map[fieldpath.APIVersion]fieldpath.Filter{fieldpath.APIVersion(groupVersion.String()): p.owns}
}

// getter finds another kind's store in env.
func getter(env *api.Environment, resource string) (rest.Getter, error) {
	if g, ok := env.Lookup(resource).(rest.Getter); ok {
		return g, nil
	}
	return nil, fmt.Errorf("look up %s: not served", resource)
}
