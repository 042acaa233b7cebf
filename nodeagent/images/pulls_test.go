package images

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// guarded is a host with a registry that gives images of reg.example/secret to
// those who say "let me in", and other images to anybody.
type guarded struct {
	cri.ImageManagerService
	here  map[string]string // image IDs, by name
	pulls int
}

func (g *guarded) ImageStatus(_ context.Context, spec *criv1.ImageSpec, _ bool) (*criv1.ImageStatusResponse, error) {
	if id := g.here[spec.Image]; id != "" {
		return &criv1.ImageStatusResponse{Image: &criv1.Image{Id: id}}, nil
	}
	return &criv1.ImageStatusResponse{}, nil
}

func (g *guarded) ListImages(context.Context, *criv1.ImageFilter) ([]*criv1.Image, error) {
	var list []*criv1.Image
	for name, id := range g.here {
		list = append(list, &criv1.Image{Id: id, RepoTags: []string{name}})
	}
	return list, nil
}

func (g *guarded) PullImage(_ context.Context, spec *criv1.ImageSpec, auth *criv1.AuthConfig, _ *criv1.PodSandboxConfig) (string, error) {
	g.pulls++
	if strings.HasPrefix(spec.Image, "reg.example/secret") && auth.GetPassword() != "let me in" {
		return "", errors.New("unauthorized")
	}
	g.here[spec.Image] = "sha256:" + spec.Image
	return "reg.example@sha256:digest", nil // as CRI-O does: not the ID
}

func pullSecret(name, password string) v1.Secret {
	raw, _ := json.Marshal(map[string]any{"auths": map[string]any{"reg.example": map[string]string{"username": "u", "password": password}}})
	s := v1.Secret{Data: map[string][]byte{v1.DockerConfigJsonKey: raw}}
	s.Name, s.Namespace, s.UID = name, "ns", types.UID(name)
	return s
}

// TestImagesOfOthers: who may not have an image from its registry may not have it
// from the host either.
func TestImagesOfOthers(t *testing.T) {
	dir := t.TempDir()
	g := &guarded{here: map[string]string{"reg.example/secret/loaded:1": "sha256:loaded"}}
	p := New(g, 1, dir)
	ask := func(image string, policy v1.PullPolicy, secrets ...v1.Secret) string {
		t.Helper()
		pod := &v1.Pod{}
		_, err := p.Ensure(t.Context(), pod, &v1.Container{Image: image, ImagePullPolicy: policy}, nil, secrets, func(_, _, _ string) {})
		p.Forget(pod) // no back-off between the steps
		var fault *Fault
		if errors.As(err, &fault) {
			return fault.Reason
		}
		return "has it"
	}
	const image, open = "reg.example/secret/app:1", "reg.example/open:1"
	right, wrong := pullSecret("right", "let me in"), pullSecret("wrong", "please")
	for _, step := range []struct {
		what, image string
		policy      v1.PullPolicy
		secrets     []v1.Secret
		want        string
		pulls       int
	}{
		{"nobody pulled it", image, v1.PullIfNotPresent, nil, ReasonPull, 1},
		{"the right secret", image, v1.PullIfNotPresent, []v1.Secret{right}, "has it", 1},
		{"again", image, v1.PullIfNotPresent, []v1.Secret{right}, "has it", 0},
		{"no secret", image, v1.PullIfNotPresent, nil, ReasonPull, 1},
		{"no secret, and no pull", image, v1.PullNever, nil, ReasonNeverPull, 0},
		{"the right secret, and no pull", image, v1.PullNever, []v1.Secret{right}, "has it", 0},
		{"another secret", image, v1.PullIfNotPresent, []v1.Secret{wrong}, ReasonPull, 1},
		{"another secret, the same credentials", image, v1.PullIfNotPresent, []v1.Secret{pullSecret("copy", "let me in")}, "has it", 0},
		{"that secret with new credentials", image, v1.PullIfNotPresent, []v1.Secret{pullSecret("copy", "changed")}, "has it", 0},
		{"one of several", image, v1.PullIfNotPresent, []v1.Secret{wrong, right}, "has it", 0},
		{"what an operator loaded", "reg.example/secret/loaded:1", v1.PullIfNotPresent, nil, "has it", 0},
		{"what anybody may have", open, v1.PullIfNotPresent, nil, "has it", 1},
		{"again", open, v1.PullIfNotPresent, []v1.Secret{wrong}, "has it", 0},
	} {
		before := g.pulls
		if got := ask(step.image, step.policy, step.secrets...); got != step.want || g.pulls-before != step.pulls {
			t.Errorf("%s: %s after %d pulls, want %s after %d", step.what, got, g.pulls-before, step.want, step.pulls)
		}
	}

	p = New(g, 1, dir) // the agent starts again
	if got := ask(image, v1.PullIfNotPresent); got != ReasonPull {
		t.Errorf("without a secret after a restart: %s", got)
	}
	if got := ask(image, v1.PullNever, right); got != "has it" {
		t.Errorf("with the secret after a restart: %s", got)
	}
	record := p.pulls.recordFile("sha256:" + image)
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got := ask(image, v1.PullNever, right); got != ReasonNeverPull {
		t.Errorf("with a broken record: %s", got)
	}
	if got := ask(image, v1.PullIfNotPresent, right); got != "has it" {
		t.Errorf("pulled anew over a broken record: %s", got)
	}
	raw, err := os.ReadFile(record)
	if err != nil || strings.Contains(string(raw), "let me in") {
		t.Errorf("the record tells the credentials: %s, %v", raw, err)
	}
	info, err := os.Stat(record)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestPullsCutOff: an image that came while nobody could note whose it is, is nobody's.
func TestPullsCutOff(t *testing.T) {
	g, dir := &guarded{here: map[string]string{}}, t.TempDir()
	p := New(g, 1, dir)
	const image, failed = "reg.example/secret/app:1", "reg.example/secret/gone:1"
	for _, name := range []string{image, failed} {
		if err := p.pulls.begin(name); err != nil {
			t.Fatal(err)
		}
	}
	g.here[image] = "sha256:app"
	right := Credentials(image, []v1.Secret{pullSecret("right", "let me in")})
	p = New(g, 1, dir)
	if p.pulls.allowed(image, "sha256:app", right) {
		t.Error("anybody's before it is looked after")
	}
	if err := p.Recover(t.Context()); err != nil {
		t.Fatal(err)
	}
	if p.pulls.allowed(image, "sha256:app", right) {
		t.Error("anybody's after a restart")
	}
	if !p.pulls.allowed(failed, "sha256:elsewhere", nil) {
		t.Error("an image that never came is kept from everybody")
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "pulling", "*")); len(left) > 0 {
		t.Errorf("left %v", left)
	}
}

func TestForgetImages(t *testing.T) {
	p := newPulls(t.TempDir())
	for _, name := range []string{"gone", "here"} {
		if err := errors.Join(p.begin(name), p.end(name, "sha256:"+name, nil)); err != nil {
			t.Fatal(err)
		}
	}
	later := time.Now().Add(time.Second)
	if err := p.forget(map[string]bool{"sha256:here": true}, time.Now().Add(-time.Hour)); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.recordFile("sha256:gone")); err != nil {
		t.Errorf("forgotten too early: %v", err)
	}
	if err := p.forget(map[string]bool{"sha256:here": true}, later); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(p.recordFile("sha256:gone")); err == nil {
		t.Error("not forgotten")
	}
	if _, err := os.Stat(p.recordFile("sha256:here")); err != nil {
		t.Errorf("what is here: %v", err)
	}
}

func TestBare(t *testing.T) {
	for image, want := range map[string]string{
		"docker.io/library/nginx:1": "docker.io/library/nginx", "reg.example:5000/a/b": "reg.example:5000/a/b",
		"reg.example:5000/a/b:c": "reg.example:5000/a/b", "reg.example/a:t@sha256:ab": "reg.example/a", "reg.example/a@sha256:ab": "reg.example/a",
	} {
		if got := bare(image); got != want {
			t.Errorf("%s: got %s, want %s", image, got, want)
		}
	}
}
