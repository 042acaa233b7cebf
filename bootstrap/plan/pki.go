package plan

import (
	"net"
	"net/netip"

	"clusterctl/bootstrap/inventory"
	"clusterctl/bootstrap/pki"
	"clusterctl/hostconfig"
	"clusterctl/hostop"
)

// files of the production PKI directory.
const files = hostconfig.PKI(hostconfig.PKIDir)

// authorities puts the CAs, and the keys of Secrets in etcd, on control planes.
func (b *builder) authorities(h inventory.Host) error {
	if !h.Has(inventory.ControlPlane) {
		return nil
	}
	b.add(Step{
		ID: id(h.Name, "authorities"), Host: h.Name, Phase: PhasePrepare, Title: "certificate authorities and encryption keys",
		Needs: []string{id(h.Name, "directories")},
		Ops: hostop.Ops{
			&hostop.Authorities{PKIDir: hostconfig.PKIDir, Keys: b.keys},
			&hostop.Encryption{PKIDir: hostconfig.PKIDir},
		},
	})
	return nil
}

// certificatesNeed is what has to be done before a host gets certificates: the
// CAs lie safely on a control plane, so that a run that is killed never leaves
// certificates of a CA that nobody has.
func (b *builder) certificatesNeed(h inventory.Host) []string {
	return []string{id(h.Name, "directories"), id(b.holder, "authorities")}
}

func (b *builder) trust(path, authority string) hostop.Op {
	return &hostop.TrustAnchor{Path: path, Authority: authority, AuthorityKey: b.keys[authority+".crt"]}
}

func (b *builder) certificate(c hostop.Certificate) hostop.Op {
	c.PKIDir = hostconfig.PKIDir
	c.RenewBefore = renewBefore
	c.AuthorityKey = b.keys[c.Authority+".crt"]
	return &c
}

// etcdCertificates are what a member needs.
func (b *builder) etcdCertificates(h inventory.Host) hostop.Ops {
	return hostop.Ops{
		b.trust(files.EtcdCA(), hostconfig.AuthorityEtcd),
		b.certificate(hostop.Certificate{
			Pair: hostconfig.PairEtcd, Authority: hostconfig.AuthorityEtcd, CommonName: h.Name,
			DNSNames: []string{h.Name, "localhost"}, IPs: []string{h.Address, "127.0.0.1"},
			Client: true, Server: true,
		}),
	}
}

// controlPlaneCertificates are what an API server and its administrator need.
func (b *builder) controlPlaneCertificates() hostop.Ops {
	names, addresses := b.apiNames()
	return hostop.Ops{
		b.trust(files.ClusterCA(), hostconfig.AuthorityCluster),
		b.trust(files.EtcdCA(), hostconfig.AuthorityEtcd),
		b.trust(files.FrontProxyCA(), hostconfig.AuthorityFrontProxy),
		b.certificate(hostop.Certificate{
			Pair: hostconfig.PairAPIServer, Authority: hostconfig.AuthorityCluster, CommonName: "kube-apiserver",
			DNSNames: names, IPs: addresses, Server: true,
		}),
		b.certificate(hostop.Certificate{
			Pair: hostconfig.PairAPIServerEtcd, Authority: hostconfig.AuthorityEtcd, CommonName: "kube-apiserver-etcd-client", Client: true,
		}),
		b.certificate(hostop.Certificate{
			Pair: hostconfig.PairAPIServerNode, Authority: hostconfig.AuthorityCluster, CommonName: "kube-apiserver-kubelet-client",
			Organization: []string{pki.AdminGroup}, Client: true,
		}),
		b.certificate(hostop.Certificate{
			Pair: hostconfig.PairFrontProxy, Authority: hostconfig.AuthorityFrontProxy, CommonName: "front-proxy-client", Client: true,
		}),
		b.certificate(pki.AdminCertificate()),
	}
}

// apiNames is everything that a client may call an API server by.
func (b *builder) apiNames() (names, addresses []string) {
	domain := b.inv.Cluster.Domain
	names = []string{"kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc." + domain, "localhost"}
	addresses = []string{"127.0.0.1", b.inv.ServiceAddress(1)}
	for _, h := range b.planes {
		names = append(names, h.Name)
		addresses = append(addresses, h.Address)
	}
	endpoint, _, err := net.SplitHostPort(b.inv.Endpoint())
	if err != nil {
		return dedupe(names), dedupe(addresses)
	}
	if _, err := netip.ParseAddr(endpoint); err == nil {
		addresses = append(addresses, endpoint)
	} else {
		names = append(names, endpoint)
	}
	return dedupe(names), dedupe(addresses)
}

// nodeCertificates are what a node agent needs; it renews them itself.
func (b *builder) nodeCertificates(h inventory.Host) hostop.Ops {
	identity := hostop.Certificate{
		Authority: hostconfig.AuthorityCluster, CommonName: "system:node:" + h.Name, Organization: []string{"system:nodes"},
	}
	client, server := identity, identity
	client.Pair, client.Client = hostconfig.PairNode, true
	server.Pair, server.Server = hostconfig.PairNodeServing, true
	server.DNSNames, server.IPs = []string{h.Name}, []string{h.Address}
	return hostop.Ops{
		b.trust(files.ClusterCA(), hostconfig.AuthorityCluster),
		b.certificate(client),
		b.certificate(server),
	}
}
