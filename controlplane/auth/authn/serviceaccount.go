package authn

import (
	"context"
	"errors"
	"fmt"
	"time"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/apiserver/pkg/authentication/token/jwt"
)

// serviceAccountAuthenticator accepts tokens whose account, and the object that
// they are bound to, live on.
type serviceAccountAuthenticator struct {
	tokens *ServiceAccountTokens
	lookup Lookup
}

// deletionGrace is how long a token outlives the deletion of what it is bound
// to: long enough for a pod that is shutting down in its grace period.
const deletionGrace = time.Minute

func (a *serviceAccountAuthenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	c, mine, err := a.tokens.verify(token)
	if !mine || err != nil {
		return nil, false, err
	}
	wanted, ok := authenticator.AudiencesFrom(ctx)
	if !ok {
		wanted = a.tokens.Audiences()
	}
	audiences := wanted.Intersect(authenticator.Audiences(c.Audience))
	if len(audiences) == 0 {
		return nil, false, fmt.Errorf("token is for the audiences %q, not %q", c.Audience, wanted)
	}
	k := c.Kubernetes
	if k.Namespace == "" || k.ServiceAccount.Name == "" || c.Subject != serviceaccount.MakeUsername(k.Namespace, k.ServiceAccount.Name) {
		return nil, false, errors.New("token names no service account")
	}
	info := serviceaccount.ServiceAccountInfo{
		Namespace:    k.Namespace,
		Name:         k.ServiceAccount.Name,
		UID:          k.ServiceAccount.UID,
		CredentialID: jwt.CredentialIDForJTI(c.ID),
	}
	if err := a.lives(ctx, "serviceaccounts", k.Namespace, k.ServiceAccount); err != nil {
		return nil, false, err
	}
	if k.Secret != nil {
		if err := a.lives(ctx, "secrets", k.Namespace, *k.Secret); err != nil {
			return nil, false, err
		}
	}
	switch {
	case k.Pod != nil:
		if err := a.lives(ctx, "pods", k.Namespace, *k.Pod); err != nil {
			return nil, false, err
		}
		info.PodName, info.PodUID = k.Pod.Name, k.Pod.UID
	case k.Node != nil:
		if err := a.lives(ctx, "nodes", "", *k.Node); err != nil {
			return nil, false, err
		}
	}
	if k.Node != nil {
		info.NodeName, info.NodeUID = k.Node.Name, k.Node.UID
	}
	return &authenticator.Response{Audiences: audiences, User: info.UserInfo()}, true, nil
}

func (a *serviceAccountAuthenticator) lives(ctx context.Context, resource, namespace string, b bound) error {
	object, err := a.lookup(ctx, resource, namespace, b.Name)
	if err != nil {
		return fmt.Errorf("find the token's object in %s: %w", resource, err)
	}
	if string(object.GetUID()) != b.UID {
		return fmt.Errorf("token is bound to another life of %q in %s", b.Name, resource)
	}
	if deleted := object.GetDeletionTimestamp(); deleted != nil && time.Since(deleted.Time) > deletionGrace {
		return fmt.Errorf("token is bound to %q in %s, which is deleted", b.Name, resource)
	}
	return nil
}
