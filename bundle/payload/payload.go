package payload

import "io/fs"

// Manifest lists the payload of one architecture.
type Manifest struct {
	Version string  `json:"version"` // of clusterctl; names LibDir/<version>
	Arch    string  `json:"arch"`    // GOARCH
	Entries []Entry `json:"entries"`
}

// Entry is one binary or image.
type Entry struct {
	Name    string      `json:"name"`           // containerd, runc, nodeagent, coredns …
	Version string      `json:"version"`        // upstream's, or clusterctl's
	Path    string      `json:"path,omitempty"` // binaries: below LibDir/<version>, e.g. "containerd", "cni/bridge"
	Mode    fs.FileMode `json:"mode,omitempty"`
	Digest  string      `json:"digest"`           // sha256:… of the compressed bytes
	Size    int64       `json:"size"`             // of the compressed bytes
	SHA256  string      `json:"sha256"`           // hex, of the uncompressed bytes
	Image   string      `json:"image,omitempty"`  // images: full name with tag
	Target  string      `json:"target,omitempty"` // images: digest of the manifest that Image names
}

// Binaries are the entries with a Path; Images those with an Image.
func (m Manifest) Binaries() []Entry {
	return m.filter(func(e Entry) bool { return e.Path != "" })
}

// Images are the entries with an Image.
func (m Manifest) Images() []Entry {
	return m.filter(func(e Entry) bool { return e.Image != "" })
}

// Entry finds an entry by name.
func (m Manifest) Entry(name string) (Entry, bool) {
	for _, e := range m.Entries {
		if e.Name == name {
			return e, true
		}
	}
	return Entry{}, false
}

func (m Manifest) filter(keep func(Entry) bool) []Entry {
	var kept []Entry
	for _, e := range m.Entries {
		if keep(e) {
			kept = append(kept, e)
		}
	}
	return kept
}
