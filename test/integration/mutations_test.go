package integration

import (
	"encoding/json"
	"fmt"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// mutation puts an odd value, or none, at one place of an object.
type mutation struct {
	path  string // JSON pointer
	value any    // absent{} removes what is there
}

type absent struct{}

func (m mutation) String() string {
	if m.value == (absent{}) {
		return m.path + " -"
	}
	value, err := json.Marshal(m.value)
	if err != nil {
		panic(err)
	}
	return m.path + " " + string(value)
}

// parseMutation reads what String wrote.
func parseMutation(text string) (mutation, error) {
	path, value, _ := strings.Cut(text, " ")
	m := mutation{path: path, value: absent{}}
	if value != "-" {
		if err := json.Unmarshal([]byte(value), &m.value); err != nil {
			return m, fmt.Errorf("parse the value of %s: %w", path, err)
		}
	}
	return m, nil
}

var pointer = strings.NewReplacer("~", "~0", "/", "~1")
var unpointer = strings.NewReplacer("~1", "/", "~0", "~")

// apply changes object, and reports whether the place was there.
func (m mutation) apply(object map[string]any) bool {
	keys := strings.Split(m.path, "/")[1:]
	_, ok := m.set(object, keys)
	return ok
}

func (m mutation) set(at any, keys []string) (any, bool) {
	if len(keys) == 0 {
		return m.value, true
	}
	switch at := at.(type) {
	case map[string]any:
		key := unpointer.Replace(keys[0])
		if len(keys) == 1 && m.value == (absent{}) {
			_, ok := at[key]
			delete(at, key)
			return at, ok
		}
		inner, ok := at[key]
		if !ok && len(keys) > 1 {
			return at, false
		}
		at[key], ok = m.set(inner, keys[1:])
		return at, ok
	case []any:
		i, err := strconv.Atoi(keys[0])
		if keys[0] == "-" {
			return append(at, m.value), true
		}
		if err != nil || i >= len(at) {
			return at, false
		}
		if len(keys) == 1 && m.value == (absent{}) {
			return slices.Delete(at, i, i+1), true
		}
		var ok bool
		at[i], ok = m.set(at[i], keys[1:])
		return at, ok
	}
	return at, false
}

const odd = "Odd Value!"

var long = strings.Repeat("x", 300)

// mutate lists mutations of value, which is of Go type t and lies at path:
// every field there is, and could be, gets values that its type can hold.
func mutate(t reflect.Type, value any, path string) []mutation {
	var list []mutation
	put := func(values ...any) {
		for _, v := range values {
			list = append(list, mutation{path, v})
		}
	}
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[resource.Quantity]():
		put(absent{}, "-1", "0", "1500m", "3", "12345678901234567890")
		return list
	case reflect.TypeFor[intstr.IntOrString]():
		put(absent{}, -1, 0, 70000, "150%", "-5%", "0%", odd, "")
		return list
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		put(absent{}, nil, "1999-01-01T00:00:00Z")
		return list
	case reflect.TypeFor[runtime.RawExtension]():
		put(absent{}, map[string]any{}, map[string]any{"a": odd})
		return list
	}
	switch t.Kind() {
	case reflect.String:
		put(absent{}, "", odd, "-x", "a/b", "UP", long)
	case reflect.Int, reflect.Int32, reflect.Int64, reflect.Float64, reflect.Uint8:
		put(absent{}, -1, 0, 1, 101, 70000, 2000000000)
	case reflect.Bool:
		put(absent{}, true, false)
	case reflect.Slice:
		if t.Elem().Kind() == reflect.Uint8 {
			put(absent{}, "", "AAAA")
			return list
		}
		items, _ := value.([]any)
		if len(items) == 0 {
			put([]any{}, []any{zero(t.Elem())})
			for _, v := range someValues(t.Elem()) {
				put([]any{v})
			}
			return list
		}
		put(absent{}, []any{})
		list = append(list, mutation{path + "/-", zero(t.Elem())}, mutation{path + "/-", items[0]})
		for i, item := range items {
			list = append(list, mutate(t.Elem(), item, path+"/"+strconv.Itoa(i))...)
		}
	case reflect.Map:
		items, _ := value.(map[string]any)
		put(absent{}, map[string]any{})
		for _, v := range someValues(t.Elem())[:1] {
			put(map[string]any{odd: v}, map[string]any{"a": v}, map[string]any{"": v})
		}
		if t.Elem().Kind() == reflect.String {
			put(map[string]any{"a": odd}, map[string]any{"a.example.com/b/c": ""}, map[string]any{long: ""}, map[string]any{"a": long})
		}
		if t.Elem() == reflect.TypeFor[resource.Quantity]() {
			put(map[string]any{"cpu": "-1"}, map[string]any{odd: "1"}, map[string]any{"example.com/x": "1500m"}, map[string]any{"plain": "1"}, map[string]any{"memory": "1m", "storage": "0"}, map[string]any{"hugepages-2Mi": "3Mi"}, map[string]any{"kubernetes.io/x": "1"})
		}
		for _, key := range sortedKeys(items) {
			list = append(list, mutate(t.Elem(), items[key], path+"/"+pointer.Replace(key))...)
		}
	case reflect.Struct:
		items, _ := value.(map[string]any)
		put(absent{})
		if path != "" {
			put(map[string]any{})
		}
		for name, f := range fieldsOf(t) {
			inner, there := items[name]
			if there {
				list = append(list, mutate(f, inner, path+"/"+name)...)
				continue
			}
			for _, m := range shallow(f) {
				list = append(list, mutation{path + "/" + name, m})
			}
		}
	}
	return list
}

// fieldsOf yields the names and types of a struct's fields as JSON has them.
func fieldsOf(t reflect.Type) func(func(string, reflect.Type) bool) {
	return func(yield func(string, reflect.Type) bool) {
		for i := range t.NumField() {
			name, options, _ := strings.Cut(t.Field(i).Tag.Get("json"), ",")
			if name == "" && (strings.Contains(options, "inline") || t.Field(i).Anonymous) {
				for name, inner := range fieldsOf(t.Field(i).Type) {
					if !yield(name, inner) {
						return
					}
				}
				continue
			}
			if name != "" && name != "-" && !yield(name, t.Field(i).Type) {
				return
			}
		}
	}
}

// shallow are values for a field that the object does not have.
func shallow(t reflect.Type) []any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	var values []any
	for _, m := range mutate(scalar(t), nil, "") {
		if m.value != (absent{}) && m.path == "" {
			values = append(values, m.value)
		}
	}
	if t.Kind() != reflect.Struct || len(values) > 0 {
		return values
	}
	values = append(values, map[string]any{})
	for name, f := range fieldsOf(t) {
		for f.Kind() == reflect.Pointer {
			f = f.Elem()
		}
		if f.Kind() == reflect.Struct {
			values = append(values, map[string]any{name: zero(f)})
			continue
		}
		for _, m := range mutate(scalar(f), nil, "") {
			if m.value != (absent{}) && m.path == "" {
				values = append(values, map[string]any{name: m.value})
			}
		}
	}
	return values
}

// someValues are up to three values that a field of type t can hold, at least one.
func someValues(t reflect.Type) []any {
	values := []any{zero(t)}
	for _, m := range mutate(scalar(t), nil, "") {
		if m.value != (absent{}) && m.path == "" && len(values) < 3 && !reflect.DeepEqual(m.value, values[0]) {
			values = append(values, m.value)
		}
	}
	return values
}

// scalar is t unless it is a struct whose fields JSON shows: mutate would walk
// into what is not there, for ever in types that hold themselves.
func scalar(t reflect.Type) reflect.Type {
	switch t {
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[intstr.IntOrString](), reflect.TypeFor[metav1.Time](),
		reflect.TypeFor[metav1.MicroTime](), reflect.TypeFor[runtime.RawExtension]():
		return t
	}
	switch {
	case t.Kind() == reflect.Struct:
		return reflect.TypeFor[struct{}]()
	case t.Kind() == reflect.Slice && t.Elem().Kind() == reflect.Struct, t.Kind() == reflect.Map && t.Elem().Kind() == reflect.Struct:
		return reflect.TypeFor[[]struct{}]()
	}
	return t
}

// zero is the least value of a type.
func zero(t reflect.Type) any {
	for t.Kind() == reflect.Pointer {
		t = t.Elem()
	}
	switch t {
	case reflect.TypeFor[resource.Quantity](), reflect.TypeFor[intstr.IntOrString]():
		return "0"
	case reflect.TypeFor[metav1.Time](), reflect.TypeFor[metav1.MicroTime]():
		return nil
	}
	switch t.Kind() {
	case reflect.String:
		return ""
	case reflect.Bool:
		return false
	case reflect.Slice:
		return []any{}
	case reflect.Map, reflect.Struct:
		return map[string]any{}
	}
	return 0
}

// mutations are all those of an object of type t, without those of the parts
// that the API server's library keeps for every kind.
func mutations(t reflect.Type, object map[string]any, part string) []mutation {
	var list []mutation
	for name, f := range fieldsOf(t) {
		inner, there := object[name]
		switch {
		case name == "kind" || name == "apiVersion" || name == "metadata" || (name == "status") != (part == "status"):
		case there:
			list = append(list, mutate(f, inner, "/"+name)...)
		default:
			for _, v := range shallow(f) {
				list = append(list, mutation{"/" + name, v})
			}
		}
	}
	if part == "status" {
		return list
	}
	return append(list, []mutation{
		{"/metadata/name", odd}, {"/metadata/name", "UP"}, {"/metadata/name", long}, {"/metadata/name", absent{}}, {"/metadata/name", "a.b"}, {"/metadata/name", "a:b"}, {"/metadata/name", "10.0.0.1"},
		{"/metadata/namespace", "other"},
		{"/metadata/labels", map[string]any{odd: odd}},
		{"/metadata/annotations", map[string]any{odd: odd}},
		{"/metadata/finalizers", []any{"plain", odd}},
		{"/metadata/ownerReferences", []any{map[string]any{"apiVersion": "v1", "kind": "Pod", "name": "", "uid": ""}}},
		{"/metadata/uid", "other"},
		{"/metadata/resourceVersion", "1"},
		{"/metadata/generation", -1},
	}...)
}
