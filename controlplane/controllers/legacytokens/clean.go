package legacytokens

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"

	"clusterctl/controlplane/auth/authn"
	"clusterctl/controlplane/auth/node"
)

const (
	cleanPeriod = 24 * time.Hour
	// unused is how long nobody has used a token before it is marked, and how long
	// it stays marked before it goes.
	unused = 365 * 24 * time.Hour
)

// clean marks tokens that nobody has used for long, so that they are refused, and
// removes those that were marked long ago. It is about tokens that an account
// lists: Kubernetes once made those by itself. What somebody asked for stays.
func (c *controller) clean(ctx context.Context, now time.Time) error {
	now = now.UTC()
	since, ok, err := c.trackedSince(ctx)
	// It may be any moment of that day.
	if err != nil || !ok || now.Before(since.AddDate(0, 0, 1).Add(unused)) {
		return err
	}
	var failed []error
	for _, obj := range c.secrets.GetStore().List() {
		// A failure concerns one secret, which is looked at again the next day.
		if err := c.cleanOne(ctx, obj.(*corev1.Secret), now); err != nil {
			failed = append(failed, err)
		}
	}
	return errors.Join(failed...)
}

func (c *controller) cleanOne(ctx context.Context, secret *corev1.Secret, now time.Time) error {
	before := now.Add(-unused)
	used := secret.Labels[authn.LastUsedLabel] // empty: never
	if secret.DeletionTimestamp != nil || !secret.CreationTimestamp.Time.Before(before) || used != "" && !olderThan(used, before) {
		return nil
	}
	listed, err := c.listed(secret)
	if err != nil || !listed {
		return err
	}
	mounted, err := c.mounted(secret)
	if err != nil || mounted {
		return err
	}
	marked := secret.Labels[authn.InvalidSinceLabel]
	secrets := c.client.CoreV1().Secrets(secret.Namespace)
	if _, err := time.Parse(time.DateOnly, marked); err != nil {
		today := now.Format(time.DateOnly)
		patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
			"uid": secret.UID, "labels": map[string]string{authn.InvalidSinceLabel: today}}})
		if err != nil {
			return err
		}
		_, err = secrets.Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
		if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
			return fmt.Errorf("mark the unused token in secret %s/%s: %w", secret.Namespace, secret.Name, err)
		}
		c.loop.Logger().Info("a token that nobody uses is no longer valid", "secret", secret.Namespace+"/"+secret.Name, "lastUsed", used)
		return nil
	}
	if !olderThan(marked, before) {
		return nil
	}
	// As it was judged: somebody may just have taken the mark off.
	err = secrets.Delete(ctx, secret.Name, metav1.DeleteOptions{Preconditions: &metav1.Preconditions{ResourceVersion: &secret.ResourceVersion}})
	if err != nil && !apierrors.IsNotFound(err) && !apierrors.IsConflict(err) {
		return fmt.Errorf("remove the unused token in secret %s/%s: %w", secret.Namespace, secret.Name, err)
	}
	c.loop.Logger().Info("a token that nobody uses is removed", "secret", secret.Namespace+"/"+secret.Name, "lastUsed", used, "invalidSince", marked)
	return nil
}

// olderThan says whether a label's date is before the day of a moment; one that
// cannot be read is not.
func olderThan(date string, moment time.Time) bool {
	_, err := time.Parse(time.DateOnly, date)
	return err == nil && date < moment.Format(time.DateOnly)
}

// listed says whether the account that a secret names lists it.
func (c *controller) listed(secret *corev1.Secret) (bool, error) {
	whose := ownerOf(secret)
	account, err := c.accounts.ServiceAccounts(secret.Namespace).Get(whose.name)
	switch {
	case apierrors.IsNotFound(err):
		return false, nil
	case err != nil:
		return false, fmt.Errorf("find service account: %w", err)
	}
	return whose.is(account) && slices.ContainsFunc(account.Secrets, func(ref corev1.ObjectReference) bool { return ref.Name == secret.Name }), nil
}

// mounted says whether a pod refers to a secret.
func (c *controller) mounted(secret *corev1.Secret) (found bool, err error) {
	pods, err := c.pods.Pods(secret.Namespace).List(labels.Everything())
	if err != nil {
		return false, fmt.Errorf("list pods: %w", err)
	}
	for _, pod := range pods {
		node.Secrets(pod, func(name string) { found = found || name == secret.Name })
	}
	return found, nil
}

// trackedSince is the day on which API servers began to note uses; ok is false
// while that stands nowhere.
func (c *controller) trackedSince(ctx context.Context) (since time.Time, ok bool, err error) {
	noted, err := c.client.CoreV1().ConfigMaps(metav1.NamespaceSystem).Get(ctx, authn.TrackingConfigMap, metav1.GetOptions{})
	switch {
	case apierrors.IsNotFound(err):
		return time.Time{}, false, nil // the first of them has just started
	case err != nil:
		return time.Time{}, false, fmt.Errorf("find since when uses of tokens are noted: %w", err)
	}
	since, err = time.Parse(time.DateOnly, noted.Data[authn.TrackingSince])
	return since, err == nil, nil
}
