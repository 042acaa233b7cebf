package host

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/v2/core/content"
	"github.com/opencontainers/go-digest"
	v1 "github.com/opencontainers/image-spec/specs-go/v1"
)

// registry serves images of a content store by the part of the OCI distribution
// protocol that pulling takes, on loopback. What is called x/y:tag elsewhere is
// load/n:tag here, n being the place of its first image among all.
type registry struct {
	store    content.Provider
	images   []named
	listener net.Listener
	server   *http.Server
	probed   atomic.Bool
}

func serveRegistry(store content.Provider, images []named) (*registry, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, fmt.Errorf("serve images: %w", err)
	}
	r := &registry{store: store, images: images, listener: listener}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v2/{$}", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("GET /v2/load/{place}/manifests/{reference}", r.manifest)
	mux.HandleFunc("GET /v2/load/{place}/blobs/{digest}", r.blob)
	r.server = &http.Server{ReadHeaderTimeout: 10 * time.Second, Handler: mux}
	go func() { _ = r.server.Serve(listener) }() // until it is closed
	return r, nil
}

// Close ends the registry.
func (r *registry) Close() error { return r.server.Close() }

// asked says whether anybody has asked for probe where config has it.
func (r *registry) asked() bool { return r.probed.Load() }

const probe = "probe" // in the place of a number

// probe names an image that is not there. Only its configuration makes a runtime
// ask for it below load.
func (r *registry) probe() string { return r.listener.Addr().String() + "/" + probe + ":1" }

// config is the drop-in of registries.conf that has a runtime ask here first for
// these images' repositories.
func (r *registry) config() []byte {
	var b strings.Builder
	address := r.listener.Addr().String()
	b.WriteString("# Written by clusterctl while it loads images; it goes when that is done.\n")
	fmt.Fprintf(&b, "[[registry]]\nprefix = %q\nlocation = %q\ninsecure = true\n", address+"/"+probe, address+"/load/"+probe)
	for i, image := range r.images {
		if r.place(image.repository) == i {
			fmt.Fprintf(&b, "[[registry]]\nlocation = %q\n[[registry.mirror]]\nlocation = %q\ninsecure = true\n",
				image.repository, fmt.Sprintf("%s/load/%d", address, i))
		}
	}
	return []byte(b.String())
}

// place is where a repository's first image stands.
func (r *registry) place(repository string) int {
	return slices.IndexFunc(r.images, func(image named) bool { return image.repository == repository })
}

// manifest answers with an image's target, by its tag, or with any manifest, by
// digest.
func (r *registry) manifest(w http.ResponseWriter, q *http.Request) {
	if q.PathValue("place") == probe {
		r.probed.Store(true)
	}
	place, err := strconv.Atoi(q.PathValue("place"))
	if err != nil {
		http.NotFound(w, q)
		return
	}
	var target v1.Descriptor
	if wanted, err := digest.Parse(q.PathValue("reference")); err == nil {
		target.Digest = wanted
	}
	for _, image := range r.images {
		if r.place(image.repository) == place && (image.tag == q.PathValue("reference") || image.target.Digest == target.Digest) {
			target = image.target
		}
	}
	raw, err := content.ReadBlob(q.Context(), r.store, target)
	if err != nil {
		http.NotFound(w, q)
		return
	}
	if target.MediaType == "" {
		target.MediaType = mediaType(raw)
	}
	w.Header().Set("Content-Type", target.MediaType)
	w.Header().Set("Docker-Content-Digest", target.Digest.String())
	w.Header().Set("Content-Length", strconv.Itoa(len(raw)))
	_, _ = w.Write(raw) // who has gone asks again
}

// mediaType is what a manifest says of itself; OCI's need not.
func mediaType(manifest []byte) string {
	var said struct {
		MediaType string            `json:"mediaType"`
		Manifests []json.RawMessage `json:"manifests"`
	}
	_ = json.Unmarshal(manifest, &said) // what is none is refused by who asked
	switch {
	case said.MediaType != "":
		return said.MediaType
	case said.Manifests != nil:
		return v1.MediaTypeImageIndex
	}
	return v1.MediaTypeImageManifest
}

func (r *registry) blob(w http.ResponseWriter, q *http.Request) {
	wanted, err := digest.Parse(q.PathValue("digest"))
	if err != nil {
		http.NotFound(w, q)
		return
	}
	reader, err := r.store.ReaderAt(q.Context(), v1.Descriptor{Digest: wanted})
	if err != nil {
		http.NotFound(w, q)
		return
	}
	defer reader.Close()
	w.Header().Set("Content-Type", "application/octet-stream")
	http.ServeContent(w, q, "", time.Time{}, io.NewSectionReader(reader, 0, reader.Size()))
}
