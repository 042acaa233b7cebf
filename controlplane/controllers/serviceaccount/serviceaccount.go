package serviceaccount

import (
	"context"
	"fmt"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/reconcile"
)

const (
	workers = 1
	name    = "default"
)

// New makes the controller. Its keys are namespaces.
func New(env *reconcile.Environment) (reconcile.Controller, error) {
	namespaces := env.Informers.Core().V1().Namespaces()
	accounts := env.Informers.Core().V1().ServiceAccounts()
	loop := reconcile.NewLoop(env, "serviceaccount", workers, func(ctx context.Context, namespace string) error {
		ns, err := namespaces.Lister().Get(namespace)
		if apierrors.IsNotFound(err) || err == nil && ns.DeletionTimestamp != nil {
			return nil
		}
		if err != nil {
			return err
		}
		if _, err := accounts.Lister().ServiceAccounts(namespace).Get(name); !apierrors.IsNotFound(err) {
			return err
		}
		account := &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}}
		_, err = env.Client.CoreV1().ServiceAccounts(namespace).Create(ctx, account, metav1.CreateOptions{})
		if err != nil && !apierrors.IsAlreadyExists(err) && !apierrors.HasStatusCause(err, corev1.NamespaceTerminatingCause) {
			return fmt.Errorf("create service account: %w", err)
		}
		return nil
	})
	err := reconcile.Watch(env, namespaces.Informer(), reconcile.Handlers[*corev1.Namespace]{
		Add:    func(ns *corev1.Namespace) { loop.Add(ns.Name) },
		Update: func(_, ns *corev1.Namespace) { loop.Add(ns.Name) },
	})
	if err != nil {
		return nil, err
	}
	err = reconcile.Watch(env, accounts.Informer(), reconcile.Handlers[*corev1.ServiceAccount]{
		Delete: func(account *corev1.ServiceAccount) {
			if account.Name == name {
				loop.Add(account.Namespace)
			}
		},
	})
	if err != nil {
		return nil, err
	}
	return loop, nil
}
