package reconcile

import (
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// Owned brings what happens to pods to the loop of the objects that control
// them, and settles what is expected of them on the way. A graceful deletion
// counts when it begins.
type Owned struct {
	Kind     schema.GroupVersionKind // of the controlling objects
	Expected *Expectations           // nil if none are kept
	Add      func(key string)        // asks for an owner to be reconciled
	// Orphan, unless nil, is called for a labelled pod that nothing controls,
	// and wakes the objects that may adopt it.
	Orphan func(pod *corev1.Pod)
}

// WatchPods watches pods for o.
func WatchPods(env *Environment, o Owned) error {
	return Watch(env, env.Informers.Core().V1().Pods().Informer(), Handlers[*corev1.Pod]{
		Add:    o.added,
		Update: o.updated,
		Delete: o.deleted,
	})
}

// Owner returns the key of the object of Kind that controls pod, or "".
func (o Owned) Owner(pod *corev1.Pod) string {
	ref := metav1.GetControllerOfNoCopy(pod)
	if ref == nil || ref.Kind != o.Kind.Kind || ref.APIVersion != o.Kind.GroupVersion().String() {
		return ""
	}
	return pod.Namespace + "/" + ref.Name
}

func (o Owned) added(pod *corev1.Pod) {
	if pod.DeletionTimestamp != nil {
		o.deleted(pod)
		return
	}
	key := o.Owner(pod)
	if key == "" {
		o.orphaned(pod)
		return
	}
	if o.Expected != nil {
		o.Expected.Created(key)
	}
	o.Add(key)
}

func (o Owned) updated(old, pod *corev1.Pod) {
	before, after := o.Owner(old), o.Owner(pod)
	if before != "" && before != after {
		o.Add(before)
	}
	switch {
	case pod.DeletionTimestamp != nil:
		o.deleted(pod)
	case after != "":
		o.Add(after)
	default:
		o.orphaned(pod)
	}
}

func (o Owned) deleted(pod *corev1.Pod) {
	key := o.Owner(pod)
	if key == "" {
		return
	}
	if o.Expected != nil {
		o.Expected.Deleted(key, pod.UID)
	}
	o.Add(key)
}

func (o Owned) orphaned(pod *corev1.Pod) {
	if o.Orphan != nil && metav1.GetControllerOfNoCopy(pod) == nil && len(pod.Labels) > 0 {
		o.Orphan(pod)
	}
}
