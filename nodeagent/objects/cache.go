package objects

import (
	"context"
	"fmt"
	"sync"

	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/meta"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
)

// Cache holds the objects in use. Safe for concurrent use.
type Cache struct {
	ctx     context.Context
	client  kubernetes.Interface
	changed func(types.UID)

	mu      sync.Mutex
	entries map[key]*entry
}

type key struct {
	kind      string // configmaps or secrets
	namespace string
	name      string
}

type entry struct {
	store cache.Store
	sync  func() bool
	users map[types.UID]bool
	stop  context.CancelFunc
}

// New makes a cache whose watches end with ctx. changed is called with every
// pod that uses an object that changed.
func New(ctx context.Context, client kubernetes.Interface, changed func(types.UID)) *Cache {
	return &Cache{ctx: ctx, client: client, changed: changed, entries: map[key]*entry{}}
}

// ConfigMap returns the named ConfigMap on behalf of the pod user, and keeps
// watching it until Release. The object is shared: read it only.
func (c *Cache) ConfigMap(ctx context.Context, user types.UID, namespace, name string) (*v1.ConfigMap, error) {
	if o, err := c.cached(user, key{"configmaps", namespace, name}); o != nil || err != nil {
		cm, _ := o.(*v1.ConfigMap)
		return cm, err
	}
	return c.client.CoreV1().ConfigMaps(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Secret returns the named Secret on behalf of the pod user, and keeps
// watching it until Release. The object is shared: read it only.
func (c *Cache) Secret(ctx context.Context, user types.UID, namespace, name string) (*v1.Secret, error) {
	if o, err := c.cached(user, key{"secrets", namespace, name}); o != nil || err != nil {
		secret, _ := o.(*v1.Secret)
		return secret, err
	}
	return c.client.CoreV1().Secrets(namespace).Get(ctx, name, metav1.GetOptions{})
}

// Release forgets what the pod user used.
func (c *Cache) Release(user types.UID) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, e := range c.entries {
		delete(e.users, user)
		if len(e.users) == 0 {
			e.stop()
			delete(c.entries, k)
		}
	}
}

// cached is the object from its watch; nil and no error while the watch has
// not listed yet.
func (c *Cache) cached(user types.UID, k key) (runtime.Object, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	e := c.entries[k]
	if e == nil {
		e = c.watch(k)
		c.entries[k] = e
	}
	e.users[user] = true
	if !e.sync() {
		return nil, nil
	}
	item, exists, err := e.store.GetByKey(k.namespace + "/" + k.name)
	if err != nil {
		return nil, fmt.Errorf("look up %s %s/%s: %w", k.kind, k.namespace, k.name, err)
	}
	if !exists {
		return nil, apierrors.NewNotFound(v1.Resource(k.kind), k.name)
	}
	return item.(runtime.Object), nil
}

func (c *Cache) watch(k key) *entry {
	ctx, stop := context.WithCancel(c.ctx)
	e := &entry{users: map[types.UID]bool{}, stop: stop}
	byName := fields.OneTermEqualSelector("metadata.name", k.name).String()
	core := c.client.CoreV1()
	source := &cache.ListWatch{
		ListWithContextFunc: func(ctx context.Context, o metav1.ListOptions) (runtime.Object, error) {
			o.FieldSelector = byName
			if k.kind == "secrets" {
				return core.Secrets(k.namespace).List(ctx, o)
			}
			return core.ConfigMaps(k.namespace).List(ctx, o)
		},
		WatchFuncWithContext: func(ctx context.Context, o metav1.ListOptions) (watch.Interface, error) {
			o.FieldSelector = byName
			if k.kind == "secrets" {
				return core.Secrets(k.namespace).Watch(ctx, o)
			}
			return core.ConfigMaps(k.namespace).Watch(ctx, o)
		},
	}
	var kind runtime.Object = &v1.ConfigMap{}
	if k.kind == "secrets" {
		kind = &v1.Secret{}
	}
	wake := func() {
		c.mu.Lock()
		users := make([]types.UID, 0, len(e.users))
		for u := range e.users {
			users = append(users, u)
		}
		c.mu.Unlock()
		for _, u := range users {
			c.changed(u)
		}
	}
	store, controller := cache.NewInformerWithOptions(cache.InformerOptions{
		ListerWatcher: cache.ToListWatcherWithWatchListSemantics(source, c.client),
		ObjectType:    kind,
		Transform:     dropManagedFields,
		Handler: cache.ResourceEventHandlerFuncs{
			AddFunc:    func(any) { wake() },
			UpdateFunc: func(any, any) { wake() },
			DeleteFunc: func(any) { wake() },
		},
	})
	e.store, e.sync = store, controller.HasSynced
	go controller.RunWithContext(ctx)
	return e
}

func dropManagedFields(o any) (any, error) {
	if m, err := meta.Accessor(o); err == nil {
		m.SetManagedFields(nil)
	}
	return o, nil
}
