package integration

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path"
	"strings"
	"sync"
	"testing"

	clientv3 "go.etcd.io/etcd/client/v3"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"

	"clusterctl/bootstrap/encryption"
	"clusterctl/controlplane/api"
	"clusterctl/controlplane/storage"
)

const hidden = "correct horse battery staple"

func secretOf(name string) *corev1.Secret {
	return &corev1.Secret{ObjectMeta: metav1.ObjectMeta{Name: name}, StringData: map[string]string{"password": hidden}}
}

// stored is what lies in etcd of a secret.
func stored(t *testing.T, etcd *clientv3.Client, c *Cluster, ns, name string) []byte {
	t.Helper()
	answer := must(etcd.Get(t.Context(), path.Join(c.Config.Prefix, "secrets", ns, name)))(t)
	if len(answer.Kvs) != 1 {
		t.Fatalf("secret %s is not in etcd", name)
	}
	return answer.Kvs[0].Value
}

// oneServer implements encryption.Cluster.
type oneServer struct{ *Cluster }

func (c oneServer) Read(context.Context) (map[string][]byte, error) {
	file, err := os.ReadFile(c.Config.Encryption)
	return map[string][]byte{"cp1": file}, err
}

func (c oneServer) Write(_ context.Context, _ string, file []byte) error {
	fresh := c.Config.Encryption + ".new"
	if err := os.WriteFile(fresh, file, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, c.Config.Encryption)
}

func (c oneServer) Loaded(ctx context.Context, _, hash string) (bool, error) {
	return encryption.Loaded(ctx, c.Admin, hash)
}

func (c oneServer) Rewrite(ctx context.Context) (int, error) { return encryption.Rewrite(ctx, c.Admin) }

// TestEncryptionAtRest looks into etcd, and rotates the key while others write
// and read.
func TestEncryptionAtRest(t *testing.T) {
	c := Start(t)
	ns := c.namespace(t)
	etcd := openStore(t, c).Etcd()
	secrets := c.Client.CoreV1().Secrets(ns)
	must(secrets.Create(t.Context(), secretOf("s"), metav1.CreateOptions{}))(t)
	keys := must(encryption.Parse(must(os.ReadFile(c.Config.Encryption))(t)))(t)
	prefix := func(number int) string { return fmt.Sprintf("k8s:enc:secretbox:v1:key%d:", number) }
	now := keys.List[0].Number
	if raw := stored(t, etcd, c, ns, "s"); !strings.HasPrefix(string(raw), prefix(now)) || bytes.Contains(raw, []byte(hidden)) {
		t.Errorf("a secret lies in etcd as %q", raw)
	}

	// One of the time before anything was encrypted.
	scheme := must(api.NewScheme(nil))(t)
	if err := corev1.AddToScheme(scheme); err != nil {
		t.Fatal(err)
	}
	old := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Name: "old", Namespace: ns, UID: "old", CreationTimestamp: metav1.Now()},
		Type:       corev1.SecretTypeOpaque, Data: map[string][]byte{"password": []byte(hidden)},
	}
	raw := must(runtime.Encode(storage.Codec(scheme, corev1.SchemeGroupVersion), old))(t)
	must(etcd.Put(t.Context(), path.Join(c.Config.Prefix, "secrets", ns, "old"), string(raw)))(t)
	read := func(ctx context.Context, name string) error {
		got, err := secrets.Get(ctx, name, metav1.GetOptions{})
		if err == nil && string(got.Data["password"]) != hidden {
			err = fmt.Errorf("secret %s holds %q", name, got.Data)
		}
		return err
	}
	if err := read(t.Context(), "old"); err != nil {
		t.Errorf("plain text is not readable: %v", err)
	}

	working, stop := context.WithCancel(t.Context())
	var busy sync.WaitGroup
	var written int
	busy.Go(func() {
		for ; working.Err() == nil; written++ {
			name := fmt.Sprint("busy-", written)
			if _, err := secrets.Create(t.Context(), secretOf(name), metav1.CreateOptions{}); err != nil {
				t.Errorf("write during the rotation: %v", err)
				return
			}
			for _, name := range []string{name, "s", "old"} {
				if err := read(t.Context(), name); err != nil {
					t.Errorf("read during the rotation: %v", err)
				}
			}
		}
	})
	var told []string
	err := encryption.Rotate(t.Context(), oneServer{c}, func(what string) { told = append(told, what) })
	stop()
	busy.Wait()
	if err != nil {
		t.Fatalf("%v, after %q", err, told)
	}
	answer := must(etcd.Get(t.Context(), path.Join(c.Config.Prefix, "secrets")+"/", clientv3.WithPrefix()))(t)
	if len(answer.Kvs) < written+2 || written == 0 {
		t.Errorf("%d secrets in etcd, and %d were written during the rotation", len(answer.Kvs), written)
	}
	for _, kv := range answer.Kvs {
		if !strings.HasPrefix(string(kv.Value), prefix(now+1)) {
			t.Errorf("after the rotation %s begins with %.40q, after %q", kv.Key, kv.Value, told)
		}
	}
	for _, name := range []string{"s", "old", "busy-0"} {
		if err := read(t.Context(), name); err != nil {
			t.Errorf("after the rotation: %v", err)
		}
	}
	if file := must(os.ReadFile(c.Config.Encryption))(t); bytes.Contains(file, fmt.Appendf(nil, "key%d", now)) {
		t.Error("the old key is still in the file")
	}
}
