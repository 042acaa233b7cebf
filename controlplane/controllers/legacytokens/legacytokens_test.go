package legacytokens

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"os"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/tools/cache"

	"clusterctl/controlplane/controllers/controllertest"
	"clusterctl/hostconfig"
)

// files are a signing key and the cluster CA.
func files(t *testing.T) hostconfig.PKI {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	private, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		t.Fatal(err)
	}
	pki := hostconfig.PKI(t.TempDir())
	if err := os.Mkdir(pki.AuthorityDir(), 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string][]byte{
		pki.ServiceAccountKey(): pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: private}),
		pki.ServiceAccountPub(): pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}),
		pki.ClusterCA():         []byte("the CA"),
	} {
		if err := os.WriteFile(name, content, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return pki
}

func secret(name, account, uid string, data map[string][]byte) *corev1.Secret {
	annotations := map[string]string{corev1.ServiceAccountNameKey: account}
	if uid != "" {
		annotations[corev1.ServiceAccountUIDKey] = uid
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: "of the secret", Annotations: annotations},
		Type:       corev1.SecretTypeServiceAccountToken, Data: data,
	}
}

func TestSecretsFollowAccounts(t *testing.T) {
	whole := map[string][]byte{"token": []byte("an old token"), "ca.crt": []byte("the CA"), "namespace": []byte("mine")}
	f := controllertest.New(t,
		&corev1.ServiceAccount{ObjectMeta: metav1.ObjectMeta{Name: "robot", Namespace: "ns", UID: "robot-uid"}},
		secret("empty", "robot", "", nil),
		secret("whole", "robot", "robot-uid", whole),
		secret("other-ca", "robot", "robot-uid", map[string][]byte{"token": []byte("an old token"), "ca.crt": []byte("another"), "namespace": []byte("mine")}),
		secret("other-life", "robot", "robot-before", whole),
		secret("no-account", "nobody", "", nil),
	)
	c, err := New(f.Env, files(t))
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	secrets := f.Client.CoreV1().Secrets("ns")
	get := func(name string) *corev1.Secret {
		got, err := secrets.Get(context.Background(), name, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		return got
	}
	gone := func(name string) func() bool {
		return func() bool {
			_, err := secrets.Get(context.Background(), name, metav1.GetOptions{})
			return apierrors.IsNotFound(err)
		}
	}
	controllertest.Eventually(t, "the token", func() bool { return len(get("empty").Data["token"]) > 0 })
	got := get("empty")
	if string(got.Data["ca.crt"]) != "the CA" || string(got.Data["namespace"]) != "ns" || got.Annotations[corev1.ServiceAccountUIDKey] != "robot-uid" {
		t.Errorf("filled: %q, %v", got.Data, got.Annotations)
	}
	controllertest.Eventually(t, "the CA", func() bool { return string(get("other-ca").Data["ca.crt"]) == "the CA" })
	for _, name := range []string{"whole", "other-ca"} {
		if got := get(name); string(got.Data["token"]) != "an old token" || string(got.Data["namespace"]) != "mine" {
			t.Errorf("%s has %q, and what was there stays", name, got.Data)
		}
	}
	controllertest.Eventually(t, "the end of one of an earlier life", gone("other-life"))
	controllertest.Eventually(t, "the end of one of no account", gone("no-account"))
	if err := f.Client.CoreV1().ServiceAccounts("ns").Delete(context.Background(), "robot", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"empty", "whole", "other-ca"} {
		controllertest.Eventually(t, "the end of "+name, gone(name))
	}
}

func TestAccountsForgetDeletedSecrets(t *testing.T) {
	account := func(name string) *corev1.ServiceAccount {
		return &corev1.ServiceAccount{
			ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: "ns", UID: types.UID(name + "-uid")},
			Secrets:    []corev1.ObjectReference{{Name: "first"}, {Name: "lost"}, {Name: "last"}},
		}
	}
	for _, c := range []struct {
		name string
		gone *corev1.Secret
		want []string
	}{
		{"its own", secret("lost", "robot", "robot-uid", nil), []string{"first", "last"}},
		{"never filled", secret("lost", "robot", "", nil), []string{"first", "last"}},
		{"of another account", secret("lost", "other", "other-uid", nil), []string{"first", "lost", "last"}},
		{"of an earlier life", secret("lost", "robot", "robot-before", nil), []string{"first", "lost", "last"}},
		{"of nobody", secret("lost", "nobody", "", nil), []string{"first", "lost", "last"}},
		{"not listed", secret("unlisted", "robot", "robot-uid", nil), []string{"first", "lost", "last"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := controllertest.New(t, account("robot"), account("other"))
			made, err := New(f.Env, files(t))
			if err != nil {
				t.Fatal(err)
			}
			f.Start(t, made)
			made.(*controller).noteDeleted(cache.DeletedFinalStateUnknown{Obj: c.gone})
			controllertest.Eventually(t, "the secret to be forgotten", func() bool {
				_, waits := made.(*controller).deleted.Load("ns/" + c.gone.Name)
				return !waits
			})
			got, err := f.Client.CoreV1().ServiceAccounts("ns").Get(context.Background(), "robot", metav1.GetOptions{})
			if err != nil {
				t.Fatal(err)
			}
			var names []string
			for _, ref := range got.Secrets {
				names = append(names, ref.Name)
			}
			if !slices.Equal(names, c.want) {
				t.Errorf("the account lists %v, want %v", names, c.want)
			}
		})
	}
}
