package apiserver

import (
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"strings"
	"sync"

	"github.com/emicklei/go-restful/v3"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/runtime"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/apiserver/pkg/util/responsewriter"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	"k8s.io/kube-openapi/pkg/builder"
	"k8s.io/kube-openapi/pkg/builder3"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/common"
	"k8s.io/kube-openapi/pkg/common/restfuladapter"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"clusterctl/controlplane/api/openapi"
)

// documents are the OpenAPI specifications of a server. Building them costs
// more memory than everything else at start, and most servers are never asked
// for one, so each is built when it is first asked for.
type documents struct {
	v2 *common.Config

	mu   sync.Mutex // one is built at a time
	v3   *common.OpenAPIV3Config
	left int // v3 documents not built yet
}

// newDocuments names kinds by external, which has no internal versions.
func newDocuments(external *runtime.Scheme) *documents {
	namer := openapinamer.NewDefinitionNamer(external, apiextensions.Scheme, aggregatorscheme.Scheme)
	d := &documents{
		v2: genericapiserver.DefaultOpenAPIConfig(definitions, namer),
		v3: genericapiserver.DefaultOpenAPIV3Config(definitions, namer),
	}
	d.v2.Info.Title, d.v3.Info.Title = "Kubernetes", "Kubernetes"
	d.v2.Info.Version, d.v3.Info.Version = KubernetesVersion, KubernetesVersion
	d.v2.SecurityDefinitions = &spec.SecurityDefinitions{"BearerToken": &spec.SecurityScheme{
		SecuritySchemeProps: spec.SecuritySchemeProps{
			Type: "apiKey", Name: "authorization", In: "header", Description: "Bearer Token authentication",
		},
	}}
	return d
}

// definitions are those of all servers in the chain.
func definitions(ref common.ReferenceCallback) map[string]common.OpenAPIDefinition {
	all := openapi.GetOpenAPIDefinitions(ref)
	maps.Copy(all, apiextensionsopenapi.GetOpenAPIDefinitions(ref))
	maps.Copy(all, aggregatoropenapi.GetOpenAPIDefinitions(ref))
	return all
}

// forget drops the definitions that installing the API groups needed.
func (d *documents) forget() { d.v3.Definitions = nil }

// buildV3 builds the document of one group version. The listing of documents
// names them all by hash, so that they are built in a row: the definitions are
// made for the first and dropped after the last.
func (d *documents) buildV3(service *restful.WebService) (*spec3.OpenAPI, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.v3.Definitions == nil {
		d.v3.Definitions = d.v3.GetDefinitions(func(name string) spec.Ref {
			name, _ = d.v3.GetDefinitionName(name)
			return spec.MustCreateRef("#/components/schemas/" + common.EscapeJsonPointer(name))
		})
	}
	document, err := builder3.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices([]*restful.WebService{service}), d.v3)
	if err != nil {
		return nil, fmt.Errorf("build OpenAPI v3 of %s: %w", service.RootPath(), err)
	}
	if d.left--; d.left == 0 {
		d.forget()
	}
	return document, nil
}

// install serves, among paths, the documents of all that these servers serve by now,
// and of what custom resources and extension API servers there are at any time.
func (d *documents) install(paths *mux.PathRecorderMux, custom customDocuments, remote *remoteDocuments, servers ...*genericapiserver.GenericAPIServer) {
	var services []*restful.WebService
	taken := map[string]bool{} // by the first server that serves it, as requests are (/version)
	for _, server := range servers {
		for _, service := range server.Handler.GoRestfulContainer.RegisteredWebServices() {
			if path := strings.TrimPrefix(service.RootPath(), "/"); !taken[path] {
				taken[path] = true
				services = append(services, service)
			}
		}
	}
	builtIn := cached.Once(cached.Func(func() (*spec.Swagger, string, error) {
		swagger, err := builder.BuildOpenAPISpecFromRoutes(restfuladapter.AdaptWebServices(services), d.v2)
		if err != nil {
			return nil, "", fmt.Errorf("build OpenAPI v2: %w", err)
		}
		swagger.Definitions = handler.PruneDefaults(swagger.Definitions)
		return swagger, "static", nil
	}))
	handler.NewOpenAPIServiceLazy(custom.v2(builtIn)).RegisterOpenAPIVersionedService("/openapi/v2", paths)

	v3 := handler3.NewOpenAPIService()
	d.left = len(services)
	for _, service := range services {
		path := strings.TrimPrefix(service.RootPath(), "/")
		v3.UpdateGroupVersionLazy(path, cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
			document, err := d.buildV3(service)
			return document, "static", err
		})))
	}
	refresh := custom.v3(v3, taken)
	paths.HandleFunc("/openapi/v3", func(w http.ResponseWriter, r *http.Request) {
		refresh()
		if len(remote.available()) == 0 {
			v3.HandleDiscovery(w, r)
			return
		}
		whole := r.Clone(r.Context())
		whole.Header = http.Header{} // whatever version the client may have already
		own := responsewriter.NewInMemoryResponseWriter()
		v3.HandleDiscovery(own, whole)
		var list handler3.OpenAPIV3Discovery
		if err := json.Unmarshal(own.Data(), &list); err != nil || list.Paths == nil {
			http.Error(w, "the list of documents cannot be made", http.StatusInternalServerError)
			return
		}
		remote.add(r.Context(), list.Paths)
		w.Header().Set("Content-Type", "application/json")
		// A client that went away needs no answer.
		_ = json.NewEncoder(w).Encode(list)
	})
	paths.HandlePrefix("/openapi/v3/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if remote.serve(w, r) {
			return
		}
		refresh()
		v3.HandleGroupVersion(w, r)
	}))
}
