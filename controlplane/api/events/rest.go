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
)

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
	old := toCore(event)
	if errs := check(old); len(errs) > 0 {
		return nil, apierrors.NewInvalid(eventKind{}.Name().GroupKind(), event.Name, errs)
	}
	created, err := store.Create(ctx, old, inNewShape(validate), options)
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
	updated, made, err := store.Update(ctx, name, updatedInfo{info}, checking(create), checkingUpdate(update), forceCreate, options)
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

// checking adds this group's checks where an update makes the event.
func checking(validate rest.ValidateObjectFunc) rest.ValidateObjectFunc {
	return func(ctx context.Context, obj runtime.Object) error {
		event, ok := obj.(*corev1.Event)
		if !ok {
			return apierrors.NewInternalError(fmt.Errorf("check %T: want a core Event", obj))
		}
		if errs := check(event); len(errs) > 0 {
			return apierrors.NewInvalid(eventKind{}.Name().GroupKind(), event.Name, errs)
		}
		if validate == nil {
			return nil
		}
		return validate(ctx, converted(obj))
	}
}

func checkingUpdate(validate rest.ValidateObjectUpdateFunc) rest.ValidateObjectUpdateFunc {
	return func(ctx context.Context, obj, old runtime.Object) error {
		event, ok := obj.(*corev1.Event)
		before, okBefore := old.(*corev1.Event)
		if !ok || !okBefore {
			return apierrors.NewInternalError(fmt.Errorf("check update of %T to %T: want core Events", old, obj))
		}
		if errs := checkUpdate(event, before); len(errs) > 0 {
			return apierrors.NewInvalid(eventKind{}.Name().GroupKind(), event.Name, errs)
		}
		if validate == nil {
			return nil
		}
		return validate(ctx, converted(obj), converted(old))
	}
}
