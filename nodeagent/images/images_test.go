package images

import (
	"context"
	"errors"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	cri "k8s.io/cri-api/pkg/apis"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func TestNormalize(t *testing.T) {
	for in, want := range map[string]string{
		"nginx":                       "docker.io/library/nginx:latest",
		"nginx:1.2":                   "docker.io/library/nginx:1.2",
		"me/app":                      "docker.io/me/app:latest",
		"localhost/app":               "localhost/app:latest",
		"reg.example:5000/a/b:c":      "reg.example:5000/a/b:c",
		"reg.example/a@sha256:ab":     "reg.example/a@sha256:ab",
		"reg.example/a:t@sha256:ab":   "reg.example/a:t@sha256:ab",
		"":                            "",
		"Upper":                       "",
		"docker.io/library/sample:v1": "docker.io/library/sample:v1",
	} {
		if got := Normalize(in); got != want {
			t.Errorf("%q: got %q, want %q", in, got, want)
		}
	}
}

func TestCredentials(t *testing.T) {
	secret := v1.Secret{Data: map[string][]byte{v1.DockerConfigJsonKey: []byte(
		`{"auths":{"https://index.docker.io/v1/":{"auth":"dTpw"},"reg.example":{"username":"a","password":"b"},"reg.example/deep":{"username":"c"},"*.wild.example":{"username":"w"}}}`)}}
	for image, want := range map[string][]string{
		"docker.io/library/x:1": {"u"},
		"reg.example/deep/x:1":  {"c", "a"},
		"reg.example/x:1":       {"a"},
		"eu.wild.example/x:1":   {"w"},
		"other.example/x:1":     nil,
	} {
		got := Credentials(image, []v1.Secret{secret})
		if len(got) != len(want) {
			t.Errorf("%s: got %d credentials, want %d", image, len(got), len(want))
			continue
		}
		for i := range got {
			if got[i].Auth.Username != want[i] {
				t.Errorf("%s: got %s, want %s", image, got[i].Auth.Username, want[i])
			}
		}
	}
}

// registry is an image service with one image, whose pulls fail.
type registry struct {
	cri.ImageManagerService
	pulls int
}

func (r *registry) ImageStatus(_ context.Context, spec *criv1.ImageSpec, _ bool) (*criv1.ImageStatusResponse, error) {
	if spec.Image == "docker.io/library/here:latest" {
		return &criv1.ImageStatusResponse{Image: &criv1.Image{Id: "sha256:1"}}, nil
	}
	return &criv1.ImageStatusResponse{}, nil
}

func (r *registry) PullImage(context.Context, *criv1.ImageSpec, *criv1.AuthConfig, *criv1.PodSandboxConfig) (string, error) {
	r.pulls++
	return "", errors.New("no network")
}

func TestEnsure(t *testing.T) {
	r := &registry{}
	now := time.Unix(0, 0)
	p := New(r, 1, t.TempDir())
	p.now = func() time.Time { return now }
	ensure := func(image string, policy v1.PullPolicy) string {
		t.Helper()
		_, err := p.Ensure(t.Context(), &v1.Pod{}, &v1.Container{Image: image, ImagePullPolicy: policy}, nil, nil, func(_, _, _ string) {})
		var fault *Fault
		if errors.As(err, &fault) {
			return fault.Reason
		}
		if err != nil {
			t.Fatal(err)
		}
		return ""
	}
	if got := ensure("here", v1.PullIfNotPresent); got != "" || r.pulls != 0 {
		t.Errorf("present image: got %q after %d pulls", got, r.pulls)
	}
	if got := ensure("gone", v1.PullNever); got != ReasonNeverPull {
		t.Errorf("never: got %q", got)
	}
	if got := ensure("gone", v1.PullIfNotPresent); got != ReasonPull {
		t.Errorf("first pull: got %q", got)
	}
	now = now.Add(time.Second)
	if got := ensure("gone", v1.PullIfNotPresent); got != ReasonBackOff || r.pulls != 1 {
		t.Errorf("within back-off: got %q after %d pulls", got, r.pulls)
	}
	now = now.Add(10 * time.Second)
	if got := ensure("gone", v1.PullIfNotPresent); got != ReasonPull || r.pulls != 2 {
		t.Errorf("after back-off: got %q after %d pulls", got, r.pulls)
	}
	now = now.Add(11 * time.Second)
	if got := ensure("gone", v1.PullIfNotPresent); got != ReasonBackOff {
		t.Errorf("second back-off has not doubled: got %q", got)
	}
	if got := ensure("No Name", v1.PullAlways); got != ReasonInvalid {
		t.Errorf("invalid: got %q", got)
	}
}
