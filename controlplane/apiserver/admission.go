package apiserver

import (
	"fmt"

	"k8s.io/apimachinery/pkg/runtime/schema"
	apiadmission "k8s.io/apiserver/pkg/admission"
	"k8s.io/apiserver/pkg/authentication/user"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/restmapper"

	"clusterctl/controlplane/admission"
	"clusterctl/controlplane/api"
)

// admit fills in what writes have to pass before they are validated.
func (s *Server) admit(config *genericapiserver.Config, kinds []api.Kind) error {
	served := map[schema.GroupResource]bool{}
	for _, kind := range kinds {
		served[kind.GroupVersionResource().GroupResource()] = true
	}
	parameters, err := dynamic.NewForConfig(s.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup))
	if err != nil {
		return fmt.Errorf("make client for the parameters of policies: %w", err)
	}
	chain, err := admission.NewChain(admission.Config{
		Client:           s.client,
		Informers:        s.informers,
		Authorizer:       config.Authorization.Authorizer,
		Dynamic:          parameters,
		Mapper:           restmapper.NewDeferredDiscoveryRESTMapper(memory.NewMemCacheClient(s.client.Discovery())),
		Drained:          config.DrainedNotify(),
		Services:         s.services,
		Served:           func(resource schema.GroupResource) bool { return served[resource] },
		AlwaysPullImages: s.config.AlwaysPullImages,
		PodSecurity:      s.config.PodSecurity,
	})
	if err != nil {
		return fmt.Errorf("build admission chain: %w", err)
	}
	config.AdmissionControl = apiadmission.NewChainHandler(roomyAdmission{}, chain)
	return nil
}
