package tokenclean

import (
	"context"
	"errors"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	period        = time.Minute
	namespace     = metav1.NamespaceSystem
	tokenType     = "bootstrap.kubernetes.io/token"
	expirationKey = "expiration" // RFC 3339
)

// New makes the controller.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	secrets := env.Client.CoreV1().Secrets(namespace)
	return reconcile.NewTicker(env, "tokenclean", period, func(ctx context.Context) error {
		list, err := secrets.List(ctx, metav1.ListOptions{FieldSelector: fields.OneTermEqualSelector("type", tokenType).String()})
		if err != nil {
			return fmt.Errorf("list bootstrap tokens: %w", err)
		}
		var errs []error
		for i := range list.Items {
			secret := &list.Items[i]
			if !expired(secret, time.Now()) {
				continue
			}
			err := secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{UID: &secret.UID, ResourceVersion: &secret.ResourceVersion}})
			if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
				errs = append(errs, fmt.Errorf("delete %s: %w", secret.Name, err))
			}
		}
		return errors.Join(errs...)
	}), nil
}

// expired is true too for a time that cannot be read: such a token never works.
func expired(secret *corev1.Secret, now time.Time) bool {
	raw, ok := secret.Data[expirationKey]
	if secret.Type != tokenType || !ok || len(raw) == 0 {
		return false
	}
	at, err := time.Parse(time.RFC3339, string(raw))
	return err != nil || !now.Before(at)
}
