package apiserver

import (
	"fmt"
	"slices"
	"strings"
	"sync"

	"k8s.io/apiextensions-apiserver/pkg/apihelpers"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionslisters "k8s.io/apiextensions-apiserver/pkg/client/listers/apiextensions/v1"
	custombuilder "k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/kube-openapi/pkg/cached"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/handler3"
	"k8s.io/kube-openapi/pkg/spec3"
	"k8s.io/kube-openapi/pkg/validation/spec"
)

// customDocuments are the OpenAPI specifications of custom resources. They are
// made when somebody asks, from the definitions that there are then: nothing
// watches, and a cluster in which nobody asks pays nothing.
type customDocuments struct {
	crds apiextensionslisters.CustomResourceDefinitionLister
}

// established lists the definitions that are served, by name.
func (c customDocuments) established() []*apiextensionsv1.CustomResourceDefinition {
	// The cache's own lister cannot fail.
	all, _ := c.crds.List(labels.Everything())
	all = slices.DeleteFunc(all, func(crd *apiextensionsv1.CustomResourceDefinition) bool {
		return !apihelpers.IsCRDConditionTrue(crd, apiextensionsv1.Established)
	})
	slices.SortFunc(all, func(a, b *apiextensionsv1.CustomResourceDefinition) int { return strings.Compare(a.Name, b.Name) })
	return all
}

// revision changes whenever the specification of crd does.
func revision(crd *apiextensionsv1.CustomResourceDefinition) string {
	return fmt.Sprintf("%s/%d ", crd.UID, crd.Generation)
}

// v2 is the one document of the built-in resources and the custom ones.
func (c customDocuments) v2(builtIn cached.Value[*spec.Swagger]) cached.Value[*spec.Swagger] {
	var (
		mu     sync.Mutex
		merged *spec.Swagger
		last   string
	)
	return cached.Func(func() (*spec.Swagger, string, error) {
		mu.Lock()
		defer mu.Unlock()
		base, etag, err := builtIn.Get()
		if err != nil {
			return nil, "", err
		}
		crds := c.established()
		for _, crd := range crds {
			etag += " " + revision(crd)
		}
		if merged != nil && etag == last {
			return merged, etag, nil
		}
		var parts []*spec.Swagger
		for _, crd := range crds {
			for _, version := range crd.Spec.Versions {
				if !version.Served {
					continue
				}
				part, err := custombuilder.BuildOpenAPIV2(crd, version.Name, custombuilder.Options{V2: true, IncludeSelectableFields: true})
				if err != nil {
					return nil, "", fmt.Errorf("build OpenAPI v2 of %s: %w", crd.Name, err)
				}
				part.Definitions = handler.PruneDefaults(part.Definitions)
				parts = append(parts, part)
			}
		}
		next, err := custombuilder.MergeSpecs(base, parts...)
		if err != nil {
			return nil, "", fmt.Errorf("merge OpenAPI v2 of custom resources: %w", err)
		}
		merged, last = next, etag
		return merged, etag, nil
	})
}

// v3 returns a function that brings service in step with the definitions: a
// document for each group and version, but for those that are taken.
func (c customDocuments) v3(service *handler3.OpenAPIService, taken map[string]bool) (refresh func()) {
	type document struct {
		revision string
		crds     []*apiextensionsv1.CustomResourceDefinition
		version  string
	}
	var mu sync.Mutex
	published := map[string]string{} // revision by path
	return func() {
		mu.Lock()
		defer mu.Unlock()
		want := map[string]*document{}
		for _, crd := range c.established() {
			for _, version := range crd.Spec.Versions {
				path := "apis/" + crd.Spec.Group + "/" + version.Name
				if !version.Served || taken[path] {
					continue
				}
				if want[path] == nil {
					want[path] = &document{version: version.Name}
				}
				want[path].crds = append(want[path].crds, crd)
				want[path].revision += revision(crd)
			}
		}
		for path, d := range want {
			if published[path] == d.revision {
				continue
			}
			published[path] = d.revision
			service.UpdateGroupVersionLazy(path, cached.Once(cached.Func(func() (*spec3.OpenAPI, string, error) {
				built, err := buildCustomV3(d.crds, d.version)
				return built, d.revision, err
			})))
		}
		for path := range published {
			if want[path] == nil {
				service.DeleteGroupVersion(path)
				delete(published, path)
			}
		}
	}
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
