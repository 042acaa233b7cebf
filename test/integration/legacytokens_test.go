package integration

import (
	"context"
	"fmt"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// TestLegacyTokens follows tokens that live in secrets through their lives.
func TestLegacyTokens(t *testing.T) {
	c := Start(t)
	c.startControllers(t)
	ns := freshNamespace(t, c.Client, "legacy")
	secrets, accounts := c.Client.CoreV1().Secrets(ns), c.Client.CoreV1().ServiceAccounts(ns)
	account := must(accounts.Create(t.Context(), &corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot"}}, metav1.CreateOptions{}))(t)
	ask := func(name, account string) {
		t.Helper()
		must(secrets.Create(t.Context(), &corev1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name, Annotations: map[string]string{corev1.ServiceAccountNameKey: account}},
			Type:       corev1.SecretTypeServiceAccountToken,
		}, metav1.CreateOptions{}))(t)
	}
	filled := func(name string) string {
		t.Helper()
		var secret *corev1.Secret
		eventually(t, "the token of "+name, func(ctx context.Context) (ok bool, err error) {
			secret, err = secrets.Get(ctx, name, metav1.GetOptions{})
			return err == nil && len(secret.Data[corev1.ServiceAccountTokenKey]) > 0, err
		})
		if string(secret.Data["namespace"]) != ns || !strings.Contains(string(secret.Data["ca.crt"]), "BEGIN CERTIFICATE") ||
			secret.Annotations[corev1.ServiceAccountUIDKey] != string(account.UID) {
			t.Errorf("filled secret: %v, %d bytes of CA", secret.Annotations, len(secret.Data["ca.crt"]))
		}
		return string(secret.Data[corev1.ServiceAccountTokenKey])
	}
	gone := func(name string) {
		t.Helper()
		eventually(t, "the end of secret "+name, func(ctx context.Context) (bool, error) {
			_, err := secrets.Get(ctx, name, metav1.GetOptions{})
			return apierrors.IsNotFound(err), err
		})
	}
	reviews := 0
	review := func(ctx context.Context, token string) (authenticationv1.TokenReviewStatus, error) {
		// The server remembers answers for ten seconds, by token and audiences.
		reviews++
		got, err := c.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{
			Token: token, Audiences: []string{"https://kubernetes.default.svc.cluster.local", fmt.Sprint("https://example.com/", reviews)},
		}}, metav1.CreateOptions{})
		if err != nil {
			return authenticationv1.TokenReviewStatus{}, err
		}
		return got.Status, nil
	}
	refused := func(what, token, says string) {
		t.Helper()
		eventually(t, what, func(ctx context.Context) (bool, error) {
			status, err := review(ctx, token)
			return err == nil && !status.Authenticated && strings.Contains(status.Error, says), fmt.Errorf("%+v, %w", status, err)
		})
	}

	ask("nobody", "no-such-account")
	gone("nobody")
	for _, name := range []string{"one", "two", "three", "four"} {
		ask(name, "robot")
	}
	one, two, three, four := filled("one"), filled("two"), filled("three"), filled("four")

	info, err := whoAmI(t, c.Token(one))
	if err != nil || info.Username != "system:serviceaccount:"+ns+":robot" || info.UID != string(account.UID) {
		t.Errorf("token is of %+v, %v", info, err)
	}
	eventually(t, "the day of the token's last use", func(ctx context.Context) (bool, error) {
		secret, err := secrets.Get(ctx, "one", metav1.GetOptions{})
		_, dateErr := time.Parse(time.DateOnly, secret.Labels["kubernetes.io/legacy-token-last-used"])
		return err == nil && dateErr == nil, err
	})
	if info, err := whoAmI(t, c.Token(tamper(two, ":robot"))); !apierrors.IsUnauthorized(err) {
		t.Errorf("token with another payload: %+v, %v", info, err)
	}

	if status, err := review(t.Context(), two); err != nil || !status.Authenticated || len(status.Audiences) != 1 {
		t.Errorf("review: %+v, %v", status, err)
	}
	label := []byte(`{"metadata":{"labels":{"kubernetes.io/legacy-token-invalid-since":"2026-01-01"}}}`)
	must(secrets.Patch(t.Context(), "two", types.MergePatchType, label, metav1.PatchOptions{}))(t)
	refused("a token marked as invalid", two, "has been marked invalid")

	// A new token in the secret's place.
	must(secrets.Patch(t.Context(), "three", types.JSONPatchType, []byte(`[{"op":"remove","path":"/data/token"}]`), metav1.PatchOptions{}))(t)
	if err := secrets.Delete(t.Context(), "four", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	refused("the token of a secret that is gone", four, "not found")
	filled("three")

	// With the account its secrets go, and with them its tokens.
	if err := accounts.Delete(t.Context(), "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"one", "two", "three"} {
		gone(name)
	}
	refused("the token of an account that is gone", three, "not found")
}
