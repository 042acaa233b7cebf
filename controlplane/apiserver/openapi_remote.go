package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"net/url"
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

// remoteDocuments are the OpenAPI specifications (v3) of extension API servers,
// asked for when somebody asks this server.
type remoteDocuments struct {
	services apiregistrationlisters.APIServiceLister
	resolver *serviceResolver
	pki      hostconfig.PKI
	logger   *slog.Logger
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

// entry asks for the entry of one service in its server's list of documents.
func (r *remoteDocuments) entry(ctx context.Context, service *apiregistrationv1.APIService) (entry handler3.OpenAPIV3DiscoveryGroupVersion, ok bool, err error) {
	base, known, err := r.reach(service)
	if err != nil {
		return entry, false, err
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base.JoinPath("openapi/v3").String(), nil)
	if err != nil {
		return entry, false, fmt.Errorf("make request: %w", err)
	}
	answer, err := known.RoundTrip(request)
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
