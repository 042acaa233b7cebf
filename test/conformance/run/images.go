package main

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io/fs"
	"log"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// registry is where the suite looks for its own images.
const registry = "registry.k8s.io/e2e-test-images/"

// image is one that the tests ask for, made here instead of pulled.
type image struct {
	archive    string // file name, without .tar
	names      []string
	packages   []string // Debian packages in the tree beside busybox; nil with bare
	bare       bool     // nothing but put: no shell, no C library
	put        []file
	entrypoint []string
	cmd        []string
	user       string
	workdir    string
}

// file is copied into a tree (from) or written there (text).
type file struct {
	to   string // below the root; under usr/bin rather than bin, which is a link
	from string // below the module that images come from, or absolute
	text string
	link string
	mode fs.FileMode
}

// imageList is every image that a conformance test names, and those for tests
// beyond conformance that need no registry. kubernetes is the directory of
// k8s.io/kubernetes, pause the program of that name.
func imageList(o options, kubernetes, pause string) []image {
	source := func(path string) string { return filepath.Join(kubernetes, "test/images", path) }
	agnhost := []file{
		{to: "agnhost", from: o.program("agnhost"), mode: 0o755},
		{to: "agnhost-2", link: "agnhost"},
		{to: "usr/bin/nc", link: "nc.openbsd"},                                     // what Debian's alternatives would set
		{to: "usr/bin/printenv", text: "#!/bin/sh\necho \"${!1}\"\n", mode: 0o755}, // Debian's busybox has none; sh is bash
		{to: "usr/bin/wget", text: wget, mode: 0o755},
		{to: "coredns", from: filepath.Join(o.root, ".cache/bundle", arch, "coredns"), mode: 0o755},
		{to: "localhost.crt", from: source("agnhost/porter/localhost.crt"), mode: 0o644},
		{to: "localhost.key", from: source("agnhost/porter/localhost.key"), mode: 0o644},
		{to: "uploads", mode: fs.ModeDir | 0o755},
		{to: "etc/passwd", mode: 0o644, text: "root:x:0:0:root:/root:/bin/sh\nuser-defined-in-image:x:1000:1000::/:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n"},
		{to: "etc/group", mode: 0o644, text: "root:x:0:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\nnogroup:x:65534:\n"},
		{to: "etc/os-release", mode: 0o644, text: "NAME=\"Debian, in place of Alpine Linux\"\n"},
	}
	tools := []string{"curl", "bind9-dnsutils", "netcat-openbsd", "iproute2", "libc-bin"} // the last for getent
	pets := func(name string) []file {
		return append(slices.DeleteFunc(slices.Clone(agnhost), func(f file) bool { return f.to == "usr/bin/nc" }),
			file{to: "data.json", from: source(name + "/html/data.json"), mode: 0o644},
			file{to: name + ".jpg", from: source(name + "/html/" + name + ".jpg"), mode: 0o644})
	}
	return []image{
		{archive: "pause", names: []string{"registry.k8s.io/pause:3.10.2"}, bare: true, user: "65535:65535",
			put: []file{{to: "pause", from: pause, mode: 0o755}}, entrypoint: []string{"/pause"}},
		{archive: "busybox", names: []string{registry + "busybox:1.37.0-1", registry + "busybox:1.36.1-1"}, cmd: []string{"sh"},
			put: []file{{to: "usr/bin/sh", text: busyboxShell, mode: 0o755}}},
		{archive: "nonroot", names: []string{registry + "nonroot:1.5"}, cmd: []string{"sh"}, user: "1234"},
		{archive: "nonewprivs", names: []string{registry + "nonewprivs:1.4"}, cmd: []string{"nnp"},
			put: []file{{to: "usr/local/bin/nnp", from: o.program("nnp"), mode: 0o755 | fs.ModeSetuid | fs.ModeSetgid}}},
		{archive: "agnhost", names: []string{registry + "agnhost:2.63.0", registry + "agnhost:2.55"},
			packages: tools, put: agnhost, entrypoint: []string{"/agnhost"}, cmd: []string{"pause"}, workdir: "/"},
		{archive: "glibc-dns-testing", names: []string{registry + "glibc-dns-testing:2.0.0"},
			packages: []string{"bind9-dnsutils", "libc-bin"}, cmd: []string{"sh"}},
		{archive: "kitten", names: []string{registry + "kitten:1.8"},
			put: pets("kitten"), entrypoint: []string{"/agnhost"}, cmd: []string{"test-webserver"}, workdir: "/"},
		{archive: "nautilus", names: []string{registry + "nautilus:1.8"},
			put: pets("nautilus"), entrypoint: []string{"/agnhost"}, cmd: []string{"test-webserver"}, workdir: "/"},
		{archive: "nginx", names: []string{registry + "nginx:1.15-4", registry + "nginx:1.27-0"}, packages: []string{"nginx"},
			put: []file{
				{to: "etc/nginx/nginx.conf", mode: 0o644, text: nginxConfig},
				{to: "var/log/nginx", mode: fs.ModeDir | 0o755},
				{to: "var/lib/nginx", mode: fs.ModeDir | 0o755},
			},
			cmd: []string{"nginx", "-g", "daemon off;"}},
		{archive: "regression-issue-74839", names: []string{registry + "regression-issue-74839:1.4"}, entrypoint: []string{"/regression-issue-74839"},
			put: []file{{to: "regression-issue-74839", from: o.program("regression-issue-74839"), mode: 0o755}}},
		{archive: "sample-apiserver", names: []string{registry + "sample-apiserver:1.29.2"}, entrypoint: []string{"/sample-apiserver"},
			put: []file{{to: "sample-apiserver", from: o.program("sample-apiserver"), mode: 0o755}}},
		{archive: "etcd", names: []string{"registry.k8s.io/etcd:3.6.8-0"},
			put: []file{{to: "usr/local/bin/etcd", from: o.program("etcd"), mode: 0o755}}},
	}
}

// wget is busybox's without -T, which makes Debian's end with a signal.
const wget = `#!/bin/sh
words=()
while [ $# -gt 0 ]; do
	case $1 in
	-T) limit="timeout $2"; shift 2 ;;
	*) words+=("$1"); shift ;;
	esac
done
exec $limit busybox wget "${words[@]}"
`

const nginxConfig = `user root;
worker_processes 1;
pid /run/nginx.pid;
error_log /dev/stderr;
events { worker_connections 256; }
http {
	include /etc/nginx/mime.types;
	access_log /dev/stdout;
	server {
		listen 80;
		root /usr/share/nginx/html;
	}
}
`

// makeImages makes the archives that are missing or stand on other programs,
// and returns all of them.
func makeImages(ctx context.Context, o options) ([]string, error) {
	kubernetes, err := shell(ctx, filepath.Join(o.root, "test/conformance"), nil, "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	if err != nil {
		return nil, fmt.Errorf("find the source of Kubernetes: %w", err)
	}
	base := baseTree(o)
	packer := filepath.Join(o.cache, "bin", "mkimage")
	if _, err := shell(ctx, o.root, []string{"CGO_ENABLED=0"}, "go", "build", "-o", packer, "./bundle/mkimage"); err != nil {
		return nil, fmt.Errorf("build image packer: %w", err)
	}
	images := imageList(o, strings.TrimSpace(kubernetes), filepath.Join(o.root, ".cache/bundle", arch, "pause"))
	if o.csi != "" {
		drivers, err := storageImages(o.csi, filepath.Join(strings.TrimSpace(kubernetes), "test/e2e/testing-manifests/storage-csi/hostpath"))
		if err != nil {
			return nil, fmt.Errorf("find the images of storage drivers: %w", err)
		}
		images = append(images, drivers...)
	}
	var archives []string
	for _, i := range images {
		out := filepath.Join(o.cache, "images", i.archive+".tar")
		archives = append(archives, out)
		stamp, err := i.stamp()
		if err != nil {
			return nil, fmt.Errorf("image %s: %w", i.archive, err)
		}
		if made, err := os.ReadFile(out + ".stamp"); err == nil && string(made) == stamp {
			continue
		}
		log.Printf("making image %s", i.names[0])
		if err := makeBase(ctx, o, base); err != nil {
			return nil, fmt.Errorf("make base of images: %w", err)
		}
		if err := i.make(ctx, o, packer, base, out); err != nil {
			return nil, fmt.Errorf("make image %s: %w", i.archive, err)
		}
		if err := os.WriteFile(out+".stamp", []byte(stamp), 0o644); err != nil {
			return nil, fmt.Errorf("mark image %s as made: %w", i.archive, err)
		}
	}
	return archives, nil
}

// stamp changes when the image's description or a file that it copies does.
func (i image) stamp() (string, error) {
	h := sha256.New()
	fmt.Fprintf(h, "%+v %q %q", i, baseLinks, basePackages)
	for _, f := range i.put {
		if f.from == "" {
			continue
		}
		content, err := os.ReadFile(f.from)
		if err != nil {
			return "", fmt.Errorf("read %s (does `make payload` have to run first?): %w", f.to, err)
		}
		h.Write(content)
	}
	return fmt.Sprintf("%x\n", h.Sum(nil)), nil
}

func (i image) make(ctx context.Context, o options, packer, base, out string) error {
	tree := filepath.Join(o.cache, "trees", i.archive+".new")
	if err := os.RemoveAll(tree); err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if i.bare {
		if err := os.MkdirAll(tree, 0o755); err != nil {
			return err
		}
	} else if _, err := shell(ctx, "", nil, "cp", "-al", base, tree); err != nil {
		return err
	}
	if len(i.packages) > 0 {
		if err := unpack(ctx, o, tree, i.packages, true); err != nil {
			return err
		}
	}
	for _, f := range i.put {
		if err := f.write(tree); err != nil {
			return fmt.Errorf("put %s: %w", f.to, err)
		}
	}
	if err := os.MkdirAll(filepath.Dir(out), 0o755); err != nil {
		return err
	}
	args := []string{"-tree", tree, "-out", out, "-user", i.user, "-workdir", i.workdir}
	for _, n := range i.names {
		args = append(args, "-name", n)
	}
	for _, w := range i.entrypoint {
		args = append(args, "-entrypoint", w)
	}
	for _, w := range i.cmd {
		args = append(args, "-cmd", w)
	}
	_, err := shell(ctx, "", nil, packer, args...)
	return err
}

// write makes the file anew, never through a hard link into another tree.
func (f file) write(tree string) error {
	to := filepath.Join(tree, f.to)
	if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
		return err
	}
	if f.mode.IsDir() {
		return os.MkdirAll(to, f.mode.Perm())
	}
	if err := os.RemoveAll(to); err != nil {
		return err
	}
	if f.link != "" {
		return os.Symlink(f.link, to)
	}
	content := []byte(f.text)
	if f.from != "" {
		var err error
		if content, err = os.ReadFile(f.from); err != nil {
			return err
		}
	}
	if err := os.WriteFile(to, content, 0o644); err != nil {
		return err
	}
	return os.Chmod(to, f.mode)
}
