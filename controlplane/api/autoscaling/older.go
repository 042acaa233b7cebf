package autoscaling

import (
	"fmt"

	autoscalingv1 "k8s.io/api/autoscaling/v1"
	autoscalingv2 "k8s.io/api/autoscaling/v2"
	"k8s.io/apimachinery/pkg/conversion"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/registry/rest"
	"sigs.k8s.io/structured-merge-diff/v6/fieldpath"

	"clusterctl/controlplane/api"
)

const resourceName = "horizontalpodautoscalers"

// olderKind serves v1 over v2's store: the scheme converts on the way in and
// out.
type olderKind struct{}

// Name implements api.Kind.
func (olderKind) Name() schema.GroupVersionKind {
	return autoscalingv1.SchemeGroupVersion.WithKind("HorizontalPodAutoscaler")
}

// GroupVersionResource implements api.Kind.
func (olderKind) GroupVersionResource() schema.GroupVersionResource {
	return autoscalingv1.SchemeGroupVersion.WithResource(resourceName)
}

// Register implements api.Kind. The default of what is scaled by needs the
// annotations, and is left to conversion.
func (olderKind) Register(scheme *runtime.Scheme) error {
	scheme.AddTypeDefaultingFunc(&autoscalingv1.HorizontalPodAutoscaler{}, func(obj any) {
		setDefault(&obj.(*autoscalingv1.HorizontalPodAutoscaler).Spec.MinReplicas, 1)
	})
	scheme.AddTypeDefaultingFunc(&autoscalingv1.HorizontalPodAutoscalerList{}, func(obj any) {
		items := obj.(*autoscalingv1.HorizontalPodAutoscalerList).Items
		for i := range items {
			setDefault(&items[i].Spec.MinReplicas, 1)
		}
	})
	for _, add := range []error{
		convert(scheme, fromOlder),
		convert(scheme, toOlder),
		convert(scheme, func(in *autoscalingv1.HorizontalPodAutoscalerList, out *autoscalingv2.HorizontalPodAutoscalerList) error {
			out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv2.HorizontalPodAutoscaler, len(in.Items))
			return convertAll(in.Items, out.Items, fromOlder)
		}),
		convert(scheme, func(in *autoscalingv2.HorizontalPodAutoscalerList, out *autoscalingv1.HorizontalPodAutoscalerList) error {
			out.ListMeta, out.Items = in.ListMeta, make([]autoscalingv1.HorizontalPodAutoscaler, len(in.Items))
			return convertAll(in.Items, out.Items, toOlder)
		}),
	} {
		if add != nil {
			return fmt.Errorf("register a conversion of autoscalers: %w", add)
		}
	}
	return nil
}

func convert[A, B any](scheme *runtime.Scheme, f func(*A, *B) error) error {
	return scheme.AddConversionFunc((*A)(nil), (*B)(nil), func(a, b any, _ conversion.Scope) error {
		return f(a.(*A), b.(*B))
	})
}

func convertAll[A, B any](in []A, out []B, f func(*A, *B) error) error {
	for i := range in {
		if err := f(&in[i], &out[i]); err != nil {
			return err
		}
	}
	return nil
}

// Storages implements api.Kind. v2's have to be built already.
func (olderKind) Storages(env *api.Environment) (map[string]rest.Storage, error) {
	main, ok := env.Lookup("autoscaling/" + resourceName).(*api.Resource)
	if !ok {
		return nil, fmt.Errorf("look up autoscaling/v2 %s: not built", resourceName)
	}
	status, ok := env.Lookup("autoscaling/" + resourceName + "/status").(*api.StatusResource)
	if !ok {
		return nil, fmt.Errorf("look up the status of autoscaling/v2 %s: not built", resourceName)
	}
	return map[string]rest.Storage{resourceName: older{main}, resourceName + "/status": olderStatus{status}}, nil
}

// older and olderStatus own the same fields under v1's name.
type (
	older       struct{ *api.Resource }
	olderStatus struct{ *api.StatusResource }
)

func (o older) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return renamed(o.Resource.GetResetFields())
}

// Destroy does nothing: v2 owns the store.
func (older) Destroy() {}

func (o olderStatus) GetResetFields() map[fieldpath.APIVersion]*fieldpath.Set {
	return renamed(o.StatusResource.GetResetFields())
}

func renamed(fields map[fieldpath.APIVersion]*fieldpath.Set) map[fieldpath.APIVersion]*fieldpath.Set {
	return map[fieldpath.APIVersion]*fieldpath.Set{
		fieldpath.APIVersion(autoscalingv1.SchemeGroupVersion.String()): fields[fieldpath.APIVersion(autoscalingv2.SchemeGroupVersion.String())],
	}
}
