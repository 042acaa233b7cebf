package volumes

import (
	"context"
	"fmt"
	"sync"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	v1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
)

// Tokens asks the API for service-account tokens bound to pods and renews
// them when four fifths of their life, or a day, have passed, by the time of
// day: who reads them knows no other. They are kept in memory only. Safe for
// concurrent use.
type Tokens struct {
	client kubernetes.Interface
	now    func() time.Time

	mu    sync.Mutex
	known map[tokenKey]issued
}

type tokenKey struct {
	pod      types.UID
	audience string
	seconds  int64
}

type issued struct {
	token                    string
	begins, refresh, expires time.Time
}

// NewTokens makes a source of tokens.
func NewTokens(client kubernetes.Interface) *Tokens {
	return &Tokens{client: client, now: time.Now, known: map[tokenKey]issued{}}
}

// tokenSkew is how far behind the clock may be that made a token.
const tokenSkew = 5 * time.Second

// token returns a token that is still good, and when to ask again.
func (t *Tokens) token(ctx context.Context, pod *v1.Pod, source *v1.ServiceAccountTokenProjection) (string, time.Time, error) {
	seconds := int64(3600)
	if source.ExpirationSeconds != nil {
		seconds = *source.ExpirationSeconds
	}
	k := tokenKey{pod.UID, source.Audience, seconds}
	t.mu.Lock()
	have, ok := t.known[k]
	t.mu.Unlock()
	now := t.now().Round(0) // without the monotonic clock
	if ok && now.Before(have.refresh) && !now.Before(have.begins) {
		return have.token, have.refresh, nil
	}
	request := &authenticationv1.TokenRequest{Spec: authenticationv1.TokenRequestSpec{
		ExpirationSeconds: &seconds,
		BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
	}}
	if source.Audience != "" {
		request.Spec.Audiences = []string{source.Audience}
	}
	got, err := t.request(ctx, pod, request)
	if err != nil {
		if ok && now.Before(have.expires) {
			return have.token, now.Add(time.Minute), nil // still good; try again soon
		}
		return "", time.Time{}, fmt.Errorf("failed to fetch token: %w", err)
	}
	life := got.Status.ExpirationTimestamp.Sub(now)
	fresh := issued{
		token:  got.Status.Token,
		begins: now.Add(-tokenSkew), refresh: now.Add(min(life*4/5, 24*time.Hour)), expires: got.Status.ExpirationTimestamp.Time,
	}
	t.mu.Lock()
	t.known[k] = fresh
	t.mu.Unlock()
	return fresh.token, fresh.refresh, nil
}

// An API server may hear of a pod's binding a moment after the pod's node, and
// refuses the node until then: that costs the pod less than the back-off after
// a failure would.
const (
	tokenAttempts = 6
	tokenWait     = 20 * time.Millisecond // doubled each time
)

func (t *Tokens) request(ctx context.Context, pod *v1.Pod, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	for attempt, wait := 1, tokenWait; ; attempt, wait = attempt+1, 2*wait {
		got, err := t.client.CoreV1().ServiceAccounts(pod.Namespace).CreateToken(ctx, pod.Spec.ServiceAccountName, request, metav1.CreateOptions{})
		if !apierrors.IsForbidden(err) || attempt == tokenAttempts {
			return got, err
		}
		select {
		case <-ctx.Done():
			return nil, err
		case <-time.After(wait):
		}
	}
}

// ForDriver makes a token of the pod's service account for a storage driver.
func (t *Tokens) ForDriver(ctx context.Context, pod *v1.Pod, audience string, seconds *int64) (string, time.Time, error) {
	token, _, err := t.token(ctx, pod, &v1.ServiceAccountTokenProjection{Audience: audience, ExpirationSeconds: seconds})
	if err != nil {
		return "", time.Time{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	for k, have := range t.known {
		if k.pod == pod.UID && have.token == token {
			return token, have.expires, nil
		}
	}
	return token, time.Time{}, nil
}

// forget drops the tokens of a pod.
func (t *Tokens) forget(uid types.UID) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for k := range t.known {
		if k.pod == uid {
			delete(t.known, k)
		}
	}
}
