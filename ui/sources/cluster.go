package sources

import (
	"cmp"
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/kubectl/pkg/describe"
	"sigs.k8s.io/yaml"
)

// Cluster is a connection to an API server. It is safe for concurrent use.
type Cluster struct {
	Name      string // of the kubeconfig's context
	config    *rest.Config
	client    kubernetes.Interface
	dynamic   dynamic.Interface
	discovery discovery.DiscoveryInterface
}

// Resource is a kind that can be listed.
type Resource struct {
	schema.GroupVersionResource
	Kind       string
	Namespaced bool
	Scalable   bool
	names      []string // plural, singular, short names
}

// Pods are what most screens lead to.
var Pods = Resource{
	GroupVersionResource: schema.GroupVersionResource{Version: "v1", Resource: "pods"},
	Kind:                 "Pod", Namespaced: true, names: []string{"pods", "pod", "po"},
}

// NewCluster connects; nothing is asked yet.
func NewCluster(name string, config *rest.Config) (*Cluster, error) {
	config = rest.CopyConfig(config)
	config.QPS = -1 // a person at the keys is limit enough
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a client: %w", err)
	}
	dynamicClient, err := dynamic.NewForConfig(config)
	if err != nil {
		return nil, fmt.Errorf("make a dynamic client: %w", err)
	}
	return &Cluster{Name: name, config: config, client: client, dynamic: dynamicClient, discovery: client.Discovery()}, nil
}

// Resources lists what the API server serves, sorted by name. What an
// unreachable aggregated API would add is left out.
func (c *Cluster) Resources(ctx context.Context) ([]Resource, error) {
	lists, err := c.discovery.ServerPreferredResources()
	if err != nil && len(lists) == 0 {
		return nil, fmt.Errorf("ask what the API serves: %w", err)
	}
	var found []Resource
	for _, list := range lists {
		gv, err := schema.ParseGroupVersion(list.GroupVersion)
		if err != nil {
			return nil, fmt.Errorf("read the API's groups: %w", err)
		}
		for _, r := range list.APIResources {
			if !slices.Contains(r.Verbs, "list") {
				continue
			}
			found = append(found, Resource{
				GroupVersionResource: gv.WithResource(r.Name), Kind: r.Kind, Namespaced: r.Namespaced,
				Scalable: gv.Group == "apps" && slices.Contains([]string{"deployments", "replicasets", "statefulsets"}, r.Name),
				names:    append([]string{r.Name, r.SingularName}, r.ShortNames...),
			})
		}
	}
	slices.SortFunc(found, func(a, b Resource) int {
		return cmp.Or(cmp.Compare(a.Group, b.Group), cmp.Compare(a.Resource, b.Resource))
	})
	return found, nil
}

// Find is the resource that a person means by name: plural, singular, short
// name or kind. The core group and apps go before others.
func Find(all []Resource, name string) (Resource, bool) {
	name = strings.ToLower(strings.TrimSpace(name))
	for _, r := range all {
		if slices.Contains(r.names, name) || strings.ToLower(r.Kind) == name || r.Resource+"."+r.Group == name {
			return r, true
		}
	}
	return Resource{}, false
}

func (c *Cluster) objects(r Resource, namespace string) dynamic.ResourceInterface {
	if r.Namespaced {
		return c.dynamic.Resource(r.GroupVersionResource).Namespace(namespace)
	}
	return c.dynamic.Resource(r.GroupVersionResource)
}

// YAML is an object as a file would have it, without managed fields.
func (c *Cluster) YAML(ctx context.Context, r Resource, namespace, name string) (string, error) {
	object, err := c.objects(r, namespace).Get(ctx, name, metav1.GetOptions{})
	if err != nil {
		return "", err
	}
	object.SetManagedFields(nil)
	raw, err := yaml.Marshal(object.Object)
	if err != nil {
		return "", fmt.Errorf("encode: %w", err)
	}
	return string(raw), nil
}

// Describe is what `kubectl describe` prints.
func (c *Cluster) Describe(ctx context.Context, r Resource, namespace, name string) (string, error) {
	settings := describe.DescriberSettings{ShowEvents: true, ChunkSize: 500}
	if describer, ok := describe.DescriberFor(schema.GroupKind{Group: r.Group, Kind: r.Kind}, c.config); ok {
		return describer.Describe(namespace, name, settings)
	}
	return c.YAML(ctx, r, namespace, name)
}

// Delete deletes an object, its dependents in the background.
func (c *Cluster) Delete(ctx context.Context, r Resource, namespace, name string) error {
	policy := metav1.DeletePropagationBackground
	return c.objects(r, namespace).Delete(ctx, name, metav1.DeleteOptions{PropagationPolicy: &policy})
}

// Scale sets an object's number of replicas.
func (c *Cluster) Scale(ctx context.Context, r Resource, namespace, name string, replicas int) error {
	patch, err := json.Marshal(map[string]any{"spec": map[string]any{"replicas": replicas}})
	if err != nil {
		return fmt.Errorf("encode: %w", err)
	}
	_, err = c.objects(r, namespace).Patch(ctx, name, types.MergePatchType, patch, metav1.PatchOptions{FieldManager: "clusterctl-ui"}, "scale")
	return err
}
