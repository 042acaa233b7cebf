package openapi

import (
	"errors"
	"fmt"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/managedfields"
	structure "sigs.k8s.io/structured-merge-diff/v6/schema"
	"sigs.k8s.io/structured-merge-diff/v6/typed"

	"clusterctl/controlplane/stack"
)

// Types are all of them, as server-side apply sees them.
func Types() []structure.TypeDef { return types[:] }

// parser is laid out by the compiler: a kind costs memory once it is written.
var parser = typed.Parser{Schema: structure.Schema{Types: types[:]}}

// converter is a managedfields.TypeConverter.
type converter map[schema.GroupVersionKind]typed.ParseableType

// NewTypeConverter makes the converter of the published types in scheme. It is
// safe for concurrent use.
func NewTypeConverter(scheme *runtime.Scheme) (managedfields.TypeConverter, error) {
	c := converter{}
	for gvk := range scheme.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal {
			continue
		}
		name, err := scheme.ToOpenAPIDefinitionName(gvk)
		if err != nil {
			return nil, fmt.Errorf("find the OpenAPI name of %s: %w", gvk, err)
		}
		if t := parser.Type(name); t.IsValid() {
			c[gvk] = t
		}
	}
	return c, nil
}

// ObjectToTyped implements managedfields.TypeConverter.
func (c converter) ObjectToTyped(object runtime.Object, options ...typed.ValidationOptions) (*typed.TypedValue, error) {
	stack.Deep() // who has which fields is found before anything else of ours is called
	gvk := object.GetObjectKind().GroupVersionKind()
	t, ok := c[gvk]
	if !ok {
		return nil, fmt.Errorf("no schema is known of %s", gvk)
	}
	if u, ok := object.(*unstructured.Unstructured); ok {
		return t.FromUnstructured(u.UnstructuredContent(), options...)
	}
	return t.FromStructured(object, options...)
}

// TypedToObject implements managedfields.TypeConverter.
func (c converter) TypedToObject(value *typed.TypedValue) (runtime.Object, error) {
	content, ok := value.AsValue().Unstructured().(map[string]any)
	if !ok {
		return nil, errors.New("an object has to be a map")
	}
	return &unstructured.Unstructured{Object: content}, nil
}
