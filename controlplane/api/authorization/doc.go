// Package authorization defines the kinds of the group authorization.k8s.io,
// which ask what somebody may do: SubjectAccessReview, its self and local
// forms, and SelfSubjectRulesReview. The answers are the server's authorizer's.
package authorization

import (
	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/review"
)

// Kinds returns the kinds of the group.
func Kinds() []api.Kind {
	return []api.Kind{
		review.Define(subjectAccessReview),
		review.Define(selfSubjectAccessReview),
		review.Define(localSubjectAccessReview),
		review.Define(selfSubjectRulesReview),
	}
}
