package e2e

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"clusterctl/nodeagent/netnstest"
)

// registry serves one image, of any name, to who knows its password.
type registry struct {
	password string
	manifest string            // its digest
	blobs    map[string][]byte // by digest
	given    atomic.Int64      // manifests
	refused  atomic.Int64
}

func (r *registry) add(blob []byte) string {
	digest := fmt.Sprintf("sha256:%x", sha256.Sum256(blob))
	r.blobs[digest] = blob
	return digest
}

// newRegistry has the image of an archive, but with a label more, so that no node
// has it already.
func newRegistry(t *testing.T, archive, password string) *registry {
	t.Helper()
	r := &registry{password: password, blobs: map[string][]byte{}}
	file, err := os.Open(archive)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	var index struct {
		Manifests []struct{ Digest string }
	}
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			t.Fatal(err)
		}
		switch {
		case path.Dir(header.Name) == "blobs/sha256":
			r.add(content)
		case header.Name == "index.json":
			if err := json.Unmarshal(content, &index); err != nil {
				t.Fatal(err)
			}
		}
	}
	read := func(digest string) map[string]any {
		document := map[string]any{}
		if err := json.Unmarshal(r.blobs[digest], &document); err != nil {
			t.Fatalf("read %s of %s: %v", digest, archive, err)
		}
		return document
	}
	write := func(document map[string]any) (digest string, size int) {
		blob, err := json.Marshal(document)
		if err != nil {
			t.Fatal(err)
		}
		return r.add(blob), len(blob)
	}
	manifest := read(index.Manifests[0].Digest)
	described := manifest["config"].(map[string]any)
	config := read(described["digest"].(string))
	config["author"] = "a registry that asks for a password"
	described["digest"], described["size"] = write(config)
	r.manifest, _ = write(manifest)
	return r
}

// ServeHTTP implements the part of the distribution API that pulling takes.
func (r *registry) ServeHTTP(w http.ResponseWriter, req *http.Request) {
	if _, password, _ := req.BasicAuth(); password != r.password {
		r.refused.Add(1)
		w.Header().Set("WWW-Authenticate", `Basic realm="registry"`)
		http.Error(w, "who are you?", http.StatusUnauthorized)
		return
	}
	what := path.Base(path.Dir(req.URL.Path))
	digest, kind := path.Base(req.URL.Path), "application/octet-stream"
	if what == "manifests" {
		r.given.Add(1)
		kind = "application/vnd.oci.image.manifest.v1+json"
		if !strings.HasPrefix(digest, "sha256:") {
			digest = r.manifest
		}
	}
	content, found := r.blobs[digest]
	if !found {
		http.NotFound(w, req)
		return
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	if req.Method == http.MethodGet {
		_, _ = w.Write(content) // who went away asks again
	}
}

// testRegistry has nodes pull from a registry that asks for a password: who has it
// gets the image, and who has it not does not, the node having it or not.
func (c *cluster) testRegistry(t *testing.T) {
	const namespace, other, node, password = "registry", "registry-others", "worker1", "s3cret"
	client := c.client(t, "")
	serving := newRegistry(t, "../../bin/sample.tar", password)
	server := &http.Server{Handler: serving, ReadHeaderTimeout: 10 * time.Second}
	var listener net.Listener
	err := netnstest.Within(c.networks(t, "cp1")["cp1"], func() (err error) {
		listener, err = net.Listen("tcp", net.JoinHostPort(c.address(t, "cp1"), "0"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _ = server.Serve(listener) }() // until it is closed
	t.Cleanup(func() { server.Close() })
	address := listener.Addr().String()
	image := address + "/private/sample:1"
	// Without TLS: what an operator says of such a registry.
	c.hosts(t, fmt.Sprintf(`mkdir -p '/etc/clusterctl/registries/%[1]s' && echo 'server = "http://%[1]s"' >'/etc/clusterctl/registries/%[1]s/hosts.toml'`, address), node)
	t.Cleanup(func() { c.hosts(t, "rm -r /etc/clusterctl/registries/"+address, node) })

	secret := func(namespace, name, password string) {
		auth := base64.StdEncoding.EncodeToString([]byte("somebody:" + password))
		_, err := client.CoreV1().Secrets(namespace).Create(t.Context(), &v1.Secret{
			ObjectMeta: metav1.ObjectMeta{Name: name}, Type: v1.SecretTypeDockerConfigJson,
			StringData: map[string]string{v1.DockerConfigJsonKey: fmt.Sprintf(`{"auths":{%q:{"auth":%q}}}`, address, auth)},
		}, metav1.CreateOptions{})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{namespace, other} {
		c.namespace(t, name, nil)
	}
	secret(namespace, "right", password)
	secret(namespace, "wrong", "guessed")
	secret(other, "same", password)
	_, err = client.CoreV1().ServiceAccounts(other).Create(t.Context(), &v1.ServiceAccount{
		ObjectMeta: metav1.ObjectMeta{Name: "puller"}, ImagePullSecrets: []v1.LocalObjectReference{{Name: "same"}}}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}

	for _, step := range []struct {
		name, namespace, secret, account string
		policy                           v1.PullPolicy
		reason                           string // why it waits; empty: it runs
		asks                             bool   // the registry
	}{
		{name: "nobody", namespace: namespace, policy: v1.PullIfNotPresent, reason: "ErrImagePull", asks: true},
		{name: "wrong", namespace: namespace, secret: "wrong", policy: v1.PullIfNotPresent, reason: "ErrImagePull", asks: true},
		{name: "right", namespace: namespace, secret: "right", policy: v1.PullIfNotPresent, asks: true},
		{name: "again", namespace: namespace, secret: "right", policy: v1.PullIfNotPresent},
		{name: "never-right", namespace: namespace, secret: "right", policy: v1.PullNever},
		{name: "there-nobody", namespace: other, policy: v1.PullIfNotPresent, reason: "ErrImagePull", asks: true},
		{name: "there-wrong", namespace: namespace, secret: "wrong", policy: v1.PullIfNotPresent, reason: "ErrImagePull", asks: true},
		{name: "there-never", namespace: other, policy: v1.PullNever, reason: "ErrImageNeverPull"},
		{name: "always", namespace: namespace, secret: "right", policy: v1.PullAlways, asks: true},
		{name: "account", namespace: other, account: "puller", policy: v1.PullIfNotPresent},
	} {
		t.Run(step.name, func(t *testing.T) {
			pod := &v1.Pod{
				ObjectMeta: metav1.ObjectMeta{Name: step.name},
				Spec: v1.PodSpec{
					NodeName: node, ServiceAccountName: step.account, TerminationGracePeriodSeconds: new(int64(0)),
					Containers: []v1.Container{{Name: "sample", Image: image, ImagePullPolicy: step.policy}},
				},
			}
			if step.secret != "" {
				pod.Spec.ImagePullSecrets = []v1.LocalObjectReference{{Name: step.secret}}
			}
			pods := client.CoreV1().Pods(step.namespace)
			before := serving.given.Load() + serving.refused.Load()
			if _, err := pods.Create(t.Context(), pod, metav1.CreateOptions{}); err != nil {
				t.Fatal(err)
			}
			eventually(t, time.Minute, "the pod is where it belongs", func(ctx context.Context) error {
				got, err := pods.Get(ctx, step.name, metav1.GetOptions{})
				if err != nil {
					return err
				}
				if len(got.Status.ContainerStatuses) == 0 {
					return errors.New("it has no container yet")
				}
				state := got.Status.ContainerStatuses[0].State
				switch {
				case step.reason == "" && state.Running != nil:
					return nil
				case step.reason != "" && state.Waiting != nil &&
					(state.Waiting.Reason == step.reason || step.reason == "ErrImagePull" && state.Waiting.Reason == "ImagePullBackOff"):
					return nil
				}
				return fmt.Errorf("its container is %+v", state)
			})
			if asked := serving.given.Load()+serving.refused.Load() > before; asked != step.asks {
				t.Errorf("the registry was asked: %t, want %t", asked, step.asks)
			}
			// Who waits would try again beside the next ones.
			if err := pods.Delete(t.Context(), step.name, metav1.DeleteOptions{}); err != nil {
				t.Error(err)
			}
			eventually(t, time.Minute, "the pod is gone", func(ctx context.Context) error {
				if _, err := pods.Get(ctx, step.name, metav1.GetOptions{}); err == nil {
					return errors.New("it is there")
				}
				return nil
			})
		})
	}
}
