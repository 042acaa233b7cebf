package resourcequota

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	resourcev1 "k8s.io/api/resource/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	apiquota "k8s.io/apiserver/pkg/quota/v1"
	"k8s.io/apiserver/pkg/quota/v1/generic"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/dynamic-resource-allocation/deviceclass/extendedresourcecache"
	"k8s.io/klog/v2"

	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/controlplane/quota"
)

const (
	workers = 5
	// period is how often every quota is added up again.
	period = 5 * time.Minute
	// countPeriod is the same for quotas that count objects which nothing here
	// watches.
	countPeriod = 10 * time.Second
	countPrefix = "count/"
)

// watched are the kinds that quotas know by name.
var watched = append(
	gvrs(corev1.SchemeGroupVersion, "pods", "services", "persistentvolumeclaims", "configmaps", "secrets", "replicationcontrollers", "resourcequotas"),
	gvrs(resourcev1.SchemeGroupVersion, "resourceclaims")...)

func gvrs(group schema.GroupVersion, resources ...string) (all []schema.GroupVersionResource) {
	for _, resource := range resources {
		all = append(all, group.WithResource(resource))
	}
	return all
}

type controller struct {
	env      *reconcile.Environment
	quotas   corelisters.ResourceQuotaLister
	registry apiquota.Registry
	loop     *reconcile.Loop
}

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	quotas := env.Informers.Core().V1().ResourceQuotas()
	c := &controller{env: env, quotas: quotas.Lister()}
	pods, claims := env.Informers.Core().V1().Pods().Lister(), env.Informers.Resource().V1().ResourceClaims().Lister()
	cluster := quota.Cluster{
		Classes: extendedresourcecache.NewExtendedResourceCache(klog.Logger{}),
		Pod:     func(namespace, name string) (*corev1.Pod, error) { return pods.Pods(namespace).Get(name) },
		Claims: func(namespace string) ([]*resourcev1.ResourceClaim, error) {
			return claims.ResourceClaims(namespace).List(labels.Everything())
		},
	}
	listers := map[schema.GroupVersionResource]cache.GenericLister{}
	c.registry = generic.NewRegistry(quota.NewConfiguration(func(gvr schema.GroupVersionResource) (cache.GenericLister, error) {
		lister, ok := listers[gvr]
		if !ok {
			return nil, fmt.Errorf("%s is not watched", gvr)
		}
		return lister, nil
	}, cluster).Evaluators())
	c.loop = reconcile.NewLoop(env, "resourcequota", workers, c.reconcile)
	err := reconcile.Watch(env, quotas.Informer(), reconcile.Handlers[*corev1.ResourceQuota]{
		Add: func(q *corev1.ResourceQuota) { c.loop.AddObject(q) },
		// Not for a new status, which admission writes before the object is to
		// be seen here.
		Update: func(old, q *corev1.ResourceQuota) {
			if !equality.Semantic.DeepEqual(old.Spec, q.Spec) {
				c.loop.AddObject(q)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, env.Informers.Resource().V1().DeviceClasses().Informer(), reconcile.Handlers[*resourcev1.DeviceClass]{
		Add:    func(class *resourcev1.DeviceClass) { cluster.Classes.OnAdd(class, false) },
		Update: func(old, class *resourcev1.DeviceClass) { cluster.Classes.OnUpdate(old, class) },
		Delete: func(class *resourcev1.DeviceClass) { cluster.Classes.OnDelete(class) },
	})
	if err != nil {
		return nil, err
	}
	for _, gvr := range watched {
		informer, err := env.Informers.ForResource(gvr)
		if err != nil {
			return nil, fmt.Errorf("watch %s: %w", gvr.Resource, err)
		}
		listers[gvr] = informer.Lister()
		err = reconcile.Watch(env, informer.Informer(), reconcile.Handlers[metav1.Object]{
			Update: func(old, obj metav1.Object) {
				if usesLess(old, obj) {
					c.addNamespace(obj.GetNamespace())
				}
			},
			Delete: func(obj metav1.Object) { c.addNamespace(obj.GetNamespace()) },
		})
		if err != nil {
			return nil, err
		}
	}
	return c.loop, nil
}

// usesLess reports whether an update may have freed something.
func usesLess(old, obj metav1.Object) bool {
	switch now := obj.(type) {
	case *corev1.Pod:
		before, ok := old.(*corev1.Pod)
		if !ok {
			return false
		}
		// A node for it is no reason: adding up while pods are still being made
		// could miss one that admission has counted, and let another in.
		was := before.Spec
		was.NodeName = now.Spec.NodeName
		return !reconcile.PodTerminal(before) && reconcile.PodTerminal(now) ||
			before.DeletionTimestamp == nil && now.DeletionTimestamp != nil ||
			!equality.Semantic.DeepEqual(was, now.Spec) || resized(before, now)
	case *corev1.Service:
		before, ok := old.(*corev1.Service)
		return ok && !equality.Semantic.DeepEqual(before.Spec, now.Spec)
	case *corev1.PersistentVolumeClaim:
		before, ok := old.(*corev1.PersistentVolumeClaim)
		return ok && (!equality.Semantic.DeepEqual(before.Spec, now.Spec) ||
			!equality.Semantic.DeepEqual(before.Status.AllocatedResources, now.Status.AllocatedResources) ||
			!equality.Semantic.DeepEqual(before.Status.CurrentVolumeAttributesClassName, now.Status.CurrentVolumeAttributesClassName) ||
			!equality.Semantic.DeepEqual(before.Status.ModifyVolumeStatus, now.Status.ModifyVolumeStatus))
	}
	return false
}

// resized reports whether a container that ran before has other resources now:
// what it gives back counts until its node says that it has.
func resized(before, now *corev1.Pod) bool {
	differs := func(before, now []corev1.ContainerStatus) bool {
		return slices.ContainsFunc(now, func(n corev1.ContainerStatus) bool {
			i := slices.IndexFunc(before, func(b corev1.ContainerStatus) bool { return b.Name == n.Name })
			return i >= 0 && !equality.Semantic.DeepEqual(before[i].Resources, n.Resources)
		})
	}
	return differs(before.Status.ContainerStatuses, now.Status.ContainerStatuses) ||
		differs(before.Status.InitContainerStatuses, now.Status.InitContainerStatuses)
}

func (c *controller) addNamespace(namespace string) {
	quotas, err := c.quotas.ResourceQuotas(namespace).List(labels.Everything())
	if err != nil {
		c.loop.Logger().Warn("list quotas", "namespace", namespace, "error", err)
		return
	}
	for _, q := range quotas {
		c.loop.AddObject(q)
	}
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	namespace, name := reconcile.Split(key)
	q, err := c.quotas.ResourceQuotas(namespace).Get(name)
	if apierrors.IsNotFound(err) {
		return nil
	}
	if err != nil {
		return err
	}
	used, err := apiquota.CalculateUsage(namespace, q.Spec.Scopes, q.Spec.Hard, c.registry, q.Spec.ScopeSelector)
	if err != nil {
		return fmt.Errorf("add up usage: %w", err)
	}
	again := period
	for resource := range q.Spec.Hard {
		path, counts := strings.CutPrefix(string(resource), countPrefix)
		gr := schema.ParseGroupResource(path)
		if !counts || c.registry.Get(gr) != nil {
			continue
		}
		again = countPeriod
		stats, err := generic.NewObjectCountEvaluator(gr, c.list(ctx, gr), "").UsageStats(apiquota.UsageStatsOptions{
			Namespace: namespace, Scopes: q.Spec.Scopes, ScopeSelector: q.Spec.ScopeSelector, Resources: []corev1.ResourceName{resource}})
		if err != nil {
			return fmt.Errorf("count %s: %w", gr, err)
		}
		used[resource] = stats.Used[resource]
	}
	updated := q.DeepCopy()
	updated.Status.Hard = q.Spec.Hard.DeepCopy()
	updated.Status.Used = apiquota.Mask(used, apiquota.ResourceNames(q.Spec.Hard))
	if !apiquota.Equals(q.Status.Hard, updated.Status.Hard) || !apiquota.Equals(q.Status.Used, updated.Status.Used) {
		if _, err := c.env.Client.CoreV1().ResourceQuotas(namespace).UpdateStatus(ctx, updated, metav1.UpdateOptions{}); err != nil {
			return fmt.Errorf("write status: %w", err)
		}
	}
	c.loop.AddAfter(key, again)
	return nil
}

// list lists the objects of any resource, by its group's preferred version.
func (c *controller) list(ctx context.Context, gr schema.GroupResource) generic.ListFuncByNamespace {
	return func(namespace string) ([]runtime.Object, error) {
		groups, err := c.env.Client.Discovery().ServerGroups()
		if err != nil {
			return nil, fmt.Errorf("discover API groups: %w", err)
		}
		for _, group := range groups.Groups {
			if group.Name != gr.Group {
				continue
			}
			list, err := c.env.Metadata.Resource(gr.WithVersion(group.PreferredVersion.Version)).Namespace(namespace).List(ctx, metav1.ListOptions{ResourceVersion: "0"})
			if apierrors.IsNotFound(err) {
				return nil, nil // no such resource, and so no objects
			}
			if err != nil {
				return nil, err
			}
			objects := make([]runtime.Object, len(list.Items))
			for i := range list.Items {
				objects[i] = &list.Items[i]
			}
			return objects, nil
		}
		return nil, nil
	}
}
