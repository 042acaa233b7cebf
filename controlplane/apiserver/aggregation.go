package apiserver

import (
	"context"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"sync/atomic"

	apiextensionsinformers "k8s.io/apiextensions-apiserver/pkg/client/informers/externalversions/apiextensions/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/healthz"
	"k8s.io/client-go/tools/cache"
	apiregistrationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	apiregistrationhelper "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1/helper"
	apiregistrationv1beta1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1beta1"
	aggregator "k8s.io/kube-aggregator/pkg/apiserver"
	aggregatorscheme "k8s.io/kube-aggregator/pkg/apiserver/scheme"
	apiregistrationclient "k8s.io/kube-aggregator/pkg/client/clientset_generated/clientset/typed/apiregistration/v1"
	apiregistrationinformers "k8s.io/kube-aggregator/pkg/client/informers/externalversions/apiregistration/v1"
	apiregistrationlisters "k8s.io/kube-aggregator/pkg/client/listers/apiregistration/v1"
	"k8s.io/kube-aggregator/pkg/controllers/autoregister"
	aggregatoropenapi "k8s.io/kube-aggregator/pkg/generated/openapi"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"

	"clusterctl/controlplane/storage"
	"clusterctl/hostconfig"
)

// newAggregator is the first server of the chain, which every request enters:
// by the APIService of a request's group and version it asks an extension API
// server, or hands on to next. shared is the configuration of all servers.
func (s *Server) newAggregator(shared *genericapiserver.Config, next genericapiserver.DelegationTarget, crds apiextensionsinformers.CustomResourceDefinitionInformer) (*aggregator.APIAggregator, error) {
	own := linkConfig(shared)
	own.MergedResourceConfig = aggregator.DefaultAPIResourceConfigSource()
	own.RESTOptionsGetter = &storage.Options{
		Client: s.store,
		Counts: own.StorageObjectCountTracker,
		Codec:  aggregatorscheme.Codecs.LegacyCodec(apiregistrationv1.SchemeGroupVersion, apiregistrationv1beta1.SchemeGroupVersion),
		Versioner: runtime.NewMultiGroupVersioner(apiregistrationv1.SchemeGroupVersion,
			schema.GroupKind{Group: apiregistrationv1beta1.GroupName}),
	}
	own.OpenAPIV3Config = applySchemas(aggregatoropenapi.GetOpenAPIDefinitions, aggregatorscheme.Scheme)
	pki := hostconfig.PKI(s.config.PKIDir)
	config := &aggregator.Config{
		GenericConfig: &genericapiserver.RecommendedConfig{Config: *own, SharedInformerFactory: s.informers},
		ExtraConfig: aggregator.ExtraConfig{
			ProxyClientCertFile:       pki.Cert(hostconfig.PairFrontProxy),
			ProxyClientKeyFile:        pki.Key(hostconfig.PairFrontProxy),
			ServiceResolver:           s.services,
			RejectForwardingRedirects: true,
		},
	}
	made, err := config.Complete().NewWithDelegate(next)
	if err != nil {
		return nil, fmt.Errorf("assemble aggregator: %w", err)
	}
	own.OpenAPIV3Config.Definitions = nil // it has taken what it needs
	for gv, p := range priorities {
		own.AggregatedDiscoveryGroupManager.SetGroupVersionPriority(metav1.GroupVersion(gv), int(p.group), int(p.version))
	}
	return made, s.registerAPIServices(made, next.ListedPaths(), crds)
}

// registerAPIServices makes the server keep an APIService for every group and
// version that it serves itself: its own ones, found in paths, and those of
// custom resources. /readyz waits for its own ones.
func (s *Server) registerAPIServices(made *aggregator.APIAggregator, paths []string, crds apiextensionsinformers.CustomResourceDefinitionInformer) error {
	client, err := apiregistrationclient.NewForConfig(made.GenericAPIServer.LoopbackClientConfig)
	if err != nil {
		return fmt.Errorf("make client of APIServices: %w", err)
	}
	services := made.APIRegistrationInformers.Apiregistration().V1().APIServices()
	keeper := autoregister.NewAutoRegisterController(services, client)
	var names []string
	for _, gv := range builtInVersions(paths) {
		service := localAPIService(gv, priorities[gv])
		if gv == metricsv1beta1.SchemeGroupVersion {
			if err := s.standIn(made, services, client, service); err != nil {
				return err
			}
			continue
		}
		keeper.AddAPIServiceToSyncOnStart(service)
		names = append(names, service.Name)
	}
	custom, err := newCustomVersions(crds, keeper)
	if err != nil {
		return err
	}
	err = made.GenericAPIServer.AddPostStartHook("apiservice-registration", func(ctx genericapiserver.PostStartHookContext) error {
		go custom.run(ctx)
		go func() {
			// Otherwise the keeper would begin by removing the APIServices of
			// custom resources.
			select {
			case <-custom.first:
				keeper.Run(5, ctx.Done())
			case <-ctx.Done():
			}
		}()
		return nil
	})
	if err != nil {
		return fmt.Errorf("add hook: %w", err)
	}
	if err := made.GenericAPIServer.AddBootSequenceHealthChecks(registered(names, services.Lister())); err != nil {
		return fmt.Errorf("add health check: %w", err)
	}
	return nil
}

// standIn has the server serve a version while nobody else does: it makes the
// APIService when there is none, and leaves one alone that an operator has put
// in its place (metrics-server's).
func (s *Server) standIn(made *aggregator.APIAggregator, services apiregistrationinformers.APIServiceInformer, client apiregistrationclient.APIServicesGetter, service *apiregistrationv1.APIService) error {
	gone := make(chan struct{}, 1)
	_, err := services.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{DeleteFunc: func(object any) {
		if key, err := cache.DeletionHandlingMetaNamespaceKeyFunc(object); err == nil && key == service.Name {
			select {
			case gone <- struct{}{}:
			default:
			}
		}
	}})
	if err != nil {
		return fmt.Errorf("watch APIServices: %w", err)
	}
	ensure := func(ctx context.Context) error {
		_, err := client.APIServices().Create(ctx, service.DeepCopy(), metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) {
			return fmt.Errorf("create APIService %s: %w", service.Name, err)
		}
		return nil
	}
	err = made.GenericAPIServer.AddPostStartHook("apiservice-"+service.Name, func(ctx genericapiserver.PostStartHookContext) error {
		go func() {
			for {
				s.insist(ctx, "APIService "+service.Name, ensure)
				select {
				case <-gone:
				case <-ctx.Done():
					return
				}
			}
		}()
		return nil
	})
	if err != nil {
		return fmt.Errorf("add hook: %w", err)
	}
	return nil
}

// builtInVersions finds the groups and versions that paths serve, and of which
// a priority is known.
func builtInVersions(paths []string) []schema.GroupVersion {
	found := map[schema.GroupVersion]bool{}
	for _, path := range paths {
		var gv schema.GroupVersion
		switch parts := strings.Split(strings.TrimPrefix(path, "/"), "/"); {
		case len(parts) == 2 && parts[0] == "api":
			gv.Version = parts[1]
		case len(parts) == 3 && parts[0] == "apis":
			gv.Group, gv.Version = parts[1], parts[2]
		}
		if _, ok := priorities[gv]; ok {
			found[gv] = true
		}
	}
	return slices.SortedFunc(maps.Keys(found), func(a, b schema.GroupVersion) int {
		return strings.Compare(a.String(), b.String())
	})
}

// localAPIService says that this server serves gv itself.
func localAPIService(gv schema.GroupVersion, p priority) *apiregistrationv1.APIService {
	return &apiregistrationv1.APIService{
		ObjectMeta: metav1.ObjectMeta{Name: gv.Version + "." + gv.Group},
		Spec: apiregistrationv1.APIServiceSpec{
			Group: gv.Group, Version: gv.Version, GroupPriorityMinimum: p.group, VersionPriority: p.version,
		},
	}
}

// registered is healthy once all of the named APIServices have been seen to be
// available, and from then on.
func registered(names []string, services apiregistrationlisters.APIServiceLister) healthz.HealthChecker {
	var done atomic.Bool
	return healthz.NamedCheck("apiservices", func(*http.Request) error {
		if done.Load() {
			return nil
		}
		for _, name := range names {
			service, err := services.Get(name)
			if err != nil || !apiregistrationhelper.IsAPIServiceConditionTrue(service, apiregistrationv1.Available) {
				return fmt.Errorf("APIService %s is not available yet", name)
			}
		}
		done.Store(true)
		return nil
	})
}

// priority orders groups, and versions in a group, in discovery: the highest
// comes first, and is what a client takes where two have the same resource.
type priority struct{ group, version int32 }

// customPriority is that of custom resources, behind all that is built in.
var customPriority = priority{1000, 100}

// priorities are Kubernetes' own, which users see in APIServices.
var priorities = map[schema.GroupVersion]priority{
	{Group: "", Version: "v1"}:                             {18000, 1},
	{Group: "apps", Version: "v1"}:                         {17800, 15},
	{Group: "events.k8s.io", Version: "v1"}:                {17750, 15},
	{Group: "authentication.k8s.io", Version: "v1"}:        {17700, 15},
	{Group: "authorization.k8s.io", Version: "v1"}:         {17600, 15},
	{Group: "autoscaling", Version: "v2"}:                  {17500, 30},
	{Group: "autoscaling", Version: "v1"}:                  {17500, 15},
	{Group: "batch", Version: "v1"}:                        {17400, 15},
	{Group: "certificates.k8s.io", Version: "v1"}:          {17300, 15},
	{Group: "networking.k8s.io", Version: "v1"}:            {17200, 15},
	{Group: "policy", Version: "v1"}:                       {17100, 15},
	{Group: "rbac.authorization.k8s.io", Version: "v1"}:    {17000, 15},
	{Group: "storage.k8s.io", Version: "v1"}:               {16800, 15},
	{Group: "apiextensions.k8s.io", Version: "v1"}:         {16700, 15},
	{Group: "admissionregistration.k8s.io", Version: "v1"}: {16700, 15},
	{Group: "scheduling.k8s.io", Version: "v1"}:            {16600, 15},
	{Group: "coordination.k8s.io", Version: "v1"}:          {16500, 15},
	{Group: "node.k8s.io", Version: "v1"}:                  {16300, 15},
	{Group: "discovery.k8s.io", Version: "v1"}:             {16200, 15},
	{Group: "resource.k8s.io", Version: "v1"}:              {16200, 21},
	{Group: "flowcontrol.apiserver.k8s.io", Version: "v1"}: {16100, 21},
	// As metrics-server has it: its "pods" must not be what clients mean by pods.
	{Group: "metrics.k8s.io", Version: "v1beta1"}: {100, 100},
}
