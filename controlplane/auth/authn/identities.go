package authn

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"slices"
	"sync"

	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
)

// Identities are the users of the API server's own process. Their tokens are
// random, live in memory and end with the process. The zero value knows none;
// it is safe for concurrent use.
type Identities struct {
	mu    sync.RWMutex
	users map[[sha256.Size]byte]user.DefaultInfo
}

// Token returns a bearer token that authenticates as name in groups.
func (i *Identities) Token(name string, groups ...string) string {
	token := rand.Text() + rand.Text()
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.users == nil {
		i.users = map[[sha256.Size]byte]user.DefaultInfo{}
	}
	i.users[sha256.Sum256([]byte(token))] = user.DefaultInfo{Name: name, Groups: slices.Clone(groups)}
	return token
}

// AuthenticateToken implements authenticator.Token.
func (i *Identities) AuthenticateToken(_ context.Context, token string) (*authenticator.Response, bool, error) {
	i.mu.RLock()
	defer i.mu.RUnlock()
	info, ok := i.users[sha256.Sum256([]byte(token))]
	if !ok {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: info.Name, Groups: slices.Clone(info.Groups)}}, true, nil
}
