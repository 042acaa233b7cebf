package authentication

import (
	"context"
	"errors"
	"net/http"
	"reflect"
	"strings"
	"testing"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/endpoints/request"
	"k8s.io/apiserver/pkg/registry/rest"

	"clusterctl/controlplane/api"
)

var eve = &user.DefaultInfo{Name: "eve", UID: "7", Groups: []string{"friends"}, Extra: map[string][]string{"k": {"v"}}}

// tokens knows one token, for one audience.
func tokens(r *http.Request) (*authenticator.Response, bool, error) {
	asked, _ := authenticator.AudiencesFrom(r.Context())
	switch r.Header.Get("Authorization") {
	case "Bearer good":
		return &authenticator.Response{User: eve, Audiences: asked.Intersect(authenticator.Audiences{"api", "vault"})}, true, nil
	case "Bearer careless":
		return &authenticator.Response{User: eve, Audiences: authenticator.Audiences{"other"}}, true, nil
	default:
		return nil, false, errors.New("bad token")
	}
}

func create(t *testing.T, i int, ctx context.Context, obj runtime.Object) (runtime.Object, error) {
	t.Helper()
	storages, err := Kinds()[i].Storages(&api.Environment{Audiences: authenticator.Audiences{"api"}, Authenticate: authenticator.RequestFunc(tokens)})
	if err != nil {
		t.Fatal(err)
	}
	for _, storage := range storages {
		return storage.(rest.Creater).Create(ctx, obj, nil, nil)
	}
	t.Fatal("nothing is served")
	return nil, nil
}

func TestTokenReview(t *testing.T) {
	info := authenticationv1.UserInfo{Username: "eve", UID: "7", Groups: []string{"friends"}, Extra: map[string]authenticationv1.ExtraValue{"k": {"v"}}}
	for _, test := range []struct {
		name      string
		token     string
		audiences []string
		want      authenticationv1.TokenReviewStatus
		err       string
	}{
		{"good", "good", nil, authenticationv1.TokenReviewStatus{Authenticated: true, User: info, Audiences: []string{"api"}}, ""},
		{"for an audience", "good", []string{"vault", "bank"}, authenticationv1.TokenReviewStatus{Authenticated: true, User: info, Audiences: []string{"vault"}}, ""},
		{"bad", "bad", nil, authenticationv1.TokenReviewStatus{Error: "bad token"}, ""},
		{"none", "", nil, authenticationv1.TokenReviewStatus{}, "token is required for TokenReview in authentication"},
		{"answer for another audience", "careless", nil, authenticationv1.TokenReviewStatus{}, "error validating audiences"},
	} {
		t.Run(test.name, func(t *testing.T) {
			question := &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: test.token, Audiences: test.audiences}}
			answer, err := create(t, 0, context.Background(), question)
			if test.err != "" {
				if err == nil || !strings.Contains(err.Error(), test.err) {
					t.Errorf("error %v, want %q", err, test.err)
				}
				return
			}
			if err != nil || !reflect.DeepEqual(answer.(*authenticationv1.TokenReview).Status, test.want) {
				t.Errorf("answer %+v, %v; want %+v", answer, err, test.want)
			}
		})
	}
}

func TestSelfSubjectReview(t *testing.T) {
	answer, err := create(t, 1, request.WithUser(context.Background(), eve), &authenticationv1.SelfSubjectReview{})
	if err != nil {
		t.Fatal(err)
	}
	got := answer.(*authenticationv1.SelfSubjectReview)
	if got.Status.UserInfo.Username != "eve" || got.Status.UserInfo.Extra["k"][0] != "v" || got.CreationTimestamp.IsZero() {
		t.Errorf("answer %+v", got)
	}
	if _, err := create(t, 1, context.Background(), &authenticationv1.SelfSubjectReview{}); err == nil {
		t.Error("nobody is somebody")
	}
	if _, err := create(t, 1, context.Background(), &authenticationv1.TokenReview{}); err == nil {
		t.Error("a TokenReview passes for a SelfSubjectReview")
	}
}
