package events

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/apis/meta/internalversion"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

// eventREST serves core's store in the newer shape.
type eventREST struct{ env *api.Environment }

var (
	_ rest.StandardStorage      = (*eventREST)(nil)
	_ rest.Scoper               = (*eventREST)(nil)
	_ rest.SingularNameProvider = (*eventREST)(nil)
	_ rest.ShortNamesProvider   = (*eventREST)(nil)
	// Events lie in etcd as core's, and discovery's hash of that says so.
	_ rest.StorageVersionProvider = (*eventREST)(nil)
)

func (r *eventREST) StorageVersion() runtime.GroupVersioner { return asCore{} }

// asCore says of every kind that it is kept as core's Event.
type asCore struct{}

func (asCore) KindForGroupVersionKinds([]schema.GroupVersionKind) (schema.GroupVersionKind, bool) {
	return corev1.SchemeGroupVersion.WithKind("Event"), true
}

func (asCore) Identifier() string { return "core events" }

func (r *eventREST) New() runtime.Object     { return &eventsv1.Event{} }
func (r *eventREST) NewList() runtime.Object { return &eventsv1.EventList{} }
func (r *eventREST) NamespaceScoped() bool   { return true }
func (r *eventREST) GetSingularName() string { return "event" }
func (r *eventREST) ShortNames() []string    { return []string{"ev"} }

// Destroy does nothing: the store is core's.
func (r *eventREST) Destroy() {}

// store finds core's events, which exist once all kinds are built.
func (r *eventREST) store() (rest.StandardStorage, error) {
	store, ok := r.env.Lookup("/events").(rest.StandardStorage)
	if !ok {
		return nil, apierrors.NewInternalError(fmt.Errorf("look up the core group's events: not served"))
	}
	return store, nil
}

func (r *eventREST) Get(ctx context.Context, name string, options *metav1.GetOptions) (runtime.Object, error) {
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	obj, err := store.Get(ctx, name, options)
	if err != nil {
		return nil, err
	}
	return converted(obj), nil
}

func (r *eventREST) List(ctx context.Context, options *internalversion.ListOptions) (runtime.Object, error) {
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	list, err := store.List(ctx, options)
	if err != nil {
		return nil, err
	}
	return converted(list), nil
}

func (r *eventREST) Watch(ctx context.Context, options *internalversion.ListOptions) (watch.Interface, error) {
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	w, err := store.Watch(ctx, options)
	if err != nil {
		return nil, err
	}
	return watch.Filter(w, func(in watch.Event) (watch.Event, bool) {
		in.Object = converted(in.Object)
		return in, true
	}), nil
}

func (r *eventREST) Create(ctx context.Context, obj runtime.Object, validate rest.ValidateObjectFunc, options *metav1.CreateOptions) (runtime.Object, error) {
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	event, ok := obj.(*eventsv1.Event)
	if !ok {
		return nil, apierrors.NewBadRequest(fmt.Sprintf("not an Event: %#v", obj))
	}
	created, err := store.Create(ctx, toCore(event), inNewShape(validate), options)
	if err != nil {
		return nil, err
	}
	return converted(created), nil
}

func (r *eventREST) Update(ctx context.Context, name string, info rest.UpdatedObjectInfo, create rest.ValidateObjectFunc, update rest.ValidateObjectUpdateFunc, forceCreate bool, options *metav1.UpdateOptions) (runtime.Object, bool, error) {
	store, err := r.store()
	if err != nil {
		return nil, false, err
	}
	updated, made, err := store.Update(ctx, name, updatedInfo{info}, inNewShape(create), updateInNewShape(update), forceCreate, options)
	if err != nil {
		return nil, false, err
	}
	return converted(updated), made, nil
}

func (r *eventREST) Delete(ctx context.Context, name string, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions) (runtime.Object, bool, error) {
	store, err := r.store()
	if err != nil {
		return nil, false, err
	}
	deleted, now, err := store.Delete(ctx, name, inNewShape(validate), options)
	if err != nil {
		return nil, false, err
	}
	return converted(deleted), now, nil
}

func (r *eventREST) DeleteCollection(ctx context.Context, validate rest.ValidateObjectFunc, options *metav1.DeleteOptions, list *internalversion.ListOptions) (runtime.Object, error) {
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	deleted, err := store.DeleteCollection(ctx, inNewShape(validate), options, list)
	if err != nil {
		return nil, err
	}
	return converted(deleted), nil
}

func (r *eventREST) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	store, err := r.store()
	if err != nil {
		return nil, err
	}
	old, err := original(object)
	if err != nil {
		return nil, err
	}
	table, err := store.ConvertToTable(ctx, old, options)
	if err != nil {
		return nil, err
	}
	for i := range table.Rows {
		table.Rows[i].Object.Object = converted(table.Rows[i].Object.Object)
	}
	return table, nil
}

// updatedInfo updates an event of core through its newer shape.
type updatedInfo struct{ rest.UpdatedObjectInfo }

func (i updatedInfo) UpdatedObject(ctx context.Context, old runtime.Object) (runtime.Object, error) {
	updated, err := i.UpdatedObjectInfo.UpdatedObject(ctx, converted(old.DeepCopyObject()))
	if err != nil {
		return nil, err
	}
	return original(updated)
}

// inNewShape shows validating admission the event as its client knows it.
func inNewShape(validate rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	if validate == nil {
		return nil
	}
	return func(ctx context.Context, obj runtime.Object) error { return validate(ctx, converted(obj)) }
}

func updateInNewShape(validate rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	if validate == nil {
		return nil
	}
	return func(ctx context.Context, obj, old runtime.Object) error {
		return validate(ctx, converted(obj), converted(old))
	}
}
