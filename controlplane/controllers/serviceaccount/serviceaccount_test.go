package serviceaccount

import (
	"context"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestEveryNamespaceHasADefault(t *testing.T) {
	now := metav1.Now()
	f := controllertest.New(t,
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}},
		&corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "going", DeletionTimestamp: &now, Finalizers: []string{"x"}}})
	c, err := New(f.Env)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	has := func(namespace string) func() bool {
		return func() bool {
			_, err := f.Client.CoreV1().ServiceAccounts(namespace).Get(context.Background(), name, metav1.GetOptions{})
			return err == nil
		}
	}
	controllertest.Eventually(t, "the account", has("ns"))
	if err := f.Client.CoreV1().ServiceAccounts("ns").Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "it to be made again", has("ns"))
	if has("going")() {
		t.Error("a namespace that goes got an account")
	}
}
