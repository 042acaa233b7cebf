package generate

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"maps"
	"strings"

	"github.com/emicklei/go-restful/v3"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"clusterctl/controlplane/api/openapi"
)

// definitions are those of all servers in the chain.
func definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	all := GetOpenAPIDefinitions(ref)
	maps.Copy(all, apiextensionsopenapi.GetOpenAPIDefinitions(ref))
	maps.Copy(all, aggregatoropenapi.GetOpenAPIDefinitions(ref))
	return all
}

// Maker builds documents and types.
type Maker struct {
	v2 *common.Config
	v3 *common.OpenAPIV3Config
}

// NewMaker names kinds by external, which has no internal versions, and puts
// version into the documents.
func NewMaker(external *runtime.Scheme, version string) *Maker {
	namer := openapinamer.NewDefinitionNamer(external, apiextensions.Scheme, aggregatorscheme.Scheme)
	m := &Maker{
		v2: genericapiserver.DefaultOpenAPIConfig(definitions, namer),
		v3: genericapiserver.DefaultOpenAPIV3Config(definitions, namer),
	}
	m.v2.Info.Title, m.v3.Info.Title = "Kubernetes", "Kubernetes"
	m.v2.Info.Version, m.v3.Info.Version = version, version
	const scheme = "BearerToken"
	bearer := &spec.SecurityScheme{SecuritySchemeProps: spec.SecuritySchemeProps{
		Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
	}}
	m.v2.SecurityDefinitions = &spec.SecurityDefinitions{scheme: bearer}
	m.v2.DefaultSecurity = []map[string][]string{{scheme: {}}}
	m.v2.CommonResponses = map[int]spec.Response{401: {ResponseProps: spec.ResponseProps{Description: "Unauthorized"}}}
	return m
}

// Documents are the JSON of all documents of services, by name.
func (m *Maker) Documents(services []*restful.WebService) (map[string][]byte, error) {
	swagger, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), m.v2)
	if err != nil {
		return nil, fmt.Errorf("build OpenAPI v2: %w", err)
	}
	swagger.Definitions = handler.PruneDefaults(swagger.Definitions)
	all := map[string][]byte{}
	if all[openapi.V2], err = swagger.MarshalJSON(); err != nil {
		return nil, fmt.Errorf("encode OpenAPI v2: %w", err)
	}
	for _, service := range services {
		name := openapi.V3(strings.TrimPrefix(service.RootPath(), "/"))
		document, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{service}), m.v3)
		if err != nil {
			return nil, fmt.Errorf("build OpenAPI %s: %w", name, err)
		}
		if all[name], err = json.Marshal(document); err != nil {
			return nil, fmt.Errorf("encode OpenAPI %s: %w", name, err)
		}
	}
	return all, nil
}

// ETag is what a document's JSON is known by.
func ETag(data []byte) string { return fmt.Sprintf("%X", sha512.Sum512(data)) }

// Files are what package openapi embeds of these documents, by path below its
// directory.
func Files(documents map[string][]byte) (map[string][]byte, error) {
	files, etags := map[string][]byte{}, map[string]string{}
	for name, data := range documents {
		encode := handler3.ToV3ProtoBinary
		if name == openapi.V2 {
			encode = handler.ToProtoBinary
		}
		encoded, err := encode(data)
		if err != nil {
			return nil, fmt.Errorf("encode %s: %w", name, err)
		}
		etags[name] = ETag(data)
		for suffix, content := range map[string][]byte{openapi.JSONSuffix: data, openapi.ProtobufSuffix: encoded} {
			if files["documents/"+name+suffix], err = compress(content); err != nil {
				return nil, err
			}
		}
	}
	list, err := json.MarshalIndent(etags, "", "\t")
	if err != nil {
		return nil, fmt.Errorf("encode hashes: %w", err)
	}
	files[openapi.ETagsFile] = append(list, '\n')
	return files, nil
}

func compress(data []byte) ([]byte, error) {
	var buffer bytes.Buffer
	writer, err := gzip.NewWriterLevel(&buffer, gzip.BestCompression)
	if err == nil {
		_, err = writer.Write(data)
	}
	if err == nil {
		err = writer.Close()
	}
	if err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return buffer.Bytes(), nil
}
