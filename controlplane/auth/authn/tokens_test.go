package authn

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// keyPair writes a key pair; public lists the public keys of others behind it.
func keyPair(t *testing.T, others ...string) (private, public string) {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	publicDER, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	content := pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: publicDER})
	for _, other := range others {
		raw, err := os.ReadFile(other)
		if err != nil {
			t.Fatal(err)
		}
		content = append(content, raw...)
	}
	dir := t.TempDir()
	private, public = filepath.Join(dir, "sa.key"), filepath.Join(dir, "sa.pub")
	for name, data := range map[string][]byte{
		private: pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: der}), public: content,
	} {
		if err := os.WriteFile(name, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return private, public
}

func load(t *testing.T, issuer, private, public string) *ServiceAccountTokens {
	t.Helper()
	tokens, err := LoadServiceAccountTokens(issuer, private, public)
	if err != nil {
		t.Fatal(err)
	}
	return tokens
}

func TestServiceAccountAuthenticator(t *testing.T) {
	oldPrivate, oldPublic := keyPair(t)
	private, public := keyPair(t, oldPublic)
	foreignPrivate, foreignPublic := keyPair(t)
	current := load(t, issuer, private, public)
	previous := load(t, issuer, oldPrivate, oldPublic)
	foreign := load(t, issuer, foreignPrivate, foreignPublic)
	elsewhere := load(t, "https://example.com", private, public)

	now := time.Now()
	type values = map[string]any
	with := func(changes values) values {
		merged := values{
			"sub": "system:serviceaccount:ns:app", "aud": []string{issuer}, "exp": now.Add(time.Hour).Unix(),
			"kubernetes.io": values{"namespace": "ns", "serviceaccount": values{"name": "app", "uid": "sa-1"}},
		}
		for key, value := range changes {
			merged[key] = value
		}
		return merged
	}
	bound := func(kind, name, uid string) values {
		return values{"kubernetes.io": values{
			"namespace": "ns", "serviceaccount": values{"name": "app", "uid": "sa-1"}, kind: values{"name": name, "uid": uid},
		}}
	}
	gone := metav1.NewTime(now.Add(-2 * time.Minute))
	leaving := metav1.NewTime(now.Add(30 * time.Second))
	objects := map[string]*metav1.ObjectMeta{
		"serviceaccounts/ns/app": {UID: "sa-1"},
		"pods/ns/web":            {UID: "pod-1", DeletionTimestamp: &leaving},
		"pods/ns/old":            {UID: "pod-2", DeletionTimestamp: &gone},
		"nodes//n1":              {UID: "node-1"},
		"secrets/ns/s":           {UID: types.UID("secret-1")},
	}
	authenticate := &serviceAccountAuthenticator{tokens: current, lookup: func(_ context.Context, resource, namespace, name string) (metav1.Object, error) {
		if object, ok := objects[resource+"/"+namespace+"/"+name]; ok {
			return object, nil
		}
		return nil, os.ErrNotExist
	}}
	for _, test := range []struct {
		name   string
		signer *ServiceAccountTokens
		claims values
		want   string // "ok", "" for a token of someone else, or a part of the error
	}{
		{"free", current, with(nil), "ok"},
		{"signed by the key before", previous, with(nil), "ok"},
		{"signed by a stranger", foreign, with(nil), "no key with the ID"},
		{"of another issuer", elsewhere, with(nil), ""},
		{"expired", current, with(values{"exp": now.Add(-time.Minute).Unix()}), "expired"},
		{"without end", current, with(values{"exp": nil}), "exp claim is required"},
		{"for another audience", current, with(values{"aud": []string{"x"}}), "audiences"},
		{"of another subject", current, with(values{"sub": "system:serviceaccount:ns:admin"}), "names no service account"},
		{"bound to a pod that is leaving", current, with(bound("pod", "web", "pod-1")), "ok"},
		{"bound to a pod of an earlier life", current, with(bound("pod", "web", "pod-0")), "another life"},
		{"bound to a deleted pod", current, with(bound("pod", "old", "pod-2")), "deleted"},
		{"bound to a pod that is no more", current, with(bound("pod", "none", "pod-3")), "not exist"},
		{"bound to a secret", current, with(bound("secret", "s", "secret-1")), "ok"},
		{"bound to a node of an earlier life", current, with(bound("node", "n1", "node-0")), "another life"},
	} {
		t.Run(test.name, func(t *testing.T) {
			token, err := test.signer.Issue(t.Context(), test.claims)
			if err != nil {
				t.Fatal(err)
			}
			answer, ok, err := authenticate.AuthenticateToken(t.Context(), token)
			switch {
			case test.want == "ok":
				if err != nil || !ok || answer.User.GetName() != "system:serviceaccount:ns:app" || answer.User.GetUID() != "sa-1" {
					t.Errorf("got %+v, %v, %v; want the account", answer, ok, err)
				}
			case test.want == "":
				if ok || err != nil {
					t.Errorf("got %v, %v; want no opinion", ok, err)
				}
			case ok || err == nil || !strings.Contains(err.Error(), test.want):
				t.Errorf("got %v, %v; want an error with %q", ok, err, test.want)
			}
		})
	}
}

// TestNoSignatureIsNoToken tries the ways around a signature.
func TestNoSignatureIsNoToken(t *testing.T) {
	private, public := keyPair(t)
	tokens := load(t, issuer, private, public)
	token, err := tokens.Issue(t.Context(), map[string]any{"sub": "x", "exp": time.Now().Add(time.Hour).Unix()})
	if err != nil {
		t.Fatal(err)
	}
	parts := strings.Split(token, ".")
	for _, forged := range []string{
		"eyJhbGciOiJub25lIn0." + parts[1] + ".", // {"alg":"none"}
		parts[0] + "." + parts[1] + ".",
		parts[0] + "." + parts[1],
	} {
		if claims, _, err := tokens.verify(forged); claims != nil {
			t.Errorf("%s is taken for %+v (%v)", forged, claims, err)
		}
	}
}

func TestIdentitiesKnowTheirTokensOnly(t *testing.T) {
	var identities Identities
	token := identities.Token("user", "group")
	answer, ok, err := identities.AuthenticateToken(t.Context(), token)
	if err != nil || !ok || answer.User.GetName() != "user" || answer.User.GetGroups()[0] != "group" {
		t.Errorf("own token: %+v, %v, %v", answer, ok, err)
	}
	if _, ok, _ := identities.AuthenticateToken(t.Context(), token+"x"); ok {
		t.Error("another token is taken")
	}
	if token == identities.Token("user", "group") {
		t.Error("two tokens are the same")
	}
	var _ authenticator.Token = &identities
}
