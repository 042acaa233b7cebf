package main

import (
	v1 "github.com/opencontainers/image-spec/specs-go/v1"

	"clusterctl/hostconfig"
)

// component is one program of the payload.
type component struct {
	name   string
	dir    string // module that builds it, relative to the repository's root
	module string // its version is the component's; empty: clusterctl's own
	pkg    string // what to `go build`; empty: compile the C file source
	source string
	path   string // below LibDir/<version>; empty: only in an image
	tags   string
	ld     string // linker flags beside -s -w
	cgo    bool
	image  *image
}

// image says what a component's image is called and how it runs.
type image struct {
	name   string // without tag
	binary string
	config v1.ImageConfig
}

// pauseVersion changes when pause.c does: it is the tag that containerd's
// configuration names.
const pauseVersion = "1"

func components(version string) []component {
	const (
		containerd = "github.com/containerd/containerd/v2"
		runc       = "github.com/opencontainers/runc"
		cni        = "github.com/containernetworking/plugins"
		coredns    = "github.com/coredns/coredns"
		base       = "k8s.io/component-base/version."
	)
	own := "-X clusterctl/hostconfig.Version=" + version +
		" -X " + base + "gitVersion=" + hostconfig.KubernetesVersion +
		" -X " + base + "gitMajor=1 -X " + base + "gitMinor=36 -X " + base + "gitTreeState=clean"
	return []component{
		{name: "containerd", dir: "bundle/containerd", module: containerd, pkg: containerd + "/cmd/containerd", path: "containerd",
			tags: "no_btrfs no_devmapper no_zfs netgo osusergo", ld: "-X " + containerd + "/version.Version={{version}}"},
		{name: "containerd-shim-runc-v2", dir: "bundle/containerd", module: containerd, pkg: containerd + "/cmd/containerd-shim-runc-v2",
			path: "containerd-shim-runc-v2", tags: "netgo osusergo", ld: "-X " + containerd + "/version.Version={{version}}"},
		{name: "runc", dir: "bundle/runc", module: runc, pkg: runc, path: "runc", cgo: true,
			tags: "seccomp netgo osusergo", ld: "-X main.version={{version}} -extldflags -static"},
		{name: "cni-bridge", dir: "bundle/cni", module: cni, pkg: cni + "/plugins/main/bridge", path: "cni/bridge"},
		{name: "cni-host-local", dir: "bundle/cni", module: cni, pkg: cni + "/plugins/ipam/host-local", path: "cni/host-local"},
		{name: "cni-loopback", dir: "bundle/cni", module: cni, pkg: cni + "/plugins/main/loopback", path: "cni/loopback"},
		{name: "pause", source: "bundle/pause/pause.c", image: &image{name: "clusterctl.dev/pause", binary: "/pause",
			config: v1.ImageConfig{Entrypoint: []string{"/pause"}, User: "65535:65535"}}},
		{name: "coredns", dir: "bundle/coredns", module: coredns, pkg: ".",
			ld: "-X " + coredns + "/coremain.GitCommit=clusterctl",
			image: &image{name: "clusterctl.dev/coredns", binary: "/coredns",
				config: v1.ImageConfig{Entrypoint: []string{"/coredns"}, User: "65532:65532"}}},
		{name: "controlplane", dir: ".", pkg: "./cmd/controlplane", path: "controlplane", ld: own},
		{name: "nodeagent", dir: ".", pkg: "./cmd/nodeagent", path: "nodeagent", ld: own},
	}

}
