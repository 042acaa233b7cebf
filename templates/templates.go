package templates

import (
	"bytes"
	"embed"
	"fmt"
	"strings"
	"text/template"

	"clusterctl/hostconfig"
)

//go:embed units/*.service containerd.toml crio.conf addons/*.yaml
var files embed.FS

var parsed = template.Must(template.New("").Funcs(template.FuncMap{
	"join": strings.Join,
}).Option("missingkey=error").ParseFS(files, "units/*.service", "containerd.toml", "crio.conf", "addons/*.yaml"))

// Host is what a host's files depend on.
type Host struct {
	SysResource  bool   // the host may raise limits and lower OOM scores
	SandboxImage string // full name of the pause image
	StopSeconds  int    // what the node agent may take to stop
	RuntimeUnit  string // the service that runs containers
}

// paths are the constants that templates name.
type paths struct {
	Bin, EtcdConf, CPConf, NodeConf, CtrConf, CtrRoot, CtrState, CRISock, CRIOSock, CNIDir, RunDir, EtcDir string
}

var hostPaths = paths{
	Bin: hostconfig.BinDir, EtcdConf: hostconfig.EtcdConf, CPConf: hostconfig.CPConf, NodeConf: hostconfig.NodeConf,
	CtrConf: hostconfig.CtrConf, CtrRoot: hostconfig.CtrRoot, CtrState: hostconfig.CtrState,
	CRISock: hostconfig.CRISock, CRIOSock: hostconfig.CRIOSock, CNIDir: hostconfig.CNIDir, RunDir: hostconfig.RunDir, EtcDir: hostconfig.EtcDir,
}

// Unit renders the systemd unit of a hostconfig.Unit… name.
func Unit(name string, host Host) ([]byte, error) { return render(name+".service", host) }

// Containerd renders hostconfig.CtrConf.
func Containerd(host Host) ([]byte, error) { return render("containerd.toml", host) }

// CRIO renders hostconfig.CRIOConf.
func CRIO(host Host) ([]byte, error) { return render("crio.conf", host) }

func render(name string, host Host) ([]byte, error) {
	return execute(name, struct {
		paths
		Host
	}{hostPaths, host})
}

// CoreDNS is what the cluster's DNS server depends on.
type CoreDNS struct {
	Image    string   // full name with tag
	Domain   string   // cluster.local
	Address  string   // the service's
	Upstream []string // nameservers for every other name; none: they are not resolved
	Stubs    []Stub   // domains that other nameservers know
}

// Stub is a domain of others.
type Stub struct {
	Domain  string
	Servers []string // addresses, maybe with a port
}

// CoreDNSManifests renders the DNS add-on as YAML documents.
func CoreDNSManifests(dns CoreDNS) ([]byte, error) {
	return execute("coredns.yaml", struct {
		CoreDNS
		NodesPerReplica, CoresPerReplica string
	}{dns, hostconfig.AnnotationNodesPerReplica, hostconfig.AnnotationCoresPerReplica})
}

// StorageManifests renders the default StorageClass as a YAML document.
func StorageManifests() ([]byte, error) {
	return execute("storage.yaml", struct{ Class, Provisioner string }{hostconfig.LocalPathClass, hostconfig.LocalPathProvisioner})
}

// Ingress is what the objects that ingresses are served by depend on.
type Ingress struct {
	Default bool     // ingresses that name no class get ours
	Nodes   []string // names of the nodes that serve them
}

// IngressManifests renders the IngressClass, and the rights of the nodes, as
// YAML documents. Without nodes there is no class, and nobody has the rights.
func IngressManifests(ingress Ingress) ([]byte, error) {
	return execute("ingress.yaml", struct {
		Ingress
		Class, Controller string
	}{ingress, hostconfig.IngressClass, hostconfig.IngressController})
}

// CoreDNSDeployment is namespace/name of the Deployment in CoreDNSManifests.
const CoreDNSDeployment = "kube-system/coredns"

func execute(name string, data any) ([]byte, error) {
	var out bytes.Buffer
	if err := parsed.ExecuteTemplate(&out, name, data); err != nil {
		return nil, fmt.Errorf("render %s: %w", name, err)
	}
	return out.Bytes(), nil
}
