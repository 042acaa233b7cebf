package scales

import (
	"cmp"
	"context"
	"errors"
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/discovery/cached/memory"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/restmapper"
	"k8s.io/client-go/scale"
	"k8s.io/client-go/util/retry"
)

// Client reaches the scales of a cluster. It is safe for concurrent use.
type Client struct {
	kinds    meta.ResettableRESTMapper
	resolver scale.ScaleKindResolver
	scales   scale.ScalesGetter
}

// New makes a client of what found discovers, with the rights of config.
func New(found discovery.DiscoveryInterface, config *rest.Config) (*Client, error) {
	cached := memory.NewMemCacheClient(found)
	c := NewWith(cached, nil)
	var err error
	// The constructor writes into what it is given.
	c.scales, err = scale.NewForConfig(rest.CopyConfig(config), c.kinds, dynamic.LegacyAPIPathResolverFunc, c.resolver)
	if err != nil {
		return nil, fmt.Errorf("make client of scales: %w", err)
	}
	return c, nil
}

// NewWith makes a client that reaches scales by a getter of the caller's.
func NewWith(found discovery.CachedDiscoveryInterface, scales scale.ScalesGetter) *Client {
	return &Client{kinds: restmapper.NewDeferredDiscoveryRESTMapper(found), resolver: scale.NewDiscoveryScaleKindResolver(found), scales: scales}
}

// Kinds tells which resource a kind is of.
func (c *Client) Kinds() meta.RESTMapper { return c.kinds }

// Get returns the scale of an object, and the resource to write it to.
func (c *Client) Get(ctx context.Context, namespace, apiVersion, kind, name string) (*autoscalingv1.Scale, schema.GroupResource, error) {
	gv, err := schema.ParseGroupVersion(apiVersion)
	if err != nil {
		return nil, schema.GroupResource{}, err
	}
	mappings, err := c.kinds.RESTMappings(schema.GroupKind{Group: gv.Group, Kind: kind})
	if err != nil {
		c.kinds.Reset() // it may have come since
		return nil, schema.GroupResource{}, err
	}
	var first error
	for _, m := range mappings {
		resource := m.Resource.GroupResource()
		found, err := c.scales.Scales(namespace).Get(ctx, resource, name, metav1.GetOptions{})
		if err == nil {
			return found, resource, nil
		}
		first = cmp.Or(first, err)
	}
	c.kinds.Reset()
	return nil, schema.GroupResource{}, cmp.Or(first, errors.New("unrecognized resource"))
}

// OfOwner returns the scale of what a reference points to; nil where that is
// gone, or another of its name has taken its place.
func (c *Client) OfOwner(ctx context.Context, namespace string, ref *metav1.OwnerReference) (*autoscalingv1.Scale, error) {
	gv, err := schema.ParseGroupVersion(ref.APIVersion)
	if err != nil {
		return nil, err
	}
	mapping, err := c.kinds.RESTMapping(schema.GroupKind{Group: gv.Group, Kind: ref.Kind}, gv.Version)
	if err != nil {
		c.kinds.Reset()
		return nil, err
	}
	resource := mapping.Resource.GroupResource()
	found, err := c.scales.Scales(namespace).Get(ctx, resource, ref.Name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		// The object is missing, or its kind has no scale.
		if _, err := c.resolver.ScaleForResource(mapping.Resource); err != nil {
			return nil, fmt.Errorf("%s does not implement the scale subresource", resource)
		}
		return nil, nil
	case err != nil:
		return nil, err
	case found.UID != ref.UID:
		return nil, nil
	}
	return found, nil
}

// Resize writes a size, and tries again where the object has changed since
// target was read.
func (c *Client) Resize(ctx context.Context, namespace string, resource schema.GroupResource, target *autoscalingv1.Scale, size int32) error {
	scales := c.scales.Scales(namespace)
	return retry.RetryOnConflict(retry.DefaultRetry, func() error {
		target.Spec.Replicas = size
		_, err := scales.Update(ctx, resource, target, metav1.UpdateOptions{})
		if apierrors.IsConflict(err) {
			if latest, again := scales.Get(ctx, resource, target.Name, metav1.GetOptions{}); again == nil {
				target = latest
			}
		}
		return err
	})
}
