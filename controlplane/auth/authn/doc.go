// Package authn says who sends a request: client certificates, front-proxy
// headers, service-account tokens (which it also signs), bootstrap tokens and
// the in-memory identities of what runs in the API server's own process. What
// a user may do is decided elsewhere (controlplane/auth/rbac and node).
package authn
