package authn

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// Lookup finds an object that a token speaks of, in the resource's plural
// ("serviceaccounts", "pods", "secrets", "nodes"). It answers an API NotFound
// error for one that does not exist now.
type Lookup func(ctx context.Context, resource, namespace, name string) (metav1.Object, error)

// Config is what authentication trusts.
type Config struct {
	ClientCA     dynamiccertificates.CAContentProvider
	FrontProxyCA dynamiccertificates.CAContentProvider
	Tokens       *ServiceAccountTokens
	Identities   *Identities
	Lookup       Lookup
	// Used labels a secret whose token was used for the first time on a day.
	Used func(ctx context.Context, secret *corev1.Secret, day string)

	// Providers accepts tokens of OIDC providers; nil: there are none.
	Providers authenticator.Token
	// AnonymousDiscovery lets callers without credentials ask which APIs there
	// are, beside AnonymousPaths.
	AnonymousDiscovery bool
}

// Authentication is the assembled authenticator.
type Authentication struct {
	Request        authenticator.Request
	Audiences      authenticator.Audiences
	RequestHeaders *authenticatorfactory.RequestHeaderConfig
}

// New assembles the authenticators. Answers for tokens are kept for ten
// seconds, as long as a deleted service account's token may go on.
func New(config Config) (*Authentication, error) {
	audiences := config.Tokens.Audiences()
	headers := &authenticatorfactory.RequestHeaderConfig{
		UsernameHeaders:     headerrequest.StaticStringSlice{"X-Remote-User"},
		UIDHeaders:          headerrequest.StaticStringSlice{"X-Remote-Uid"},
		GroupHeaders:        headerrequest.StaticStringSlice{"X-Remote-Group"},
		ExtraHeaderPrefixes: headerrequest.StaticStringSlice{"X-Remote-Extra-"},
		AllowedClientNames:  headerrequest.StaticStringSlice{},
		CAContentProvider:   config.FrontProxyCA,
	}
	kept := []authenticator.Token{
		&legacyAuthenticator{tokens: config.Tokens, lookup: config.Lookup, used: config.Used},
		&serviceAccountAuthenticator{tokens: config.Tokens, lookup: config.Lookup},
		authenticator.WrapAudienceAgnosticToken(audiences, &bootstrapAuthenticator{lookup: config.Lookup}),
	}
	if config.Providers != nil {
		// Last: a token that it does not know makes it ask the provider for keys.
		kept = append(kept, authenticator.WrapAudienceAgnosticToken(audiences, config.Providers))
	}
	tokens := tokenunion.New(
		authenticator.WrapAudienceAgnosticToken(audiences, config.Identities),
		cache.New(tokenunion.New(kept...), true, 10*time.Second, 0),
	)
	if _, ok := config.ClientCA.VerifyOptions(); !ok {
		return nil, fmt.Errorf("read client certificate authority %s: no certificate in it", config.ClientCA.Name())
	}
	known := union.New(
		headerrequest.NewDynamicVerifyOptionsSecure(
			config.FrontProxyCA.VerifyOptions, headers.AllowedClientNames,
			headers.UsernameHeaders, headers.UIDHeaders, headers.GroupHeaders, headers.ExtraHeaderPrefixes),
		newCertificateAuthenticator(config.ClientCA.VerifyOptions),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens),
	)
	return &Authentication{
		Request: union.NewFailOnError(
			group.NewAuthenticatedGroupAdder(known),
			config.nobody(),
		),
		Audiences:      audiences,
		RequestHeaders: headers,
	}, nil
}
