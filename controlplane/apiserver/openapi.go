package apiserver

import (
	"bytes"
	"compress/gzip"
	"crypto/sha512"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	"github.com/emicklei/go-restful/v3"
	"github.com/munnerz/goautoneg"
	"k8s.io/apiserver/pkg/server/mux"
	"k8s.io/kube-openapi/pkg/handler3"

	"clusterctl/controlplane/api/openapi"
	"clusterctl/hostconfig"
)

// documents serve OpenAPI: the built-in documents as they were made ahead of
// time, those of custom resources and extension API servers when somebody asks.
type documents struct {
	custom *customDocuments
	remote *remoteDocuments
	logger *slog.Logger
	since  time.Time

	mu     sync.Mutex
	merged document // v2, of all that there is
}

// document is one OpenAPI document. Its forms are compressed by gzip.
type document struct {
	etag     string
	json     func() ([]byte, error)
	protobuf func() ([]byte, error)
}

// builtIn is a document that was made ahead of time.
func builtIn(name string) (document, bool) {
	etag, ok := openapi.ETags()[name]
	return document{
		etag:     etag,
		json:     func() ([]byte, error) { return openapi.JSON(name) },
		protobuf: func() ([]byte, error) { return openapi.Protobuf(name) },
	}, ok
}

// made is a document that is built, and encoded by toProtobuf, when it is first
// asked for.
func made(etag string, build func() (json.Marshaler, error), toProtobuf func([]byte) ([]byte, error)) document {
	d := document{etag: etag}
	d.json = sync.OnceValues(func() ([]byte, error) {
		built, err := build()
		if err != nil {
			return nil, err
		}
		data, err := built.MarshalJSON()
		if err != nil {
			return nil, fmt.Errorf("encode OpenAPI document: %w", err)
		}
		return compress(data)
	})
	d.protobuf = sync.OnceValues(func() ([]byte, error) {
		data, err := d.json()
		if err == nil {
			data, err = expand(data)
		}
		if err == nil {
			data, err = toProtobuf(data)
		}
		if err != nil {
			return nil, fmt.Errorf("encode OpenAPI document as protobuf: %w", err)
		}
		return compress(data)
	})
	return d
}

// hash is the etag of what is made of these sources by this version.
func hash(sources ...string) string {
	return fmt.Sprintf("%X", sha512.Sum512([]byte(hostconfig.KubernetesVersion+"\n"+strings.Join(sources, "\n"))))
}

func compress(data []byte) ([]byte, error) {
	var buffer bytes.Buffer
	writer := gzip.NewWriter(&buffer)
	if _, err := writer.Write(data); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	if err := writer.Close(); err != nil {
		return nil, fmt.Errorf("compress: %w", err)
	}
	return buffer.Bytes(), nil
}

func expand(data []byte) ([]byte, error) {
	reader, err := gzip.NewReader(bytes.NewReader(data))
	if err == nil {
		data, err = io.ReadAll(reader)
	}
	if err != nil {
		return nil, fmt.Errorf("expand: %w", err)
	}
	return data, nil
}

func (d *documents) install(paths *mux.PathRecorderMux) {
	d.since = time.Now()
	paths.HandleFunc("/openapi/v2", func(w http.ResponseWriter, r *http.Request) {
		document, err := d.v2(r.Context())
		if err != nil {
			d.fail(w, err)
			return
		}
		d.serve(w, r, document, "com.github.proto-openapi.spec.v2")
	})
	paths.HandleFunc("/openapi/v3", d.list)
	paths.HandlePrefix("/openapi/v3/", http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path := strings.TrimPrefix(r.URL.Path, "/openapi/v3/")
		// An extension API server may have taken the place of metrics.
		if d.remote.serve(w, r) {
			return
		}
		found, ok := builtIn(openapi.V3(path))
		if !ok {
			found, ok = d.custom.v3()[path]
		}
		if !ok {
			http.NotFound(w, r)
			return
		}
		if asked := r.URL.Query().Get("hash"); asked != "" {
			if asked != found.etag {
				http.Redirect(w, r, address(path, found.etag), http.StatusMovedPermanently)
				return
			}
			w.Header().Set("Cache-Control", "public, immutable")
			w.Header().Set("Expires", time.Now().AddDate(1, 0, 0).Format(time.RFC1123))
		}
		d.serve(w, r, found, "com.github.proto-openapi.spec.v3")
	}))
}

// address is where the v3 document of path stands, in the version of etag.
func address(path, etag string) string {
	return (&url.URL{Path: "/openapi/v3/" + path, RawQuery: url.Values{"hash": {etag}}.Encode()}).String()
}

// list tells of all v3 documents.
func (d *documents) list(w http.ResponseWriter, r *http.Request) {
	all := map[string]handler3.OpenAPIV3DiscoveryGroupVersion{}
	for path, document := range d.custom.v3() {
		all[path] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: address(path, document.etag)}
	}
	for name, etag := range openapi.ETags() {
		if path, ok := strings.CutPrefix(name, openapi.V3("")); ok {
			all[path] = handler3.OpenAPIV3DiscoveryGroupVersion{ServerRelativeURL: address(path, etag)}
		}
	}
	d.remote.add(r.Context(), all)
	data, err := json.Marshal(handler3.OpenAPIV3Discovery{Paths: all})
	if err != nil {
		d.fail(w, err)
		return
	}
	w.Header().Set("Etag", `"`+fmt.Sprintf("%X", sha512.Sum512(data))+`"`)
	w.Header().Set("Content-Type", "application/json")
	http.ServeContent(w, r, "", d.since, bytes.NewReader(data))
}

// serve answers with the form of document that the client likes best; kind
// names the schema of the protobuf form. Most clients take it compressed.
func (d *documents) serve(w http.ResponseWriter, r *http.Request, document document, kind string) {
	w.Header().Add("Vary", "Accept")
	w.Header().Add("Vary", "Accept-Encoding")
	form, contentType := choose(r.Header.Get("Accept"), document, kind)
	if form == nil {
		w.WriteHeader(http.StatusNotAcceptable)
		return
	}
	data, err := form()
	if err == nil && !acceptsGzip(r.Header.Values("Accept-Encoding")) {
		data, err = expand(data)
	} else if err == nil {
		w.Header().Set("Content-Encoding", "gzip")
	}
	if err != nil {
		d.fail(w, err)
		return
	}
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Etag", `"`+document.etag+`"`)
	http.ServeContent(w, r, "", d.since, bytes.NewReader(data))
}

// choose finds the first form that accept wants, and its content type.
func choose(accept string, document document, kind string) (form func() ([]byte, error), contentType string) {
	if accept == "" {
		accept = "*/*"
	}
	current := kind + ".v1.0+protobuf"
	for _, clause := range goautoneg.ParseAccept(accept) {
		if clause.Type != "application" && clause.Type != "*" {
			continue
		}
		switch clause.SubType {
		case "json", "*":
			return document.json, "application/json"
		case current, kind + "@v1.0+protobuf":
			return document.protobuf, "application/" + current
		}
	}
	return nil, ""
}

// acceptsGzip reports whether a client reads gzip, by its Accept-Encoding.
func acceptsGzip(headers []string) bool {
	for _, coding := range strings.Split(strings.Join(headers, ","), ",") {
		name, quality, _ := strings.Cut(strings.ReplaceAll(coding, " ", ""), ";")
		if strings.EqualFold(name, "gzip") {
			return strings.Trim(strings.TrimPrefix(quality, "q="), "0.") != "" || quality == ""
		}
	}
	return false
}

func (d *documents) fail(w http.ResponseWriter, err error) {
	d.logger.Error("An OpenAPI document cannot be served", "error", err)
	http.Error(w, "the OpenAPI document cannot be made: "+err.Error(), http.StatusServiceUnavailable)
}

// WebServices are the routes that this server itself serves, those of custom
// resources apart; where two servers of the chain have a path, the first one's.
func (s *Server) WebServices() []*restful.WebService {
	var services []*restful.WebService
	taken := map[string]bool{}
	for _, server := range s.chain {
		for _, service := range server.Handler.GoRestfulContainer.RegisteredWebServices() {
			if path := service.RootPath(); !taken[path] {
				taken[service.RootPath()] = true
				services = append(services, service)
			}
		}
	}
	return services
}
