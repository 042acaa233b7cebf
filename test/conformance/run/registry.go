package main

import (
	"archive/tar"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"sigs.k8s.io/yaml"
)

// pulled is the archive of the one image that a test has pulled although the
// nodes have it.
const pulled = "kitten"

// registriesDir is where containerd looks for mirrors on hosts.
const registriesDir = "/etc/clusterctl/registries/registry.k8s.io"

// mirror serves an image from this machine, and has the hosts ask for it here
// before they ask registry.k8s.io. done ends both.
func (c *cluster) mirror(ctx context.Context, o options, archive string) (done func() error, err error) {
	images, err := openArchive(archive)
	if err != nil {
		return nil, fmt.Errorf("open image to serve: %w", err)
	}
	address, err := c.outward()
	if err != nil {
		return nil, err
	}
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		return nil, fmt.Errorf("listen as a registry: %w", err)
	}
	server := &http.Server{Handler: images, ReadHeaderTimeout: 10 * time.Second}
	go func() {
		if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
			log.Printf("the registry ended: %v", err)
		}
	}()
	hosts := fmt.Sprintf("server = \"https://registry.k8s.io\"\n[host.\"http://%s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", listener.Addr())
	onHosts := func(ctx context.Context, command string) error {
		_, err := shell(ctx, o.root, nil, o.clusterctl, "hosts", "exec", c.inventory, "--", command)
		return err
	}
	if err := onHosts(ctx, fmt.Sprintf("mkdir -p %s && printf '%%s' '%s' > %s/hosts.toml", registriesDir, hosts, registriesDir)); err != nil {
		return nil, errors.Join(fmt.Errorf("announce the registry to the hosts: %w", err), server.Close())
	}
	return func() error {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), time.Minute)
		defer cancel()
		return errors.Join(onHosts(ctx, "rm -r "+registriesDir), server.Close())
	}, nil
}

// outward is this machine's address that the hosts reach it at.
func (c *cluster) outward() (string, error) {
	content, err := os.ReadFile(c.inventory)
	if err != nil {
		return "", fmt.Errorf("read inventory: %w", err)
	}
	var inventory struct {
		Hosts []struct {
			Address string `json:"address"`
		} `json:"hosts"`
	}
	if err := yaml.Unmarshal(content, &inventory); err != nil {
		return "", fmt.Errorf("read inventory: %w", err)
	}
	if len(inventory.Hosts) == 0 {
		return "", fmt.Errorf("%s names no host", c.inventory)
	}
	// Nothing is sent: only the route is looked up.
	conn, err := net.Dial("udp", net.JoinHostPort(inventory.Hosts[0].Address, "9"))
	if err != nil {
		return "", fmt.Errorf("find the way to the hosts: %w", err)
	}
	defer conn.Close()
	host, _, err := net.SplitHostPort(conn.LocalAddr().String())
	return host, err
}

// imageArchive serves what an OCI image archive holds, as a registry does.
type imageArchive struct {
	tags  map[string]string // name:tag, without the registry, to digest
	types map[string]string // media types of manifests
	blobs map[string][]byte // by digest
}

func openArchive(name string) (*imageArchive, error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	a := &imageArchive{tags: map[string]string{}, types: map[string]string{}, blobs: map[string][]byte{}}
	var index struct {
		Manifests []struct {
			MediaType   string            `json:"mediaType"`
			Digest      string            `json:"digest"`
			Annotations map[string]string `json:"annotations"`
		} `json:"manifests"`
	}
	for reader := tar.NewReader(file); ; {
		header, err := reader.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(name), err)
		}
		content, err := io.ReadAll(reader)
		if err != nil {
			return nil, fmt.Errorf("read %s: %w", filepath.Base(name), err)
		}
		if dir, sum := path.Split(header.Name); dir == "blobs/sha256/" && sum != "" {
			a.blobs["sha256:"+sum] = content
		} else if header.Name == "index.json" {
			if err := json.Unmarshal(content, &index); err != nil {
				return nil, fmt.Errorf("read index of %s: %w", filepath.Base(name), err)
			}
		}
	}
	for _, m := range index.Manifests {
		_, reference, ok := strings.Cut(m.Annotations["io.containerd.image.name"], "/")
		if !ok {
			return nil, fmt.Errorf("an image in %s has no name", filepath.Base(name))
		}
		a.tags[reference], a.types[m.Digest] = m.Digest, m.MediaType
	}
	return a, nil
}

// ServeHTTP implements the part of the distribution API that pulling takes.
func (a *imageArchive) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	resource := strings.TrimPrefix(r.URL.Path, "/v2/")
	repository, digest, ok := strings.Cut(resource, "/manifests/")
	if !ok {
		repository, digest, ok = strings.Cut(resource, "/blobs/")
	}
	if tagged := a.tags[repository+":"+digest]; tagged != "" {
		digest = tagged
	}
	content, found := a.blobs[digest]
	if !ok || !found {
		http.NotFound(w, r)
		return
	}
	kind := a.types[digest]
	if kind == "" {
		kind = "application/octet-stream"
	}
	w.Header().Set("Content-Type", kind)
	w.Header().Set("Docker-Content-Digest", digest)
	w.Header().Set("Content-Length", fmt.Sprint(len(content)))
	if r.Method == http.MethodGet {
		_, _ = w.Write(content) // a client that went away asks again
	}
}
