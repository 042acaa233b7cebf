package apiserver

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionslisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	custombuilder "k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"clusterctl/controlplane/api/openapi"
)

// customDocuments are the OpenAPI specifications of custom resources. They are
// made when somebody asks, from the definitions that there are then: nothing
// watches, and a cluster in which nobody asks pays nothing.
type customDocuments struct {
	crds apiextensionslisters.CustomResourceDefinitionLister

	mu    sync.Mutex
	known map[string]document // v3, by path
}

// established lists the definitions that are served, by name.
func (c *customDocuments) established() []*apiextensionsv1.CustomResourceDefinition {
	// The cache's own lister cannot fail.
	all, _ := c.crds.List(labels.Everything())
	all = slices.DeleteFunc(all, func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
	})
	slices.SortFunc(all, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// revision changes whenever the specification of crd does, and is the same on
// every server.
func revision(crd *apiextensionsv1.CustomResourceDefinition) string {
	return fmt.Sprintf("%s/%d", crd.UID, crd.Generation)
}

// buildCustomV2 builds the parts of crds in the one document.
func buildCustomV2(crds []*apiextensionsv1.CustomResourceDefinition) ([]*spec.Swagger, error) {
	var parts []*spec.Swagger
	for _, crd := range crds {
		for _, version := range crd.Spec.Versions {
			if !version.Served {
				continue
			}
			part, err := custombuilder.BuildOpenAPIV2(crd, version.Name, custombuilder.Options{V2: true, IncludeSelectableFields: true})
			if err != nil {
				return nil, fmt.Errorf("build OpenAPI v2 of %s: %w", crd.Name, err)
			}
			part.Definitions = handler.PruneDefaults(part.Definitions)
			parts = append(parts, part)
		}
	}
	return parts, nil
}

// v3 is a document for each group and version that no built-in one is of, by
// path.
func (c *customDocuments) v3() map[string]document {
	byPath := map[string][]*apiextensionsv1.CustomResourceDefinition{}
	for _, crd := range c.established() {
		for _, version := range crd.Spec.Versions {
			path := "apis/" + crd.Spec.Group + "/" + version.Name
			if _, taken := openapi.ETags()[openapi.V3(path)]; version.Served && !taken {
				byPath[path] = append(byPath[path], crd)
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	next := map[string]document{}
	for path, crds := range byPath {
		sources := []string{path}
		for _, crd := range crds {
			sources = append(sources, revision(crd))
		}
		etag := hash(sources...)
		if next[path] = c.known[path]; next[path].etag == etag {
			continue // what is built of it stays built
		}
		version := path[strings.LastIndex(path, "/")+1:]
		next[path] = made(etag, func() (json.Marshaler, error) { return buildCustomV3(crds, version) }, handler3.ToV3ProtoBinary)
	}
	c.known = next
	return next
}

func buildCustomV3(crds []*apiextensionsv1.CustomResourceDefinition, version string) (*spec3.OpenAPI, error) {
	var parts []*spec3.OpenAPI
	for _, crd := range crds {
		part, err := custombuilder.BuildOpenAPIV3(crd, version, custombuilder.Options{IncludeSelectableFields: true})
		if err != nil {
			return nil, fmt.Errorf("build OpenAPI v3 of %s: %w", crd.Name, err)
		}
		parts = append(parts, part)
	}
	merged, err := custombuilder.MergeSpecsV3(parts...)
	if err != nil {
		return nil, fmt.Errorf("merge OpenAPI v3 of custom resources: %w", err)
	}
	return merged, nil
}
