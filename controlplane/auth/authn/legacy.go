package authn

import (
	"context"
	"crypto/subtle"
	"errors"
	"fmt"
	"time"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apiserver/pkg/audit"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/warning"
)

// Labels by which Kubernetes tracks tokens that live in secrets.
const (
	LastUsedLabel     = "kubernetes.io/legacy-token-last-used"
	InvalidSinceLabel = "kubernetes.io/legacy-token-invalid-since"
)

// The config map of kube-system, and its key, that say since when uses are noted.
const TrackingConfigMap, TrackingSince = "kube-apiserver-legacy-service-account-token-tracking", "since"

// legacyIssuer is the iss of tokens that live in secrets, in every cluster.
const legacyIssuer = "kubernetes/serviceaccount"

// legacyClaims are those of a token that lives in a secret. It never expires:
// it ends with the secret.
type legacyClaims struct {
	jwt.RegisteredClaims
	Namespace      string `json:"kubernetes.io/serviceaccount/namespace"`
	Secret         string `json:"kubernetes.io/serviceaccount/secret.name"`
	ServiceAccount string `json:"kubernetes.io/serviceaccount/service-account.name"`
	UID            string `json:"kubernetes.io/serviceaccount/service-account.uid"`
}

// IssueLegacy signs the token of an account that lives in the secret.
func (t *ServiceAccountTokens) IssueLegacy(account *corev1.ServiceAccount, secret string) (string, error) {
	token := jwt.NewWithClaims(jwt.SigningMethodES256, &legacyClaims{
		RegisteredClaims: jwt.RegisteredClaims{
			Issuer: legacyIssuer, Subject: serviceaccount.MakeUsername(account.Namespace, account.Name),
		},
		Namespace: account.Namespace, Secret: secret, ServiceAccount: account.Name, UID: string(account.UID),
	})
	token.Header["kid"] = t.keyID
	signed, err := token.SignedString(t.private)
	if err != nil {
		return "", fmt.Errorf("sign token: %w", err)
	}
	return signed, nil
}

// verifyLegacy is verify for tokens that live in secrets.
func (t *ServiceAccountTokens) verifyLegacy(token string) (c *legacyClaims, mine bool, err error) {
	c = &legacyClaims{}
	if _, _, err := jwt.NewParser().ParseUnverified(token, c); err != nil || c.Issuer != legacyIssuer {
		return nil, false, nil
	}
	parser := jwt.NewParser(jwt.WithValidMethods([]string{jwt.SigningMethodES256.Alg()}), jwt.WithIssuer(legacyIssuer))
	c = &legacyClaims{}
	if _, err = parser.ParseWithClaims(token, c, t.key); err != nil {
		return nil, true, fmt.Errorf("verify service-account token: %w", err)
	}
	return c, true, nil
}

// legacyAuthenticator accepts tokens that still stand in their secret.
type legacyAuthenticator struct {
	tokens *ServiceAccountTokens
	lookup Lookup
	used   func(ctx context.Context, secret *corev1.Secret, day string)
}

func (a *legacyAuthenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, mine, err := a.tokens.verifyLegacy(token)
	if !mine || err != nil {
		return nil, false, err
	}
	// It names no audiences, and so is for the API server's own.
	audiences := a.tokens.Audiences()
	if wanted, ok := authenticator.AudiencesFrom(ctx); ok {
		if audiences = wanted.Intersect(audiences); len(audiences) == 0 {
			return nil, false, fmt.Errorf("token is for the audiences %q, not %q", a.tokens.Audiences(), wanted)
		}
	}
	if c.Namespace == "" || c.Secret == "" || c.ServiceAccount == "" || c.UID == "" ||
		c.Subject != serviceaccount.MakeUsername(c.Namespace, c.ServiceAccount) {
		return nil, false, errors.New("token names no service account")
	}
	secret, err := find[*corev1.Secret](ctx, a.lookup, "secrets", c.Namespace, c.Secret)
	if err != nil {
		return nil, false, fmt.Errorf("token has been invalidated: %w", err)
	}
	account, err := find[*corev1.ServiceAccount](ctx, a.lookup, "serviceaccounts", c.Namespace, c.ServiceAccount)
	switch {
	case err != nil:
		return nil, false, err
	case subtle.ConstantTimeCompare(secret.Data[corev1.ServiceAccountTokenKey], []byte(token)) != 1:
		return nil, false, errors.New("token does not match the server's copy")
	case string(account.UID) != c.UID:
		return nil, false, fmt.Errorf("the UID of the service account (%s) does not match the token's (%s)", account.UID, c.UID)
	}
	if err := a.track(ctx, account, secret); err != nil {
		return nil, false, err
	}
	info := serviceaccount.ServiceAccountInfo{Namespace: c.Namespace, Name: c.ServiceAccount, UID: c.UID}
	return &authenticator.Response{Audiences: audiences, User: info.UserInfo()}, true, nil
}

// track tells auditors and users of the use of a token that never expires, and
// refuses one that was marked as no longer valid.
func (a *legacyAuthenticator) track(ctx context.Context, account *corev1.ServiceAccount, secret *corev1.Secret) error {
	now := time.Now().UTC()
	// Clocks of servers may be on two sides of midnight.
	today, tomorrow := now.Format(time.DateOnly), now.AddDate(0, 0, 1).Format(time.DateOnly)
	if last := secret.Labels[LastUsedLabel]; last != today && last != tomorrow {
		a.used(ctx, secret, today)
	}
	if secret.Labels[InvalidSinceLabel] != "" {
		audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-invalidated", secret.Name+"/"+secret.Namespace)
		return fmt.Errorf("the token in secret %s/%s for service account %s/%s has been marked invalid. Use tokens from the TokenRequest API or manually created secret-based tokens, or remove the '%s' label from the secret to temporarily allow use of this token",
			secret.Namespace, secret.Name, account.Namespace, account.Name, InvalidSinceLabel)
	}
	for _, reference := range account.Secrets {
		if reference.Name == secret.Name {
			warning.AddWarning(ctx, "", "Use tokens from the TokenRequest API or manually created secret-based tokens instead of auto-generated secret-based tokens.")
			audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-autogenerated-secret", secret.Name)
			return nil
		}
	}
	audit.AddAuditAnnotation(ctx, "authentication.k8s.io/legacy-token-manual-secret", secret.Name)
	return nil
}

// find looks an object up that is not being deleted.
func find[T any](ctx context.Context, lookup Lookup, resource, namespace, name string) (T, error) {
	var none T
	object, err := lookup(ctx, resource, namespace, name)
	if err != nil {
		return none, fmt.Errorf("find the token's object in %s: %w", resource, err)
	}
	typed, ok := object.(T)
	if !ok || object.GetDeletionTimestamp() != nil {
		return none, fmt.Errorf("token is bound to %q in %s, which is deleted", name, resource)
	}
	return typed, nil
}
