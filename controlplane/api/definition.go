package api

import (
	"context"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
)

// Object is any API object.
type Object interface {
	runtime.Object
	metav1.Object
}

// Definition is the whole story of one kind. Functions left nil do nothing;
// none may keep or share the objects it is given, and all are called
// concurrently.
//
// A request flows: decode → Default → (admission) → PrepareForCreate or
// PrepareForUpdate → Validate or ValidateUpdate → store.
type Definition[T Object] struct {
	GroupVersion schema.GroupVersion
	Kind         string
	Resource     string // plural, lower case
	Singular     string
	ShortNames   []string
	Categories   []string // "all"
	ClusterScope bool

	New     func() T
	NewList func() runtime.Object

	// Path is the directory under /registry, where it is not Resource.
	Path string

	// Default fills in what a client may leave out. It runs on every decode,
	// from the wire and from etcd alike, and must be idempotent.
	Default func(obj T)

	// PrepareForCreate and PrepareForUpdate clear what a client may not set
	// (status, on create and on the main resource) and keep fields in step.
	PrepareForCreate func(ctx context.Context, obj T)
	PrepareForUpdate func(ctx context.Context, obj, old T)

	// Validate checks a new object; ValidateUpdate a changed one (it must
	// repeat Validate's checks where they still hold). Object metadata is
	// checked by the store, with NameValidation on create.
	Validate       func(ctx context.Context, obj T) field.ErrorList
	ValidateUpdate func(ctx context.Context, obj, old T) field.ErrorList
	// NameValidation checks metadata.name; nil means a DNS subdomain. prefix
	// is true for a generateName.
	NameValidation func(name string, prefix bool) []string
	// PlainFinalizers lets any finalizer be unqualified ("foo").
	PlainFinalizers bool
	// Warnings go to the client as HTTP warning headers.
	Warnings func(ctx context.Context, obj, old T) []string

	// Spec returns the part whose change increments metadata.generation;
	// nil means that the kind keeps no generation.
	Spec func(obj T) any

	// ExactSpec has generation count nothing and an empty list as different.
	ExactSpec bool

	// Status is nil for a kind without a status subresource.
	Status *Status[T]

	// ResetFields lists what the main resource never owns under server-side
	// apply, beside the status where Status is set: {"spec","finalizers"}.
	ResetFields [][]string

	AllowCreateOnUpdate bool
	// ForbidUnconditionalUpdate wants a resourceVersion on every update.
	ForbidUnconditionalUpdate bool

	// GracefulDelete decides a deletion's grace period by setting
	// options.GracePeriodSeconds, and reports whether deletion is graceful.
	GracefulDelete func(ctx context.Context, obj T, options *metav1.DeleteOptions) bool
	// DefaultGarbageCollection is the propagation when a client names none;
	// empty means background.
	DefaultGarbageCollection rest.GarbageCollectionPolicy

	// ReturnDeleted has a deletion answer with the object that went, and not
	// with a mere success.
	ReturnDeleted bool

	// TTL is the life of an object in seconds; 0 means for ever.
	TTL func(obj T) uint64

	// Fields are what field selectors can see beside metadata.name and
	// metadata.namespace. FieldNames are its keys, known without an object.
	// IndexFields, a subset, are indexed by the watch cache (pods'
	// spec.nodeName).
	// UnknownField is the format of the refusal of any other, if it is not the
	// common one.
	Fields       func(obj T) fields.Set
	UnknownField string
	FieldNames   []string
	IndexFields  []string

	// Columns and Row are what `kubectl get` prints; nil means name and age.
	// Row returns one cell a column; now comes from the clock, for ages.
	Columns []metav1.TableColumnDefinition
	Row     func(obj T) []any

	// Extend gives the kind what Definition cannot say: it may set the
	// store's hooks (BeginCreate, AfterDelete …), and returns the storages to
	// serve, keyed by path below the group ("pods/log"). store is served as
	// Resource, and its status as Resource/status, unless the returned map
	// has those keys already. status is nil where Status is.
	Extend func(env *Environment, store, status *registry.Store) (map[string]rest.Storage, error)
}

// Status tells what a write to the status subresource may do. All of the
// object but its status is reset to the stored one before Prepare, unless
// KeepMetadata (labels, annotations and finalizers may change: nodes, pods).
type Status[T Object] struct {
	// Copy sets to's status to from's.
	Copy         func(to, from T)
	Prepare      func(ctx context.Context, obj, old T)
	Validate     func(ctx context.Context, obj, old T) field.ErrorList
	KeepMetadata bool
	// Warnings go to the client as HTTP warning headers.
	Warnings func(obj T) []string
	// KeepOnCreate lets a new object bring its status (nodes register so).
	KeepOnCreate bool
}

// Kind is a Definition whose type is erased, as Define makes it; the list of
// all kinds is what controlplane/apiserver serves.
type Kind interface {
	// Name is the external group, version and kind.
	Name() schema.GroupVersionKind
	// Group, version and plural of the resource.
	GroupVersionResource() schema.GroupVersionResource
	// Register adds the type, its list, defaults and field labels to scheme.
	Register(scheme *runtime.Scheme) error
	// Storages builds everything to serve for the kind, keyed by path below
	// the group and version: "deployments", "deployments/status".
	Storages(env *Environment) (map[string]rest.Storage, error)
}
