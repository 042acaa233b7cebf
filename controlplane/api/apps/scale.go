package apps

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/registry/generic/registry"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/scale"
)

// scaled tells the scale subresource where a kind keeps its numbers.
type scaled[T api.Object] struct {
	replicas func(T) **int32
	current  func(T) int32
	selector func(T) *metav1.LabelSelector
}

// scaleExtension is the Extend of a kind that has nothing but a scale.
func scaleExtension[T api.Object](resource string, s scaled[T]) func(*api.Environment, *registry.Store, *registry.Store) (map[string]rest.Storage, error) {
	return func(_ *api.Environment, store, _ *registry.Store) (map[string]rest.Storage, error) {
		return map[string]rest.Storage{resource + "/scale": scale.New(store, scale.Numbers[T]{
			Replicas: s.replicas, Current: s.current,
			Selector: func(o T) (string, error) {
				selector, err := metav1.LabelSelectorAsSelector(s.selector(o))
				if err != nil {
					return "", err
				}
				return selector.String(), nil
			},
		})}, nil
	}
}
