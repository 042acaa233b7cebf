package apiserver

import (
	"context"
	"fmt"
	"maps"
	"slices"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"
	genericapiserver "k8s.io/apiserver/pkg/server"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/admissionregistration"
	"clusterctl/controlplane/api/apps"
	"clusterctl/controlplane/api/authentication"
	"clusterctl/controlplane/api/authorization"
	"clusterctl/controlplane/api/autoscaling"
	"clusterctl/controlplane/api/batch"
	"clusterctl/controlplane/api/certificates"
	"clusterctl/controlplane/api/coordination"
	"clusterctl/controlplane/api/core"
	"clusterctl/controlplane/api/discovery"
	"clusterctl/controlplane/api/events"
	"clusterctl/controlplane/api/flowcontrol"
	"clusterctl/controlplane/api/networking"
	"clusterctl/controlplane/api/node"
	"clusterctl/controlplane/api/openapi"
	"clusterctl/controlplane/api/policy"
	"clusterctl/controlplane/api/rbac"
	"clusterctl/controlplane/api/resource"
	"clusterctl/controlplane/api/scheduling"
	"clusterctl/controlplane/api/storage"
	"clusterctl/controlplane/metricsapi"
)

// install builds the stores of all kinds and has server serve them by group and
// version.
func (s *Server) install(server *genericapiserver.GenericAPIServer, config *genericapiserver.Config, env *api.Environment, kinds []api.Kind) error {
	codecs := serializer.NewCodecFactory(env.Scheme)
	groups := map[string]*genericapiserver.APIGroupInfo{}
	for _, kind := range kinds {
		gvr := kind.GroupVersionResource()
		info, ok := groups[gvr.Group]
		if !ok {
			made := genericapiserver.NewDefaultAPIGroupInfo(gvr.Group, env.Scheme, env.ParameterCodec, codecs)
			info = &made
			groups[gvr.Group] = info
		}
		served := info.VersionedResourcesStorageMap[gvr.Version]
		if served == nil {
			served = map[string]rest.Storage{}
			info.VersionedResourcesStorageMap[gvr.Version] = served
		}
		storages, err := kind.Storages(env)
		if err != nil {
			return fmt.Errorf("build %s: %w", kind.Name(), err)
		}
		for path, storage := range storages {
			if _, taken := served[path]; taken {
				return fmt.Errorf("build %s: %s is served twice", kind.Name(), path)
			}
			served[path] = storage
			s.storages[gvr.Group+"/"+path] = storage
		}
	}
	converter, err := openapi.NewTypeConverter(env.Scheme)
	if err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(groups)) {
		info := groups[name]
		// Published versions that no kind serves stay out of discovery.
		info.PrioritizedVersions = slices.DeleteFunc(info.PrioritizedVersions, func(gv schema.GroupVersion) bool {
			return len(info.VersionedResourcesStorageMap[gv.Version]) == 0
		})
		if err := serveGroup(server, config, info, converter); err != nil {
			return fmt.Errorf("serve group %q: %w", name, err)
		}
	}
	return nil
}

// lookup implements api.Environment's Lookup.
func (s *Server) lookup(groupResource string) rest.Storage { return s.storages[groupResource] }

// lookupObject reads an object of the core group from the server's own cache,
// and from etcd where the cache does not have it (yet).
func (s *Server) lookupObject(ctx context.Context, resource, namespace, name string) (metav1.Object, error) {
	getter, ok := s.storages["/"+resource].(rest.Getter)
	if !ok {
		return nil, fmt.Errorf("look up %s: not served", resource)
	}
	if namespace != "" {
		ctx = request.WithNamespace(ctx, namespace)
	}
	object, err := getter.Get(ctx, name, &metav1.GetOptions{ResourceVersion: "0"})
	if apierrors.IsNotFound(err) {
		object, err = getter.Get(ctx, name, &metav1.GetOptions{})
	}
	if err != nil {
		return nil, err
	}
	return meta.Accessor(object)
}

// kinds are what the server serves.
func kinds() []api.Kind {
	return slices.Concat(
		core.Kinds(),
		admissionregistration.Kinds(),
		apps.Kinds(),
		authentication.Kinds(),
		authorization.Kinds(),
		autoscaling.Kinds(),
		batch.Kinds(),
		certificates.Kinds(),
		coordination.Kinds(),
		discovery.Kinds(),
		events.Kinds(),
		flowcontrol.Kinds(),
		networking.Kinds(),
		node.Kinds(),
		policy.Kinds(),
		rbac.Kinds(),
		resource.Kinds(),
		scheduling.Kinds(),
		storage.Kinds(),
		metricsapi.Kinds(),
	)
}
