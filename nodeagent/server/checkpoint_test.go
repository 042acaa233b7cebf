package server

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"

	"clusterctl/nodeagent/runtime"
)

// onePod is a host with one pod.
type onePod struct{ pod *v1.Pod }

func (p onePod) Pod(namespace, name string) *v1.Pod {
	if namespace == p.pod.Namespace && name == p.pod.Name {
		return p.pod
	}
	return nil
}

func (p onePod) List() []*v1.Pod { return []*v1.Pod{p.pod} }

// checkpoints remembers what it was asked for.
type checkpoints struct {
	*critest.FakeRuntimeService
	asked []*criv1.CheckpointContainerRequest
	fault error
}

func (c *checkpoints) CheckpointContainer(_ context.Context, r *criv1.CheckpointContainerRequest) error {
	c.asked = append(c.asked, r)
	return c.fault
}

func TestCheckpoint(t *testing.T) {
	pod := &v1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "n", Name: "p", UID: "u"}}
	pod.Spec.Containers = []v1.Container{{Name: "c", Image: "i"}, {Name: "none", Image: "i"}}
	cri := &checkpoints{FakeRuntimeService: critest.NewFakeRuntimeService()}
	sandboxConfig := &criv1.PodSandboxConfig{Metadata: &criv1.PodSandboxMetadata{Name: "p", Namespace: "n", Uid: "u"}, Labels: runtime.PodLabels(pod)}
	sandbox, err := cri.RunPodSandbox(t.Context(), sandboxConfig, "")
	if err != nil {
		t.Fatal(err)
	}
	id, err := cri.CreateContainer(t.Context(), sandbox, &criv1.ContainerConfig{Metadata: &criv1.ContainerMetadata{Name: "c"},
		Image: &criv1.ImageSpec{Image: "i", UserSpecifiedImage: "i"}, Labels: runtime.ContainerLabels(pod, "c")}, sandboxConfig)
	if err != nil {
		t.Fatal(err)
	}
	if err := cri.StartContainer(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	s := &Server{Config: Config{Pods: onePod{pod}, CheckpointDir: filepath.Join(dir, "checkpoints"), Logger: slog.New(slog.DiscardHandler),
		Runtime: runtime.New(cri, critest.NewFakeImageService(), slog.New(slog.DiscardHandler))}}
	ask := func(method, path string) (int, string) {
		w := httptest.NewRecorder()
		s.routes().ServeHTTP(w, httptest.NewRequest(method, path, nil))
		return w.Code, strings.TrimSpace(w.Body.String())
	}
	code, body := ask("POST", "/checkpoint/n/p/c?timeout=1&timeout=7")
	var items struct{ Items []string }
	if err := json.Unmarshal([]byte(body), &items); err != nil || code != 200 {
		t.Fatalf("%d %s: %v", code, body, err)
	}
	if len(cri.asked) != 1 || cri.asked[0].ContainerId != id || cri.asked[0].Timeout != 7 || !slices.Equal(items.Items, []string{cri.asked[0].Location}) ||
		!strings.HasPrefix(cri.asked[0].Location, filepath.Join(dir, "checkpoints", "checkpoint-p_n-c-")) {
		t.Errorf("answered %s, asked the runtime for %v", body, cri.asked)
	}
	cri.fault = errors.New("not here")
	for path, want := range map[string]string{
		"/checkpoint/n/p/c":           "500 checkpointing of n/p/c failed (not here)",
		"/checkpoint/n/p/none":        "500 checkpointing of n/p/none failed (container none not found)",
		"/checkpoint/n/p/x":           "404 container x does not exist",
		"/checkpoint/n/x/c":           "404 pod does not exist",
		"/checkpoint/n/p/c?timeout=x": "404 cannot parse value of timeout parameter",
	} {
		code, body := ask("POST", path)
		if got := fmt.Sprint(code, " ", body); got != want {
			t.Errorf("%s: got %q, want %q", path, got, want)
		}
	}
	code, body = ask("GET", "/runningpods/")
	var list v1.PodList
	if err := json.Unmarshal([]byte(body), &list); err != nil || code != 200 || len(list.Items) != 1 || list.Items[0].Name != "p" || len(list.Items[0].Spec.Containers) != 1 {
		t.Errorf("running pods: %d %s", code, body)
	}
	for path, want := range map[string]string{"/checkpoint/n/p/c": "checkpoint", "/runningpods/": "pods proxy", "/pods": "pods proxy"} {
		if got := strings.Join(subresources(path), " "); got != want {
			t.Errorf("%s: asks for %s, want %s", path, got, want)
		}
	}
}
