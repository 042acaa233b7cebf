package reconcile

import (
	"fmt"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"
)

const (
	byController = "controller" // UID of the controlling owner, or orphans(namespace)
	byNode       = "node"       // spec.nodeName of pods
)

func orphans(namespace string) string { return "orphan/" + namespace }

func controllerIndex(obj any) ([]string, error) {
	o, ok := obj.(metav1.Object)
	if !ok {
		return nil, fmt.Errorf("index by controller: %T has no metadata", obj)
	}
	if ref := metav1.GetControllerOfNoCopy(o); ref != nil {
		return []string{string(ref.UID)}, nil
	}
	return []string{orphans(o.GetNamespace())}, nil
}

func (e *Environment) index() error {
	pods := e.Informers.Core().V1().Pods().Informer()
	err := pods.AddIndexers(cache.Indexers{
		byController: controllerIndex,
		byNode: func(obj any) ([]string, error) {
			if pod, ok := obj.(*corev1.Pod); ok && pod.Spec.NodeName != "" {
				return []string{pod.Spec.NodeName}, nil
			}
			return nil, nil
		},
	})
	if err != nil {
		return fmt.Errorf("index pods: %w", err)
	}
	err = e.Informers.Apps().V1().ReplicaSets().Informer().AddIndexers(cache.Indexers{byController: controllerIndex})
	if err != nil {
		return fmt.Errorf("index replica sets: %w", err)
	}
	return nil
}

// PodsOf returns the pods that owner controls, and with orphaned those of its
// namespace which nothing controls.
func (e *Environment) PodsOf(owner metav1.Object, orphaned bool) ([]*corev1.Pod, error) {
	return controlled[*corev1.Pod](e.Informers.Core().V1().Pods().Informer(), owner, orphaned)
}

// ReplicaSetsOf is PodsOf for replica sets.
func (e *Environment) ReplicaSetsOf(owner metav1.Object, orphaned bool) ([]*appsv1.ReplicaSet, error) {
	return controlled[*appsv1.ReplicaSet](e.Informers.Apps().V1().ReplicaSets().Informer(), owner, orphaned)
}

// ReplicaSetsControlledBy returns all replica sets of one controlling owner.
func (e *Environment) ReplicaSetsControlledBy(owner types.UID) ([]*appsv1.ReplicaSet, error) {
	return indexed[*appsv1.ReplicaSet](e.Informers.Apps().V1().ReplicaSets().Informer(), byController, string(owner))
}

// PodsOn returns the pods bound to a node.
func (e *Environment) PodsOn(node string) ([]*corev1.Pod, error) {
	return indexed[*corev1.Pod](e.Informers.Core().V1().Pods().Informer(), byNode, node)
}

func controlled[T any](informer cache.SharedIndexInformer, owner metav1.Object, orphaned bool) ([]T, error) {
	found, err := indexed[T](informer, byController, string(owner.GetUID()))
	if err != nil || !orphaned {
		return found, err
	}
	more, err := indexed[T](informer, byController, orphans(owner.GetNamespace()))
	return append(found, more...), err
}

func indexed[T any](informer cache.SharedIndexInformer, index, value string) ([]T, error) {
	objects, err := informer.GetIndexer().ByIndex(index, value)
	if err != nil {
		return nil, fmt.Errorf("read index %s: %w", index, err)
	}
	result := make([]T, 0, len(objects))
	for _, obj := range objects {
		if o, ok := obj.(T); ok {
			result = append(result, o)
		}
	}
	return result, nil
}
