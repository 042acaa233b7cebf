package integration

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// extension is an API server for the group flunders.example.com, as others
// write them: it trusts who the front proxy says that is asking.
type extension struct {
	port int
}

// startExtension runs an extension API server whose certificate is for the
// service of this name.
func startExtension(t *testing.T, c *Cluster, namespace, name string) extension {
	t.Helper()
	certificate, key, err := c.CA.Issue(hostop.Certificate{
		Pair: "extension", Authority: hostconfig.AuthorityCluster, CommonName: name,
		DNSNames: []string{name + "." + namespace + ".svc"}, Server: true,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	trusted := x509.NewCertPool()
	published := must(c.Client.CoreV1().ConfigMaps("kube-system").Get(t.Context(), "extension-apiserver-authentication", metav1.GetOptions{}))(t)
	if !trusted.AppendCertsFromPEM([]byte(published.Data["requestheader-client-ca-file"])) {
		t.Fatal("extension-apiserver-authentication has no authority of the front proxy")
	}
	answer := func(w http.ResponseWriter, object any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(object); err != nil {
			t.Errorf("answer: %v", err)
		}
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /apis/flunders.example.com/v1", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, metav1.APIResourceList{
			TypeMeta:     metav1.TypeMeta{APIVersion: "v1", Kind: "APIResourceList"},
			GroupVersion: "flunders.example.com/v1",
			APIResources: []metav1.APIResource{{Name: "flunders", SingularName: "flunder", Kind: "Flunder", Verbs: metav1.Verbs{"get", "list"}}},
		})
	})
	mux.HandleFunc("GET /apis/flunders.example.com/v1/flunders/{name}", func(w http.ResponseWriter, r *http.Request) {
		answer(w, map[string]any{
			"apiVersion": "flunders.example.com/v1", "kind": "Flunder",
			"metadata": map[string]any{"name": r.PathValue("name"), "annotations": map[string]any{
				"asked-by": r.Header.Get("X-Remote-User"), "groups": strings.Join(r.Header.Values("X-Remote-Group"), " "),
				"certificate": r.TLS.PeerCertificates[0].Subject.CommonName, "authorization": r.Header.Get("Authorization"),
			}},
		})
	})
	mux.HandleFunc("GET /openapi/v3", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"paths": map[string]any{
			"apis/flunders.example.com/v1": map[string]any{"serverRelativeURL": "/openapi/v3/apis/flunders.example.com/v1?hash=1"},
		}})
	})
	mux.HandleFunc("GET /openapi/v3/apis/flunders.example.com/v1", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"openapi": "3.0.0", "info": map[string]any{"title": "Flunders", "version": "1"}, "paths": map[string]any{}})
	})
	mux.HandleFunc("GET /openapi/v2", func(w http.ResponseWriter, _ *http.Request) {
		get := map[string]any{"get": map[string]any{"responses": map[string]any{"200": map[string]any{"description": "OK"}}}}
		answer(w, map[string]any{"swagger": "2.0", "info": map[string]any{"title": "Flunders", "version": "1"}, "paths": map[string]any{
			"/apis/flunders.example.com/v1/flunders/{name}": get, "/healthz/of/flunders": get,
		}})
	})
	server := httptest.NewUnstartedServer(mux)
	server.TLS = &tls.Config{
		Certificates: []tls.Certificate{must(tls.X509KeyPair(certificate, key))(t)},
		ClientAuth:   tls.RequireAndVerifyClientCert,
		ClientCAs:    trusted,
	}
	server.StartTLS()
	t.Cleanup(server.Close)
	return extension{port: server.Listener.Addr().(*net.TCPAddr).Port}
}

func TestAggregation(t *testing.T) {
	t.Parallel()
	c := Start(t)
	ns := c.namespace(t)
	extension := startExtension(t, c, ns, "flunders")
	// Endpoints may not be loopback; the name of an external service may.
	must(c.Client.CoreV1().Services(ns).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "flunders"},
		Spec:       corev1.ServiceSpec{Type: corev1.ServiceTypeExternalName, ExternalName: "localhost"},
	}, metav1.CreateOptions{}))(t)
	const name = "v1.flunders.example.com"
	must(c.Dynamic.Resource(apiServices).Create(t.Context(), object(t, fmt.Sprintf(`
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: %s}
spec:
  group: flunders.example.com
  version: v1
  service: {namespace: %s, name: flunders, port: %d}
  caBundle: %s
  groupPriorityMinimum: 2000
  versionPriority: 10
`, name, ns, extension.port, base64.StdEncoding.EncodeToString(c.CA.Certificate(hostconfig.AuthorityCluster)))), metav1.CreateOptions{}))(t)
	remove := func() {
		err := c.Dynamic.Resource(apiServices).Delete(context.Background(), name, metav1.DeleteOptions{})
		if err != nil && !apierrors.IsNotFound(err) {
			t.Errorf("delete APIService: %v", err)
		}
	}
	t.Cleanup(remove)
	eventually(t, "the APIService being available", func(ctx context.Context) (bool, error) {
		service, err := c.Dynamic.Resource(apiServices).Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return false, err
		}
		return condition(service, "Available") == "True", fmt.Errorf("status is %v", service.Object["status"])
	})

	flunders := schema.GroupVersionResource{Group: "flunders.example.com", Version: "v1", Resource: "flunders"}
	got := must(c.Dynamic.Resource(flunders).Get(t.Context(), "f", metav1.GetOptions{}))(t)
	for key, want := range map[string]string{
		"asked-by": "admin", "groups": "system:masters system:authenticated", "certificate": "front-proxy", "authorization": "",
	} {
		if have := got.GetAnnotations()[key]; have != want {
			t.Errorf("the extension saw %s %q, want %q", key, have, want)
		}
	}
	// The server's own authorization comes first.
	jane := must(c.Certificate("jane"))(t)
	if err := clients(t, jane).Discovery().RESTClient().Get().AbsPath("/apis/flunders.example.com/v1/flunders/f").Do(t.Context()).Error(); !apierrors.IsForbidden(err) {
		t.Errorf("somebody without rights got %v, want forbidden", err)
	}

	eventually(t, "the flunders in discovery", func(context.Context) (bool, error) {
		_, lists, err := c.Client.Discovery().ServerGroupsAndResources()
		if err != nil && !discovery.IsGroupDiscoveryFailedError(err) {
			return false, err
		}
		return slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool {
			return l.GroupVersion == "flunders.example.com/v1" && len(l.APIResources) == 1
		}), err
	})
	eventually(t, "the flunders' document", func(context.Context) (bool, error) {
		paths, err := c.Client.Discovery().OpenAPIV3().Paths()
		if err != nil || paths["apis/flunders.example.com/v1"] == nil {
			return false, err
		}
		document, err := paths["apis/flunders.example.com/v1"].Schema("application/json")
		return strings.Contains(string(document), "Flunders"), err
	})
	merged := string(must(c.Client.Discovery().RESTClient().Get().AbsPath("/openapi/v2").SetHeader("Accept", "application/json").DoRaw(t.Context()))(t))
	for path, want := range map[string]bool{"/apis/flunders.example.com/v1/flunders/{name}": true, "/healthz/of/flunders": false, "/api/v1/pods": true} {
		if got := strings.Contains(merged, `"`+path+`"`); got != want {
			t.Errorf("OpenAPI v2 has the path %s: %t, want %t", path, got, want)
		}
	}

	remove()
	eventually(t, "the flunders gone", func(ctx context.Context) (bool, error) {
		_, err := c.Dynamic.Resource(flunders).Get(ctx, "f", metav1.GetOptions{})
		return apierrors.IsNotFound(err), err
	})
}

// TestOwnAPIServices checks that what the server serves itself has APIServices,
// and that their priorities order discovery.
func TestOwnAPIServices(t *testing.T) {
	t.Parallel()
	c := Start(t)
	all := c.Dynamic.Resource(apiServices)
	for _, name := range []string{"v1.", "v1.apps", "v1.apiextensions.k8s.io", "v1.rbac.authorization.k8s.io"} {
		service := must(all.Get(t.Context(), name, metav1.GetOptions{}))(t)
		if condition(service, "Available") != "True" || service.GetLabels()["kube-aggregator.kubernetes.io/automanaged"] != "onstart" {
			t.Errorf("APIService %s: %v", name, service.Object)
		}
	}
	groups := must(c.Client.Discovery().ServerGroups())(t)
	var names []string
	for _, group := range groups.Groups {
		names = append(names, group.Name)
	}
	for _, pair := range [][2]string{{"", "apps"}, {"apps", "events.k8s.io"}, {"events.k8s.io", "apiextensions.k8s.io"}} {
		first, second := slices.Index(names, pair[0]), slices.Index(names, pair[1])
		if first < 0 || second < first {
			t.Errorf("groups in discovery are %q: %q is not before %q", names, pair[0], pair[1])
		}
	}
}

// TestUnavailableExtension checks that an extension that does not answer takes
// nobody else down.
func TestUnavailableExtension(t *testing.T) {
	t.Parallel()
	c := Start(t)
	all := c.Dynamic.Resource(apiServices)
	must(all.Create(t.Context(), object(t, `
apiVersion: apiregistration.k8s.io/v1
kind: APIService
metadata: {name: v1.absent.example.com}
spec:
  group: absent.example.com
  version: v1
  service: {namespace: default, name: absent}
  insecureSkipTLSVerify: true
  groupPriorityMinimum: 2000
  versionPriority: 10
`), metav1.CreateOptions{}))(t)
	t.Cleanup(func() {
		if err := all.Delete(context.Background(), "v1.absent.example.com", metav1.DeleteOptions{}); err != nil {
			t.Errorf("delete APIService: %v", err)
		}
	})
	eventually(t, "the APIService being unavailable", func(ctx context.Context) (bool, error) {
		service, err := all.Get(ctx, "v1.absent.example.com", metav1.GetOptions{})
		return err == nil && condition(service, "Available") == "False", err
	})
	absent := schema.GroupVersionResource{Group: "absent.example.com", Version: "v1", Resource: "things"}
	if _, err := c.Dynamic.Resource(absent).List(t.Context(), metav1.ListOptions{}); !apierrors.IsServiceUnavailable(err) {
		t.Errorf("listing from it: %v, want service unavailable", err)
	}
	_, lists, _ := c.Client.Discovery().ServerGroupsAndResources()
	if !slices.ContainsFunc(lists, func(l *metav1.APIResourceList) bool { return l.GroupVersion == "apps/v1" }) {
		t.Error("discovery does not list apps/v1 any more")
	}
}
