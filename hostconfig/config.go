package hostconfig

import (
	"cmp"
	"fmt"
	"os"

	"sigs.k8s.io/yaml"
)

// Cluster is what every host of a cluster knows alike.
type Cluster struct {
	Name             string   `json:"name"`
	Domain           string   `json:"domain"`           // cluster.local
	PodCIDR          string   `json:"podCIDR"`          // 10.244.0.0/16, or two: ParseNetworks
	NodeMaskSize     int      `json:"nodeMaskSize"`     // 24: each node's share of PodCIDR, if IPv4
	ServiceCIDR      string   `json:"serviceCIDR"`      // 10.96.0.0/16, or two: ParseNetworks
	DNSAddress       string   `json:"dnsAddress"`       // 10.96.0.10
	NodePortRange    string   `json:"nodePortRange"`    // 30000-32767
	ControlPlanes    []string `json:"controlPlanes"`    // host:port of every API server, sorted
	ExternalEndpoint string   `json:"externalEndpoint"` // host:port clients outside use; may be empty
	// NodeMaskSizeIPv6 is 64: each node's share of the IPv6 network of PodCIDR.
	NodeMaskSizeIPv6 int `json:"nodeMaskSizeIPv6,omitempty"`
	// LoadBalancerPools give services of type LoadBalancer their addresses; none:
	// that is somebody else's business. Only control planes are told.
	LoadBalancerPools []LoadBalancerPool `json:"loadBalancerPools,omitempty"`
}

// ControlPlane configures `controlplane run` (and its parts run alone).
type ControlPlane struct {
	Cluster  Cluster  `json:"cluster"`
	NodeName string   `json:"nodeName"`
	Address  string   `json:"address"` // advertised; the API server listens on every address
	Port     int      `json:"port"`    // PortAPI
	PKIDir   string   `json:"pkiDir"`
	Etcd     []string `json:"etcd"`   // https://host:2379 of every member
	Prefix   string   `json:"prefix"` // /registry

	// AuditLog is the file that requests are recorded in; "": they are not.
	AuditLog string `json:"auditLog,omitempty"`
	// AuditPolicy is the file that says what is recorded of which (Policy of
	// audit.k8s.io/v1). "": the API server's own.
	AuditPolicy string `json:"auditPolicy,omitempty"`
	// Encryption is the file (EncryptionConfiguration of
	// apiserver.config.k8s.io/v1) with the keys of what is encrypted in etcd; it
	// is read again when it changes. "": nothing is encrypted.
	Encryption string `json:"encryption,omitempty"`
	// Authentication is the file (AuthenticationConfiguration of
	// apiserver.config.k8s.io/v1) with the OIDC providers; "": there are none.
	Authentication string `json:"authentication,omitempty"`
	// AnonymousDiscovery lets callers without credentials read which APIs there
	// are, beside health and version.
	AnonymousDiscovery bool `json:"anonymousDiscovery,omitempty"`
	// AlwaysPullImages makes nodes pull the image of every container each time.
	AlwaysPullImages bool `json:"alwaysPullImages,omitempty"`
	// PodSecurity is the pod security standard ("baseline", "restricted") that
	// namespaces without a label of their own are held to. "": pods below
	// baseline are warned about.
	PodSecurity string `json:"podSecurity,omitempty"`
	// SchedulerProfiles are beside the default one, or change it.
	SchedulerProfiles []SchedulerProfile `json:"schedulerProfiles,omitempty"`
}

// Etcd configures `controlplane etcd`: one member, mTLS for clients and peers
// with the pair PairEtcd, trusting EtcdCA.
type Etcd struct {
	Name           string `json:"name"`
	Address        string `json:"address"` // clients on :2379 (and 127.0.0.1), peers on :2380
	DataDir        string `json:"dataDir"`
	PKIDir         string `json:"pkiDir"`
	InitialCluster string `json:"initialCluster"` // name=https://host:2380,… ; read on the first start only
	InitialState   string `json:"initialState"`   // "new" or "existing"; read on the first start only
	ClusterToken   string `json:"clusterToken"`
	QuotaBytes     int64  `json:"quotaBytes"`
	ClientPort     int    `json:"clientPort,omitempty"` // 0: PortEtcdClient
	PeerPort       int    `json:"peerPort,omitempty"`   // 0: PortEtcdPeer
}

// NodeAgent configures `nodeagent run`.
type NodeAgent struct {
	Cluster      Cluster           `json:"cluster"`
	NodeName     string            `json:"nodeName"`
	Address      string            `json:"address"`
	PKIDir       string            `json:"pkiDir"`
	StateDir     string            `json:"stateDir"`
	ManifestDir  string            `json:"manifestDir"` // static pods
	CRISocket    string            `json:"criSocket"`   // unix:///run/clusterctl/containerd.sock, unix:///run/crio/crio.sock
	CNIConfDir   string            `json:"cniConfDir"`
	Labels       map[string]string `json:"labels,omitempty"`
	Taints       []Taint           `json:"taints,omitempty"` // set at registration only
	CgroupDriver string            `json:"cgroupDriver"`     // cgroupfs or systemd
	MaxPods      int               `json:"maxPods"`
	ListenAPILB  string            `json:"listenAPILB"` // 127.0.0.1:6444

	// PodPIDs is how many processes one pod may have; 0: as many as the host has
	// room for.
	PodPIDs int64 `json:"podPIDs,omitempty"`
	// Reserved is kept from pods, as quantities: cpu, memory,
	// ephemeral-storage, pid.
	Reserved map[string]string `json:"reserved,omitempty"`
	// Eviction is when pods have to go because the host runs short.
	Eviction Eviction `json:"eviction,omitzero"`
	// Images is when images that nobody uses are removed.
	Images Images `json:"images,omitzero"`
	// Shutdown is how long pods get when the host goes down, by priority; nil:
	// DefaultShutdown.
	Shutdown []ShutdownGrace `json:"shutdown,omitempty"`
	// ServiceProxy is how packets to services are led.
	ServiceProxy ServiceProxy `json:"serviceProxy,omitzero"`
	// Ingress has the node serve Ingresses; nil: it does not.
	Ingress *Ingress `json:"ingress,omitempty"`
	// Overlay is when packets to other nodes' pods go through VXLAN.
	Overlay string `json:"overlay,omitempty"` // empty: OverlayAuto
}

// When packets to other nodes' pods go through VXLAN.
const (
	OverlayAuto   = "auto" // where nodes do not share a link
	OverlayAlways = "always"
)

// Modes of the service proxy.
const (
	ProxyAuto     = "auto" // nftables where the kernel has it
	ProxyNftables = "nftables"
	ProxyIptables = "iptables"
)

// ServiceProxy is how a node leads packets to services.
type ServiceProxy struct {
	Mode              string   `json:"mode,omitempty"`              // empty: ProxyAuto
	NodePortAddresses []string `json:"nodePortAddresses,omitempty"` // networks of the node's addresses that node ports are reached at; empty: all but loopback
}

// Ingress is how the nodes that serve Ingresses do it.
type Ingress struct {
	Nodes        []string `json:"nodes"`                  // names of all of them, sorted
	MaxBodyBytes int64    `json:"maxBodyBytes,omitempty"` // of a request; 0: any size
	AccessLog    bool     `json:"accessLog,omitempty"`    // requests go to the journal
}

// ShutdownGrace is for pods of a priority and above.
type ShutdownGrace struct {
	Priority int32 `json:"priority"`
	Seconds  int   `json:"seconds"`
}

// DefaultShutdown has pods that the cluster cannot do without outlive the
// others. Its sum has to fit into TimeoutStopSec of the agent's unit.
var DefaultShutdown = []ShutdownGrace{{Priority: 0, Seconds: 20}, {Priority: 2_000_000_000, Seconds: 10}}

// Eviction says how little of something may be left: by signal
// ("memory.available", "nodefs.available", …) a quantity or a percentage.
type Eviction struct {
	Hard               map[string]string `json:"hard,omitempty"` // nil: as Kubernetes has it
	Soft               map[string]string `json:"soft,omitempty"`
	SoftGraceSeconds   map[string]int    `json:"softGraceSeconds,omitempty"`
	MinimumReclaim     map[string]string `json:"minimumReclaim,omitempty"`
	MaxPodGraceSeconds int               `json:"maxPodGraceSeconds,omitempty"` // for soft ones
	TransitionSeconds  int               `json:"transitionSeconds,omitempty"`  // 0: 300
}

// EvictionSignals are the signals of Eviction.
var EvictionSignals = []string{
	"memory.available", "nodefs.available", "nodefs.inodesFree", "imagefs.available", "imagefs.inodesFree", "pid.available",
}

// Images says when images that nobody uses are removed. Pinned ones stay.
type Images struct {
	CollectAbovePercent int `json:"collectAbovePercent,omitempty"` // of their disk in use; 0: 85
	CollectBelowPercent int `json:"collectBelowPercent,omitempty"` // until so much is in use; 0: 80
	MinAgeSeconds       int `json:"minAgeSeconds,omitempty"`       // one that has only just come is spared; 0: 120
	MaxUnusedSeconds    int `json:"maxUnusedSeconds,omitempty"`    // unused for longer, it goes though the disk has room; 0: never
}

// OrDefaults is images with Kubernetes' own settings for those that are left out.
func (i Images) OrDefaults() Images {
	i.CollectAbovePercent = cmp.Or(i.CollectAbovePercent, 85)
	i.CollectBelowPercent = cmp.Or(i.CollectBelowPercent, 80)
	i.MinAgeSeconds = cmp.Or(i.MinAgeSeconds, 120)
	return i
}

// Reservable is what NodeAgent.Reserved may name.
var Reservable = []string{"cpu", "memory", "ephemeral-storage", "pid"}

// Taint is a node taint as the Kubernetes API has it.
type Taint struct {
	Key    string `json:"key"`
	Value  string `json:"value,omitempty"`
	Effect string `json:"effect"`
}

// Load reads the YAML file at path into config, refusing unknown keys.
func Load(path string, config any) error {
	raw, err := os.ReadFile(path)
	if err != nil {
		return fmt.Errorf("read configuration: %w", err)
	}
	if err := yaml.UnmarshalStrict(raw, config); err != nil {
		return fmt.Errorf("parse %s: %w", path, err)
	}
	return nil
}

// Marshal renders a configuration the way it stands on the host.
func Marshal(config any) ([]byte, error) { return yaml.Marshal(config) }
