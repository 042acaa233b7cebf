package storage

import (
	"fmt"
	"path"
	"sync"
	"time"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apiserver/pkg/registry/generic"
	apistorage "k8s.io/apiserver/pkg/storage"
	"k8s.io/apiserver/pkg/storage/cacher"
	"k8s.io/apiserver/pkg/storage/etcd3"
	"k8s.io/apiserver/pkg/storage/storagebackend"
	"k8s.io/apiserver/pkg/storage/storagebackend/factory"
	"k8s.io/apiserver/pkg/util/flowcontrol/request"
	"k8s.io/client-go/tools/cache"
)

// Options builds the store of each resource on a shared client.
type Options struct {
	Client *Client
	Scheme *runtime.Scheme
	Counts request.StorageObjectCountTracker
	// Uncached resources have no watch cache: those that are written often
	// and watched seldom (events).
	Uncached map[schema.GroupResource]bool

	// Codec encodes and decodes every resource, where the objects are not the
	// published types themselves (nil: protobuf, as Codec does), in the version
	// that Versioner says. Such resources lie under their group and their
	// plural name.
	Codec     runtime.Codec
	Versioner runtime.GroupVersioner
}

var _ generic.RESTOptionsGetter = (*Options)(nil)

// GetRESTOptions implements generic.RESTOptionsGetter. Without a codec of their
// own, objects are stored as protobuf in example's external version, and a
// resource lies under its plural name; controlplane/api says where one lies
// elsewhere.
func (o *Options) GetRESTOptions(resource schema.GroupResource, example runtime.Object) (generic.RESTOptions, error) {
	config := storagebackend.NewDefaultConfig(o.Client.Prefix(), nil)
	prefix := resource.Resource
	switch {
	case o.Codec != nil:
		config.Codec, config.EncodeVersioner = o.Codec, o.Versioner
		prefix = path.Join(resource.Group, resource.Resource)
	case example != nil:
		kinds, _, err := o.Scheme.ObjectKinds(example)
		if err != nil {
			return generic.RESTOptions{}, fmt.Errorf("find the version that %s are stored in: %w", resource, err)
		}
		config.EncodeVersioner = kinds[0].GroupVersion()
		config.Codec = Codec(o.Scheme, kinds[0].GroupVersion())
	}
	return generic.RESTOptions{
		StorageConfig:             config.ForResource(resource),
		Decorator:                 o.open,
		EnableGarbageCollection:   true,
		DeleteCollectionWorkers:   1,
		ResourcePrefix:            prefix,
		CountMetricPollPeriod:     time.Minute,
		StorageObjectCountTracker: o.Counts,
	}, nil
}

// Codec encodes objects of one version the way they lie in etcd, and decodes
// them into that group's internal version, which is the same Go type.
func Codec(scheme *runtime.Scheme, version schema.GroupVersion) runtime.Codec {
	codecs := serializer.NewCodecFactory(scheme)
	encoder := protobuf.NewSerializer(scheme, scheme)
	internal := schema.GroupVersion{Group: version.Group, Version: runtime.APIVersionInternal}
	return codecs.CodecForVersions(encoder, codecs.UniversalDeserializer(), version, internal)
}

// open is a generic.StorageDecorator.
func (o *Options) open(
	config *storagebackend.ConfigForResource,
	resourcePrefix string,
	key func(runtime.Object) (string, error),
	newObject, newList func() runtime.Object,
	attributes apistorage.AttrFunc,
	triggers apistorage.IndexerFuncs,
	indexers *cache.Indexers,
) (apistorage.Interface, factory.DestroyFunc, error) {
	client, closeClient := o.Client.forResource()
	versioner := apistorage.APIObjectVersioner{}
	store, err := etcd3.New(client, o.Client.compactor, config.Codec, newObject, newList,
		config.Prefix, resourcePrefix, config.GroupResource, o.Client.encrypted.TransformerForResource(config.GroupResource),
		config.LeaseManagerConfig, etcd3.NewDefaultDecoder(config.Codec, versioner), versioner)
	if err != nil {
		closeClient()
		return nil, nil, fmt.Errorf("open store of %s: %w", config.GroupResource, err)
	}
	if o.Uncached[config.GroupResource] {
		return store, sync.OnceFunc(func() { store.Close(); closeClient() }), nil
	}
	cached, err := cacher.NewCacherFromConfig(cacher.Config{
		Storage:             store,
		Versioner:           versioner,
		GroupResource:       config.GroupResource,
		EventsHistoryWindow: config.EventsHistoryWindow,
		ResourcePrefix:      resourcePrefix,
		KeyFunc:             key,
		NewFunc:             newObject,
		NewListFunc:         newList,
		GetAttrsFunc:        attributes,
		IndexerFuncs:        triggers,
		Indexers:            indexers,
		Codec:               config.Codec,
	})
	if err != nil {
		store.Close()
		closeClient()
		return nil, nil, fmt.Errorf("open watch cache of %s: %w", config.GroupResource, err)
	}
	delegator := cacher.NewCacheDelegator(cached, store)
	return delegator, sync.OnceFunc(func() {
		delegator.Stop()
		cached.Stop()
		store.Close()
		closeClient()
	}), nil
}
