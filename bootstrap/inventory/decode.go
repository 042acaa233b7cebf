package inventory

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"reflect"
	"slices"
	"strconv"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decoder reads YAML nodes into a Document by its json tags. It goes on after a
// fault, so that all are found, and remembers the line of every value under a
// path such as hosts[2].ssh.port.
type decoder struct {
	lines  map[string]int
	list   []Fault
	broken bool // there is nothing to check: the file is no YAML mapping
}

func (d *decoder) fault(line int, hint, format string, args ...any) {
	d.list = append(d.list, Fault{Line: max(line, 1), Message: fmt.Sprintf(format, args...), Hint: hint})
}

// at is the line of a path, or of the nearest thing around it that is there.
func (d *decoder) at(path string) int {
	for path != "" {
		if line, ok := d.lines[path]; ok {
			return line
		}
		cut := strings.LastIndexAny(path, ".[")
		if cut < 0 {
			break
		}
		path = path[:cut]
	}
	return 1
}

func (d *decoder) faults(file string) error {
	slices.SortStableFunc(d.list, func(a, b Fault) int { return a.Line - b.Line })
	return &Faults{File: file, List: slices.Compact(d.list)}
}

func (d *decoder) document(raw []byte) Document {
	var document Document
	var root, extra yaml.Node
	reader := yaml.NewDecoder(bytes.NewReader(raw))
	if err := reader.Decode(&root); err != nil {
		d.broken = true
		if errors.Is(err, io.EOF) {
			d.fault(1, "start with apiVersion: "+APIVersion, "the file is empty")
		} else {
			line, message := yamlError(err)
			d.fault(line, "", "not YAML: %s", message)
		}
		return document
	}
	content := &root
	if root.Kind == yaml.DocumentNode && len(root.Content) > 0 {
		content = root.Content[0]
	}
	if content.Kind != yaml.MappingNode {
		d.broken = true
		d.fault(content.Line, "start with apiVersion: "+APIVersion, "an inventory is a mapping of keys, not %s", kindName(content))
		return document
	}
	if err := reader.Decode(&extra); err == nil {
		d.fault(extra.Line, "put it into a file of its own", "a second document")
	} else if !errors.Is(err, io.EOF) {
		line, message := yamlError(err)
		d.fault(line, "", "not YAML: %s", message)
	}
	d.value("", content, reflect.ValueOf(&document).Elem())
	return document
}

// value decodes node into target, which is settable.
func (d *decoder) value(path string, node *yaml.Node, target reflect.Value) {
	if _, known := d.lines[path]; !known && path != "" {
		d.lines[path] = node.Line
	}
	if node.Kind == yaml.AliasNode {
		node = node.Alias
	}
	if node.Kind == yaml.ScalarNode && node.Tag == "!!null" {
		return // left empty: the same as left out
	}
	switch target.Kind() {
	case reflect.Pointer:
		fresh := reflect.New(target.Type().Elem())
		d.value(path, node, fresh.Elem())
		target.Set(fresh)
	case reflect.Struct:
		d.mapping(path, node, func(key *yaml.Node, below string, value *yaml.Node) {
			field, ok := field(target, key.Value)
			if !ok {
				d.fault(key.Line, suggestion(key.Value, keys(target.Type())), "unknown key %q%s", key.Value, inside(path))
				return
			}
			d.value(below, value, field)
		})
	case reflect.Map:
		target.Set(reflect.MakeMap(target.Type()))
		d.mapping(path, node, func(key *yaml.Node, below string, value *yaml.Node) {
			fresh := reflect.New(target.Type().Elem()).Elem()
			d.value(below, value, fresh)
			target.SetMapIndex(reflect.ValueOf(key.Value), fresh)
		})
	case reflect.Slice:
		if node.Kind != yaml.SequenceNode {
			d.fault(node.Line, fmt.Sprintf("write [%s], or one entry a line after \"- \"", short(node)), "%s is a list, not %s", path, kindName(node))
			return
		}
		list := reflect.MakeSlice(target.Type(), len(node.Content), len(node.Content))
		for i, entry := range node.Content {
			d.value(fmt.Sprintf("%s[%d]", path, i), entry, list.Index(i))
		}
		target.Set(list)
	default:
		d.scalar(path, node, target)
	}
}

func (d *decoder) mapping(path string, node *yaml.Node, each func(key *yaml.Node, below string, value *yaml.Node)) {
	if node.Kind != yaml.MappingNode {
		d.fault(node.Line, "write its keys below it, each indented", "%s is a mapping of keys, not %s", path, kindName(node))
		return
	}
	seen := map[string]int{}
	for i := 0; i+1 < len(node.Content); i += 2 {
		key, value := node.Content[i], node.Content[i+1]
		if key.Kind != yaml.ScalarNode {
			d.fault(key.Line, "", "a key%s is %s", inside(path), kindName(key))
			continue
		}
		if key.Tag == "!!merge" {
			d.fault(key.Line, "put what hosts share into groups or defaults", "<< is not supported")
			continue
		}
		if first, ok := seen[key.Value]; ok {
			d.fault(key.Line, "keep one of them", "key %q%s was given on line %d already", key.Value, inside(path), first)
			continue
		}
		seen[key.Value] = key.Line
		below := key.Value
		if path != "" {
			below = path + "." + key.Value
		}
		d.lines[below] = key.Line
		each(key, below, value)
	}
}

func (d *decoder) scalar(path string, node *yaml.Node, target reflect.Value) {
	if node.Kind != yaml.ScalarNode {
		d.fault(node.Line, "", "%s is a single value, not %s", path, kindName(node))
		return
	}
	switch target.Kind() {
	case reflect.String:
		target.SetString(node.Value)
	case reflect.Int:
		n, err := strconv.Atoi(node.Value)
		if err != nil {
			d.fault(node.Line, "write it in digits", "%s is a number, not %q", path, node.Value)
			return
		}
		target.SetInt(int64(n))
	case reflect.Bool:
		switch node.Value {
		case "true", "false":
			target.SetBool(node.Value == "true")
		default:
			d.fault(node.Line, "write true or false", "%s is true or false, not %q", path, node.Value)
		}
	default:
		panic(fmt.Sprintf("inventory: a document field is a %s", target.Kind()))
	}
}

// field finds the field for a key, also in embedded structs.
func field(of reflect.Value, key string) (reflect.Value, bool) {
	for i := range of.NumField() {
		info := of.Type().Field(i)
		if info.Anonymous {
			if found, ok := field(of.Field(i), key); ok {
				return found, true
			}
		} else if jsonName(info) == key {
			return of.Field(i), true
		}
	}
	return reflect.Value{}, false
}

func keys(of reflect.Type) []string {
	var names []string
	for i := range of.NumField() {
		if info := of.Field(i); info.Anonymous {
			names = append(names, keys(info.Type)...)
		} else {
			names = append(names, jsonName(info))
		}
	}
	return names
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

func inside(path string) string {
	if path == "" {
		return ""
	}
	return " in " + path
}

func kindName(node *yaml.Node) string {
	switch node.Kind {
	case yaml.MappingNode:
		return "a mapping"
	case yaml.SequenceNode:
		return "a list"
	case yaml.AliasNode:
		return "an alias"
	}
	return fmt.Sprintf("%q", short(node))
}

func short(node *yaml.Node) string {
	if node.Kind != yaml.ScalarNode {
		return "…"
	}
	if value := []rune(node.Value); len(value) > 40 {
		return string(value[:40]) + "…"
	}
	return node.Value
}

// yamlError takes the line out of the library's "yaml: line 3: …".
func yamlError(err error) (line int, message string) {
	message = strings.TrimPrefix(err.Error(), "yaml: ")
	if rest, ok := strings.CutPrefix(message, "line "); ok {
		if number, text, ok := strings.Cut(rest, ": "); ok {
			if n, err := strconv.Atoi(number); err == nil {
				return n, text
			}
		}
	}
	return 1, message
}
