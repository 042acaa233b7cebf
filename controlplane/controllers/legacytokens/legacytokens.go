package legacytokens

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"slices"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	coreinformers "k8s.io/client-go/informers/core/v1"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/util/retry"

	"clusterctl/controlplane/auth/authn"
	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/hostconfig"
)

const workers = 2

// byAccount indexes secrets by namespace/name of the account that they name.
const byAccount = "account"

// controller watches only the secrets of its type, not all of the cluster's.
type controller struct {
	client   kubernetes.Interface
	pki      hostconfig.PKI
	accounts corelisters.ServiceAccountLister
	pods     corelisters.PodLister
	secrets  cache.SharedIndexInformer
	loop     *reconcile.Loop
	cleaner  *reconcile.Ticker
	// deleted has whose the secrets were that are gone, and maybe still listed.
	deleted sync.Map // key → owner
}

// owner is the account that a secret names; uid may be empty.
type owner struct{ name, uid string }

func ownerOf(secret *corev1.Secret) owner {
	return owner{secret.Annotations[corev1.ServiceAccountNameKey], secret.Annotations[corev1.ServiceAccountUIDKey]}
}

func (o owner) is(account *corev1.ServiceAccount) bool {
	return o.uid == "" || string(account.UID) == o.uid
}

// New makes the controller. pki has the key that signs and the cluster CA's
// certificate, which are read when they are needed. Its keys are secrets.
func New(env *reconcile.Environment, pki hostconfig.PKI) (reconcile.Controller, error) {
	accounts := env.Informers.Core().V1().ServiceAccounts()
	c := &controller{
		client:   env.Client,
		pki:      pki,
		accounts: accounts.Lister(),
		pods:     env.Informers.Core().V1().Pods().Lister(),
		secrets: coreinformers.NewFilteredSecretInformer(env.Client, metav1.NamespaceAll, 0, cache.Indexers{
			byAccount: func(obj any) ([]string, error) {
				secret := obj.(*corev1.Secret)
				return []string{secret.Namespace + "/" + secret.Annotations[corev1.ServiceAccountNameKey]}, nil
			},
		}, func(o *metav1.ListOptions) {
			o.FieldSelector = fields.OneTermEqualSelector("type", string(corev1.SecretTypeServiceAccountToken)).String()
		}),
	}
	if err := c.secrets.SetTransform(reconcile.DropManagedFields); err != nil {
		return nil, fmt.Errorf("set up informer: %w", err)
	}
	c.loop = reconcile.NewLoop(env, "legacytokens", workers, c.reconcile)
	c.cleaner = reconcile.NewTicker(env, "legacytokens-cleaner", cleanPeriod, func(ctx context.Context) error { return c.clean(ctx, time.Now()) })
	err := reconcile.Watch(env, accounts.Informer(), reconcile.Handlers[*corev1.ServiceAccount]{
		Delete: func(account *corev1.ServiceAccount) {
			// The index is there since New; the error would be that it is not.
			secrets, _ := c.secrets.GetIndexer().ByIndex(byAccount, reconcile.Key(account))
			for _, secret := range secrets {
				c.loop.AddObject(secret.(*corev1.Secret))
			}
		},
	})
	if err != nil {
		return nil, err
	}
	// Not through reconcile.Watch: this informer starts with the controller.
	wake := func(obj any) {
		if secret, ok := obj.(*corev1.Secret); ok && secret.Type == corev1.SecretTypeServiceAccountToken {
			c.loop.AddObject(secret)
		}
	}
	_, err = c.secrets.AddEventHandler(cache.ResourceEventHandlerFuncs{
		AddFunc: wake, UpdateFunc: func(_, obj any) { wake(obj) }, DeleteFunc: c.noteDeleted,
	})
	if err != nil {
		return nil, fmt.Errorf("watch secrets: %w", err)
	}
	return c, nil
}

// Run runs the informer, the loop, and the cleaner.
func (c *controller) Run(ctx context.Context) error {
	informer := make(chan struct{})
	go func() {
		defer close(informer)
		c.secrets.RunWithContext(ctx)
	}()
	defer func() { <-informer }()
	if !cache.WaitForCacheSync(ctx.Done(), c.secrets.HasSynced) {
		return nil // ctx has ended
	}
	return reconcile.All{c.loop, c.cleaner}.Run(ctx)
}

func (c *controller) reconcile(ctx context.Context, key string) error {
	obj, exists, err := c.secrets.GetStore().GetByKey(key)
	if err != nil {
		return err
	}
	if !exists {
		return c.forget(ctx, key)
	}
	secret := obj.(*corev1.Secret)
	if secret.DeletionTimestamp != nil {
		return nil
	}
	account, err := c.account(ctx, secret)
	if err != nil {
		return err
	}
	secrets := c.client.CoreV1().Secrets(secret.Namespace)
	if account == nil {
		err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID}})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("remove the secret of an account that is gone: %w", err)
		}
		return nil
	}
	filled, err := c.fill(secret, account)
	if err != nil || filled == nil {
		return err
	}
	// A conflict means that the cache is behind; the secret comes back.
	if _, err := secrets.Update(ctx, filled, metav1.UpdateOptions{}); err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("fill secret: %w", err)
	}
	return nil
}

// noteDeleted takes what the informer tells of a secret that is gone.
func (c *controller) noteDeleted(obj any) {
	if last, ok := obj.(cache.DeletedFinalStateUnknown); ok {
		obj = last.Obj
	}
	if secret, ok := obj.(*corev1.Secret); ok {
		c.deleted.Store(reconcile.Key(secret), ownerOf(secret))
		c.loop.AddObject(secret)
	}
}

// forget takes a deleted secret off the list of its account.
func (c *controller) forget(ctx context.Context, key string) error {
	value, ok := c.deleted.Load(key)
	if !ok {
		return nil
	}
	whose := value.(owner)
	namespace, name, err := cache.SplitMetaNamespaceKey(key)
	if err != nil {
		return fmt.Errorf("read key of a secret: %w", err)
	}
	accounts := c.client.CoreV1().ServiceAccounts(namespace)
	err = retry.RetryOnConflict(retry.DefaultBackoff, func() error {
		account, err := accounts.Get(ctx, whose.name, metav1.GetOptions{})
		if err != nil || !whose.is(account) {
			return err
		}
		before := len(account.Secrets)
		account.Secrets = slices.DeleteFunc(account.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == name })
		if len(account.Secrets) == before {
			return nil
		}
		_, err = accounts.Update(ctx, account, metav1.UpdateOptions{})
		return err
	})
	if err != nil && !apierrors.IsNotFound(err) {
		return fmt.Errorf("take a deleted secret off its account's list: %w", err)
	}
	c.deleted.CompareAndDelete(key, whose)
	return nil
}

// account is the one that a secret names; nil if it is gone, or another life of
// the same name.
func (c *controller) account(ctx context.Context, secret *corev1.Secret) (*corev1.ServiceAccount, error) {
	whose := ownerOf(secret)
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(whose.name)
	if err == nil && whose.is(account) {
		return account, nil
	}
	// The cache may be behind, and a secret is soon deleted.
	account, err = c.client.CoreV1().ServiceAccounts(secret.Namespace).Get(ctx, whose.name, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, fmt.Errorf("find service account: %w", err)
	case !whose.is(account):
		return nil, nil
	}
	return account, nil
}

// fill is the secret with everything that it lacks; nil if that is nothing.
func (c *controller) fill(secret *corev1.Secret, account *corev1.ServiceAccount) (*corev1.Secret, error) {
	ca, err := os.ReadFile(c.pki.ClusterCA())
	if err != nil {
		return nil, fmt.Errorf("read the cluster CA: %w", err)
	}
	if bytes.Equal(secret.Data[corev1.ServiceAccountRootCAKey], ca) && len(secret.Data[corev1.ServiceAccountNamespaceKey]) > 0 &&
		len(secret.Data[corev1.ServiceAccountTokenKey]) > 0 {
		return nil, nil
	}
	filled := secret.DeepCopy()
	if filled.Data == nil {
		filled.Data = map[string][]byte{}
	}
	filled.Data[corev1.ServiceAccountRootCAKey] = ca
	if len(filled.Data[corev1.ServiceAccountNamespaceKey]) == 0 {
		filled.Data[corev1.ServiceAccountNamespaceKey] = []byte(secret.Namespace)
	}
	if len(filled.Data[corev1.ServiceAccountTokenKey]) == 0 {
		// The issuer is that of all such tokens.
		tokens, err := authn.LoadServiceAccountTokens("", c.pki.ServiceAccountKey(), c.pki.ServiceAccountPub())
		if err != nil {
			return nil, err
		}
		token, err := tokens.IssueLegacy(account, secret.Name)
		if err != nil {
			return nil, err
		}
		filled.Data[corev1.ServiceAccountTokenKey] = []byte(token)
	}
	metav1.SetMetaDataAnnotation(&filled.ObjectMeta, corev1.ServiceAccountNameKey, account.Name)
	metav1.SetMetaDataAnnotation(&filled.ObjectMeta, corev1.ServiceAccountUIDKey, string(account.UID))
	return filled, nil
}
