package inventory

import (
	_ "embed" // document.go itself
	"encoding/json"
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"reflect"
	"strings"

	"github.com/invopop/jsonschema"

	"clusterctl/hostconfig"
)

//go:generate go test . -run TestSchemaIsCurrent -update

// source is where the document's types explain themselves.
//
//go:embed document.go
var source string

// Schema is the JSON schema of an inventory, for editors. Its descriptions are
// the comments of the document's types.
func Schema() ([]byte, error) {
	comments, err := fieldComments()
	if err != nil {
		return nil, err
	}
	reflector := &jsonschema.Reflector{
		Anonymous: true,
		LookupComment: func(of reflect.Type, field string) string {
			return comments[of.Name()+"."+field]
		},
	}
	schema := reflector.Reflect(&Document{})
	schema.Title = "clusterctl inventory"
	raw, err := json.MarshalIndent(schema, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the inventory's schema: %w", err)
	}
	return append(raw, '\n'), nil
}

// fieldComments is the comment of each field of the document, by Type.Field.
func fieldComments() (map[string]string, error) {
	comments := map[string]string{}
	for _, text := range []string{source, hostconfig.SchedulerSource} {
		file, err := parser.ParseFile(token.NewFileSet(), "document.go", text, parser.ParseComments)
		if err != nil {
			return nil, fmt.Errorf("read the document's comments: %w", err)
		}
		addComments(comments, file)
	}
	return comments, nil
}

func addComments(comments map[string]string, file *ast.File) {
	for _, declaration := range file.Decls {
		general, ok := declaration.(*ast.GenDecl)
		if !ok {
			continue
		}
		for _, spec := range general.Specs {
			named, ok := spec.(*ast.TypeSpec)
			if !ok {
				continue
			}
			fields, ok := named.Type.(*ast.StructType)
			if !ok {
				continue
			}
			for _, field := range fields.Fields.List {
				for _, name := range field.Names {
					comments[named.Name.Name+"."+name.Name] = strings.Join(strings.Fields(field.Doc.Text()), " ")
				}
			}
		}
	}
}
