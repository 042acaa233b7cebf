package integration

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	"sigs.k8s.io/yaml"
)

// sampleNamespace is where the samples live that are compared with what stock
// Kubernetes answers, whose messages name it.
const sampleNamespace = "samples"

// sample is an object of one kind, from testdata/kinds, and what may be done
// with it. It is not modified: edit a copy.
type sample struct {
	gvr          schema.GroupVersionResource
	served       metav1.APIResource
	subresources []string

	Object json.RawMessage // a valid object
	Change json.RawMessage // a merge patch that leaves it valid
	Status json.RawMessage // a merge patch of its status
}

// published knows the Go types of all kinds.
var published = func() *runtime.Scheme {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{clientscheme.AddToScheme, apiextensionsv1.AddToScheme, apiregistrationv1.AddToScheme} {
		if err := add(scheme); err != nil {
			panic(err)
		}
	}
	return scheme
}()

// readSamples returns a sample of every kind that c serves, sorted by name. A
// kind without one fails the test.
func readSamples(t *testing.T, c *Cluster) []*sample {
	t.Helper()
	_, lists, err := c.Client.Discovery().ServerGroupsAndResources()
	if err != nil {
		t.Fatalf("discover: %v", err)
	}
	var samples []*sample
	for _, list := range lists {
		gv := must(schema.ParseGroupVersion(list.GroupVersion))(t)
		for _, served := range list.APIResources {
			// What other tests have defined meanwhile is not ours.
			if strings.Contains(served.Name, "/") || !published.Recognizes(gv.WithKind(served.Kind)) || served.Name == "componentstatuses" {
				continue
			}
			s := &sample{gvr: gv.WithResource(served.Name), served: served}
			for _, other := range list.APIResources {
				if sub, ok := strings.CutPrefix(other.Name, served.Name+"/"); ok {
					s.subresources = append(s.subresources, sub)
				}
			}
			text, err := os.ReadFile(filepath.Join("testdata", "kinds", s.name()+".yaml"))
			if err != nil {
				t.Errorf("%s is served and has no sample: %v", s.name(), err)
				continue
			}
			text = bytes.ReplaceAll(text, []byte("NAMESPACE"), []byte(sampleNamespace))
			if bytes.Contains(text, []byte("request: CSR")) {
				text = bytes.ReplaceAll(text, []byte("request: CSR"), append([]byte("request: "), must(os.ReadFile("testdata/sample.csr.base64"))(t)...))
			}
			if err := yaml.UnmarshalStrict(text, s); err != nil {
				t.Fatalf("parse the sample of %s: %v", s.name(), err)
			}
			samples = append(samples, s)
		}
	}
	slices.SortFunc(samples, func(a, b *sample) int { return strings.Compare(a.name(), b.name()) })
	return samples
}

func (s *sample) name() string {
	return strings.TrimSuffix(s.gvr.Resource+"."+s.gvr.Version+"."+s.gvr.Group, ".")
}

func (s *sample) gvk() schema.GroupVersionKind { return s.gvr.GroupVersion().WithKind(s.served.Kind) }

func (s *sample) can(verb string) bool { return slices.Contains(s.served.Verbs, verb) }

// kept is whether objects of the kind can be read back.
func (s *sample) kept() bool { return s.can("get") }

// path is the collection's, in the namespace if the kind has them.
func (s *sample) path(namespace string) string {
	path := "/apis/" + s.gvr.Group + "/" + s.gvr.Version
	if s.gvr.Group == "" {
		path = "/api/" + s.gvr.Version
	}
	if s.served.Namespaced {
		path += "/namespaces/" + namespace
	}
	return path + "/" + s.gvr.Resource
}

// object is a copy of the sample's object.
func (s *sample) object(t *testing.T) map[string]any {
	t.Helper()
	return decode(t, s.Object)
}

func decode(t *testing.T, data []byte) map[string]any {
	t.Helper()
	var object map[string]any
	if err := json.Unmarshal(data, &object); err != nil {
		t.Fatalf("parse %.200s: %v", data, err)
	}
	return object
}

func encode(t *testing.T, object any) []byte {
	t.Helper()
	return must(json.Marshal(object))(t)
}

// at returns what lies at a path of object keys, nil if nothing does.
func at(object map[string]any, keys ...string) any {
	var value any = object
	for _, key := range keys {
		inner, _ := value.(map[string]any)
		value = inner[key]
	}
	return value
}

// caller speaks HTTP with an API server, without a client library's help.
type caller struct {
	host   string
	client *http.Client
}

type answer struct {
	code     int
	header   http.Header
	body     []byte
	warnings []string
}

// message is why the server refused, empty when it did not.
func (a answer) message() string {
	if a.code < 400 {
		return ""
	}
	var status metav1.Status
	if err := json.Unmarshal(a.body, &status); err != nil || status.Kind != "Status" {
		return fmt.Sprintf("%.300s", a.body)
	}
	return string(status.Reason) + ": " + status.Message
}

func newCaller(config *rest.Config) (caller, error) {
	config = rest.CopyConfig(config)
	config.UserAgent = "suite"
	client, err := rest.HTTPClientFor(config)
	return caller{config.Host, client}, err
}

const (
	contentJSON     = "application/json"
	contentYAML     = "application/yaml"
	contentProtobuf = "application/vnd.kubernetes.protobuf"
)

// call sends a request; accept defaults to JSON.
func (c caller) call(ctx context.Context, method, path, contentType string, body []byte, accept string) (answer, error) {
	headers := http.Header{}
	if accept != "" {
		headers.Set("Accept", accept)
	}
	if contentType != "" {
		headers.Set("Content-Type", contentType)
	}
	return c.send(ctx, method, path, headers, body)
}

// send sends a request with headers, of which Accept defaults to JSON.
func (c caller) send(ctx context.Context, method, path string, headers http.Header, body []byte) (answer, error) {
	request, err := http.NewRequestWithContext(ctx, method, c.host+path, bytes.NewReader(body))
	if err != nil {
		return answer{}, err
	}
	request.Header = headers
	if headers.Get("Accept") == "" {
		headers.Set("Accept", contentJSON)
	}
	response, err := c.client.Do(request)
	if err != nil {
		return answer{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	return answer{response.StatusCode, response.Header, data, response.Header.Values("Warning")}, err
}

// want calls, and fails the test unless the answer has the code. JSON goes out
// unless contentType says otherwise.
func (c caller) want(t *testing.T, code int, method, path string, body []byte, contentType ...string) map[string]any {
	t.Helper()
	sent := contentJSON
	if len(contentType) > 0 {
		sent = contentType[0]
	}
	a, err := c.call(t.Context(), method, path, sent, body, "")
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	if a.code != code {
		t.Fatalf("%s %s %.300s: %d %s, want %d", method, path, body, a.code, a.message(), code)
	}
	return decode(t, a.body)
}

// makeNamespace makes a namespace with its default service account.
func (c caller) makeNamespace(ctx context.Context, name string) error {
	for _, request := range [][2]string{
		{"/api/v1/namespaces", name},
		{"/api/v1/namespaces/" + name + "/serviceaccounts", "default"},
	} {
		a, err := c.call(ctx, http.MethodPost, request[0], contentJSON, []byte(`{"metadata":{"name":"`+request[1]+`"}}`), "")
		if err != nil {
			return err
		}
		if a.code != http.StatusCreated && a.code != http.StatusConflict {
			return fmt.Errorf("create %s in %s: %d %s", request[1], request[0], a.code, a.message())
		}
	}
	return nil
}

// admin is a caller with all rights.
func admin(t *testing.T, c *Cluster) caller {
	t.Helper()
	return must(newCaller(c.Admin))(t)
}

// sortedKeys makes what walks maps repeatable.
func sortedKeys[V any](m map[string]V) []string { return slices.Sorted(maps.Keys(m)) }
