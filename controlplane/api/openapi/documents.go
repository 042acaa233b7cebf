package openapi

import (
	"embed"
	"encoding/json"
	"fmt"
	"sync"
)

//go:embed all:documents
var files embed.FS

// Names of the files; a document's are its name and what follows here.
const (
	ETagsFile      = "documents/etags.json"
	JSONSuffix     = ".json.gz"
	ProtobufSuffix = ".pb.gz"
)

// V2 is the name of the one OpenAPI v2 document.
const V2 = "v2"

// V3 is the name of the OpenAPI v3 document of a path: "api/v1",
// "apis/apps/v1", "version".
func V3(path string) string { return "v3/" + path }

// ETags are the hashes of all documents' JSON, by name.
var ETags = sync.OnceValue(func() map[string]string {
	data, err := files.ReadFile(ETagsFile)
	etags := map[string]string{}
	if err == nil {
		err = json.Unmarshal(data, &etags)
	}
	if err != nil {
		panic(fmt.Sprintf("read embedded %s: %v", ETagsFile, err)) // generated wrongly
	}
	return etags
})

// JSON is the named document, compressed by gzip.
func JSON(name string) ([]byte, error) { return read(name + JSONSuffix) }

// Protobuf is the named document in gnostic's encoding, compressed by gzip.
func Protobuf(name string) ([]byte, error) { return read(name + ProtobufSuffix) }

func read(file string) ([]byte, error) {
	data, err := files.ReadFile("documents/" + file)
	if err != nil {
		return nil, fmt.Errorf("read embedded OpenAPI document: %w", err)
	}
	return data, nil
}
