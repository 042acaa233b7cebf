package apiserver

import (
	"fmt"

	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	apiextensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	apiextensions "k8s.io/apiextensions-apiserver/pkg/apiserver"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericfilters "k8s.io/apiserver/pkg/endpoints/filters"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/util/notfoundhandler"
	"k8s.io/apiserver/pkg/util/webhook"

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
