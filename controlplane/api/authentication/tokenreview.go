package authentication

import (
	"context"
	"errors"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/endpoints/request"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/review"
)

var tokenReview = review.Definition[*authenticationv1.TokenReview]{
	GroupVersion: authenticationv1.SchemeGroupVersion,
	Kind:         "TokenReview",
	Resource:     "tokenreviews",
	Singular:     "tokenreview",
	New:          func() *authenticationv1.TokenReview { return &authenticationv1.TokenReview{} },

	Admissible: func(ctx context.Context, review *authenticationv1.TokenReview) error {
		if namespace := request.NamespaceValue(ctx); namespace != "" {
			return apierrors.NewBadRequest(fmt.Sprintf("namespace is not allowed on this type: %v", namespace))
		}
		if review.Spec.Token == "" {
			return apierrors.NewBadRequest("token is required for TokenReview in authentication")
		}
		return nil
	},
	Answer: reviewToken,
}

// reviewToken shows the token to the server's own authenticators, as if it
// came with a request.
func reviewToken(ctx context.Context, env *api.Environment, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	if env.Authenticate == nil {
		return review, nil
	}
	audiences := authenticator.Audiences(review.Spec.Audiences)
	if len(audiences) == 0 {
		audiences = env.Audiences
	}
	if len(audiences) > 0 {
		ctx = authenticator.WithAudiences(ctx, audiences)
	}
	probe := (&http.Request{Header: http.Header{"Authorization": {"Bearer " + review.Spec.Token}}}).WithContext(ctx)
	response, ok, err := env.Authenticate.AuthenticateRequest(probe)
	review.Status.Authenticated = ok
	if err != nil {
		review.Status.Error = err.Error()
	}
	if response == nil {
		return review, nil
	}
	if len(audiences) > 0 && len(audiences.Intersect(response.Audiences)) == 0 {
		return nil, apierrors.NewInternalError(errors.New("error validating audiences"))
	}
	if response.User != nil {
		review.Status.User = info(response.User)
		review.Status.Audiences = response.Audiences
	}
	return review, nil
}
