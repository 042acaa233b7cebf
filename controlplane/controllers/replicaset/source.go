package replicaset

import (
	"context"

	appsv1 "k8s.io/api/apps/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/controllers/reconcile"
)

// source is where sets come from, and where their status goes.
type source struct {
	name     string // of the controller
	kind     schema.GroupVersionKind
	informer cache.SharedIndexInformer
	// get and list read the cache; what they return must not be changed.
	get  func(namespace, name string) (*appsv1.ReplicaSet, error)
	list func(namespace string) ([]*appsv1.ReplicaSet, error)
	// fresh reads from the API server.
	fresh       func(ctx context.Context, namespace, name string) (metav1.Object, error)
	writeStatus func(ctx context.Context, set *appsv1.ReplicaSet) error
}

func replicaSets(env *reconcile.Environment) source {
	sets := env.Informers.Apps().V1().ReplicaSets()
	return source{
		name:     "replicaset",
		kind:     appsv1.SchemeGroupVersion.WithKind("ReplicaSet"),
		informer: sets.Informer(),
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			return sets.Lister().ReplicaSets(namespace).Get(name)
		},
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			return sets.Lister().ReplicaSets(namespace).List(labels.Everything())
		},
		fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return env.Client.AppsV1().ReplicaSets(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			_, err := env.Client.AppsV1().ReplicaSets(set.Namespace).UpdateStatus(ctx, set, metav1.UpdateOptions{})
			return err
		},
	}
}

// NewForReplicationControllers makes the controller of that kind.
func NewForReplicationControllers(env *reconcile.Environment) (reconcile.Controller, error) {
	controllers := env.Informers.Core().V1().ReplicationControllers()
	kind := corev1.SchemeGroupVersion.WithKind("ReplicationController")
	return newController(env, source{
		name:     "replication",
		kind:     kind,
		informer: controllers.Informer(),
		get: func(namespace, name string) (*appsv1.ReplicaSet, error) {
			rc, err := controllers.Lister().ReplicationControllers(namespace).Get(name)
			if err != nil {
				return nil, err
			}
			return asSet(rc, kind), nil
		},
		list: func(namespace string) ([]*appsv1.ReplicaSet, error) {
			all, err := controllers.Lister().ReplicationControllers(namespace).List(labels.Everything())
			sets := make([]*appsv1.ReplicaSet, len(all))
			for i, rc := range all {
				sets[i] = asSet(rc, kind)
			}
			return sets, err
		},
		fresh: func(ctx context.Context, namespace, name string) (metav1.Object, error) {
			return env.Client.CoreV1().ReplicationControllers(namespace).Get(ctx, name, metav1.GetOptions{})
		},
		writeStatus: func(ctx context.Context, set *appsv1.ReplicaSet) error {
			cached, err := controllers.Lister().ReplicationControllers(set.Namespace).Get(set.Name)
			if err != nil {
				return err
			}
			rc := cached.DeepCopy()
			// A newer one in the cache must not take a status made for this.
			rc.ResourceVersion = set.ResourceVersion
			rc.Status = corev1.ReplicationControllerStatus{
				Replicas:             set.Status.Replicas,
				FullyLabeledReplicas: set.Status.FullyLabeledReplicas,
				ReadyReplicas:        set.Status.ReadyReplicas,
				AvailableReplicas:    set.Status.AvailableReplicas,
				ObservedGeneration:   set.Status.ObservedGeneration,
			}
			for _, c := range set.Status.Conditions {
				rc.Status.Conditions = append(rc.Status.Conditions, corev1.ReplicationControllerCondition{
					Type: corev1.ReplicationControllerConditionType(c.Type), Status: c.Status,
					LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message})
			}
			_, err = env.Client.CoreV1().ReplicationControllers(set.Namespace).UpdateStatus(ctx, rc, metav1.UpdateOptions{})
			return err
		},
	})
}

// asSet is the replica set that a replication controller amounts to. It keeps
// its own kind, which events are told under.
func asSet(rc *corev1.ReplicationController, kind schema.GroupVersionKind) *appsv1.ReplicaSet {
	set := &appsv1.ReplicaSet{
		ObjectMeta: rc.ObjectMeta,
		Spec: appsv1.ReplicaSetSpec{
			Replicas:        rc.Spec.Replicas,
			MinReadySeconds: rc.Spec.MinReadySeconds,
			Selector:        &metav1.LabelSelector{MatchLabels: rc.Spec.Selector},
		},
		Status: appsv1.ReplicaSetStatus{
			Replicas:             rc.Status.Replicas,
			FullyLabeledReplicas: rc.Status.FullyLabeledReplicas,
			ReadyReplicas:        rc.Status.ReadyReplicas,
			AvailableReplicas:    rc.Status.AvailableReplicas,
			ObservedGeneration:   rc.Status.ObservedGeneration,
		},
	}
	set.SetGroupVersionKind(kind)
	if rc.Spec.Template != nil {
		set.Spec.Template = *rc.Spec.Template
	}
	for _, c := range rc.Status.Conditions {
		set.Status.Conditions = append(set.Status.Conditions, appsv1.ReplicaSetCondition{
			Type: appsv1.ReplicaSetConditionType(c.Type), Status: c.Status,
			LastTransitionTime: c.LastTransitionTime, Reason: c.Reason, Message: c.Message})
	}
	return set
}
