package tokenclean

import (
	"context"
	"slices"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestDeletesOnlyExpiredTokens(t *testing.T) {
	secret := func(name string, kind corev1.SecretType, expires string) *corev1.Secret {
		s := &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name, Namespace: namespace}, Type: kind, Data: map[string][]byte{}}
		if expires != "" {
			s.Data[expirationKey] = []byte(expires)
		}
		return s
	}
	past, future := time.Now().Add(-time.Second).Format(time.RFC3339), time.Now().Add(time.Hour).Format(time.RFC3339)
	f := controllertest.New(t, secret("expired", tokenType, past), secret("garbled", tokenType, "soon"), secret("valid", tokenType, future),
		secret("for-ever", tokenType, ""), secret("other", corev1.SecretTypeOpaque, past))
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	controllertest.Eventually(t, "the expired ones to go", func() bool {
		list, err := f.Client.CoreV1().Secrets(namespace).List(context.Background(), metav1.ListOptions{})
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, s := range list.Items {
			names = append(names, s.Name)
		}
		slices.Sort(names)
		return slices.Equal(names, []string{"for-ever", "other", "valid"})
	})
}
