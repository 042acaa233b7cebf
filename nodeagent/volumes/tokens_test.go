package volumes

import (
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/client-go/kubernetes/fake"
	k8stesting "k8s.io/client-go/testing"
)

// A server that has not heard of the pod's binding yet refuses at first; one
// that never grants a token is not asked for ever.
func TestTokenWaitsForTheServerToKnowThePod(t *testing.T) {
	for name, c := range map[string]struct {
		refusals, asked int
		granted         bool
	}{
		"late":  {2, 3, true},
		"never": {1000, tokenAttempts, false},
	} {
		client, asked := fake.NewClientset(), 0
		client.PrependReactor("create", "serviceaccounts", func(k8stesting.Action) (bool, runtime.Object, error) {
			if asked++; asked <= c.refusals {
				return true, nil, apierrors.NewForbidden(v1.Resource("serviceaccounts"), "default", nil)
			}
			return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
				Token: "t", ExpirationTimestamp: metav1.NewTime(time.Now().Add(time.Hour)),
			}}, nil
		})
		pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"}, Spec: v1.PodSpec{ServiceAccountName: "default"}}
		got, _, err := NewTokens(client).token(t.Context(), pod, &v1.ServiceAccountTokenProjection{})
		if granted := err == nil && got == "t"; granted != c.granted || asked != c.asked {
			t.Errorf("%s: %q, %v after %d requests, want %d", name, got, err, asked, c.asked)
		}
	}
}

// A token is renewed when the clock has jumped beyond its life, on either side.
func TestTokenAfterTheClockJumped(t *testing.T) {
	now, asked := time.Now(), 0
	client := fake.NewClientset()
	client.PrependReactor("create", "serviceaccounts", func(k8stesting.Action) (bool, runtime.Object, error) {
		asked++
		return true, &authenticationv1.TokenRequest{Status: authenticationv1.TokenRequestStatus{
			Token: "t", ExpirationTimestamp: metav1.NewTime(now.Add(time.Hour)),
		}}, nil
	})
	tokens := NewTokens(client)
	tokens.now = func() time.Time { return now }
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"}, Spec: v1.PodSpec{ServiceAccountName: "default"}}
	for _, step := range []struct {
		jump time.Duration
		want int
	}{{0, 1}, {time.Minute, 1}, {-time.Minute, 1}, {50 * time.Minute, 2}, {-50 * time.Minute, 3}, {-time.Second, 3}, {time.Second, 3}} {
		now = now.Add(step.jump)
		if _, refresh, err := tokens.token(t.Context(), pod, &v1.ServiceAccountTokenProjection{}); err != nil || asked != step.want || !refresh.After(now) {
			t.Errorf("after %s: asked %d times, want %d (%v)", step.jump, asked, step.want, err)
		}
	}
}
