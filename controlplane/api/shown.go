package api

import (
	"bytes"
	"encoding/json"
	"reflect"
	"strings"

	"k8s.io/apimachinery/pkg/util/validation/field"
)

// Show has errors print the objects in them as users of Kubernetes know them:
// with every field, under its Go name. (Kubernetes validates types of its own,
// which have no names for JSON.)
func Show(errs field.ErrorList) field.ErrorList {
	for _, err := range errs {
		if err.BadValue != nil && holdsObject(reflect.TypeOf(err.BadValue)) {
			err.BadValue = shown{reflect.ValueOf(err.BadValue)}
		}
	}
	return errs
}

// Shown marshals to JSON as Show prints objects.
func Shown(object any) json.Marshaler { return shown{reflect.ValueOf(object)} }

// holdsObject reports whether a value of type t is printed from API types.
func holdsObject(t reflect.Type) bool {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice, reflect.Array, reflect.Map:
		return holdsObject(t.Elem())
	case reflect.Struct:
		return strings.HasPrefix(t.PkgPath(), "k8s.io/api/")
	}
	return false
}

// shown marshals API types by their fields' Go names, and all others as they
// do themselves.
type shown struct{ v reflect.Value }

func (s shown) MarshalJSON() ([]byte, error) {
	v := s.v
	switch {
	case !holdsObject(v.Type()), (v.Kind() == reflect.Pointer || v.Kind() == reflect.Slice || v.Kind() == reflect.Map) && v.IsNil():
		return json.Marshal(v.Interface())
	case v.Kind() == reflect.Pointer:
		return shown{v.Elem()}.MarshalJSON()
	case v.Kind() == reflect.Slice || v.Kind() == reflect.Array:
		items := make([]shown, v.Len())
		for i := range items {
			items[i] = shown{v.Index(i)}
		}
		return json.Marshal(items)
	case v.Kind() == reflect.Map:
		items := map[string]shown{}
		for key, value := range v.Seq2() {
			items[key.String()] = shown{value}
		}
		return json.Marshal(items)
	}
	return marshalFields(shownFields(v))
}

func marshalFields(list []shownField) ([]byte, error) {
	var fields [][]byte
	for _, f := range list {
		value, err := shown{f.value}.MarshalJSON()
		if err != nil {
			return nil, err
		}
		if len(f.prefix) > 0 {
			before, err := marshalFields(f.prefix)
			if err != nil {
				return nil, err
			}
			value = append(append(bytes.TrimSuffix(before, []byte("}")), ','), bytes.TrimPrefix(value, []byte("{"))...)
		}
		if f.embedded {
			// Its fields are the outer object's.
			if value = bytes.TrimSuffix(bytes.TrimPrefix(value, []byte("{")), []byte("}")); len(value) > 0 {
				fields = append(fields, value)
			}
			continue
		}
		fields = append(fields, append([]byte(`"`+f.name+`":`), value...))
	}
	return append(append([]byte("{"), bytes.Join(fields, []byte(","))...), '}'), nil
}
