package rootca

import (
	"context"
	"fmt"
	"os"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers     = 1
	name        = "kube-root-ca.crt"
	dataKey     = "ca.crt"
	describes   = "kubernetes.io/description"
	description = "Verifies the API server at its addresses inside the cluster, kubernetes.default.svc among them."
)

// controller watches only the ConfigMaps of its name, not all of the cluster's.
type controller struct {
	client     kubernetes.Interface
	file       string
	namespaces corelisters.NamespaceLister
	maps       cache.SharedIndexInformer
	loop       *reconcile.Loop
}

// New makes the controller; file holds the certificate and is read for every
// write, so that a changed CA needs no restart to reach new namespaces.
func New(env *reconcile.Environment, file string) (reconcile.Controller, error) {
	c := &controller{
		client:     env.Client,
		file:       file,
		namespaces: env.Informers.Core().V1().Namespaces().Lister(),
		maps: coreinformers.NewFilteredConfigMapInformer(env.Client, metav1.NamespaceAll, 0, cache.Indexers{}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector(metav1.ObjectNameField, name).String()
		}),
	}
	if err := c.maps.SetTransform(reconcile.DropManagedFields); err != nil {
		return nil, fmt.Errorf("set up informer: %w", err)
	}
	c.loop = reconcile.NewLoop(env, "rootca", workers, c.reconcile)
	err := reconcile.Watch(env, env.Informers.Core().V1().Namespaces().Informer(), reconcile.Handlers[*corev1.Namespace]{
		Add:    func(ns *corev1.Namespace) { c.loop.Add(ns.Name) },
		Update: func(_, ns *corev1.Namespace) { c.loop.Add(ns.Name) },
	})
	if err != nil {
		return nil, err
	}
	// Not through reconcile.Watch: this informer starts with the controller.
	wake := func(obj any) {
		if gone, ok := obj.(cache.DeletedFinalStateUnknown); ok {
			obj = gone.Obj
		}
		if m, ok := obj.(*corev1.ConfigMap); ok {
			c.loop.Add(m.Namespace)
		}
	}
	_, err = c.maps.AddEventHandler(cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, obj any) { wake(obj) }, DeleteFunc: wake})
	if err != nil {
		return nil, fmt.Errorf("watch config maps: %w", err)
	}
	return c, nil
}

// Run runs the informer and the loop.
func (c *controller) Run(ctx context.Context) error {
	informer := make(chan struct{})
	go func() {
		defer close(informer)
		c.maps.RunWithContext(ctx)
	}()
	defer func() { <-informer }()
	if !cache.WaitForCacheSync(ctx.Done(), c.maps.HasSynced) {
		return nil // ctx has ended
	}
	return c.loop.Run(ctx)
}

func (c *controller) reconcile(ctx context.Context, namespace string) error {
	ns, err := c.namespaces.Get(namespace)
	if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp != nil {
		return nil
	}
	if err != nil {
		return err
	}
	certificate, err := os.ReadFile(c.file)
	if err != nil {
		return fmt.Errorf("read the cluster CA: %w", err)
	}
	wanted := &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace, Annotations: map[string]string{describes: description}},
		Data:       map[string]string{dataKey: string(certificate)},
	}
	obj, exists, err := c.maps.GetStore().GetByKey(namespace + "/" + name)
	if err != nil {
		return err
	}
	if !exists {
		_, err = c.client.CoreV1().ConfigMaps(namespace).Create(ctx, wanted, metav1.CreateOptions{})
		if apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return nil
		}
		if apierrors.IsAlreadyExists(err) {
			c.loop.AddAfter(namespace, time.Second) // the cache is behind
			return nil
		}
	} else if current := obj.(*corev1.ConfigMap); len(current.Data) != 1 || current.Data[dataKey] != string(certificate) || current.Annotations[describes] == "" {
		changed := current.DeepCopy()
		changed.Data, changed.BinaryData = wanted.Data, nil
		metav1.SetMetaDataAnnotation(&changed.ObjectMeta, describes, description)
		_, err = c.client.CoreV1().ConfigMaps(namespace).Update(ctx, changed, metav1.UpdateOptions{})
	}
	if err != nil {
		return fmt.Errorf("write config map: %w", err)
	}
	return nil
}
