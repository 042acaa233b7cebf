package authn

import (
	"context"
	"fmt"
	"os"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apiserver/pkg/apis/apiserver"
	"k8s.io/apiserver/pkg/apis/apiserver/install"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	tokenunion "k8s.io/apiserver/pkg/authentication/token/union"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/plugin/pkg/authenticator/token/oidc"
)

// NewProviders accepts tokens of the OIDC providers in file, an
// AuthenticationConfiguration of apiserver.config.k8s.io. It does not wait for
// them; until one answers, its tokens are refused. ctx ends what it runs. own
// is the cluster's own issuer, which no provider can be.
func NewProviders(ctx context.Context, file, own string) (authenticator.Token, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("read OIDC providers: %w", err)
	}
	scheme := runtime.NewScheme()
	install.Install(scheme)
	codecs := serializer.NewCodecFactory(scheme, serializer.EnableStrict)
	decoded, err := runtime.Decode(codecs.UniversalDecoder(), raw)
	if err != nil {
		return nil, fmt.Errorf("read OIDC providers in %s: %w", file, err)
	}
	config, ok := decoded.(*apiserver.AuthenticationConfiguration)
	if !ok {
		return nil, fmt.Errorf("read OIDC providers: %s holds a %T", file, decoded)
	}
	var all []authenticator.Token
	for _, jwt := range config.JWT {
		options := oidc.Options{
			JWTAuthenticator: jwt, SupportedSigningAlgs: oidc.AllValidSigningAlgorithms(), DisallowedIssuers: []string{own},
		}
		if authority := jwt.Issuer.CertificateAuthority; authority != "" {
			if options.CAContentProvider, err = dynamiccertificates.NewStaticCAContent("oidc", []byte(authority)); err != nil {
				return nil, fmt.Errorf("read authority of OIDC provider %s: %w", jwt.Issuer.URL, err)
			}
		}
		provider, err := oidc.New(ctx, options)
		if err != nil {
			return nil, fmt.Errorf("accept tokens of OIDC provider %s: %w", jwt.Issuer.URL, err)
		}
		all = append(all, provider)
	}
	return tokenunion.NewFailOnError(all...), nil
}
