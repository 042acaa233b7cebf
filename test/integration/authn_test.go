package integration

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"encoding/base64"
	"encoding/json"
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// whoAmI asks the server who it takes the holder of config for.
func whoAmI(t *testing.T, config *rest.Config) (authenticationv1.UserInfo, error) {
	t.Helper()
	review, err := clients(t, config).AuthenticationV1().SelfSubjectReviews().
		Create(t.Context(), &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	if err != nil {
		return authenticationv1.UserInfo{}, err
	}
	return review.Status.UserInfo, nil
}

func TestIdentities(t *testing.T) {
	c := Start(t)
	bootstrap(t, c, "abcdef", "0123456789abcdef", time.Now().Add(time.Hour), "system:bootstrappers:clusterctl:node")
	bootstrap(t, c, "expire", "0123456789abcdef", time.Now().Add(-time.Second), "")
	for _, test := range []struct {
		name   string
		config *rest.Config
		user   string // "" for refused
		groups string
	}{
		{"client certificate", must(c.Certificate("jane", "dev"))(t), "jane", "dev system:authenticated"},
		{"in memory", c.Server.ClientConfig("inside", "here"), "inside", "here system:authenticated"},
		{"bootstrap token", c.Token("abcdef.0123456789abcdef"), "system:bootstrap:abcdef", "system:bootstrappers system:bootstrappers:clusterctl:node system:authenticated"},
		{"wrong bootstrap token", c.Token("abcdef.0123456789abcdee"), "", ""},
		{"expired bootstrap token", c.Token("expire.0123456789abcdef"), "", ""},
		{"unknown token", c.Token("nobody"), "", ""},
		{"nothing", c.Anonymous(), "", ""},
		{"front proxy", frontProxy(t, c, hostconfig.AuthorityFrontProxy), "behind", "dev system:authenticated"},
		{"headers with a certificate of the cluster's CA", frontProxy(t, c, hostconfig.AuthorityCluster), "front-proxy", "system:authenticated"},
	} {
		t.Run(test.name, func(t *testing.T) {
			info, err := whoAmI(t, test.config)
			if test.user == "" {
				if !apierrors.IsUnauthorized(err) {
					t.Errorf("got %+v, %v; want unauthorized", info, err)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if info.Username != test.user || strings.Join(info.Groups, " ") != test.groups {
				t.Errorf("got %s in %q, want %s in %s", info.Username, info.Groups, test.user, test.groups)
			}
		})
	}
}

// bootstrap writes a bootstrap token.
func bootstrap(t *testing.T, c *Cluster, id, secret string, until time.Time, groups string) {
	t.Helper()
	must(c.Client.CoreV1().Secrets("kube-system").Create(t.Context(), &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "bootstrap-token-" + id},
		Type:       "bootstrap.kubernetes.io/token",
		StringData: map[string]string{
			"token-id": id, "token-secret": secret, "usage-bootstrap-authentication": "true",
			"expiration": until.UTC().Format(time.RFC3339), "auth-extra-groups": groups,
		},
	}, metav1.CreateOptions{}))(t)
}

// frontProxy speaks for the user "behind" with a certificate of authority.
func frontProxy(t *testing.T, c *Cluster, authority string) *rest.Config {
	t.Helper()
	config := c.Anonymous()
	var err error
	config.CertData, config.KeyData, err = c.CA.Issue(hostop.Certificate{
		Pair: "front-proxy", Authority: authority, CommonName: "front-proxy", Client: true,
	}, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	config.Wrap(func(next http.RoundTripper) http.RoundTripper {
		return roundTripper(func(request *http.Request) (*http.Response, error) {
			request = request.Clone(request.Context())
			request.Header.Set("X-Remote-User", "behind")
			request.Header.Set("X-Remote-Group", "dev")
			return next.RoundTrip(request)
		})
	})
	return config
}

type roundTripper func(*http.Request) (*http.Response, error)

func (f roundTripper) RoundTrip(r *http.Request) (*http.Response, error) { return f(r) }

func TestServiceAccountToken(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	accounts := c.Client.CoreV1().ServiceAccounts(ns)
	pod := must(c.Client.CoreV1().Pods(ns).Create(t.Context(), &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x"}}},
	}, metav1.CreateOptions{}))(t)
	request := func(spec authenticationv1.TokenRequestSpec) string {
		return must(accounts.CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{Spec: spec}, metav1.CreateOptions{}))(t).Status.Token
	}
	free := request(authenticationv1.TokenRequestSpec{})
	ofPod := request(authenticationv1.TokenRequestSpec{BoundObjectRef: &authenticationv1.BoundObjectReference{
		Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID,
	}})
	elsewhere := request(authenticationv1.TokenRequestSpec{Audiences: []string{"https://example.com"}})

	name := "system:serviceaccount:" + ns + ":default"
	info, err := whoAmI(t, c.Token(ofPod))
	if err != nil {
		t.Fatal(err)
	}
	if info.Username != name || len(info.Extra["authentication.kubernetes.io/pod-name"]) != 1 || info.Extra["authentication.kubernetes.io/pod-name"][0] != "p" {
		t.Errorf("pod's token is of %+v, want %s with the pod's name", info, name)
	}
	if _, err := clients(t, c.Token(free)).CoreV1().Pods(ns).List(t.Context(), metav1.ListOptions{}); !apierrors.IsForbidden(err) {
		t.Errorf("list by an account without rights: %v, want forbidden", err)
	}
	if info, err := whoAmI(t, c.Token(elsewhere)); !apierrors.IsUnauthorized(err) {
		t.Errorf("token for others: %+v, %v, want unauthorized", info, err)
	}
	if info, err := whoAmI(t, c.Token(tamper(free, ":default"))); !apierrors.IsUnauthorized(err) {
		t.Errorf("token with another payload: %+v, %v, want unauthorized", info, err)
	}

	now := int64(0)
	if err := c.Client.CoreV1().Pods(ns).Delete(t.Context(), "p", metav1.DeleteOptions{GracePeriodSeconds: &now}); err != nil {
		t.Fatal(err)
	}
	// Not ofPod itself: the server remembers for ten seconds that it was good.
	// It may also have read the pod a moment before it went.
	eventually(t, "the end of a deleted pod's token", func(ctx context.Context) (bool, error) {
		review, err := c.Client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{
			Spec: authenticationv1.TokenReviewSpec{Token: ofPod, Audiences: []string{"https://kubernetes.default.svc.cluster.local", "https://example.com"}},
		}, metav1.CreateOptions{})
		return err == nil && !review.Status.Authenticated, err
	})
}

// tamper changes the payload of a token and leaves its signature.
func tamper(token, subject string) string {
	parts := strings.Split(token, ".")
	payload, _ := base64.RawURLEncoding.DecodeString(parts[1])
	parts[1] = base64.RawURLEncoding.EncodeToString([]byte(strings.Replace(string(payload), subject, ":another", 1)))
	return strings.Join(parts, ".")
}

// TestTokenKeys verifies a token as somebody would who has only the issuer's
// address.
func TestTokenKeys(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	token := must(c.Client.CoreV1().ServiceAccounts(ns).CreateToken(t.Context(), "default", &authenticationv1.TokenRequest{}, metav1.CreateOptions{}))(t).Status.Token
	// Service accounts may read these, and nothing else by themselves.
	client := must(rest.HTTPClientFor(c.Token(token)))(t)
	get := func(path string, into any) {
		t.Helper()
		answer := must(client.Get("https://" + loopback(c.Config.Port) + path))(t)
		defer answer.Body.Close()
		body := must(io.ReadAll(answer.Body))(t)
		if answer.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s", path, answer.Status, body)
		}
		if err := json.Unmarshal(body, into); err != nil {
			t.Fatal(err)
		}
	}
	var document struct {
		Issuer string `json:"issuer"`
		Keys   string `json:"jwks_uri"`
	}
	get("/.well-known/openid-configuration", &document)
	if document.Issuer != "https://kubernetes.default.svc.cluster.local" || !strings.HasSuffix(document.Keys, "/openid/v1/jwks") {
		t.Errorf("discovery document: %+v", document)
	}
	var set struct{ Keys []struct{ Kid, X, Y string } }
	get("/openid/v1/jwks", &set)
	parsed, err := jwt.Parse(token, func(token *jwt.Token) (any, error) {
		for _, key := range set.Keys {
			if key.Kid == token.Header["kid"] {
				point := []byte{4}
				for _, coordinate := range []string{key.X, key.Y} {
					point = append(point, must(base64.RawURLEncoding.DecodeString(coordinate))(t)...)
				}
				return ecdsa.ParseUncompressedPublicKey(elliptic.P256(), point)
			}
		}
		return nil, jwt.ErrTokenUnverifiable
	}, jwt.WithIssuer(document.Issuer), jwt.WithAudience(document.Issuer))
	if err != nil || !parsed.Valid {
		t.Errorf("token does not verify by the published keys: %v", err)
	}
}

func TestAnonymousPaths(t *testing.T) {
	c := Start(t)
	client := must(rest.HTTPClientFor(c.Anonymous()))(t)
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/healthz": 200, "/version": 200,
		"/api": 401, "/metrics": 401, "/openapi/v2": 401, "/api/v1/namespaces": 401, "/livez/etcd": 401,
	} {
		answer := must(client.Get("https://" + loopback(c.Config.Port) + path))(t)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s answers %d without credentials, want %d", path, answer.StatusCode, want)
		}
	}
}
