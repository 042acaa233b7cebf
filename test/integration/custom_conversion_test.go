package integration

import (
	"context"
	"crypto/tls"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// startConverter runs a conversion webhook at localhost for walls, whose color
// is called paint in v2, and returns its address.
func startConverter(t *testing.T, c *Cluster) string {
	t.Helper()
	certificate, key, err := c.CA.Issue(hostop.Certificate{
		Pair: "converter", Authority: hostconfig.AuthorityCluster, CommonName: "converter", DNSNames: []string{"localhost"}, Server: true,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var review apiextensionsv1.ConversionReview
		if err := json.NewDecoder(r.Body).Decode(&review); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		response := &apiextensionsv1.ConversionResponse{UID: review.Request.UID, Result: metav1.Status{Status: metav1.StatusSuccess}}
		for _, raw := range review.Request.Objects {
			wall := &unstructured.Unstructured{}
			if err := wall.UnmarshalJSON(raw.Raw); err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			from, to := "paint", "color"
			if strings.HasSuffix(review.Request.DesiredAPIVersion, "/v2") {
				from, to = to, from
			}
			value, _, _ := unstructured.NestedString(wall.Object, "spec", from)
			wall.Object["spec"] = map[string]any{to: value}
			wall.SetAPIVersion(review.Request.DesiredAPIVersion)
			response.ConvertedObjects = append(response.ConvertedObjects, runtime.RawExtension{Object: wall})
		}
		review.Request, review.Response = nil, response
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(review); err != nil {
			t.Errorf("answer conversion: %v", err)
		}
	}))
	server.TLS = &tls.Config{Certificates: []tls.Certificate{must(tls.X509KeyPair(certificate, key))(t)}}
	server.StartTLS()
	t.Cleanup(server.Close)
	return fmt.Sprintf("https://localhost:%d/convert", server.Listener.Addr().(*net.TCPAddr).Port)
}

// TestCustomConversion checks that a webhook translates between the versions of
// a custom resource.
func TestCustomConversion(t *testing.T) {
	t.Parallel()
	c := Start(t)
	version := func(name, field string, stored bool) string {
		return fmt.Sprintf(`
  - name: %s
    served: true
    storage: %t
    schema: {openAPIV3Schema: {type: object, properties: {spec: {type: object, properties: {%s: {type: string}}}}}}`, name, stored, field)
	}
	c.establish(t, `
apiVersion: apiextensions.k8s.io/v1
kind: CustomResourceDefinition
metadata: {name: walls.convert.example.com}
spec:
  group: convert.example.com
  scope: Cluster
  names: {plural: walls, singular: wall, kind: Wall}
  conversion:
    strategy: Webhook
    webhook:
      conversionReviewVersions: [v1]
      clientConfig:
        url: `+startConverter(t, c)+`
        caBundle: `+base64.StdEncoding.EncodeToString(c.CA.Certificate(hostconfig.AuthorityCluster))+`
  versions:`+version("v1", "color", true)+version("v2", "paint", false))
	v1 := c.Dynamic.Resource(schema.GroupVersionResource{Group: "convert.example.com", Version: "v1", Resource: "walls"})
	v2 := c.Dynamic.Resource(schema.GroupVersionResource{Group: "convert.example.com", Version: "v2", Resource: "walls"})
	wall := object(t, "apiVersion: convert.example.com/v2\nkind: Wall\nmetadata: {name: w}\nspec: {paint: white}")
	if got := must(v2.Create(t.Context(), wall, metav1.CreateOptions{}))(t); specOf(t, got) != `{"paint":"white"}` {
		t.Errorf("created as %s", specOf(t, got))
	}
	if got := must(v1.Get(t.Context(), "w", metav1.GetOptions{}))(t); specOf(t, got) != `{"color":"white"}` {
		t.Errorf("in v1 the wall is %s, want a color", specOf(t, got))
	}
	for _, name := range []string{"v1", "v2"} {
		eventually(t, "the APIService of "+name, func(ctx context.Context) (bool, error) {
			_, err := c.Dynamic.Resource(apiServices).Get(ctx, name+".convert.example.com", metav1.GetOptions{})
			return err == nil, err
		})
	}
	// While there still is a webhook to do it.
	if err := v1.Delete(t.Context(), "w", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	preferred := must(c.Client.Discovery().ServerGroups())(t)
	for _, group := range preferred.Groups {
		if group.Name == "convert.example.com" && group.PreferredVersion.Version != "v2" {
			t.Errorf("discovery prefers %s, want v2", group.PreferredVersion.Version)
		}
	}
}
