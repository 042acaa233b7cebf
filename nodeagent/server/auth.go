package server

import (
	"context"
	"crypto/sha256"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	utilcache "k8s.io/apimachinery/pkg/util/cache"
	"k8s.io/client-go/kubernetes"
)

// How long the API server's answers are believed.
const (
	TokenTTL   = 2 * time.Minute
	AllowedTTL = 5 * time.Minute
	DeniedTTL  = 30 * time.Second
)

// auth knows who asks and whether they may. Safe for concurrent use.
type auth struct {
	client   kubernetes.Interface
	node     string
	tokens   *utilcache.Expiring // SHA-256 of the token → authenticationv1.UserInfo
	verdicts *utilcache.Expiring // user and attributes → bool
}

func newAuth(client kubernetes.Interface, node string) *auth {
	return &auth{client: client, node: node, tokens: utilcache.NewExpiring(), verdicts: utilcache.NewExpiring()}
}

// guard lets through who may.
func (a *auth) guard(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, err := a.user(r)
		if err != nil {
			http.Error(w, "Unauthorized", http.StatusUnauthorized)
			return
		}
		var refused string
		for _, subresource := range subresources(r.URL.Path) {
			ok, err := a.may(r.Context(), user, verb(r.Method), subresource)
			if err != nil {
				http.Error(w, fmt.Sprintf("Authorization error (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Username, verb(r.Method), subresource), http.StatusInternalServerError)
				return
			}
			if ok {
				next.ServeHTTP(w, r)
				return
			}
			refused = subresource
		}
		http.Error(w, fmt.Sprintf("Forbidden (user=%s, verb=%s, resource=nodes, subresource=%s)", user.Username, verb(r.Method), refused), http.StatusForbidden)
	})
}

func (a *auth) user(r *http.Request) (authenticationv1.UserInfo, error) {
	if r.TLS != nil && len(r.TLS.VerifiedChains) > 0 {
		subject := r.TLS.VerifiedChains[0][0].Subject
		return authenticationv1.UserInfo{Username: subject.CommonName, Groups: append(subject.Organization, "system:authenticated")}, nil
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || token == "" {
		return authenticationv1.UserInfo{}, fmt.Errorf("no credentials")
	}
	key := sha256.Sum256([]byte(token))
	if known, ok := a.tokens.Get(key); ok {
		return known.(authenticationv1.UserInfo), nil
	}
	review, err := a.client.AuthenticationV1().TokenReviews().Create(r.Context(), &authenticationv1.TokenReview{
		Spec: authenticationv1.TokenReviewSpec{Token: token}}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, fmt.Errorf("review token: %w", err)
	}
	if !review.Status.Authenticated {
		return authenticationv1.UserInfo{}, fmt.Errorf("token is not valid")
	}
	a.tokens.Set(key, review.Status.User, TokenTTL)
	return review.Status.User, nil
}

func (a *auth) may(ctx context.Context, user authenticationv1.UserInfo, verb, subresource string) (bool, error) {
	if slices.Contains(user.Groups, "system:masters") {
		return true, nil
	}
	key := strings.Join(append([]string{user.Username, user.UID, verb, subresource}, user.Groups...), "\x00")
	if known, ok := a.verdicts.Get(key); ok {
		return known.(bool), nil
	}
	extra := make(map[string]authorizationv1.ExtraValue, len(user.Extra))
	for k, v := range user.Extra {
		extra[k] = authorizationv1.ExtraValue(v)
	}
	review, err := a.client.AuthorizationV1().SubjectAccessReviews().Create(ctx, &authorizationv1.SubjectAccessReview{
		Spec: authorizationv1.SubjectAccessReviewSpec{
			User: user.Username, Groups: user.Groups, UID: user.UID, Extra: extra,
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Verb: verb, Version: "v1", Resource: "nodes", Subresource: subresource, Name: a.node},
		}}, metav1.CreateOptions{})
	if err != nil {
		return false, fmt.Errorf("review access: %w", err)
	}
	ttl := DeniedTTL
	if review.Status.Allowed {
		ttl = AllowedTTL
	}
	a.verdicts.Set(key, review.Status.Allowed, ttl)
	return review.Status.Allowed, nil
}

// subresources of nodes that a path asks for; either is enough.
func subresources(path string) []string {
	first, _, _ := strings.Cut(strings.TrimPrefix(path, "/"), "/")
	switch first {
	case "stats", "metrics", "checkpoint":
		return []string{first}
	case "logs":
		return []string{"log"}
	case "healthz", "pods", "configz":
		return []string{first, "proxy"}
	case "runningpods":
		return []string{"pods", "proxy"}
	}
	return []string{"proxy"}
}

func verb(method string) string {
	switch method {
	case http.MethodPost:
		return "create"
	case http.MethodPut:
		return "update"
	case http.MethodPatch:
		return "patch"
	case http.MethodDelete:
		return "delete"
	}
	return "get"
}
