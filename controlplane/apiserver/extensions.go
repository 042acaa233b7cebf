package apiserver

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	apiextensionsopenapi "k8s.io/apiextensions-apiserver/pkg/generated/openapi"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	openapinamer "k8s.io/apiserver/pkg/endpoints/openapi"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"
	"k8s.io/kube-openapi/pkg/common"

	"clusterctl/controlplane/storage"
)

// newExtensions is the last server of the chain: definitions of custom
// resources, the resources that they define, and the answer to what nobody
// serves. shared is the configuration of all servers.
func (s *Server) newExtensions(shared *genericapiserver.Config) (*apiextensions.CustomResourceDefinitions, error) {
	own := linkConfig(shared)
	own.MergedResourceConfig = apiextensions.DefaultAPIResourceConfigSource()
	own.RESTOptionsGetter = &storage.Options{
		Client: s.store,
		Counts: own.StorageObjectCountTracker,
		Codec:  apiextensions.Codecs.LegacyCodec(apiextensionsv1beta1.SchemeGroupVersion, apiextensionsv1.SchemeGroupVersion),
		// As Kubernetes does: the older form is the smaller one.
		Versioner: runtime.NewMultiGroupVersioner(apiextensionsv1beta1.SchemeGroupVersion,
			schema.GroupKind{Group: apiextensionsv1beta1.GroupName}),
	}
	own.OpenAPIV3Config = applySchemas(apiextensionsopenapi.GetOpenAPIDefinitions, apiextensions.Scheme)
	config := &apiextensions.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: *own, SharedInformerFactory: s.informers},
		ExtraConfig: apiextensions.ExtraConfig{
			CRDRESTOptionsGetter: &storage.Options{
				Client: s.store,
				Counts: own.StorageObjectCountTracker,
				Codec:  unstructured.UnstructuredJSONScheme,
			},
			MasterCount:     1,
			ServiceResolver: s.services,
			AuthResolverWrapper: webhook.NewDefaultAuthenticationInfoResolverWrapper(
				nil, nil, own.LoopbackClientConfig, own.TracerProvider),
		},
	}
	nobody := notfoundhandler.New(own.Serializer, genericfilters.NoMuxAndDiscoveryIncompleteKey)
	extensions, err := config.Complete().New(genericapiserver.NewEmptyDelegateWithCustomHandler(nobody))
	if err != nil {
		return nil, fmt.Errorf("assemble server of custom resources: %w", err)
	}
	own.OpenAPIV3Config.Definitions = nil // it has taken what it needs
	return extensions, nil
}

// linkConfig is the configuration of one more server in the chain: the same
// filters, identities and limits, nothing that one server of it does for all.
func linkConfig(shared *genericapiserver.Config) *genericapiserver.Config {
	own := *shared
	own.PostStartHooks = map[string]genericapiserver.PostStartHookConfigEntry{}
	own.RESTOptionsGetter = nil
	return &own
}

// applySchemas are the definitions that a server of the chain installs its own
// kinds by, for server-side apply.
func applySchemas(definitions common.GetOpenAPIDefinitions, scheme *runtime.Scheme) *common.OpenAPIV3Config {
	return genericapiserver.DefaultOpenAPIV3Config(definitions, openapinamer.NewDefinitionNamer(scheme))
}
