package scale

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
	"clusterctl/controlplane/api/columns"
)

// Numbers tells where a kind keeps what its scale shows.
type Numbers[T api.Object] struct {
	// Replicas is spec.replicas, to be read and set.
	Replicas func(T) **int32
	// Current is status.replicas.
	Current func(T) int32
	// Selector is that of the pods, in the form of label selectors' text.
	Selector func(T) (string, error)
}

// New serves the scale of the objects in store, whose version is v1.
func New[T api.Object](store *registry.Store, numbers Numbers[T]) rest.Storage {
	return &scale[T]{numbers, store}
}

type scale[T api.Object] struct {
	Numbers[T]
	store *registry.Store
}

var (
	_ rest.Patcher                  = (*scale[api.Object])(nil)
	_ rest.GroupVersionKindProvider = (*scale[api.Object])(nil)
)

func (s *scale[T]) GroupVersionKind(schema.GroupVersion) schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("Scale")
}

func (s *scale[T]) New() runtime.Object { return &autoscalingv1.Scale{} }

// Destroy does nothing: the main resource owns the store.
func (s *scale[T]) Destroy() {}

func (s *scale[T]) ConvertToTable(_ context.Context, object, options runtime.Object) (*metav1.Table, error) {
	item, ok := object.(*autoscalingv1.Scale)
	if !ok {
		return nil, fmt.Errorf("print scale: got a %T", object)
	}
	table := &metav1.Table{Rows: []metav1.TableRow{{
		Cells:  []any{item.Name, int64(item.Spec.Replicas), int64(item.Status.Replicas), columns.Since(item.CreationTimestamp.Time)},
		Object: runtime.RawExtension{Object: item},
	}}}
	table.ResourceVersion = item.ResourceVersion
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		name := columns.Name()
		name.Format = ""
		table.ColumnDefinitions = []metav1.TableColumnDefinition{name,
			columns.Number("Desired", autoscalingv1.ScaleSpec{}.SwaggerDoc()["replicas"]),
			columns.Number("Available", autoscalingv1.ScaleStatus{}.SwaggerDoc()["replicas"]), columns.Age()}
	}
	return table, nil
}

func (s *scale[T]) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	object, err := s.store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return s.of(object)
}

func (s *scale[T]) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, _ bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	// Validating admission judges scales, as the client knows no other object.
	createScale := func(ctx context.Context, object runtime.Object) error {
		now, err := s.of(object)
		if err != nil {
			return err
		}
		return create(ctx, now)
	}
	updateScale := func(ctx context.Context, object, old runtime.Object) error {
		now, err := s.of(object)
		if err != nil {
			return err
		}
		was, err := s.of(old)
		if err != nil {
			return err
		}
		return update(ctx, now, was)
	}
	object, _, err := s.store.Update(ctx, name, &change[T]{s, info, name}, createScale, updateScale, false, options)
	if err != nil {
		return nil, false, err
	}
	now, err := s.of(object)
	return now, false, err
}

func (s *scale[T]) of(object runtime.Object) (*autoscalingv1.Scale, error) {
	o, ok := object.(T)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("scale of %T: want a %T", object, *new(T)))
	}
	selector, err := s.Selector(o)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	result := &autoscalingv1.Scale{
		ObjectMeta: metav1.ObjectMeta{
			Name: o.GetName(), Namespace: o.GetNamespace(), UID: o.GetUID(),
			ResourceVersion: o.GetResourceVersion(), CreationTimestamp: o.GetCreationTimestamp(),
		},
		Status: autoscalingv1.ScaleStatus{Replicas: s.Current(o), Selector: selector},
	}
	if replicas := *s.Replicas(o); replicas != nil {
		result.Spec.Replicas = *replicas
	}
	return result, nil
}

// change turns the update of a scale into the update of the object.
type change[T api.Object] struct {
	*scale[T]
	info rest.UpdatedObjectInfo
	name string
}

func (c *change[T]) Preconditions() *metav1.Preconditions { return c.info.Preconditions() }

func (c *change[T]) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	o, ok := old.DeepCopyObject().(T)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("scale %T: want a %T", old, *new(T)))
	}
	resource := c.store.DefaultQualifiedResource
	scales := schema.GroupResource{Group: resource.Group, Resource: resource.Resource + "/scale"}
	if o.GetResourceVersion() == "" {
		return nil, apierrors.NewNotFound(scales, c.name)
	}
	version := schema.GroupVersion{Group: resource.Group, Version: "v1"}
	fields := managedfields.NewScaleHandler(o.GetManagedFields(), version,
		managedfields.ResourcePathMappings{version.String(): fieldpath.MakePathOrDie("spec", "replicas")})
	was, err := c.of(o)
	if err != nil {
		return nil, err
	}
	if was.ManagedFields, err = fields.ToSubresource(); err != nil {
		return nil, err
	}
	updated, err := c.info.UpdatedObject(ctx, was)
	if err != nil {
		return nil, err
	}
	now, ok := updated.(*autoscalingv1.Scale)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("expected input object type to be Scale, but %T", updated))
	}
	errs := apivalidation.ValidateObjectMeta(&now.ObjectMeta, true, apivalidation.NameIsDNSSubdomain, field.NewPath("metadata"))
	errs = append(errs, apivalidation.ValidateNonnegativeField(int64(now.Spec.Replicas), field.NewPath("spec", "replicas"))...)
	if len(errs) > 0 {
		return nil, apierrors.NewInvalid(autoscalingv1.SchemeGroupVersion.WithKind("Scale").GroupKind(), c.name, errs)
	}
	if now.UID != "" && now.UID != o.GetUID() {
		return nil, apierrors.NewConflict(scales, c.name, fmt.Errorf("Precondition failed: UID in precondition: %v, UID in object meta: %v", now.UID, o.GetUID())) //nolint:staticcheck // as clients know it
	}
	*c.Replicas(o) = &now.Spec.Replicas
	o.SetResourceVersion(now.ResourceVersion)
	managed, err := fields.ToParent(now.ManagedFields)
	if err != nil {
		return nil, err
	}
	o.SetManagedFields(managed)
	return o, nil
}
