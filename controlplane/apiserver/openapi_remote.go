package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/labels"
	clientrest "k8s.io/client-go/rest"
	"k8s.io/client-go/transport"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationhelper "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	apiregistrationlisters "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/kube-openapi/pkg/handler3"

	"clusterctl/hostconfig"
)

// remoteDocuments are the OpenAPI specifications of extension API servers,
// asked for when somebody asks this server.
type remoteDocuments struct {
	services apiregistrationlisters.APIServiceLister
	resolver *serviceResolver
	pki      hostconfig.PKI
	logger   *slog.Logger

	mu    sync.Mutex
	known map[string]remoteV2 // what each path's server said last
}

// remoteV2 is the OpenAPI v2 document of the server of a path, as JSON
// compressed by gzip. It may speak of other paths too.
type remoteV2 struct {
	path, etag string
	json       []byte
}

func (s *Server) remoteDocuments(aggregator *aggregator.APIAggregator) *remoteDocuments {
	return &remoteDocuments{
		services: aggregator.APIRegistrationInformers.Apiregistration().V1().APIServices().Lister(),
		resolver: s.services,
		pki:      hostconfig.PKI(s.config.PKIDir),
		logger:   s.logger,
	}
}

// remoteAsker is who extension API servers see asking, as with Kubernetes.
const remoteAsker = "system:aggregator"

// remotePatience bounds how long an extension API server may hold up the list
// of documents.
const remotePatience = 3 * time.Second

// path is where the document of a group and version stands.
func (r *remoteDocuments) path(service *apiregistrationv1.APIService) string {
	return "apis/" + service.Spec.Group + "/" + service.Spec.Version
}

// available are the services of extension API servers that answer.
func (r *remoteDocuments) available() []*apiregistrationv1.APIService {
	// The cache's own lister cannot fail.
	all, _ := r.services.List(labels.Everything())
	var found []*apiregistrationv1.APIService
	for _, service := range all {
		if service.Spec.Service != nil && apiregistrationhelper.IsAPIServiceConditionTrue(service, apiregistrationv1.Available) {
			found = append(found, service)
		}
	}
	return found
}

// reach returns where the service listens, and the transport that is known to
// it as the front proxy.
func (r *remoteDocuments) reach(service *apiregistrationv1.APIService) (*url.URL, http.RoundTripper, error) {
	backend := service.Spec.Service
	port := int32(443)
	if backend.Port != nil {
		port = *backend.Port
	}
	base, err := r.resolver.ResolveEndpoint(backend.Namespace, backend.Name, port)
	if err != nil {
		return nil, nil, err
	}
	tls := clientrest.TLSClientConfig{
		CertFile: r.pki.Cert(hostconfig.PairFrontProxy), KeyFile: r.pki.Key(hostconfig.PairFrontProxy),
		Insecure: service.Spec.InsecureSkipTLSVerify, CAData: service.Spec.CABundle,
		ServerName: backend.Name + "." + backend.Namespace + ".svc",
	}
	base.Scheme = "https"
	plain, err := clientrest.TransportFor(&clientrest.Config{Host: base.String(), TLSClientConfig: tls})
	if err != nil {
		return nil, nil, err
	}
	return base, transport.NewAuthProxyRoundTripper(remoteAsker, "", nil, nil, plain), nil
}

// add puts the documents of all extension API servers into paths. Those that do
// not tell in time are left out, and logged.
func (r *remoteDocuments) add(ctx context.Context, paths map[string]handler3.OpenAPIV3DiscoveryGroupVersion) {
	ctx, cancel := context.WithTimeout(ctx, remotePatience)
	defer cancel()
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, service := range r.available() {
		group.Go(func() {
			entry, ok, err := r.entry(ctx, service)
			if err != nil {
				r.logger.Warn("An extension API server does not tell its OpenAPI documents", "apiservice", service.Name, "error", err)
			}
			if ok {
				mu.Lock()
				defer mu.Unlock()
				paths[r.path(service)] = entry
			}
		})
	}
	group.Wait()
}

// ask gets path from the server of service.
func (r *remoteDocuments) ask(ctx context.Context, service *apiregistrationv1.APIService, path string, header http.Header) (*http.Response, error) {
	base, known, err := r.reach(service)
	if err != nil {
		return nil, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath(path).String(), nil)
	if err != nil {
		return nil, fmt.Errorf("make request: %w", err)
	}
	if header != nil {
		request.Header = header
	}
	return known.RoundTrip(request)
}

// v2 are the OpenAPI v2 documents of all extension API servers, by path. Those
// that do not tell in time are as they were, and logged.
func (r *remoteDocuments) v2(ctx context.Context) []remoteV2 {
	ctx, cancel := context.WithTimeout(ctx, remotePatience)
	defer cancel()
	services := r.available()
	r.mu.Lock()
	defer r.mu.Unlock()
	found := make([]remoteV2, len(services))
	var group sync.WaitGroup
	for i, service := range services {
		last := r.known[r.path(service)]
		group.Go(func() {
			var err error
			if found[i], err = r.askV2(ctx, service, last); err != nil {
				r.logger.Warn("An extension API server does not tell its OpenAPI v2 document", "apiservice", service.Name, "error", err)
				found[i] = last
			}
		})
	}
	group.Wait()
	r.known = map[string]remoteV2{}
	found = slices.DeleteFunc(found, func(part remoteV2) bool { return part.json == nil })
	for _, part := range found {
		r.known[part.path] = part
	}
	slices.SortFunc(found, func(a, b remoteV2) int { return strings.Compare(a.path, b.path) })
	return found
}

// maxRemoteV2 is how large, in bytes, a document of an extension API server may be.
const maxRemoteV2 = 64 << 20

// askV2 asks for the document of one service, of which last was the answer
// before. One that has none is empty.
func (r *remoteDocuments) askV2(ctx context.Context, service *apiregistrationv1.APIService, last remoteV2) (remoteV2, error) {
	header := http.Header{"Accept": {"application/json"}}
	if last.etag != "" {
		header.Set("If-None-Match", last.etag)
	}
	answer, err := r.ask(ctx, service, "openapi/v2", header)
	if err != nil {
		return remoteV2{}, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotModified:
		return last, nil
	case http.StatusNotFound:
		return remoteV2{}, nil
	default:
		return remoteV2{}, fmt.Errorf("got %s", answer.Status)
	}
	data, err := io.ReadAll(http.MaxBytesReader(nil, answer.Body, maxRemoteV2))
	if err != nil {
		return remoteV2{}, fmt.Errorf("read document: %w", err)
	}
	part := remoteV2{path: r.path(service), etag: answer.Header.Get("Etag")}
	if part.etag == "" {
		part.etag = hash(string(data))
	}
	part.json, err = compress(data)
	return part, err
}

// entry asks for the entry of one service in its server's list of documents.
func (r *remoteDocuments) entry(ctx context.Context, service *apiregistrationv1.APIService) (entry handler3.OpenAPIV3DiscoveryGroupVersion, ok bool, err error) {
	answer, err := r.ask(ctx, service, "openapi/v3", nil)
	if err != nil {
		return entry, false, err
	}
	defer answer.Body.Close()
	switch answer.StatusCode {
	case http.StatusOK:
	case http.StatusNotFound:
		return entry, false, nil // it has none
	default:
		return entry, false, fmt.Errorf("got %s", answer.Status)
	}
	var list handler3.OpenAPIV3Discovery
	if err := json.NewDecoder(http.MaxBytesReader(nil, answer.Body, 4<<20)).Decode(&list); err != nil {
		return entry, false, fmt.Errorf("decode list of documents: %w", err)
	}
	entry, ok = list.Paths[r.path(service)]
	return entry, ok, nil
}

// serve answers a request for the document of an extension API server, and
// returns false if it is not for one.
func (r *remoteDocuments) serve(w http.ResponseWriter, request *http.Request) bool {
	asked := strings.TrimPrefix(request.URL.Path, "/openapi/v3/")
	for _, service := range r.available() {
		if r.path(service) != asked {
			continue
		}
		base, known, err := r.reach(service)
		if err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return true
		}
		proxy := httputil.ReverseProxy{
			Transport: known,
			ErrorLog:  slog.NewLogLogger(r.logger.Handler(), slog.LevelWarn),
			Rewrite: func(p *httputil.ProxyRequest) {
				p.SetURL(base)
				p.Out.Header = http.Header{} // what the client is known by is not for others
				for _, name := range []string{"Accept", "If-None-Match"} {
					if values := p.In.Header.Values(name); values != nil {
						p.Out.Header[name] = values
					}
				}
			},
		}
		proxy.ServeHTTP(w, request)
		return true
	}
	return false
}
