package apiserver

import (
	"context"
	"encoding/json"
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	custombuilder "k8s.io/apiextensions-apiserver/pkg/controller/openapi/builder"
	"k8s.io/kube-openapi/pkg/aggregator"
	"k8s.io/kube-openapi/pkg/handler"
	"k8s.io/kube-openapi/pkg/validation/spec"

	"clusterctl/controlplane/api/openapi"
)

// v2 is the one OpenAPI v2 document: the built-in one as it is while there is
// nothing else, and otherwise one merged of all, which is kept, compressed,
// until something changes.
func (d *documents) v2(ctx context.Context) (document, error) {
	base, ok := builtIn(openapi.V2)
	if !ok {
		return document{}, fmt.Errorf("no OpenAPI v2 document is embedded")
	}
	crds, remote := d.custom.established(), d.remote.v2(ctx)
	if len(crds) == 0 && len(remote) == 0 {
		return base, nil
	}
	sources := []string{base.etag}
	for _, crd := range crds {
		sources = append(sources, revision(crd))
	}
	for _, part := range remote {
		sources = append(sources, part.path+" "+part.etag)
	}
	etag := hash(sources...)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.merged.etag != etag {
		d.merged = made(etag, func() (json.Marshaler, error) { return d.mergeV2(base, crds, remote) }, handler.ToProtoBinary)
	}
	return d.merged, nil
}

// mergeV2 leaves out parts of extension API servers that cannot be merged, and
// logs why.
func (d *documents) mergeV2(base document, crds []*apiextensionsv1.CustomResourceDefinition, remote []remoteV2) (*spec.Swagger, error) {
	data, err := base.json()
	if err != nil {
		return nil, err
	}
	whole, err := decodeV2(data)
	if err != nil {
		return nil, err
	}
	custom, err := buildCustomV2(crds)
	if err != nil {
		return nil, err
	}
	merged, err := custombuilder.MergeSpecs(whole, custom...)
	if err != nil {
		return nil, fmt.Errorf("merge OpenAPI v2 of custom resources: %w", err)
	}
	for _, part := range remote {
		all, err := decodeV2(part.json)
		if err == nil {
			own := aggregator.FilterSpecByPathsWithoutSideEffects(all, []string{"/" + part.path + "/"})
			err = aggregator.MergeSpecsIgnorePathConflictRenamingDefinitionsAndParameters(merged, own)
		}
		if err != nil {
			d.logger.Warn("The OpenAPI v2 document of an extension API server cannot be merged", "path", part.path, "error", err)
		}
	}
	return merged, nil
}

// decodeV2 reads compressed JSON.
func decodeV2(data []byte) (*spec.Swagger, error) {
	data, err := expand(data)
	if err != nil {
		return nil, err
	}
	decoded := &spec.Swagger{}
	if err := decoded.UnmarshalJSON(data); err != nil {
		return nil, fmt.Errorf("decode OpenAPI v2: %w", err)
	}
	return decoded, nil
}
