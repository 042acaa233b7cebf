package authn

import (
	"net/http"
	"slices"
	"strings"

	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/endpoints/request"
)

// AnonymousPaths are what callers without credentials may ask for.
var AnonymousPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

// DiscoveryPaths are what tells of APIs, as authorizers want them: a path that
// ends in * is a prefix. Resources under these prefixes are not meant.
var DiscoveryPaths = []string{"/api", "/api/*", "/apis", "/apis/*", "/openapi/*"}

// nobody authenticates callers without credentials, where they may ask.
func (c Config) nobody() authenticator.Request {
	conditions := make([]apiserver.AnonymousAuthCondition, len(AnonymousPaths))
	for i, path := range AnonymousPaths {
		conditions[i] = apiserver.AnonymousAuthCondition{Path: path}
	}
	always := anonymous.NewAuthenticator(conditions)
	if !c.AnonymousDiscovery {
		return always
	}
	anywhere := anonymous.NewAuthenticator(nil)
	return authenticator.RequestFunc(func(r *http.Request) (*authenticator.Response, bool, error) {
		if discovers(r) {
			return anywhere.AuthenticateRequest(r)
		}
		return always.AuthenticateRequest(r)
	})
}

// discovers says whether a request asks which APIs there are.
func discovers(r *http.Request) bool {
	info, ok := request.RequestInfoFrom(r.Context())
	return ok && !info.IsResourceRequest && info.Verb == "get" && slices.ContainsFunc(DiscoveryPaths, func(path string) bool {
		prefix, many := strings.CutSuffix(path, "*")
		return info.Path == path || many && strings.HasPrefix(info.Path, prefix)
	})
}
