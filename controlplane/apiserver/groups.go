package apiserver

import (
	"fmt"
	"time"

	apidiscoveryv2 "k8s.io/api/apidiscovery/v2"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/managedfields"
	"k8s.io/apiserver/pkg/endpoints"
	"k8s.io/apiserver/pkg/endpoints/discovery"
	"k8s.io/apiserver/pkg/endpoints/discovery/aggregated"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"
)

// serveGroup has server serve a group and tell of it in discovery. It does what
// the library's InstallAPIGroups does, but for the schemas of server-side apply:
// those come with converter, instead of being built, and kept, from the
// definitions of all kinds.
func serveGroup(server *genericapiserver.GenericAPIServer, config *genericapiserver.Config, info *genericapiserver.APIGroupInfo, converter managedfields.TypeConverter) error {
	group := info.PrioritizedVersions[0].Group
	root, told := genericapiserver.APIGroupPrefix, server.AggregatedDiscoveryGroupManager
	if group == "" {
		root, told = genericapiserver.DefaultLegacyAPIPrefix, server.AggregatedLegacyDiscoveryGroupManager
	}
	var versions []metav1.GroupVersionForDiscovery
	for _, gv := range info.PrioritizedVersions {
		served := info.VersionedResourcesStorageMap[gv.Version]
		resources, _, err := (&endpoints.APIGroupVersion{
			Storage:                    served,
			Root:                       root,
			GroupVersion:               gv,
			OptionsExternalVersion:     info.OptionsExternalVersion,
			MetaGroupVersion:           info.MetaGroupVersion,
			ParameterCodec:             info.ParameterCodec,
			Serializer:                 info.NegotiatedSerializer,
			Typer:                      info.Scheme,
			Creater:                    info.Scheme,
			Convertor:                  info.Scheme,
			ConvertabilityChecker:      info.Scheme,
			UnsafeConvertor:            runtime.UnsafeObjectConvertor(info.Scheme),
			Defaulter:                  info.Scheme,
			Namer:                      runtime.Namer(meta.NewAccessor()),
			TypeConverter:              converter,
			EquivalentResourceRegistry: server.EquivalentResourceRegistry,
			Authorizer:                 server.Authorizer,
			Admit:                      config.AdmissionControl,
			MinRequestTimeout:          time.Duration(config.MinRequestTimeout) * time.Second,
			MaxRequestBodyBytes:        config.MaxRequestBodyBytes,
		}).InstallREST(server.Handler.GoRestfulContainer)
		if err != nil {
			return fmt.Errorf("serve %s: %w", gv, err)
		}
		told.AddGroupVersion(group, apidiscoveryv2.APIVersionDiscovery{
			Freshness: apidiscoveryv2.DiscoveryFreshnessCurrent,
			Version:   gv.Version,
			Resources: resources,
		})
		for resource, storage := range served {
			server.RegisterDestroyFunc(storage.Destroy)
			if ready, ok := storage.(rest.StorageWithReadiness); ok {
				server.StorageReadinessHook.RegisterStorage(metav1.GroupVersionResource{Group: group, Version: gv.Version, Resource: resource}, ready)
			}
		}
		versions = append(versions, metav1.GroupVersionForDiscovery{GroupVersion: gv.String(), Version: gv.Version})
	}
	if group == "" {
		list := discovery.NewLegacyRootAPIHandler(config.DiscoveryAddresses, server.Serializer, root)
		server.Handler.GoRestfulContainer.Add(aggregated.WrapAggregatedDiscoveryToHandler(list, told, told).
			GenerateWebService(root, metav1.APIVersions{}))
		return nil
	}
	described := metav1.APIGroup{Name: group, Versions: versions, PreferredVersion: versions[0]}
	server.DiscoveryGroupManager.AddGroup(described)
	server.Handler.GoRestfulContainer.Add(discovery.NewAPIGroupHandler(server.Serializer, described).WebService())
	return nil
}
