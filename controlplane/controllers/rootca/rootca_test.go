package rootca

import (
	"context"
	"os"
	"path/filepath"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/controlplane/controllers/controllertest"
)

func TestPublishes(t *testing.T) {
	file := filepath.Join(t.TempDir(), "ca.crt")
	if err := os.WriteFile(file, []byte("the CA"), 0o600); err != nil {
		t.Fatal(err)
	}
	f := controllertest.New(t, &corev1.Namespace{ObjectMeta: metav1.ObjectMeta{Name: "ns"}})
	c, err := New(f.Env, file)
	if err != nil {
		t.Fatal(err)
	}
	f.Start(t, c)
	maps := f.Client.CoreV1().ConfigMaps("ns")
	published := func() bool {
		m, err := maps.Get(context.Background(), name, metav1.GetOptions{})
		return err == nil && m.Data[dataKey] == "the CA" && len(m.Data) == 1
	}
	controllertest.Eventually(t, "the certificate", published)
	m, err := maps.Get(context.Background(), name, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	m.Data = map[string]string{dataKey: "another", "more": "x"}
	if _, err := maps.Update(context.Background(), m, metav1.UpdateOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "a change to be undone", published)
	if err := maps.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
		t.Fatal(err)
	}
	controllertest.Eventually(t, "a deletion to be undone", published)
}
