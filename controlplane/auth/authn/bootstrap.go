package authn

import (
	"context"
	"crypto/subtle"
	"fmt"
	"regexp"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// bootstrapAuthenticator accepts ID.SECRET tokens that stand in secrets
// bootstrap-token-ID of kube-system.
type bootstrapAuthenticator struct{ lookup Lookup }

const (
	bootstrapSecretType  = "bootstrap.kubernetes.io/token"
	bootstrapUserPrefix  = "system:bootstrap:"
	bootstrapGroup       = "system:bootstrappers"
	bootstrapGroupPrefix = bootstrapGroup + ":"
)

var (
	bootstrapToken      = regexp.MustCompile(`^([a-z0-9]{6})\.([a-z0-9]{16})$`)
	bootstrapExtraGroup = regexp.MustCompile(`^system:bootstrappers:[a-z0-9:-]{0,255}[a-z0-9]$`)
)

func (a *bootstrapAuthenticator) AuthenticateToken(ctx context.Context, token string) (*authenticator.Response, bool, error) {
	parts := bootstrapToken.FindStringSubmatch(token)
	if parts == nil {
		return nil, false, nil
	}
	id, secretPart := parts[1], parts[2]
	object, err := a.lookup(ctx, "secrets", "kube-system", "bootstrap-token-"+id)
	if apierrors.IsNotFound(err) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, fmt.Errorf("find bootstrap token: %w", err)
	}
	secret, ok := object.(*corev1.Secret)
	if !ok || secret.DeletionTimestamp != nil || secret.Type != bootstrapSecretType {
		return nil, false, nil
	}
	value := func(key string) string { return string(secret.Data[key]) }
	if subtle.ConstantTimeCompare([]byte(value("token-secret")), []byte(secretPart)) != 1 ||
		value("token-id") != id || value("usage-bootstrap-authentication") != "true" {
		return nil, false, nil
	}
	if expiration := value("expiration"); expiration != "" {
		at, err := time.Parse(time.RFC3339, expiration)
		if err != nil || !time.Now().Before(at) {
			return nil, false, nil
		}
	}
	groups := []string{bootstrapGroup}
	for group := range strings.SplitSeq(value("auth-extra-groups"), ",") {
		if group == "" {
			continue
		}
		if !bootstrapExtraGroup.MatchString(group) {
			return nil, false, fmt.Errorf("bootstrap token %s names the group %q, which does not begin with %s", id, group, bootstrapGroupPrefix)
		}
		groups = append(groups, group)
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: bootstrapUserPrefix + id, Groups: groups}}, true, nil
}
