package authorization

import (
	"context"
	"errors"

	authorizationv1 "k8s.io/api/authorization/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/endpoints/request"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/review"
)

var selfSubjectRulesReview = review.Definition[*authorizationv1.SelfSubjectRulesReview]{
	GroupVersion: authorizationv1.SchemeGroupVersion,
	Kind:         "SelfSubjectRulesReview",
	Resource:     "selfsubjectrulesreviews",
	Singular:     "selfsubjectrulesreview",
	New:          func() *authorizationv1.SelfSubjectRulesReview { return &authorizationv1.SelfSubjectRulesReview{} },

	Admissible: func(_ context.Context, r *authorizationv1.SelfSubjectRulesReview) error {
		if r.Spec.Namespace == "" {
			return apierrors.NewBadRequest("no namespace on request")
		}
		return nil
	},
	Answer: func(ctx context.Context, env *api.Environment, r *authorizationv1.SelfSubjectRulesReview) (*authorizationv1.SelfSubjectRulesReview, error) {
		who, ok := request.UserFrom(ctx)
		if !ok {
			return nil, apierrors.NewBadRequest("no user present on request")
		}
		if env.RuleResolver == nil {
			return nil, apierrors.NewInternalError(errors.New("no authorizer can list rules"))
		}
		resources, urls, incomplete, err := env.RuleResolver.RulesFor(ctx, who, r.Spec.Namespace)
		answer := &authorizationv1.SelfSubjectRulesReview{Status: authorizationv1.SubjectRulesReviewStatus{
			ResourceRules:    make([]authorizationv1.ResourceRule, len(resources)),
			NonResourceRules: make([]authorizationv1.NonResourceRule, len(urls)),
			Incomplete:       incomplete,
		}}
		for i, rule := range resources {
			answer.Status.ResourceRules[i] = authorizationv1.ResourceRule{
				Verbs: rule.GetVerbs(), APIGroups: rule.GetAPIGroups(), Resources: rule.GetResources(), ResourceNames: rule.GetResourceNames(),
			}
		}
		for i, rule := range urls {
			answer.Status.NonResourceRules[i] = authorizationv1.NonResourceRule{Verbs: rule.GetVerbs(), NonResourceURLs: rule.GetNonResourceURLs()}
		}
		if err != nil {
			answer.Status.EvaluationError = err.Error()
		}
		return answer, nil
	},
}
