package integration

import (
	"context"
	"crypto/rand"
	"crypto/rsa"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"errors"
	"log/slog"
	"math/big"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/golang-jwt/jwt/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"clusterctl/hostconfig"
	"clusterctl/test/fixture"
)

// another starts one more API server of the same cluster, with a configuration
// that change has changed, for as long as the test runs.
func (c *Cluster) another(t *testing.T, change func(*hostconfig.ControlPlane)) *Cluster {
	t.Helper()
	config := c.Config
	config.Port = must(freePorts(1))(t)[0]
	config.NodeName, config.Address, config.AuditLog = "cp2", "192.0.2.3", ""
	change(&config)
	ctx, cancel := context.WithCancel(context.Background())
	server := must(newServer(ctx, config, slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn}))))(t)
	done := make(chan error, 1)
	go func() { done <- server.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("second API server: %v", err)
		}
	})
	select {
	case <-server.Ready():
	case <-time.After(fixture.Patience):
		t.Fatalf("the second API server is not ready after %s", fixture.Patience)
	}
	second := &Cluster{Config: config, Server: server, CA: c.CA}
	second.Admin = must(second.Certificate("admin", "system:masters"))(t)
	second.Client = must(kubernetes.NewForConfig(second.Admin))(t)
	second.Dynamic = must(dynamic.NewForConfig(second.Admin))(t)
	return second
}

// provider is an OpenID Connect provider with one key.
type provider struct {
	server *httptest.Server
	key    *rsa.PrivateKey
}

func newProvider(t *testing.T) *provider {
	t.Helper()
	p := &provider{key: must(rsa.GenerateKey(rand.Reader, 2048))(t)}
	mux := http.NewServeMux()
	answer := func(w http.ResponseWriter, value any) {
		w.Header().Set("Content-Type", "application/json")
		if err := json.NewEncoder(w).Encode(value); err != nil {
			t.Errorf("answer of the provider: %v", err)
		}
	}
	p.server = httptest.NewTLSServer(mux)
	t.Cleanup(p.server.Close)
	mux.HandleFunc("/.well-known/openid-configuration", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"issuer": p.server.URL, "jwks_uri": p.server.URL + "/keys", "id_token_signing_alg_values_supported": []string{"RS256"}})
	})
	mux.HandleFunc("/keys", func(w http.ResponseWriter, _ *http.Request) {
		answer(w, map[string]any{"keys": []any{map[string]any{
			"kty": "RSA", "use": "sig", "alg": "RS256", "kid": "one",
			"n": base64.RawURLEncoding.EncodeToString(p.key.N.Bytes()),
			"e": base64.RawURLEncoding.EncodeToString(big.NewInt(int64(p.key.E)).Bytes()),
		}}})
	})
	return p
}

// token signs claims; those of every ID token are filled in.
func (p *provider) token(t *testing.T, claims jwt.MapClaims) string {
	t.Helper()
	all := jwt.MapClaims{"iss": p.server.URL, "aud": "cluster", "exp": time.Now().Add(time.Hour).Unix(), "iat": time.Now().Unix(), "sub": "jane", "org": "us"}
	for name, value := range claims {
		all[name] = value
	}
	token := jwt.NewWithClaims(jwt.SigningMethodRS256, all)
	token.Header["kid"] = "one"
	return must(token.SignedString(p.key))(t)
}

func TestOpenIDConnect(t *testing.T) {
	login := newProvider(t)
	file := filepath.Join(t.TempDir(), "authentication.yaml")
	authority := string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: login.server.Certificate().Raw}))
	config := must(hostconfig.Marshal(map[string]any{
		"apiVersion": "apiserver.config.k8s.io/v1", "kind": "AuthenticationConfiguration",
		"jwt": []any{map[string]any{
			"issuer":               map[string]any{"url": login.server.URL, "audiences": []string{"cluster"}, "certificateAuthority": authority},
			"claimValidationRules": []any{map[string]any{"claim": "org", "requiredValue": "us"}},
			"claimMappings": map[string]any{
				"username": map[string]any{"claim": "sub", "prefix": "oidc:"}, "groups": map[string]any{"claim": "groups", "prefix": "oidc:"},
			},
		}},
	}))(t)
	if err := os.WriteFile(file, config, 0o600); err != nil {
		t.Fatal(err)
	}
	c := Start(t).another(t, func(config *hostconfig.ControlPlane) { config.Authentication = file })
	// The server asks for the provider's keys when it starts, and does not wait.
	eventually(t, "a user of the provider", func(context.Context) (bool, error) {
		info, err := whoAmI(t, c.Token(login.token(t, jwt.MapClaims{"groups": []string{"dev", "system:masters"}})))
		if err != nil {
			return false, err
		}
		if info.Username != "oidc:jane" || strings.Join(info.Groups, " ") != "oidc:dev oidc:system:masters system:authenticated" {
			t.Errorf("got %s in %q", info.Username, info.Groups)
		}
		return true, nil
	})
	stranger := newProvider(t)
	stranger.server.URL = login.server.URL
	for name, token := range map[string]string{
		"other audience":    login.token(t, jwt.MapClaims{"aud": "elsewhere"}),
		"expired":           login.token(t, jwt.MapClaims{"exp": time.Now().Add(-time.Hour).Unix()}),
		"missing claim":     login.token(t, jwt.MapClaims{"org": "them"}),
		"another's key":     stranger.token(t, nil),
		"no token of OIDC":  "nobody",
		"the cluster's iss": login.token(t, jwt.MapClaims{"iss": "https://kubernetes.default.svc.cluster.local"}),
	} {
		if info, err := whoAmI(t, c.Token(token)); !apierrors.IsUnauthorized(err) {
			t.Errorf("%s: %+v, %v; want unauthorized", name, info, err)
		}
	}
}

// TestSwitches runs a server with everything switched on that is off by default.
func TestSwitches(t *testing.T) {
	c := Start(t).another(t, func(config *hostconfig.ControlPlane) {
		config.AnonymousDiscovery, config.AlwaysPullImages, config.PodSecurity = true, true, "baseline"
	})
	client := must(rest.HTTPClientFor(c.Anonymous()))(t)
	for path, want := range map[string]int{
		"/livez": 200, "/readyz": 200, "/healthz": 200, "/version": 200,
		"/api": 200, "/apis": 200, "/api/v1": 200, "/apis/apps/v1": 200, "/openapi/v2": 200, "/openapi/v3": 200,
		"/metrics": 401, "/api/v1/namespaces": 401, "/apis/apps/v1/deployments": 401, "/api/v1/namespaces/default/pods": 401,
		"/apis/no.such.group/v1/things": 401, "/debug/pprof/": 401, "/logs": 401,
	} {
		answer := must(client.Get("https://" + loopback(c.Config.Port) + path))(t)
		answer.Body.Close()
		if answer.StatusCode != want {
			t.Errorf("%s answers %d without credentials, want %d", path, answer.StatusCode, want)
		}
	}
	answer := must(client.Post("https://"+loopback(c.Config.Port)+"/apis", "application/json", strings.NewReader("{}")))(t)
	answer.Body.Close()
	if answer.StatusCode != 401 {
		t.Errorf("POST /apis answers %d without credentials, want 401", answer.StatusCode)
	}

	ns := c.namespace(t)
	pod := &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: "p"},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "x", Image: "x:1", ImagePullPolicy: corev1.PullIfNotPresent}}},
	}
	got := must(c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{}))(t)
	if got.Spec.Containers[0].ImagePullPolicy != corev1.PullAlways {
		t.Errorf("pull policy is %s, want Always", got.Spec.Containers[0].ImagePullPolicy)
	}
	pod.Name, pod.Spec.HostNetwork = "q", true
	_, err := c.Client.CoreV1().Pods(ns).Create(t.Context(), pod, metav1.CreateOptions{})
	if !apierrors.IsForbidden(err) || !strings.Contains(err.Error(), `violates PodSecurity "baseline:latest": host namespaces (hostNetwork=true)`) {
		t.Errorf("a pod on the host's network: %v", err)
	}
}
