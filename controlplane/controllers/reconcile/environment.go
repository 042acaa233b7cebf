package reconcile

import (
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"sync"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/record"
)

// Controller does its work until ctx ends, then returns nil. An error means
// that it cannot go on. It is run once, after all informers have synced.
type Controller interface {
	Run(ctx context.Context) error
}

// Environment is what controllers are built with. It is safe for concurrent
// use once every controller has been built.
type Environment struct {
	Client   kubernetes.Interface
	Metadata metadata.Interface
	// Informers are shared by all controllers. Objects in them must not be
	// changed, and come without managedFields.
	Informers informers.SharedInformerFactory
	Logger    *slog.Logger

	broadcaster record.EventBroadcaster
	mu          sync.Mutex
	handlers    []cache.InformerSynced
	kinds       map[reflect.Type]bool // of running informers
}

// NewEnvironment starts nothing but the event broadcaster; see Start and Close.
func NewEnvironment(client kubernetes.Interface, meta metadata.Interface, logger *slog.Logger) (*Environment, error) {
	env := &Environment{
		Client:      client,
		Metadata:    meta,
		Informers:   informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithTransform(DropManagedFields)),
		Logger:      logger,
		broadcaster: record.NewBroadcaster(),
		kinds:       map[reflect.Type]bool{},
	}
	if err := env.index(); err != nil {
		return nil, err
	}
	env.broadcaster.StartRecordingToSink(&typedcorev1.EventSinkImpl{Interface: client.CoreV1().Events("")})
	return env, nil
}

// Start starts the informers that the controllers have asked for; they run until
// ctx ends.
func (e *Environment) Start(ctx context.Context) { e.Informers.Start(ctx.Done()) }

// Sync waits until the informers have synced and every handler has seen the
// objects that exist. An error says what it still waited for when ctx ended.
func (e *Environment) Sync(ctx context.Context) error {
	for kind, synced := range e.Informers.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("sync informer of %s: %w", kind, context.Cause(ctx))
		}
		e.mu.Lock()
		e.kinds[kind] = true
		e.mu.Unlock()
	}
	e.mu.Lock()
	handlers := e.handlers
	e.mu.Unlock()
	if !cache.WaitForCacheSync(ctx.Done(), handlers...) {
		return fmt.Errorf("sync event handlers: %w", context.Cause(ctx))
	}
	return nil
}

// Shared returns the informer of a resource if, after Sync, one runs for the
// type of its kind.
func (e *Environment) Shared(resource schema.GroupVersionResource, kind string) (cache.SharedIndexInformer, bool) {
	obj, err := scheme.Scheme.New(resource.GroupVersion().WithKind(kind))
	if err != nil {
		return nil, false
	}
	e.mu.Lock()
	running := e.kinds[reflect.TypeOf(obj)]
	e.mu.Unlock()
	if !running {
		return nil, false
	}
	informer, err := e.Informers.ForResource(resource)
	if err != nil {
		return nil, false
	}
	return informer.Informer(), true
}

// Close ends the event broadcaster, and the informers, whose context must have
// ended before.
func (e *Environment) Close() {
	e.broadcaster.Shutdown()
	e.Informers.Shutdown()
}

// Recorder records events as coming from component.
func (e *Environment) Recorder(component string) record.EventRecorder {
	return e.broadcaster.NewRecorder(scheme.Scheme, corev1.EventSource{Component: component})
}

// Handlers are called one after another, with objects that must not be changed.
// A nil one is skipped.
type Handlers[T any] struct {
	Add    func(obj T)
	Update func(old, obj T)
	Delete func(obj T)
}

// Watch calls handlers for every change that informer sees, beginning with the
// objects that exist.
func Watch[T any](env *Environment, informer cache.SharedIndexInformer, handlers Handlers[T]) error {
	registration, err := informer.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: func(obj any) {
			if o, ok := obj.(T); ok && handlers.Add != nil {
				handlers.Add(o)
			}
		},
		UpdateFunc: func(old, obj any) {
			o, ok := obj.(T)
			if p, pok := old.(T); ok && pok && handlers.Update != nil {
				handlers.Update(p, o)
			}
		},
		DeleteFunc: func(obj any) {
			if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
				obj = gone.Obj
			}
			if o, ok := obj.(T); ok && handlers.Delete != nil {
				handlers.Delete(o)
			}
		},
	})
	if err != nil {
		return fmt.Errorf("watch %T: %w", *new(T), err)
	}
	env.mu.Lock()
	defer env.mu.Unlock()
	env.handlers = append(env.handlers, registration.HasSynced)
	return nil
}

// Each calls f for every object that appears, changes or goes.
func Each[T any](env *Environment, informer cache.SharedIndexInformer, f func(obj T)) error {
	return Watch(env, informer, Handlers[T]{Add: f, Update: func(_, obj T) { f(obj) }, Delete: f})
}

// DropManagedFields is the transform of every informer: nothing here reads the
// field, and it is often the larger half of an object.
func DropManagedFields(obj any) (any, error) {
	if o, err := meta.Accessor(obj); err == nil && len(o.GetManagedFields()) > 0 {
		o.SetManagedFields(nil)
	}
	return obj, nil
}
