package apps

import (
	"context"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/api"
)

// scaled tells the scale subresource where a kind keeps its numbers.
type scaled[T api.Object] struct {
	replicas func(T) **int32
	current  func(T) int32
	selector func(T) *metav1.LabelSelector
}

// scaleExtension is the Extend of a kind that has nothing but a scale.
func scaleExtension[T api.Object](resource string, s scaled[T]) func(*api.Environment, *registry.Store, *registry.Store) (map[string]rest.Storage, error) {
	return func(_ *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
		return map[string]rest.Storage{resource + "/scale": &scaleREST[T]{scaled: s, store: store}}, nil
	}
}

// scaleREST serves autoscaling/v1 Scale over an object's spec.replicas.
type scaleREST[T api.Object] struct {
	scaled[T]
	store *registry.Store
}

var (
	_ rest.Patcher                  = (*scaleREST[api.Object])(nil)
	_ rest.GroupVersionKindProvider = (*scaleREST[api.Object])(nil)
)

func (r *scaleREST[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (r *scaleREST[T]) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing: the main resource owns the store.
func (r *scaleREST[T]) Destroy() {}

func (r *scaleREST[T]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	return rest.NewDefaultTableConvertor(r.store.DefaultQualifiedResource).ConvertToTable(ctx, object, options)
}

func (r *scaleREST[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	obj, err := r.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return r.scaleOf(obj)
}

func (r *scaleREST[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	// Validating admission judges scales, as the client knows no other object.
	createScale := func(ctx context.Context, obj runtime.Object) error {
		scale, err := r.scaleOf(obj)
		if err != nil {
			return err
		}
		return create(ctx, scale)
	}
	updateScale := func(ctx context.Context, obj, old runtime.Object) error {
		scale, err := r.scaleOf(obj)
		if err != nil {
			return err
		}
		oldScale, err := r.scaleOf(old)
		if err != nil {
			return err
		}
		return update(ctx, scale, oldScale)
	}
	obj, _, err := r.store.Update(ctx, name, &scaleInfo[T]{r, info, name}, createScale, updateScale, false, options)
	if err != nil {
		return nil, false, err
	}
	scale, err := r.scaleOf(obj)
	return scale, false, err
}

func (r *scaleREST[T]) scaleOf(obj runtime.Object) (*autoscalingv1.Scale, error) {
	o, ok := obj.(T)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("scale of %T: want a %T", obj, *new(T)))
	}
	selector, err := metav1.LabelSelectorAsSelector(r.selector(o))
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	scale := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name:              o.GetName(),
			Namespace:         o.GetNamespace(),
			UID:               o.GetUID(),
			ResourceVersion:   o.GetResourceVersion(),
			CreationTimestamp: o.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: r.current(o), Selector: selector.String()},
	}
	if replicas := *r.replicas(o); replicas != nil {
		scale.Spec.Replicas = *replicas
	}
	return scale, nil
}

// scaleInfo turns the update of a scale into the update of the object.
type scaleInfo[T api.Object] struct {
	*scaleREST[T]
	info rest.UpdatedObjectInfo
	name string
}

func (i *scaleInfo[T]) Preconditions() *metav1.Preconditions { return i.info.Preconditions() }

func (i *scaleInfo[T]) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	o, ok := old.DeepCopyObject().(T)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("scale %T: want a %T", old, *new(T)))
	}
	resource := i.store.DefaultQualifiedResource
	scaleResource := schema.GroupResource{Group: resource.Group, Resource: resource.Resource + "/scale"}
	if o.GetResourceVersion() == "" {
		return nil, apierrors.NewNotFound(scaleResource, i.name)
	}
	version := schema.GroupVersion{Group: resource.Group, Version: "v1"}
	fields := managedfields.NewScaleHandler(o.GetManagedFields(), version,
		managedfields.ResourcePathMappings{version.String(): fieldpath.MakePathOrDie("spec", "replicas")})

	oldScale, err := i.scaleOf(o)
	if err != nil {
		return nil, err
	}
	if oldScale.ManagedFields, err = fields.ToSubresource(); err != nil {
		return nil, err
	}
	updated, err := i.info.UpdatedObject(ctx, oldScale)
	if err != nil {
		return nil, err
	}
	scale, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	errs := apivalidation.ValidateObjectMeta(&scale.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, nonnegative(field.NewPath("spec"), count{"replicas", int64(scale.Spec.Replicas)})...)
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), i.name, errs)
	}
	if scale.UID != "" && scale.UID != o.GetUID() {
		//lint:ignore ST1005 clients know the message like this
		precondition := fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", scale.UID, o.GetUID())
		return nil, apierrors.NewConflict(scaleResource, i.name, precondition)
	}
	*i.replicas(o) = &scale.Spec.Replicas
	o.SetResourceVersion(scale.ResourceVersion)
	managed, err := fields.ToParent(scale.ManagedFields)
	if err != nil {
		return nil, err
	}
	o.SetManagedFields(managed)
	return o, nil
}
