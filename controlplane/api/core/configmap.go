package core

import (
	"context"
	"maps"
	"reflect"
	"slices"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/utils/ptr"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/columns"
)

// whenImmutable is why a sealed config map or secret keeps its data.
const whenImmutable = "field is immutable when `immutable` is set"

func configMapKind() api.Kind {
	return api.Define(api.Definition[*corev1.ConfigMap]{
		GroupVersion: groupVersion, Kind: "ConfigMap", Resource: "configmaps", Singular: "configmap", ShortNames: []string{"cm"},
		New:     func() *corev1.ConfigMap { return &corev1.ConfigMap{} },
		NewList: func() runtime.Object { return &corev1.ConfigMapList{} },

		Default: func(c *corev1.ConfigMap) {
			if c.Data == nil {
				c.Data = map[string]string{}
			}
		},
		Validate: func(_ context.Context, c *corev1.ConfigMap) field.ErrorList { return validateConfigMap(c) },
		ValidateUpdate: func(_ context.Context, c, old *corev1.ConfigMap) field.ErrorList {
			return append(validateSealed(c.Immutable, old.Immutable,
				sealed{"data", reflect.DeepEqual(c.Data, old.Data)}, sealed{"binaryData", reflect.DeepEqual(c.BinaryData, old.BinaryData)}), validateConfigMap(c)...)
		},
		Columns: []metav1.TableColumnDefinition{
			columns.Name(), {Name: "Data", Type: "string", Description: corev1.ConfigMap{}.SwaggerDoc()["data"]}, columns.Age(),
		},
		Row: func(c *corev1.ConfigMap) []any {
			return []any{c.Name, int64(len(c.Data) + len(c.BinaryData)), columns.Since(c.CreationTimestamp.Time)}
		},
	})
}

func validateConfigMap(c *corev1.ConfigMap) field.ErrorList {
	var errs field.ErrorList
	size := 0
	for _, key := range slices.Sorted(maps.Keys(c.Data)) {
		path := field.NewPath("data").Key(key)
		errs = append(errs, invalid(path, key, validation.IsConfigMapKey(key))...)
		if _, twice := c.BinaryData[key]; twice {
			errs = append(errs, field.Invalid(path, key, "duplicate of key present in binaryData"))
		}
		size += len(c.Data[key])
	}
	for _, key := range slices.Sorted(maps.Keys(c.BinaryData)) {
		errs = append(errs, invalid(field.NewPath("binaryData").Key(key), key, validation.IsConfigMapKey(key))...)
		size += len(c.BinaryData[key])
	}
	if size > corev1.MaxSecretSize {
		errs = append(errs, field.TooLong(field.NewPath(""), "", corev1.MaxSecretSize))
	}
	return errs
}

// sealed says whether a field of an immutable object is as it was.
type sealed struct {
	name string
	same bool
}

func validateSealed(now, was *bool, parts ...sealed) field.ErrorList {
	if !ptr.Deref(was, false) {
		return nil
	}
	var errs field.ErrorList
	if !ptr.Deref(now, false) {
		errs = append(errs, field.Forbidden(field.NewPath("immutable"), whenImmutable))
	}
	for _, p := range parts {
		if !p.same {
			errs = append(errs, field.Forbidden(field.NewPath(p.name), whenImmutable))
		}
	}
	return errs
}
