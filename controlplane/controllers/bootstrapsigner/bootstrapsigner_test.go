package bootstrapsigner

import (
	"context"
	"maps"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	bootstrap "k8s.io/cluster-bootstrap/token/api"
	"k8s.io/cluster-bootstrap/token/jws"

	"clusterctl/controlplane/controllers/controllertest"
)

// token makes a bootstrap token that may sign; change is what it has besides,
// and an empty value takes away.
func token(id string, change map[string]string) *corev1.Secret {
	s := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "bootstrap-token-" + id},
		Type:       bootstrap.SecretTypeBootstrapToken,
		Data:       map[string][]byte{"token-id": []byte(id), "token-secret": []byte("secret-of-" + id), "usage-bootstrap-signing": []byte("true")},
	}
	for k, v := range change {
		s.Data[k] = []byte(v)
	}
	return s
}

func TestOnlyTokensThatMaySign(t *testing.T) {
	now := time.Unix(1e9, 0)
	at := func(d time.Duration) map[string]string {
		return map[string]string{"expiration": now.Add(d).UTC().Format(time.RFC3339)}
	}
	renamed, typed := token("abcdef", nil), token("abcdef", nil)
	renamed.Name, typed.Type = "bootstrap-token-fedcba", corev1.SecretTypeOpaque
	plain := token("abcdef", nil)
	plain.Name = "abcdef"
	for name, test := range map[string]struct {
		secret *corev1.Secret
		signs  bool
	}{
		"may":             {token("abcdef", nil), true},
		"not yet expired": {token("abcdef", at(time.Minute)), true},
		"expired":         {token("abcdef", at(-time.Minute)), false},
		"no time":         {token("abcdef", map[string]string{"expiration": "soon"}), false},
		"may not":         {token("abcdef", map[string]string{"usage-bootstrap-signing": "false"}), false},
		"says nothing":    {token("abcdef", map[string]string{"usage-bootstrap-signing": ""}), false},
		"no secret":       {token("abcdef", map[string]string{"token-secret": ""}), false},
		"no id":           {token("abcdef", map[string]string{"token-id": ""}), false},
		"another's name":  {renamed, false},
		"no token's name": {plain, false},
		"another type":    {typed, false},
	} {
		t.Run(name, func(t *testing.T) {
			id, secret := signing(test.secret, now)
			if signs := id == "abcdef" && secret == "secret-of-abcdef"; signs != test.signs || !signs && id != "" {
				t.Errorf("got %q, %q", id, secret)
			}
		})
	}
}

func TestSignaturesFollowTokensAndContent(t *testing.T) {
	ctx := context.Background()
	f := controllertest.New(t, token("aaaaaa", nil), token("cccccc", map[string]string{"usage-bootstrap-signing": "false"}))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	infos := f.Client.CoreV1().ConfigMaps("kube-public")
	signed := func(what string, ids ...string) {
		t.Helper()
		controllertest.Eventually(t, what, func() bool {
			info, err := infos.Get(ctx, "cluster-info", metav1.GetOptions{})
			if err != nil || info.Data["other"] != "stays" || len(info.Data) != len(ids)+2 {
				return false
			}
			for _, id := range ids {
				if !jws.DetachedTokenIsValid(info.Data["jws-kubeconfig-"+id], info.Data["kubeconfig"], id, "secret-of-"+id) {
					return false
				}
			}
			return true
		})
	}
	_, err = infos.Create(ctx, &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: "cluster-info", Namespace: "kube-public"},
		Data:       map[string]string{"kubeconfig": "first", "other": "stays", "jws-kubeconfig-zzzzzz": "of a token that is gone"},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	signed("the first signature", "aaaaaa")
	secrets := f.Client.CoreV1().Secrets("kube-system")
	if _, err := secrets.Create(ctx, token("bbbbbb", nil), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	signed("a new token's signature", "aaaaaa", "bbbbbb")
	controllertest.Eventually(t, "the content to change", func() bool {
		info, err := infos.Get(ctx, "cluster-info", metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		info.Data["kubeconfig"] = "second"
		_, err = infos.Update(ctx, info, metav1.UpdateOptions{})
		return err == nil
	})
	signed("signatures of the new content", "aaaaaa", "bbbbbb")
	if err := secrets.Delete(ctx, "bootstrap-token-aaaaaa", metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	signed("the signature of a deleted token to go", "bbbbbb")
}

func TestTokensAreNotWatchedWithoutNeed(t *testing.T) {
	f := controllertest.New(t, token("aaaaaa", nil))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the watch of the ConfigMap", func() bool { return slices.Contains(watched(f), "configmaps") })
	if slices.Contains(watched(f), "secrets") {
		t.Error("tokens are watched though nothing is to be signed")
	}
}

func watched(f *controllertest.Fixture) []string {
	resources := map[string]bool{}
	for _, a := range f.Client.Actions() {
		resources[a.GetResource().Resource] = true
	}
	return slices.Collect(maps.Keys(resources))
}
