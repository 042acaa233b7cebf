package authentication

import (
	"context"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"

	"clusterctl/controlplane/api"
	"clusterctl/controlplane/api/review"
)

var selfSubjectReview = review.Definition[*authenticationv1.SelfSubjectReview]{
	GroupVersion: authenticationv1.SchemeGroupVersion,
	Kind:         "SelfSubjectReview",
	Resource:     "selfsubjectreviews",
	Singular:     "selfsubjectreview",
	New:          func() *authenticationv1.SelfSubjectReview { return &authenticationv1.SelfSubjectReview{} },

	Answer: func(ctx context.Context, _ *api.Environment, _ *authenticationv1.SelfSubjectReview) (*authenticationv1.SelfSubjectReview, error) {
		who, ok := request.UserFrom(ctx)
		if !ok {
			return nil, apierrors.NewBadRequest("no user present on request")
		}
		return &authenticationv1.SelfSubjectReview{
			ObjectMeta: metav1.ObjectMeta{CreationTimestamp: metav1.Now()},
			Status:     authenticationv1.SelfSubjectReviewStatus{UserInfo: info(who)},
		}, nil
	},
}

func info(who user.Info) authenticationv1.UserInfo {
	extra := make(map[string]authenticationv1.ExtraValue, len(who.GetExtra()))
	for key, values := range who.GetExtra() {
		extra[key] = values
	}
	return authenticationv1.UserInfo{Username: who.GetName(), UID: who.GetUID(), Groups: who.GetGroups(), Extra: extra}
}
