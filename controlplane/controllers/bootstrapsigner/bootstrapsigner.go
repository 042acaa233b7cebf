package bootstrapsigner

import (
	"context"
	"fmt"
	"maps"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/cache"
	bootstrap "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"
	tokensecret "k8s.io/cluster-bootstrap/util/secrets"

	"clusterctl/controlplane/controllers/reconcile"
)

const key = metav1.NamespacePublic + "/" + bootstrap.ConfigMapClusterInfo

type controller struct {
	client  kubernetes.Interface
	infos   cache.SharedIndexInformer // the one ConfigMap
	secrets cache.SharedIndexInformer // bootstrap tokens
	found   chan struct{}             // closed when there is a ConfigMap
	loop    *reconcile.Loop
}

// New makes the controller. Its one key is the ConfigMap.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	only := func(field, value string) func(*metav1.ListOptions) {
		return func(o *metav1.ListOptions) { o.FieldSelector = fields.OneTermEqualSelector(field, value).String() }
	}
	c := &controller{
		client: env.Client,
		infos: coreinformers.NewFilteredConfigMapInformer(env.Client, metav1.NamespacePublic, 0, cache.Indexers{},
			only(metav1.ObjectNameField, bootstrap.ConfigMapClusterInfo)),
		secrets: coreinformers.NewFilteredSecretInformer(env.Client, metav1.NamespaceSystem, 0, cache.Indexers{},
			only("type", string(bootstrap.SecretTypeBootstrapToken))),
		found: make(chan struct{}),
	}
	c.loop = reconcile.NewLoop(env, "bootstrapsigner", 1, c.reconcile)
	var first sync.Once
	for informer, wake := range map[cache.SharedIndexInformer]func(any){
		c.infos: func(any) {
			first.Do(func() { close(c.found) })
			c.loop.Add(key)
		},
		c.secrets: func(any) { c.loop.Add(key) },
	} {
		if err := informer.SetTransform(reconcile.DropManagedFields); err != nil {
			return nil, fmt.Errorf("set up informer: %w", err)
		}
		// Not through reconcile.Watch: these informers start with the controller.
		handlers := cache.ResourceEventHandlerFuncs{AddFunc: wake, UpdateFunc: func(_, obj any) { wake(obj) }, DeleteFunc: wake}
		if _, err := informer.AddEventHandler(handlers); err != nil {
			return nil, fmt.Errorf("watch what is to be signed: %w", err)
		}
	}
	return c, nil
}

// Run runs the informers and the loop; of the ConfigMap alone until it is there.
func (c *controller) Run(ctx context.Context) error {
	var informers sync.WaitGroup
	defer informers.Wait()
	informers.Go(func() { c.infos.RunWithContext(ctx) })
	select {
	case <-ctx.Done():
		return nil
	case <-c.found:
	}
	informers.Go(func() { c.secrets.RunWithContext(ctx) })
	if !cache.WaitForCacheSync(ctx.Done(), c.infos.HasSynced, c.secrets.HasSynced) {
		return nil // ctx has ended
	}
	return c.loop.Run(ctx)
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	obj, exists, err := c.infos.GetStore().GetByKey(key)
	if err != nil || !exists {
		return err
	}
	info := obj.(*corev1.ConfigMap)
	content, ok := info.Data[bootstrap.KubeConfigKey]
	if !ok {
		return nil
	}
	data := maps.Clone(info.Data)
	maps.DeleteFunc(data, func(k, _ string) bool { return strings.HasPrefix(k, bootstrap.JWSSignatureKeyPrefix) })
	for _, secret := range c.secrets.GetStore().List() {
		id, token := signing(secret.(*corev1.Secret), time.Now())
		if id == "" {
			continue
		}
		signature, err := jws.ComputeDetachedSignature(content, id, token)
		if err != nil {
			return fmt.Errorf("sign with token %s: %w", id, err)
		}
		data[bootstrap.JWSSignatureKeyPrefix+id] = signature
	}
	if maps.Equal(data, info.Data) {
		return nil
	}
	signed := info.DeepCopy()
	signed.Data = data
	_, err = c.client.CoreV1().ConfigMaps(info.Namespace).Update(ctx, signed, metav1.UpdateOptions{})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("write signatures: %w", err)
	}
	return nil
}

// signing returns the two halves of a token that may sign; id is empty for one
// that may not, has expired, or lies under a name that is not its own.
func signing(secret *corev1.Secret, now time.Time) (id, token string) {
	id = tokensecret.GetData(secret, bootstrap.BootstrapTokenIDKey)
	token = tokensecret.GetData(secret, bootstrap.BootstrapTokenSecretKey)
	named, ok := tokensecret.ParseName(secret.Name)
	if !ok || named != id || token == "" || secret.Type != bootstrap.SecretTypeBootstrapToken ||
		tokensecret.HasExpired(secret, now) || tokensecret.GetData(secret, bootstrap.BootstrapTokenUsageSigningKey) != "true" {
		return "", ""
	}
	return id, token
}
