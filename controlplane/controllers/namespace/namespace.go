package namespace

import (
	"context"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/discovery"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/metadata"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 5
	// again is when a namespace that still has content is looked at: soon at
	// first, since most content goes at once, then ever less often.
	firstAgain = 250 * time.Millisecond
	lastAgain  = 15 * time.Second
	// settle is how long a namespace that has just begun to go is left alone,
	// so that every API server has learnt to refuse new objects in it.
	settle = 200 * time.Millisecond
)

type controller struct {
	client     kubernetes.Interface
	discovery  discovery.DiscoveryInterface
	metadata   metadata.Interface
	namespaces corelisters.NamespaceLister
	loop       *reconcile.Loop
	waits      waits
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	c := &controller{
		client:     env.Client,
		discovery:  env.Client.Discovery(),
		metadata:   env.Metadata,
		namespaces: env.Informers.Core().V1().Namespaces().Lister(),
	}
	c.loop = reconcile.NewLoop(env, "namespace", workers, c.reconcile)
	added := func(ns *corev1.Namespace) {
		if ns.DeletionTimestamp != nil {
			c.loop.AddAfter(ns.Name, settle)
		}
	}
	err := reconcile.Watch(env, env.Informers.Core().V1().Namespaces().Informer(), reconcile.Handlers[*corev1.Namespace]{
		Add: added,
		Update: func(old, ns *corev1.Namespace) {
			// What this controller writes itself must not wake it.
			if old.DeletionTimestamp == nil || !slices.Equal(old.Spec.Finalizers, ns.Spec.Finalizers) {
				added(ns)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return c.loop, nil
}

func (c *controller) reconcile(ctx context.Context, name string) error {
	if _, err := c.namespaces.Get(name); apierrors.IsNotFound(err) {
		c.waits.forget(name)
		return nil
	}
	ns, err := c.client.CoreV1().Namespaces().Get(ctx, name, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("read namespace: %w", err)
	}
	if ns.DeletionTimestamp == nil || !slices.Contains(ns.Spec.Finalizers, corev1.FinalizerKubernetes) {
		return nil
	}
	if ns.Status.Phase != corev1.NamespaceTerminating {
		ns.Status.Phase = corev1.NamespaceTerminating
		if ns, err = c.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
			return ignoreGone(fmt.Errorf("mark as terminating: %w", err))
		}
	}
	left := c.empty(ctx, ns)
	conditions := left.conditions(ns.Status.Conditions, metav1.Now())
	if !equality.Semantic.DeepEqual(conditions, ns.Status.Conditions) {
		ns.Status.Conditions = conditions
		if ns, err = c.client.CoreV1().Namespaces().UpdateStatus(ctx, ns, metav1.UpdateOptions{}); err != nil {
			return ignoreGone(fmt.Errorf("write conditions: %w", err))
		}
	}
	if err := left.err(); err != nil {
		return err
	}
	if left.objects() > 0 {
		c.loop.AddAfter(name, c.waits.next(name))
		return nil
	}
	ns.Spec.Finalizers = slices.DeleteFunc(ns.Spec.Finalizers, func(f corev1.FinalizerName) bool { return f == corev1.FinalizerKubernetes })
	if _, err := c.client.CoreV1().Namespaces().Finalize(ctx, ns, metav1.UpdateOptions{}); err != nil {
		return ignoreGone(fmt.Errorf("finalize: %w", err))
	}
	c.waits.forget(name)
	return nil
}

func ignoreGone(err error) error {
	if apierrors.IsNotFound(err) {
		return nil
	}
	return err
}
