package plan

import (
	"errors"
	"fmt"
	"slices"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/pki"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
	"clusterctl/templates"
)

// controlPlane starts API server, scheduler and controllers.
func (b *builder) controlPlane(h inventory.Host) error {
	if !h.Has(inventory.ControlPlane) {
		return nil
	}
	config := hostconfig.ControlPlane{
		Cluster: b.cluster, NodeName: h.Name, Address: h.Address, Port: hostconfig.PortAPI,
		PKIDir: hostconfig.PKIDir, Prefix: "/registry", SchedulerProfiles: b.inv.Cluster.SchedulerProfiles,
	}
	config.Cluster.LoadBalancerPools = b.inv.Cluster.LoadBalancer.HostConfig()
	for _, m := range b.members {
		config.Etcd = append(config.Etcd, clientURL(m))
	}
	access, err := b.access(&config)
	if err != nil {
		return err
	}
	raw, err := hostconfig.Marshal(config)
	if err != nil {
		return fmt.Errorf("render the control plane's configuration: %w", err)
	}
	unit, err := templates.Unit(hostconfig.UnitControlPlane, b.templateHost(h))
	if err != nil {
		return err
	}
	depends := [][]byte{unit, raw}
	for _, op := range access {
		if file, ok := op.(*hostop.File); ok {
			depends = append(depends, file.Content)
		}
	}
	fingerprint, err := b.fingerprint(h, "controlplane", depends...)
	if err != nil {
		return err
	}
	admin, err := pki.HostKubeconfig(b.inv.Cluster.Name)
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(h.Name, "api-certificates"), Host: h.Name, Phase: PhaseControlPlane, Title: "the API server's certificates",
		Needs: append(b.certificatesNeed(h), id(h.Name, "authorities")),
		Ops: append(b.controlPlaneCertificates(),
			&hostop.File{Path: hostconfig.AdminCfg, Mode: 0o600, Content: admin}),
	})
	step := Step{
		ID: id(h.Name, "control-plane"), Host: h.Name, Phase: PhaseControlPlane, Title: "API server, scheduler and controllers",
		Needs: append(b.etcdNeeds(h), id(h.Name, "api-certificates"), id(h.Name, "version")),
		Ops: append(access,
			&hostop.File{Path: hostconfig.CPConf, Mode: 0o600, Content: raw},
			&hostop.Unit{Name: hostconfig.UnitControlPlane, Content: unit},
			&hostop.Service{Name: hostconfig.UnitControlPlane, Fingerprint: fingerprint},
			&hostop.Ready{
				URL:    fmt.Sprintf("https://127.0.0.1:%d/readyz", hostconfig.PortAPI),
				CAFile: files.ClusterCA(), Cert: files.Cert(hostconfig.PairAdmin), Key: files.Key(hostconfig.PairAdmin),
				Timeout: readyTimeout,
			},
		),
	}
	// Where it runs already, this is a restart: one control plane at a time.
	if b.active(h, hostconfig.UnitControlPlane) {
		step.Exclusive = "control-plane"
	}
	b.add(step)
	if h.Name != b.planes[0].Name {
		return nil
	}
	dns, err := b.dns()
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(h.Name, "dns"), Host: h.Name, Phase: PhaseAddons, Title: "cluster DNS",
		Needs: []string{step.ID}, Ops: hostop.Ops{dns},
	})
	class, err := templates.StorageManifests()
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(h.Name, "storage"), Host: h.Name, Phase: PhaseAddons, Title: "default storage class",
		Needs: []string{step.ID}, Ops: hostop.Ops{&hostop.Manifests{Name: "storage", YAML: class, Timeout: addonTimeout}},
	})
	// Without nodes that serve, too: rights that some had are taken back.
	ingress, err := templates.IngressManifests(templates.Ingress{Default: b.inv.Cluster.Ingress.DefaultClass, Nodes: b.ingressNodes()})
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(h.Name, "ingress"), Host: h.Name, Phase: PhaseAddons, Title: "who may serve ingresses",
		Needs: []string{step.ID}, Ops: hostop.Ops{&hostop.Manifests{Name: "ingress", YAML: ingress, Timeout: addonTimeout}},
	})
	return nil
}

// ingressNodes are the names of the nodes that serve ingresses, sorted.
func (b *builder) ingressNodes() []string {
	var names []string
	for _, h := range b.inv.IngressNodes() {
		names = append(names, h.Name)
	}
	slices.Sort(names)
	return names
}

// dns is the cluster's DNS server. It is applied as soon as there is an API, so
// that its pods start with the first node.
func (b *builder) dns() (*hostop.Manifests, error) {
	first := b.planes[0]
	image, ok := b.manifest(first).Entry("coredns")
	if !ok {
		return nil, errors.New("the payload lacks coredns")
	}
	var stubs []templates.Stub
	for _, stub := range b.inv.Cluster.DNS.Stubs {
		stubs = append(stubs, templates.Stub{Domain: stub.Domain, Servers: stub.Servers})
	}
	manifests, err := templates.CoreDNSManifests(templates.CoreDNS{
		Image: image.Image, Domain: b.cluster.Domain, Address: b.cluster.DNSAddress, Upstream: b.resolvers(), Stubs: stubs,
	})
	if err != nil {
		return nil, err
	}
	return &hostop.Manifests{Name: "coredns", YAML: manifests, Timeout: addonTimeout}, nil
}

// dnsAvailable is the cluster's DNS server at work.
func (b *builder) dnsAvailable() (*hostop.Manifests, error) {
	available, err := b.dns()
	if err != nil {
		return nil, err
	}
	available.Wait = []string{templates.CoreDNSDeployment}
	return available, nil
}

// addons waits for what runs in the cluster itself.
func (b *builder) addons() error {
	first := b.planes[0]
	available, err := b.dnsAvailable()
	if err != nil {
		return err
	}
	b.add(Step{
		ID: id(first.Name, "dns-available"), Host: first.Name, Phase: PhaseAddons, Title: "cluster DNS answers",
		Needs: []string{id(first.Name, "dns"), id(first.Name, "ready")}, Ops: hostop.Ops{available},
	})
	return nil
}
