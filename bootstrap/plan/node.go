package plan

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"maps"
	"net/netip"
	"path"
	"slices"
	"strings"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bundle/payload"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/templates"
)

// Labels and taints that roles bring.
const (
	rolePrefix        = "node-role.kubernetes.io/"
	controlPlaneTaint = rolePrefix + "control-plane"
)

// maxPods is Kubernetes' usual bound; a small share of podCIDR lowers it.
const maxPods = 110

var runtimePrograms = []string{"containerd", "containerd-shim-runc-v2", "runc"}

// maxResolvers is how many nameservers the DNS server forwards to.
const maxResolvers = 3

func (b *builder) templateHost(h inventory.Host) templates.Host {
	host := templates.Host{SysResource: b.facts[h.Name].SysResource, StopSeconds: stopSeconds(h), RuntimeUnit: hostconfig.UnitContainerd}
	if h.Runtime == hostconfig.RuntimeCRIO {
		host.RuntimeUnit = hostconfig.UnitCRIO
	}
	if pause, ok := b.manifest(h).Entry("pause"); ok {
		host.SandboxImage = pause.Image
	}
	return host
}

// stopMargin is what the node agent needs beside its pods' time when the host
// goes down, in seconds.
const stopMargin = 15

// stopSeconds is how long the node agent may take to stop: when the host goes
// down, pods get their time to end first.
func stopSeconds(h inventory.Host) int {
	var config hostconfig.NodeAgent
	h.Node.Apply(&config)
	if config.Shutdown == nil {
		config.Shutdown = hostconfig.DefaultShutdown
	}
	sum := stopMargin
	for _, grace := range config.Shutdown {
		sum += grace.Seconds
	}
	return sum
}

// runtimeBinaries brings what runs containers.
func (b *builder) runtimeBinaries(h inventory.Host) error {
	runtime, err := b.blobs(h, func(e payload.Entry) bool { return slices.Contains(runtimePrograms, e.Name) })
	if err != nil {
		return err
	}
	plugins, err := b.blobs(h, func(e payload.Entry) bool { return strings.HasPrefix(e.Path, "cni/") })
	if err != nil {
		return err
	}
	if len(runtime) != len(runtimePrograms) || len(plugins) == 0 {
		return fmt.Errorf("the payload lacks a network plugin or one of %s", strings.Join(runtimePrograms, ", "))
	}
	if h.Runtime != hostconfig.RuntimeCRIO {
		b.add(Step{
			ID: id(h.Name, "runtime"), Host: h.Name, Phase: PhaseRuntime, Title: "container runtime",
			Needs: []string{id(h.Name, "directories")}, Ops: runtime,
		})
	}
	b.add(Step{
		ID: id(h.Name, "network-plugins"), Host: h.Name, Phase: PhaseRuntime, Title: "network plugins",
		Needs: []string{id(h.Name, "directories")}, Ops: plugins,
	})
	return nil
}

// runtime starts what runs containers and brings the payload's images.
func (b *builder) runtime(h inventory.Host) error {
	if !h.IsNode() {
		return nil
	}
	if !b.upgrades(h) {
		if err := b.runtimeBinaries(h); err != nil {
			return err
		}
	}
	start, kind := b.containerd, ""
	if h.Runtime == hostconfig.RuntimeCRIO {
		start, kind = b.crio, hostconfig.RuntimeCRIO
	}
	started, err := start(h)
	if err != nil {
		return err
	}
	var images hostop.Ops
	for _, e := range b.manifest(h).Images() {
		images = append(images, &hostop.Image{Name: e.Image, Digest: e.Digest, Size: e.Size, Target: e.Target, Runtime: kind})
	}
	b.add(Step{
		ID: id(h.Name, "images"), Host: h.Name, Phase: PhaseRuntime, Title: "images",
		Needs: []string{started}, Ops: images,
	})
	return nil
}

// containerd starts the containerd that is brought along, and returns the step.
func (b *builder) containerd(h inventory.Host) (string, error) {
	config, err := templates.Containerd(b.templateHost(h))
	if err != nil {
		return "", err
	}
	unit, err := templates.Unit(hostconfig.UnitContainerd, b.templateHost(h))
	if err != nil {
		return "", err
	}
	fingerprint, err := b.fingerprint(h, "containerd", unit, config)
	if err != nil {
		return "", err
	}
	step := Step{
		ID: id(h.Name, "containerd"), Host: h.Name, Phase: PhaseRuntime, Title: "containerd",
		Needs: []string{id(h.Name, "runtime"), id(h.Name, "version")},
		Ops: hostop.Ops{
			&hostop.File{Path: hostconfig.CtrConf, Mode: 0o600, Content: config},
			&hostop.Unit{Name: hostconfig.UnitContainerd, Content: unit},
			&hostop.Service{Name: hostconfig.UnitContainerd, Fingerprint: fingerprint},
		},
	}
	b.add(step)
	return step.ID, nil
}

// crio has the host's own CRI-O do as we need it, and returns the step.
func (b *builder) crio(h inventory.Host) (string, error) {
	config, err := templates.CRIO(b.templateHost(h))
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(config)
	step := Step{
		ID: id(h.Name, "crio"), Host: h.Name, Phase: PhaseRuntime, Title: "CRI-O",
		Needs: []string{id(h.Name, "network-plugins"), id(h.Name, "version")},
		Ops: hostop.Ops{
			&hostop.Directory{Path: path.Dir(path.Dir(hostconfig.CRIOConf)), Mode: 0o755},
			&hostop.Directory{Path: path.Dir(hostconfig.CRIOConf), Mode: 0o755},
			&hostop.Directory{Path: hostconfig.CRIORegistries, Mode: 0o755},
			&hostop.File{Path: hostconfig.CRIOConf, Mode: 0o644, Content: config},
			&hostop.Service{Name: hostconfig.UnitCRIO, Fingerprint: hex.EncodeToString(sum[:])},
		},
	}
	b.add(step)
	return step.ID, nil
}

// node starts the node agent.
func (b *builder) node(h inventory.Host) error {
	if !h.IsNode() {
		return nil
	}
	config := hostconfig.NodeAgent{
		Cluster: b.cluster, NodeName: h.Name, Address: h.Address, PKIDir: hostconfig.PKIDir,
		StateDir: hostconfig.StateDir, ManifestDir: hostconfig.Manifest,
		CRISocket: "unix://" + hostconfig.CRISock, CNIConfDir: hostconfig.CNIDir,
		Labels: ownLabels(h.Labels), Taints: b.taints(h), CgroupDriver: "cgroupfs", MaxPods: b.maxPods(),
		ListenAPILB: fmt.Sprintf("127.0.0.1:%d", hostconfig.PortAPILB),
	}
	// What is the default is not written: it would restart agents for nothing.
	proxy := b.inv.Cluster.ServiceProxy
	if proxy.Mode != hostconfig.ProxyAuto {
		config.ServiceProxy.Mode = proxy.Mode
	}
	if overlay := b.inv.Cluster.Overlay; overlay != hostconfig.OverlayAuto {
		config.Overlay = overlay
	}
	config.ServiceProxy.NodePortAddresses = proxy.NodePortAddresses
	if names := b.ingressNodes(); slices.Contains(names, h.Name) {
		ingress := b.inv.Cluster.Ingress
		config.Ingress = &hostconfig.Ingress{Nodes: names, MaxBodyBytes: ingress.MaxBodyBytes(), AccessLog: ingress.AccessLog}
	}
	if h.Runtime == hostconfig.RuntimeCRIO {
		config.CRISocket = "unix://" + hostconfig.CRIOSock
	}
	h.Node.Apply(&config)
	raw, err := hostconfig.Marshal(config)
	if err != nil {
		return fmt.Errorf("render the node agent's configuration: %w", err)
	}
	unit, err := templates.Unit(hostconfig.UnitNodeAgent, b.templateHost(h))
	if err != nil {
		return err
	}
	fingerprint, err := b.fingerprint(h, "nodeagent", unit, raw)
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(h.Name, "node-certificates"), Host: h.Name, Phase: PhaseNode, Title: "the node agent's certificates",
		Needs: b.certificatesNeed(h), Ops: b.nodeCertificates(h),
	})
	b.add(Step{
		ID: id(h.Name, "node-agent"), Host: h.Name, Phase: PhaseNode, Title: "node agent",
		Needs: append(b.apiNeeds(), id(h.Name, "node-certificates"), id(h.Name, "images"), id(h.Name, "network-plugins")),
		Ops: hostop.Ops{
			&hostop.File{Path: hostconfig.NodeConf, Mode: 0o600, Content: raw},
			&hostop.Unit{Name: hostconfig.UnitNodeAgent, Content: unit},
			&hostop.Service{Name: hostconfig.UnitNodeAgent, Fingerprint: fingerprint},
		},
	})
	return nil
}

// apiNeeds makes the node agents of a new cluster wait for the first API server,
// so that they register at their first try.
func (b *builder) apiNeeds() []string {
	if slices.ContainsFunc(b.planes, func(h inventory.Host) bool { return b.active(h, hostconfig.UnitControlPlane) }) {
		return nil
	}
	return []string{id(b.planes[0].Name, "control-plane")}
}

// ready waits for the node, seen from a control plane.
func (b *builder) ready(h inventory.Host) error {
	if !h.IsNode() {
		return nil
	}
	labels := maps.Clone(h.Labels)
	if labels == nil {
		labels = map[string]string{}
	}
	for _, role := range h.Roles {
		labels[rolePrefix+string(role)] = ""
	}
	via := b.watcher(h)
	step := Step{
		ID: id(h.Name, "ready"), Host: h.Name, Phase: PhaseReady, Title: "node Ready",
		Needs: []string{id(h.Name, "node-agent"), id(via, "control-plane")},
		Ops:   hostop.Ops{&hostop.NodeReady{Name: h.Name, Labels: labels, Timeout: readyTimeout}},
	}
	if via != h.Name {
		step.Via = via
	}
	b.add(step)
	return nil
}

// watcher is the control plane that looks after a node: itself, or one of them
// in turn.
func (b *builder) watcher(h inventory.Host) string {
	if h.Has(inventory.ControlPlane) {
		return h.Name
	}
	turn := 0
	for _, other := range b.inv.Nodes() {
		if other.Name == h.Name {
			break
		}
		if !other.Has(inventory.ControlPlane) {
			turn++
		}
	}
	return b.planes[turn%len(b.planes)].Name
}

// taints are the host's own, and the one that keeps ordinary pods off control
// planes as long as there are workers to take them.
func (b *builder) taints(h inventory.Host) []hostconfig.Taint {
	var taints []hostconfig.Taint
	for _, t := range h.Taints {
		taints = append(taints, hostconfig.Taint(t))
	}
	workers := slices.ContainsFunc(b.inv.Nodes(), func(n inventory.Host) bool { return n.Has(inventory.Worker) })
	if workers && !h.Has(inventory.Worker) {
		taints = append(taints, hostconfig.Taint{Key: controlPlaneTaint, Effect: "NoSchedule"})
	}
	return taints
}

// ownLabels are the labels that a node may give itself; admission refuses it
// most of those in Kubernetes' own domains. NodeReady sets them all.
func ownLabels(labels map[string]string) map[string]string {
	own := map[string]string{}
	for key, value := range labels {
		domain, _, prefixed := strings.Cut(key, "/")
		reserved := prefixed && (domain == "kubernetes.io" || strings.HasSuffix(domain, ".kubernetes.io") ||
			domain == "k8s.io" || strings.HasSuffix(domain, ".k8s.io"))
		if !reserved || domain == "topology.kubernetes.io" || domain == "node.kubernetes.io" {
			own[key] = value
		}
	}
	return own
}

// maxPods is bounded by the addresses of a node's share: all but the network's,
// the bridge's and the broadcast's.
func (b *builder) maxPods() int {
	return min(maxPods, 1<<(32-b.cluster.NodeMaskSize)-3)
}

// resolvers are the nameservers for names that are not the cluster's. A
// loopback one is a host's own and means nothing inside a pod.
func (b *builder) resolvers() []string {
	if upstream := b.inv.Cluster.DNS.Upstream; len(upstream) > 0 {
		return upstream
	}
	for _, h := range b.planes {
		var found []string
		for _, resolver := range b.facts[h.Name].Resolvers {
			if address, err := netip.ParseAddr(resolver); err == nil && !address.IsLoopback() && address.Zone() == "" {
				found = append(found, resolver)
			}
		}
		if len(found) > 0 {
			return found[:min(len(found), maxResolvers)]
		}
	}
	return nil
}
