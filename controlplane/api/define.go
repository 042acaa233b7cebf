package api

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/names"
	"k8s.io/client-go/tools/cache"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"
)

// Define checks a definition and erases its type. It panics on a definition
// that lacks what every kind has, since that is a mistake in the program.
func Define[T Object](d Definition[T]) Kind {
	if d.Kind == "" || d.Resource == "" || d.Singular == "" || d.New == nil || d.NewList == nil {
		panic(fmt.Sprintf("api: definition of %q lacks a name or a constructor", d.Kind))
	}
	if d.NameValidation == nil {
		d.NameValidation = apivalidation.NameIsDNSSubdomain
	}
	return &kind[T]{d}
}

type kind[T Object] struct{ d Definition[T] }

func (k *kind[T]) Name() schema.GroupVersionKind { return k.d.GroupVersion.WithKind(k.d.Kind) }

func (k *kind[T]) GroupVersionResource() schema.GroupVersionResource {
	return k.d.GroupVersion.WithResource(k.d.Resource)
}

// Register implements Kind. The external version comes first, so that
// scheme.ObjectKinds names it first.
func (k *kind[T]) Register(scheme *runtime.Scheme) error {
	list := reflect.TypeOf(k.d.NewList()).Elem().Name()
	internal := schema.GroupVersion{Group: k.d.GroupVersion.Group, Version: runtime.APIVersionInternal}
	for _, gv := range []schema.GroupVersion{k.d.GroupVersion, internal} {
		scheme.AddKnownTypeWithName(gv.WithKind(k.d.Kind), k.d.New())
		scheme.AddKnownTypeWithName(gv.WithKind(list), k.d.NewList())
	}
	if k.d.Default != nil {
		scheme.AddTypeDefaultingFunc(k.d.New(), func(obj any) { k.d.Default(obj.(T)) })
		scheme.AddTypeDefaultingFunc(k.d.NewList(), func(obj any) {
			// EachListItem cannot fail here: the callback never does.
			_ = meta.EachListItem(obj.(runtime.Object), func(item runtime.Object) error {
				k.d.Default(item.(T))
				return nil
			})
		})
	}
	if len(k.d.FieldNames) == 0 {
		return nil // the library knows the name and the namespace
	}
	refusal := k.d.UnknownField
	if refusal == "" {
		refusal = "field label not supported: %s"
	}
	return scheme.AddFieldLabelConversionFunc(k.Name(), func(label, value string) (string, string, error) {
		if label == "metadata.name" || (label == "metadata.namespace" && !k.d.ClusterScope) || slices.Contains(k.d.FieldNames, label) {
			return label, value, nil
		}
		return "", "", fmt.Errorf(refusal, label)
	})
}

// Storages implements Kind.
func (k *kind[T]) Storages(env *Environment) (map[string]rest.Storage, error) {
	base := strategy[T]{d: k.d, ObjectTyper: env.Scheme, NameGenerator: names.SimpleNameGenerator}
	gr := schema.GroupResource{Group: k.d.GroupVersion.Group, Resource: k.d.Resource}
	store := &registry.Store{
		NewFunc:                   func() runtime.Object { return k.d.New() },
		NewListFunc:               k.d.NewList,
		PredicateFunc:             k.predicate,
		DefaultQualifiedResource:  gr,
		SingularQualifiedResource: schema.GroupResource{Group: gr.Group, Resource: k.d.Singular},
		CreateStrategy:            base,
		UpdateStrategy:            base,
		DeleteStrategy:            base.deletion(),
		ResetFieldsStrategy:       base,
		ReturnDeletedObject:       k.d.ReturnDeleted,
		TableConvertor:            table[T]{d: k.d, fallback: rest.NewDefaultTableConvertor(gr)},
	}
	if k.d.TTL != nil {
		store.TTLFunc = func(obj runtime.Object, existing uint64, update bool) (uint64, error) {
			return k.d.TTL(obj.(T)), nil
		}
	}
	options := &generic.StoreOptions{RESTOptions: placed{env.RESTOptions, k.d.Path}, AttrFunc: k.attributes}
	if len(k.d.IndexFields) > 0 {
		options.TriggerFunc = storage.IndexerFuncs{}
		indexers := cache.Indexers{}
		for _, name := range k.d.IndexFields {
			options.TriggerFunc[name] = func(obj runtime.Object) string { return k.d.Fields(obj.(T))[name] }
			indexers[storage.FieldIndex(name)] = func(obj any) ([]string, error) {
				return []string{k.d.Fields(obj.(T))[name]}, nil
			}
		}
		options.Indexers = &indexers
	}
	if err := store.CompleteWithOptions(options); err != nil {
		return nil, fmt.Errorf("complete store of %s: %w", gr, err)
	}

	var status *registry.Store
	if k.d.Status != nil {
		s := *store
		s.UpdateStrategy = statusStrategy[T]{base}
		s.ResetFieldsStrategy = statusStrategy[T]{base}
		status = &s
	}
	storages := map[string]rest.Storage{}
	if k.d.Extend != nil {
		var err error
		if storages, err = k.d.Extend(env, store, status); err != nil {
			return nil, fmt.Errorf("extend store of %s: %w", gr, err)
		}
		if storages == nil {
			storages = map[string]rest.Storage{}
		}
	}
	if _, served := storages[k.d.Resource]; !served {
		storages[k.d.Resource] = &Resource{Store: store, shortNames: k.d.ShortNames, categories: k.d.Categories}
	}
	if _, served := storages[k.d.Resource+"/status"]; !served && status != nil {
		storages[k.d.Resource+"/status"] = &StatusResource{store: status}
	}
	return storages, nil
}

// placed puts a kind's objects where the definition says.
type placed struct {
	generic.RESTOptionsGetter
	path string
}

func (p placed) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	options, err := p.RESTOptionsGetter.GetRESTOptions(resource, example)
	if p.path != "" {
		options.ResourcePrefix = p.path
	}
	return options, err
}

func (k *kind[T]) attributes(obj runtime.Object) (labels.Set, fields.Set, error) {
	o, ok := obj.(T)
	if !ok {
		return nil, nil, fmt.Errorf("want %s, got %T", k.d.Kind, obj)
	}
	set := fields.Set{}
	if k.d.Fields != nil {
		set = k.d.Fields(o)
	}
	set["metadata.name"] = o.GetName()
	if !k.d.ClusterScope {
		set["metadata.namespace"] = o.GetNamespace()
	}
	return o.GetLabels(), set, nil
}

func (k *kind[T]) predicate(label labels.Selector, field fields.Selector) storage.SelectionPredicate {
	return storage.SelectionPredicate{Label: label, Field: field, GetAttrs: k.attributes, IndexFields: k.d.IndexFields}
}

// strategy adapts a Definition to the library's strategy interfaces.
type strategy[T Object] struct {
	runtime.ObjectTyper
	names.NameGenerator
	d Definition[T]
}

func (s strategy[T]) NamespaceScoped() bool          { return !s.d.ClusterScope }
func (s strategy[T]) AllowCreateOnUpdate() bool      { return s.d.AllowCreateOnUpdate }
func (s strategy[T]) AllowUnconditionalUpdate() bool { return !s.d.ForbidUnconditionalUpdate }
func (s strategy[T]) Canonicalize(runtime.Object)    {}

func (s strategy[T]) PrepareForCreate(ctx context.Context, obj runtime.Object) {
	o := obj.(T)
	if s.d.Spec != nil {
		o.SetGeneration(1)
	}
	if s.d.Status != nil && !s.d.Status.KeepOnCreate {
		s.d.Status.Copy(o, s.d.New())
	}
	if s.d.PrepareForCreate != nil {
		s.d.PrepareForCreate(ctx, o)
	}
}

func (s strategy[T]) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, p := obj.(T), old.(T)
	if s.d.Status != nil {
		s.d.Status.Copy(o, p)
	}
	if s.d.PrepareForUpdate != nil {
		s.d.PrepareForUpdate(ctx, o, p)
	}
	if s.d.Spec == nil {
		return
	}
	o.SetGeneration(p.GetGeneration())
	same := apiequality.Semantic.DeepEqual
	if s.d.ExactSpec {
		same = reflect.DeepEqual
	}
	if !same(s.d.Spec(o), s.d.Spec(p)) {
		o.SetGeneration(p.GetGeneration() + 1)
	}
}

func (s strategy[T]) Validate(ctx context.Context, obj runtime.Object) field.ErrorList {
	o := obj.(T)
	errs := apivalidation.ValidateObjectMetaAccessor(o, !s.d.ClusterScope, s.d.NameValidation, field.NewPath("metadata"))
	errs = append(errs, s.validateFinalizers(o)...)
	if s.d.Validate != nil {
		errs = append(errs, s.d.Validate(ctx, o)...)
	}
	return Show(errs)
}

func (s strategy[T]) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	o, p := obj.(T), old.(T)
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(o, p, field.NewPath("metadata"))
	errs = append(errs, s.validateFinalizers(o)...)
	if s.d.ValidateUpdate != nil {
		errs = append(errs, s.d.ValidateUpdate(ctx, o, p)...)
	}
	return Show(errs)
}

// validateFinalizers wants a finalizer that Kubernetes does not know to say
// whose it is.
func (s strategy[T]) validateFinalizers(obj T) field.ErrorList {
	var errs field.ErrorList
	if s.d.PlainFinalizers {
		return nil
	}
	for i, name := range obj.GetFinalizers() {
		switch name {
		case metav1.FinalizerOrphanDependents, metav1.FinalizerDeleteDependents, string(corev1.FinalizerKubernetes):
		default:
			if !strings.Contains(name, "/") {
				errs = append(errs, field.Invalid(field.NewPath("metadata", "finalizers").Index(i), name, "name is neither a standard finalizer name nor is it fully qualified"))
			}
		}
	}
	return errs
}

func (s strategy[T]) WarningsOnCreate(ctx context.Context, obj runtime.Object) []string {
	if s.d.Warnings == nil {
		return nil
	}
	var none T
	return s.d.Warnings(ctx, obj.(T), none)
}

func (s strategy[T]) WarningsOnUpdate(ctx context.Context, obj, old runtime.Object) []string {
	if s.d.Warnings == nil {
		return nil
	}
	return s.d.Warnings(ctx, obj.(T), old.(T))
}

func (s strategy[T]) DefaultGarbageCollectionPolicy(context.Context) rest.GarbageCollectionPolicy {
	if s.d.DefaultGarbageCollection == "" {
		return rest.DeleteDependents
	}
	return s.d.DefaultGarbageCollection
}

func (s strategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet()
	if s.d.Status != nil {
		set.Insert(fieldpath.MakePathOrDie("status"))
	}
	for _, path := range s.d.ResetFields {
		parts := make([]any, len(path))
		for i := range path {
			parts[i] = path[i]
		}
		set.Insert(fieldpath.MakePathOrDie(parts...))
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.d.GroupVersion.String()): set}
}

// deletion is graceful only for kinds that say so: the library takes the mere
// presence of the method as a yes.
func (s strategy[T]) deletion() rest.RESTDeleteStrategy {
	if s.d.GracefulDelete == nil {
		return s
	}
	return gracefulStrategy[T]{s}
}

type gracefulStrategy[T Object] struct{ strategy[T] }

func (s gracefulStrategy[T]) CheckGracefulDelete(ctx context.Context, obj runtime.Object, options *metav1.DeleteOptions) bool {
	if asked, ok := ctx.Value(askedGraceKey{}).(*int64); ok && options != nil {
		options.GracePeriodSeconds = asked
	}
	return s.d.GracefulDelete(ctx, obj.(T), options)
}

// statusStrategy is what updates the status subresource.
type statusStrategy[T Object] struct{ strategy[T] }

func (s statusStrategy[T]) PrepareForUpdate(ctx context.Context, obj, old runtime.Object) {
	o, p := obj.(T), old.(T)
	kept := p.DeepCopyObject().(T)
	s.d.Status.Copy(kept, o)
	if s.d.Status.KeepMetadata {
		kept.SetLabels(o.GetLabels())
		kept.SetAnnotations(o.GetAnnotations())
		kept.SetFinalizers(o.GetFinalizers())
	}
	kept.SetManagedFields(o.GetManagedFields())
	kept.SetResourceVersion(o.GetResourceVersion())
	reflect.ValueOf(o).Elem().Set(reflect.ValueOf(kept).Elem())
	if s.d.Status.Prepare != nil {
		s.d.Status.Prepare(ctx, o, p)
	}
}

func (s statusStrategy[T]) ValidateUpdate(ctx context.Context, obj, old runtime.Object) field.ErrorList {
	o, p := obj.(T), old.(T)
	errs := apivalidation.ValidateObjectMetaAccessorUpdate(o, p, field.NewPath("metadata"))
	errs = append(errs, s.validateFinalizers(o)...)
	if s.d.Status.Validate != nil {
		errs = append(errs, s.d.Status.Validate(ctx, o, p)...)
	}
	return Show(errs)
}

func (s statusStrategy[T]) WarningsOnUpdate(_ context.Context, obj, _ runtime.Object) []string {
	if s.d.Status.Warnings == nil {
		return nil
	}
	return s.d.Status.Warnings(obj.(T))
}

func (s statusStrategy[T]) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	set := fieldpath.NewSet(fieldpath.MakePathOrDie("spec"))
	if !s.d.Status.KeepMetadata {
		for _, name := range []string{"deletionTimestamp", "ownerReferences", "labels", "annotations", "finalizers", "managedFields"} {
			set.Insert(fieldpath.MakePathOrDie("metadata", name))
		}
	}
	return map[fieldpath.APIVersion]*fieldpath.Set{fieldpath.APIVersion(s.d.GroupVersion.String()): set}
}

// table prints a kind's columns.
type table[T Object] struct {
	d        Definition[T]
	fallback rest.TableConvertor
}

func (t table[T]) ConvertToTable(ctx context.Context, object, options runtime.Object) (*metav1.Table, error) {
	if t.d.Row == nil {
		return t.fallback.ConvertToTable(ctx, object, options)
	}
	result := &metav1.Table{}
	add := func(item runtime.Object) error {
		o, ok := item.(T)
		if !ok {
			return fmt.Errorf("print table: want %s, got %T", t.d.Kind, item)
		}
		result.Rows = append(result.Rows, metav1.TableRow{Cells: t.d.Row(o), Object: runtime.RawExtension{Object: item}})
		return nil
	}
	var err error
	if meta.IsListType(object) {
		err = meta.EachListItem(object, add)
	} else {
		err = add(object)
	}
	if err != nil {
		return nil, err
	}
	if m, err := meta.ListAccessor(object); err == nil {
		result.ResourceVersion, result.Continue, result.RemainingItemCount = m.GetResourceVersion(), m.GetContinue(), m.GetRemainingItemCount()
	} else if m, err := meta.CommonAccessor(object); err == nil {
		result.ResourceVersion = m.GetResourceVersion()
	}
	if o, ok := options.(*metav1.TableOptions); !ok || !o.NoHeaders {
		result.ColumnDefinitions = t.d.Columns
	}
	return result, nil
}
