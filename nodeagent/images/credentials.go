package images

import (
	"encoding/base64"
	"encoding/json"
	"path"
	"slices"
	"strings"

	v1 "k8s.io/api/core/v1"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Normalize spells an image name out in full: registry, repository and tag.
// It is empty for what cannot be a name.
func Normalize(image string) string {
	if image == "" || strings.ContainsAny(image, " \t\n") || strings.HasPrefix(image, "/") || strings.HasPrefix(image, "-") {
		return ""
	}
	name, digest, pinned := strings.Cut(image, "@")
	registry, rest, slash := strings.Cut(name, "/")
	if !slash || !strings.ContainsAny(registry, ".:") && registry != "localhost" {
		registry, rest = "docker.io", name
		if !slash {
			rest = "library/" + name
		}
	}
	repository, tag, tagged := strings.Cut(rest, ":")
	if repository == "" || repository != strings.ToLower(repository) || tagged && tag == "" {
		return ""
	}
	full := registry + "/" + rest
	if pinned {
		return full + "@" + digest
	}
	if !tagged {
		full += ":latest"
	}
	return full
}

// Credential is what opens a registry, and where it is from.
type Credential struct {
	Auth *criv1.AuthConfig
	From source
}

// Credentials are what the pull secrets hold for the image's registry, the
// closest match first.
func Credentials(image string, secrets []v1.Secret) []Credential {
	type entry struct {
		Username      string `json:"username"`
		Password      string `json:"password"`
		Auth          string `json:"auth"`
		IdentityToken string `json:"identitytoken"`
	}
	type match struct {
		length int
		Credential
	}
	var matches []match
	for _, secret := range secrets {
		auths := map[string]entry{}
		if raw := secret.Data[v1.DockerConfigJsonKey]; len(raw) > 0 {
			var config struct {
				Auths map[string]entry `json:"auths"`
			}
			if json.Unmarshal(raw, &config) == nil {
				auths = config.Auths
			}
		} else if raw := secret.Data[v1.DockerConfigKey]; len(raw) > 0 {
			_ = json.Unmarshal(raw, &auths) // what cannot be read holds no credentials
		}
		for server, e := range auths {
			prefix := serverPrefix(server)
			if !covers(prefix, image) {
				continue
			}
			if decoded, err := base64.StdEncoding.DecodeString(e.Auth); e.Username == "" && err == nil {
				e.Username, e.Password, _ = strings.Cut(string(decoded), ":")
			}
			// Without the server's address: containerd takes a port in it for an error.
			auth := &criv1.AuthConfig{Username: e.Username, Password: e.Password, IdentityToken: e.IdentityToken}
			matches = append(matches, match{len(prefix), Credential{auth, source{secret.UID, secret.Namespace, secret.Name, hash(auth)}}})
		}
	}
	slices.SortStableFunc(matches, func(a, b match) int { return b.length - a.length })
	var credentials []Credential
	for _, m := range matches {
		credentials = append(credentials, m.Credential)
	}
	return credentials
}

// serverPrefix reduces a server's address, as docker writes it, to a prefix
// of image names.
func serverPrefix(server string) string {
	server = strings.TrimPrefix(strings.TrimPrefix(server, "https://"), "http://")
	server = strings.TrimSuffix(server, "/")
	server = strings.TrimSuffix(strings.TrimSuffix(server, "/v1"), "/v2")
	if server == "index.docker.io" || server == "registry-1.docker.io" {
		return "docker.io"
	}
	return server
}

// covers matches part by part; a part of the host's name may be a glob.
func covers(prefix, image string) bool {
	wantHost, wantPath, _ := strings.Cut(prefix, "/")
	host, rest, _ := strings.Cut(image, "/")
	want, have := strings.Split(wantHost, "."), strings.Split(host, ".")
	if len(want) != len(have) {
		return false
	}
	for i := range want {
		if ok, err := path.Match(want[i], have[i]); err != nil || !ok {
			return false
		}
	}
	return strings.HasPrefix(rest, wantPath)
}

func sortBySize(list []v1.ContainerImage) {
	slices.SortFunc(list, func(a, b v1.ContainerImage) int {
		if a.SizeBytes != b.SizeBytes {
			return int(min(max(b.SizeBytes-a.SizeBytes, -1), 1))
		}
		return strings.Compare(a.Names[0], b.Names[0])
	})
}
