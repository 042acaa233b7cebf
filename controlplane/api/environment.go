package api

import (
	"context"
	"net/http"
	"net/url"

	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/registry/generic"
	"k8s.io/apiserver/pkg/registry/rest"
	"k8s.io/client-go/kubernetes"
)

// Environment is what kinds' stores are built with. controlplane/apiserver
// fills it in once, before any store is built; it is read-only afterwards.
type Environment struct {
	Scheme         *runtime.Scheme
	ParameterCodec runtime.ParameterCodec
	RESTOptions    generic.RESTOptionsGetter

	// Client is the API server's own client, through the loopback, with the
	// rights of system:masters. It works only once the server serves: use it
	// in request handlers, never while building stores.
	Client kubernetes.Interface

	Authorizer authorizer.Authorizer
	// RuleResolver lists what a user may do, for SelfSubjectRulesReview.
	RuleResolver authorizer.RuleResolver
	Tokens       TokenIssuer
	// Audiences are what tokens are issued for when a request names none.
	Audiences authenticator.Audiences
	// Authenticate serves TokenReview.
	Authenticate authenticator.Request
	Nodes        NodeConnector
	// ServiceAddresses and NodePorts allocate for Services.
	ServiceCIDR   string // 10.96.0.0/16; one of each family, the primary one first
	NodePortRange string // 30000-32767
	ClusterDomain string

	// Lookup finds another resource's store once all are built, by
	// "group/resource" ("" for core: "/pods"): pod eviction, scale, tokens
	// bound to pods and secrets go through it rather than through Client.
	Lookup func(groupResource string) rest.Storage

	// Background has every API server call run once it serves, for work on
	// what only it can read. run returns when its context ends.
	Background func(name string, run func(ctx context.Context))
}

// TokenIssuer signs service-account tokens.
type TokenIssuer interface {
	// Issue returns a signed JWT with these private and public claims merged
	// (issuer, iat and nbf are the issuer's own). claims must marshal to JSON.
	Issue(ctx context.Context, claims ...any) (string, error)
}

// NodeConnector reaches node agents.
type NodeConnector interface {
	// Connect returns the base URL of the agent on the node (https://ip:10250)
	// and the transport that authenticates to it and verifies it.
	Connect(ctx context.Context, node types.NodeName) (*url.URL, http.RoundTripper, error)
}
