package plan

import (
	"fmt"
	"maps"
	"slices"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	apiserverv1 "k8s.io/apiserver/pkg/apis/apiserver/v1"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// access sets in config who may come in and what is recorded of it. The
// operations put the files there that config then names; a server reads them
// when it starts.
func (b *builder) access(config *hostconfig.ControlPlane) (hostop.Ops, error) {
	cluster := b.inv.Cluster
	config.PodSecurity, config.AlwaysPullImages = cluster.PodSecurity, cluster.AlwaysPullImages
	config.AnonymousDiscovery = cluster.Authentication.AnonymousDiscovery
	config.Encryption = files.Encryption()
	config.AuditLog = hostconfig.AuditLog
	ops := hostop.Ops{&hostop.Directory{Path: hostconfig.AuditDir, Mode: 0o700}}
	if name := cluster.Audit.Policy; name != "" {
		config.AuditPolicy = hostconfig.AuditPol
		ops = append(ops, &hostop.File{Path: hostconfig.AuditPol, Mode: 0o600, Content: b.inv.Files[name]})
	}
	if providers := cluster.Authentication.OIDC; len(providers) > 0 {
		raw, err := hostconfig.Marshal(authentication(providers, b.inv.Files))
		if err != nil {
			return nil, fmt.Errorf("render the OIDC providers: %w", err)
		}
		config.Authentication = hostconfig.AuthConf
		ops = append(ops, &hostop.File{Path: hostconfig.AuthConf, Mode: 0o600, Content: raw})
	}
	return ops, nil
}

// authentication is what the API server knows of providers.
func authentication(providers []inventory.OIDC, files map[string][]byte) *apiserverv1.AuthenticationConfiguration {
	config := &apiserverv1.AuthenticationConfiguration{TypeMeta: metav1.TypeMeta{
		APIVersion: apiserverv1.SchemeGroupVersion.String(), Kind: "AuthenticationConfiguration",
	}}
	for _, provider := range providers {
		jwt := apiserverv1.JWTAuthenticator{
			Issuer: apiserverv1.Issuer{
				URL: provider.Issuer, Audiences: []string{provider.ClientID}, CertificateAuthority: string(files[provider.CAFile]),
			},
			ClaimMappings: apiserverv1.ClaimMappings{
				Username: apiserverv1.PrefixedClaimOrExpression{Claim: provider.UsernameClaim, Prefix: provider.UsernamePrefix},
			},
		}
		if provider.GroupsClaim != "" {
			jwt.ClaimMappings.Groups = apiserverv1.PrefixedClaimOrExpression{Claim: provider.GroupsClaim, Prefix: provider.GroupsPrefix}
		}
		for _, claim := range slices.Sorted(maps.Keys(provider.RequiredClaims)) {
			jwt.ClaimValidationRules = append(jwt.ClaimValidationRules, apiserverv1.ClaimValidationRule{
				Claim: claim, RequiredValue: provider.RequiredClaims[claim],
			})
		}
		config.JWT = append(config.JWT, jwt)
	}
	return config
}
