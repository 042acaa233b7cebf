package integration

import (
	"bytes"
	"compress/gzip"
	"flag"
	"io"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"k8s.io/client-go/rest"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/openapi"
	"clusterctl/controlplane/api/openapi/generate"
	"clusterctl/hostconfig"
)

var updateOpenAPI = flag.Bool("update-openapi", false, "write what controlplane/api/openapi embeds, instead of checking it")

// TestOpenAPIIsGenerated checks that what is embedded says what the server's
// routes and the published types are, and is how it is written.
func TestOpenAPIIsGenerated(t *testing.T) {
	c := Start(t)
	scheme := must(api.NewExternalScheme())(t)
	// Without what AddToScheme adds for every group: it would be in all documents.
	scheme.AddKnownTypes(metricsv1beta1.SchemeGroupVersion, &metricsv1beta1.NodeMetrics{}, &metricsv1beta1.NodeMetricsList{},
		&metricsv1beta1.PodMetrics{}, &metricsv1beta1.PodMetricsList{})
	maker := generate.NewMaker(scheme, hostconfig.KubernetesVersion)
	documents := must(maker.Documents(c.Server.WebServices()))(t)
	types := must(maker.Types())(t)
	if *updateOpenAPI {
		writeOpenAPI(t, documents, must(generate.Source(types))(t))
		return
	}
	const stale = "run `make generate`, and commit what it changes"
	embedded := openapi.ETags()
	for _, name := range slices.Sorted(maps.Keys(documents)) {
		if embedded[name] != generate.ETag(documents[name]) {
			t.Errorf("the embedded document %s is out of date: %s", name, stale)
			continue
		}
		if got := uncompress(t, must(openapi.JSON(name))(t)); !bytes.Equal(got, documents[name]) {
			t.Errorf("the embedded document %s is not what its hash says: %s", name, stale)
		}
	}
	if len(embedded) != len(documents) {
		t.Errorf("%d documents are embedded, and %d wanted: %s", len(embedded), len(documents), stale)
	}
	if !bytes.Equal(must(generate.Source(openapi.Types()))(t), must(generate.Source(types))(t)) {
		t.Errorf("the types of server-side apply are out of date: %s", stale)
	}
}

func writeOpenAPI(t *testing.T, documents map[string][]byte, types []byte) {
	t.Helper()
	files := must(generate.Files(documents))(t)
	files[generate.TypesFile] = types
	dir := filepath.Join("..", "..", "controlplane", "api", "openapi")
	if err := os.RemoveAll(filepath.Join(dir, "documents")); err != nil {
		t.Fatal(err)
	}
	for name, content := range files {
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, content, 0o644); err != nil {
			t.Fatal(err)
		}
	}
}

func uncompress(t *testing.T, data []byte) []byte {
	t.Helper()
	return must(io.ReadAll(must(gzip.NewReader(bytes.NewReader(data)))(t)))(t)
}

// TestOpenAPIForms checks in which forms a document is served, and that clients
// that have it already are told so.
func TestOpenAPIForms(t *testing.T) {
	t.Parallel()
	c := Start(t)
	client := &http.Client{Transport: must(rest.TransportFor(c.Admin))(t)}
	for _, test := range []struct {
		path, accept, encoding string
		status                 int
		contentType, coded     string
	}{
		{"/openapi/v3/apis/apps/v1", "", "identity", 200, "application/json", ""},
		{"/openapi/v3/apis/apps/v1", "application/json", "gzip", 200, "application/json", "gzip"},
		{"/openapi/v3/apis/apps/v1", "application/json", "gzip;q=0", 200, "application/json", ""},
		{"/openapi/v3/apis/apps/v1", "application/com.github.proto-openapi.spec.v3@v1.0+protobuf", "gzip", 200, "application/com.github.proto-openapi.spec.v3.v1.0+protobuf", "gzip"},
		{"/openapi/v3/apis/apps/v1", "text/html", "gzip", 406, "", ""},
		{"/openapi/v3/apis/apps/v1?hash=old", "application/json", "gzip", 301, "", ""},
		{"/openapi/v3/apis/none.example.com/v1", "application/json", "gzip", 404, "", ""},
		{"/openapi/v2", "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", "", 200, "application/com.github.proto-openapi.spec.v2.v1.0+protobuf", ""},
	} {
		request := must(http.NewRequestWithContext(t.Context(), http.MethodGet, c.Admin.Host+test.path, nil))(t)
		request.Header.Set("Accept", test.accept)
		request.Header.Set("Accept-Encoding", test.encoding) // the transport leaves the answer alone then
		answer := must(client.Transport.RoundTrip(request))(t)
		body := must(io.ReadAll(answer.Body))(t)
		answer.Body.Close()
		if answer.StatusCode != test.status {
			t.Errorf("%+v: %s", test, answer.Status)
			continue
		}
		if test.status == 301 {
			location := answer.Header.Get("Location")
			if want := openapi.ETags()[openapi.V3("apis/apps/v1")]; !strings.HasSuffix(location, "?hash="+want) {
				t.Errorf("an old hash is redirected to %s, want hash %s", location, want)
			}
		}
		if test.status != 200 {
			continue
		}
		if got := answer.Header.Get("Content-Type"); got != test.contentType {
			t.Errorf("%+v: content type %s", test, got)
		}
		if got := answer.Header.Get("Content-Encoding"); got != test.coded {
			t.Errorf("%+v: content encoding %q", test, got)
		}
		if test.coded == "gzip" {
			body = uncompress(t, body)
		}
		if !bytes.Contains(body, []byte("io.k8s.api.apps.v1.Deployment")) {
			t.Errorf("%+v: %d bytes without Deployment", test, len(body))
		}
		request.Header.Set("If-None-Match", answer.Header.Get("Etag"))
		again := must(client.Transport.RoundTrip(request))(t)
		again.Body.Close()
		// The v2 document changes with the definitions of other tests.
		if again.StatusCode != http.StatusNotModified && again.Header.Get("Etag") == answer.Header.Get("Etag") {
			t.Errorf("%+v: a client that has it gets %s", test, again.Status)
		}
	}
}
