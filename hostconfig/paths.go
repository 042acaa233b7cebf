package hostconfig

// Where everything of ours lies on a host. Nothing is ever written elsewhere,
// so that a reset can leave the host as it was.
const (
	EtcDir       = "/etc/clusterctl"               // configuration
	PKIDir       = EtcDir + "/pki"                 // 0700; see PKI
	AddonDir     = EtcDir + "/addons"              // manifests that `up` applies
	CNIDir       = EtcDir + "/cni"                 // CNI network lists, written by nodeagent
	VarDir       = "/var/lib/clusterctl"           // state that survives a reboot
	EtcdDir      = VarDir + "/etcd"                // 0700; one member's data
	RunDir       = "/run/clusterctl"               // sockets, the run lock
	LibDir       = "/usr/local/lib/clusterctl"     // LibDir/<version>/, LibDir/current -> <version>
	BinDir       = LibDir + "/current"             // what units start
	UnitDir      = "/etc/systemd/system"           // the units below
	LogDir       = "/var/log/clusterctl"           // container logs live in LogDir/pods
	HandDir      = VarDir + "/host"                // journal of applied operations, service fingerprints
	StateDir     = VarDir + "/nodeagent"           // pods' volumes and checkpoints
	LocalPathDir = VarDir + "/volumes"             // 0700; directories behind PersistentVolumes of LocalPathProvisioner
	Manifest     = EtcDir + "/manifests"           // static pods
	PodLogs      = LogDir + "/pods"                // <namespace>_<name>_<uid>/<container>/<n>.log
	CRISock      = RunDir + "/containerd.sock"     // containerd's gRPC and CRI socket
	CtrRoot      = VarDir + "/containerd"          // containerd's root
	CtrState     = RunDir + "/containerd"          // containerd's state
	CtrConf      = EtcDir + "/containerd.toml"     // containerd's configuration
	CPConf       = EtcDir + "/controlplane.yaml"   // ControlPlane
	EtcdConf     = EtcDir + "/etcd.yaml"           // Etcd
	AuthConf     = EtcDir + "/authentication.yaml" // AuthenticationConfiguration of apiserver.config.k8s.io, where there are OIDC providers
	AuditPol     = EtcDir + "/audit-policy.yaml"   // Policy of audit.k8s.io, where the inventory names one
	AuditDir     = LogDir + "/audit"               // 0700, control planes only
	AuditLog     = AuditDir + "/audit.log"         // 0600, rotated
	NodeConf     = EtcDir + "/nodeagent.yaml"      // NodeAgent
	AdminCfg     = EtcDir + "/admin.kubeconfig"    // 0600, control planes only: cluster-admin through 127.0.0.1
)

// Container runtimes. containerd is brought along; CRI-O is the host's own.
const (
	RuntimeContainerd = "containerd"
	RuntimeCRIO       = "crio"
)

// What a host that runs pods with its own CRI-O has of ours outside the
// directories above: drop-ins, and nothing of CRI-O itself.
const (
	CRIOSock       = "/run/crio/crio.sock"
	CRIOConf       = "/etc/crio/crio.conf.d/90-clusterctl.conf"
	CRIOPins       = "/etc/crio/crio.conf.d/91-clusterctl-images.conf" // images that were loaded, so that they stay
	CRIORegistries = "/etc/containers/registries.conf.d"               // CRIOLoading is in here
	CRIOLoading    = CRIORegistries + "/999-clusterctl-load.conf"      // while images are loaded, and only then
	ImagePolicy    = "/etc/containers/policy.json"                     // the host's; without one, CRI-O takes no image
)

// Volumes on nodes' own disks, as control plane and node agent know them.
const (
	LocalPathClass       = "local-path"               // the default StorageClass
	LocalPathProvisioner = "clusterctl.io/local-path" // its provisioner
	LocalPathNode        = "clusterctl.io/node"       // annotation of a PersistentVolume: the node that has the directory
)

// Ingresses as the cluster's objects and the node agents know them.
const (
	IngressClass      = "clusterctl"            // the IngressClass
	IngressController = "clusterctl.io/ingress" // its controller
)

// KubeletDir is a link to StateDir: published drivers of storage and devices
// look for a node's agent there, and no other path will do.
const KubeletDir = "/var/lib/kubelet"

// PluginRegistry is below StateDir where plugins put their sockets.
const PluginRegistry = "plugins_registry"

// Unit names, as systemd and OpenRC know them.
const (
	UnitEtcd         = "clusterctl-etcd"
	UnitControlPlane = "clusterctl-controlplane"
	UnitContainerd   = "clusterctl-containerd"
	UnitNodeAgent    = "clusterctl-nodeagent"
	UnitCRIO         = "crio" // the host's own
)

// Ports on a host.
const (
	PortAPI         = 6443  // controlplane: HTTPS, every address
	PortAPILB       = 6444  // nodeagent: 127.0.0.1 only, to every control plane's PortAPI
	PortEtcdClient  = 2379  // etcd: clients, mTLS
	PortEtcdPeer    = 2380  // etcd: peers, mTLS
	PortNodeAgent   = 10250 // nodeagent: HTTPS, logs, exec, stats
	PortProxyHealth = 10256 // nodeagent: HTTP, every address: /healthz and /livez of the service proxy
	PortProxyStatus = 10249 // nodeagent: HTTP, 127.0.0.1 only: /metrics and /proxyMode of the service proxy
	PortVXLAN       = 8472  // UDP between nodes
	PortHTTP        = 80    // nodeagent, where it serves Ingresses
	PortHTTPS       = 443   // the same
)
