package inventory

import (
	"bytes"
	"encoding/json"
	"flag"
	"os"
	"path/filepath"
	"testing"
)

var update = flag.Bool("update", false, "rewrite generated files")

// TestSchemaIsCurrent keeps docs/inventory.schema.json what the types say;
// `go test ./bootstrap/inventory -run Schema -update` writes it.
func TestSchemaIsCurrent(t *testing.T) {
	schema, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join("..", "..", "docs", "inventory.schema.json")
	if *update {
		if err := os.WriteFile(path, schema, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	committed, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(schema, committed) {
		t.Errorf("%s is stale: go test ./bootstrap/inventory -run Schema -update", path)
	}
}

func TestSchemaExplainsEveryKey(t *testing.T) {
	raw, err := Schema()
	if err != nil {
		t.Fatal(err)
	}
	var schema struct {
		Defs map[string]struct {
			AdditionalProperties *bool
			Properties           map[string]struct{ Description string }
		} `json:"$defs"`
	}
	if err := json.Unmarshal(raw, &schema); err != nil {
		t.Fatal(err)
	}
	if len(schema.Defs["HostEntry"].Properties) < 8 {
		t.Errorf("a host has these keys: %v", schema.Defs["HostEntry"].Properties)
	}
	for name, def := range schema.Defs {
		if def.AdditionalProperties == nil || *def.AdditionalProperties {
			t.Errorf("%s takes unknown keys, which Parse refuses", name)
		}
		for key, property := range def.Properties {
			if property.Description == "" {
				t.Errorf("%s of %s is not explained", key, name)
			}
		}
	}
}
