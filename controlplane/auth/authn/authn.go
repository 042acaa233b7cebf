package authn

import (
	"context"
	"fmt"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/authenticatorfactory"
	"k8s.io/apiserver/pkg/authentication/group"
	"k8s.io/apiserver/pkg/authentication/request/anonymous"
	"k8s.io/apiserver/pkg/authentication/request/bearertoken"
	"k8s.io/apiserver/pkg/authentication/request/headerrequest"
	"k8s.io/apiserver/pkg/authentication/request/union"
	"k8s.io/apiserver/pkg/authentication/request/websocket"
	"k8s.io/apiserver/pkg/authentication/request/x509"
	"k8s.io/apiserver/pkg/authentication/token/cache"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
)

// AnonymousPaths are what callers without credentials may ask for.
var AnonymousPaths = []string{"/healthz", "/livez", "/readyz", "/version"}

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
	tokens := tokenunion.New(
		authenticator.WrapAudienceAgnosticToken(audiences, config.Identities),
		cache.New(tokenunion.New(
			&serviceAccountAuthenticator{tokens: config.Tokens, lookup: config.Lookup},
			authenticator.WrapAudienceAgnosticToken(audiences, &bootstrapAuthenticator{lookup: config.Lookup}),
		), true, 10*time.Second, 0),
	)
	conditions := make([]apiserver.AnonymousAuthCondition, len(AnonymousPaths))
	for i, path := range AnonymousPaths {
		conditions[i] = apiserver.AnonymousAuthCondition{Path: path}
	}
	if _, ok := config.ClientCA.VerifyOptions(); !ok {
		return nil, fmt.Errorf("read client certificate authority %s: no certificate in it", config.ClientCA.Name())
	}
	known := union.New(
		headerrequest.NewDynamicVerifyOptionsSecure(
			config.FrontProxyCA.VerifyOptions, headers.AllowedClientNames,
			headers.UsernameHeaders, headers.UIDHeaders, headers.GroupHeaders, headers.ExtraHeaderPrefixes),
		x509.NewDynamic(config.ClientCA.VerifyOptions, x509.CommonNameUserConversion),
		bearertoken.New(tokens),
		websocket.NewProtocolAuthenticator(tokens),
	)
	return &Authentication{
		Request: union.NewFailOnError(
			group.NewAuthenticatedGroupAdder(known),
			anonymous.NewAuthenticator(conditions),
		),
		Audiences:      audiences,
		RequestHeaders: headers,
	}, nil
}
