// Package authentication defines the kinds of the group authentication.k8s.io
// that ask who somebody is: TokenReview and SelfSubjectReview. TokenRequest is
// a subresource of service accounts, in package core.
package authentication

import (
	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/review"
)

// Kinds returns the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{review.Define(tokenReview), review.Define(selfSubjectReview)}
}
