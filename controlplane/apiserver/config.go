package apiserver

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"slices"
	"strconv"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/authorization/authorizerfactory"
	"k8s.io/apiserver/pkg/authorization/path"
	authorizerunion "k8s.io/apiserver/pkg/authorization/union"
	genericapiserver "k8s.io/apiserver/pkg/server"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/apiserver/pkg/server/filters"
	"k8s.io/apiserver/pkg/server/healthz"

	"clusterctl/controlplane/auth/authn"
	"clusterctl/controlplane/auth/node"
	"clusterctl/controlplane/auth/rbac"
	"clusterctl/hostconfig"
)

// stopGrace is how long a stopping server waits for its watches to end, and for
// clients to leave their connections.
const stopGrace = 2 * time.Second

// genericConfig is the part of the configuration that knows nothing of kinds:
// listeners, filters, health.
func (s *Server) genericConfig(scheme *runtime.Scheme) (*genericapiserver.Config, error) {
	config := genericapiserver.NewConfig(serializer.NewCodecFactory(scheme))
	config.EffectiveVersion = newVersion()
	config.ExternalAddress = net.JoinHostPort(s.config.Address, strconv.Itoa(s.config.Port))
	config.PublicAddress = net.ParseIP(s.config.Address)
	config.LoopbackClientConfig = s.ClientConfig(user.APIServerUser, user.SystemPrivilegedGroup)
	config.BuildHandlerChainFunc = roomyFilters
	config.SkipOpenAPIInstallation = true // documents.install does it
	config.LongRunningFunc = filters.BasicLongRunningRequestCheck(
		sets.NewString("watch", "proxy"),
		sets.NewString("attach", "exec", "proxy", "log", "portforward"),
	)
	// A stopping server first sends GOAWAY on every connection, then ends its
	// watches: clients go on at another server at once. ShutdownSendRetryAfter
	// would have those who watch again wait for five seconds instead.
	config.ShutdownSendRetryAfter = false
	config.ShutdownWatchTerminationGracePeriod = stopGrace

	config.AddHealthChecks(healthz.NamedCheck("etcd", func(r *http.Request) error {
		return s.store.Healthy(r.Context())
	}))
	pki := hostconfig.PKI(s.config.PKIDir)
	serving, err := dynamiccertificates.NewDynamicServingContentFromFiles("serving-cert",
		pki.Cert(hostconfig.PairAPIServer), pki.Key(hostconfig.PairAPIServer))
	if err != nil {
		return nil, fmt.Errorf("load serving certificate: %w", err)
	}
	config.SecureServing = &genericapiserver.SecureServingInfo{Listener: s.listener, Cert: serving}
	return config, nil
}

// authenticate fills in who is asking.
func (s *Server) authenticate(config *genericapiserver.Config) error {
	pki := hostconfig.PKI(s.config.PKIDir)
	clientCA, err := dynamiccertificates.NewDynamicCAContentFromFile("client-ca", pki.ClusterCA())
	if err != nil {
		return fmt.Errorf("load client certificate authority: %w", err)
	}
	frontProxyCA, err := dynamiccertificates.NewDynamicCAContentFromFile("front-proxy-ca", pki.FrontProxyCA())
	if err != nil {
		return fmt.Errorf("load front-proxy certificate authority: %w", err)
	}
	var providers authenticator.Token
	if s.config.Authentication != "" {
		if providers, err = authn.NewProviders(s.life, s.config.Authentication, s.tokens.Issuer()); err != nil {
			return err
		}
	}
	result, err := authn.New(authn.Config{
		ClientCA:           clientCA,
		FrontProxyCA:       frontProxyCA,
		Tokens:             s.tokens,
		Identities:         &s.inProcess.identities,
		Lookup:             s.lookupObject,
		Used:               s.labelUsed,
		Providers:          providers,
		AnonymousDiscovery: s.config.AnonymousDiscovery,
	})
	if err != nil {
		return err
	}
	config.Authentication.Authenticator = roomyAuthenticator{result.Request}
	config.Authentication.APIAudiences = result.Audiences
	config.Authentication.RequestHeaderConfig = result.RequestHeaders
	for _, ca := range []dynamiccertificates.CAContentProvider{clientCA, frontProxyCA} {
		if err := config.Authentication.ApplyClientCert(ca, config.SecureServing); err != nil {
			return fmt.Errorf("ask for client certificates: %w", err)
		}
	}
	return nil
}

// labelUsed notes the day on which a token that lives in a secret was used.
func (s *Server) labelUsed(ctx context.Context, secret *corev1.Secret, day string) {
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{
		"uid": secret.UID, "labels": map[string]string{authn.LastUsedLabel: day},
	}})
	if err == nil {
		_, err = s.client.CoreV1().Secrets(secret.Namespace).Patch(ctx, secret.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	}
	if err != nil {
		s.logger.Warn("Use of a service-account token is not noted", "secret", secret.Namespace+"/"+secret.Name, "error", err)
	}
}

// authorize fills in who may do what. The first authorizer that has an
// opinion decides.
func (s *Server) authorize(config *genericapiserver.Config) error {
	paths := authn.AnonymousPaths
	if s.config.AnonymousDiscovery {
		paths = slices.Concat(paths, authn.DiscoveryPaths)
	}
	public, err := path.NewAuthorizer(paths)
	if err != nil {
		return fmt.Errorf("open public paths: %w", err)
	}
	roles := rbac.NewAuthorizer(s.informers)
	chain := []authorizer.Authorizer{
		authorizerfactory.NewPrivilegedGroups(user.SystemPrivilegedGroup),
		public,
		newPatience(s.informers),
		node.NewAuthorizer(s.informers),
		roles,
	}
	config.Authorization.Authorizer = authorizerunion.New(chain...)
	config.RuleResolver = roles
	return nil
}
