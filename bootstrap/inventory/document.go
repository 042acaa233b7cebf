package inventory

import "clusterctl/hostconfig"

// Document is an inventory file as it is written. Keys that are left out have
// the defaults that are told at each.
type Document struct {
	// Always clusterctl/v1.
	APIVersion string `json:"apiVersion" jsonschema:"enum=clusterctl/v1"`
	// Inventory, where it is given.
	Kind string `json:"kind,omitempty" jsonschema:"enum=Inventory"`
	// The cluster as a whole.
	Cluster Cluster `json:"cluster"`
	// Settings of every host.
	Defaults Settings `json:"defaults,omitempty"`
	// Named settings that hosts refer to.
	Groups map[string]Settings `json:"groups,omitempty"`
	// The hosts.
	Hosts []HostEntry `json:"hosts"`
}

// Cluster is what all hosts share.
type Cluster struct {
	// The cluster's name, a DNS label. It names the kubeconfig's context.
	Name string `json:"name"`
	// Where clients outside reach the API, host or host:port: a load balancer or a DNS name of the operator's. Default: the first control plane.
	Endpoint string `json:"endpoint,omitempty"`
	// The version of clusterctl that has to be used; any other refuses to work. Default: none in particular.
	Version string `json:"version,omitempty"`
	// Addresses of pods: a network of the hosts' family; or an IPv4 network, a comma and an IPv6 network, and pods have addresses of both families. Default: 10.244.0.0/16, or fd00:10:244::/56 where hosts have IPv6 addresses.
	PodCIDR string `json:"podCIDR,omitempty" jsonschema:"default=10.244.0.0/16"`
	// Prefix length of each node's share of podCIDR. Default: 24.
	NodeMaskSize int `json:"nodeMaskSize,omitempty" jsonschema:"default=24,minimum=16,maximum=29"`
	// Prefix length of each node's share of podCIDR's IPv6 network. Default: 64.
	NodeMaskSizeIPv6 int `json:"nodeMaskSizeIPv6,omitempty" jsonschema:"default=64,minimum=48,maximum=120"`
	// Virtual addresses of services: a network of the hosts' family; or an IPv4 network, a comma and an IPv6 network, and services may have addresses of both families. Default: 10.96.0.0/16, or fd00:10:96::/112 where hosts have IPv6 addresses.
	ServiceCIDR string `json:"serviceCIDR,omitempty" jsonschema:"default=10.96.0.0/16"`
	// When packets to other nodes' pods are wrapped in VXLAN: auto, where nodes do not share a link; always, for networks that drop packets with addresses they have not given out themselves, as many clouds do. Default: auto.
	Overlay string `json:"overlay,omitempty" jsonschema:"default=auto,enum=auto,enum=always"`
	// The cluster's DNS domain. Default: cluster.local.
	Domain string `json:"domain,omitempty" jsonschema:"default=cluster.local"`
	// Ports of NodePort services, first-last. Default: 30000-32767.
	NodePortRange string `json:"nodePortRange,omitempty" jsonschema:"default=30000-32767"`
	// Where the cluster's state is kept.
	Etcd Etcd `json:"etcd,omitempty"`
	// How names are resolved.
	DNS DNS `json:"dns,omitempty"`
	// What the API servers record of requests.
	Audit Audit `json:"audit,omitempty"`
	// Who may come in, beside holders of client certificates and service-account tokens.
	Authentication Authentication `json:"authentication,omitempty"`
	// The pod security standard that namespaces without labels of their own are held to, kube-system apart. Default: none; pods below baseline are warned about.
	PodSecurity string `json:"podSecurity,omitempty" jsonschema:"enum=baseline,enum=restricted"`
	// Nodes pull the image of every container each time, so that nobody runs an image by its name alone because a node has it. Default: false.
	AlwaysPullImages bool `json:"alwaysPullImages,omitempty"`
	// How nodes lead packets to services.
	ServiceProxy ServiceProxy `json:"serviceProxy,omitempty"`
	// Profiles of the scheduler, which pods name in spec.schedulerName. Default: default-scheduler alone, with upstream's plugins and weights.
	SchedulerProfiles []hostconfig.SchedulerProfile `json:"schedulerProfiles,omitempty"`
	// Which nodes serve Ingresses, on their ports 80 and 443. Default: none.
	Ingress Ingress `json:"ingress,omitempty"`
	// Addresses for services of type LoadBalancer. Default: none; that is left to other programs.
	LoadBalancer LoadBalancer `json:"loadBalancer,omitempty"`
}

// LoadBalancer says where services of type LoadBalancer get their addresses
// from. One node at a time answers for each address (ARP, NDP), so that they have
// to be of the network that the nodes are in.
type LoadBalancer struct {
	// Pools of addresses, tried in this order.
	Pools []LoadBalancerPool `json:"pools,omitempty"`
}

// LoadBalancerPool is a set of addresses that nobody else uses.
type LoadBalancerPool struct {
	// What services that want an address of this pool say in the annotation clusterctl.io/load-balancer-pool.
	Name string `json:"name"`
	// Networks (192.0.2.128/25), ranges (192.0.2.10-192.0.2.20) and addresses, IPv4 or IPv6. Of an IPv4 network, the first and the last address are left out.
	Addresses []string `json:"addresses"`
	// Services that ask for nothing in particular get their addresses here. Default: true.
	AutoAssign *bool `json:"autoAssign,omitempty" jsonschema:"default=true"`
}

// ServiceProxy is how nodes lead packets to services.
type ServiceProxy struct {
	// What does it: nftables or iptables; auto is nftables on nodes whose kernel has it. Nodes that run change over when they are told. Default: auto.
	Mode string `json:"mode,omitempty" jsonschema:"default=auto,enum=auto,enum=nftables,enum=iptables"`
	// Networks of those addresses of nodes at which NodePort services are reached. Default: all addresses but loopback's.
	NodePortAddresses []string `json:"nodePortAddresses,omitempty"`
}

// Ingress says which nodes serve Ingresses, and how. It is on where hosts or
// labels name a node.
type Ingress struct {
	// Names of nodes that serve. They may read every Secret of the cluster.
	Hosts []string `json:"hosts,omitempty"`
	// Nodes with all of these labels serve too.
	Labels map[string]string `json:"labels,omitempty"`
	// Ingresses that name no class are served as well: the IngressClass clusterctl is the default one. Default: false.
	DefaultClass bool `json:"defaultClass,omitempty"`
	// The largest body of a request, as a quantity; 0 is any size. Default: 100Mi.
	MaxBody string `json:"maxBody,omitempty" jsonschema:"default=100Mi"`
	// Requests are logged in the journal of the node agent, without their queries. Default: false.
	AccessLog bool `json:"accessLog,omitempty"`
}

// Audit says what goes into the audit log, /var/log/clusterctl/audit/audit.log
// on every control plane.
type Audit struct {
	// A file with a Policy of audit.k8s.io/v1; relative paths start at the inventory. Default: one that records who changed what, and no body that could hold a secret.
	Policy string `json:"policy,omitempty"`
}

// Authentication says whom the API servers believe.
type Authentication struct {
	// Let callers without credentials read which APIs there are, beside health and version. Default: false.
	AnonymousDiscovery bool `json:"anonymousDiscovery,omitempty"`
	// OpenID Connect providers whose ID tokens are accepted.
	OIDC []OIDC `json:"oidc,omitempty"`
}

// OIDC is a provider of OpenID Connect.
type OIDC struct {
	// The provider's URL, https://…, as its tokens have it in iss.
	Issuer string `json:"issuer"`
	// What tokens have to be for: their aud.
	ClientID string `json:"clientID"`
	// The claim that names the user. Default: sub.
	UsernameClaim string `json:"usernameClaim,omitempty" jsonschema:"default=sub"`
	// What stands before the name, so that no provider names a user of the cluster's own. Default: oidc: (an empty string means nothing).
	UsernamePrefix *string `json:"usernamePrefix,omitempty" jsonschema:"default=oidc:"`
	// The claim that lists the user's groups. Default: none.
	GroupsClaim string `json:"groupsClaim,omitempty"`
	// What stands before each group. Default: oidc: (an empty string means nothing).
	GroupsPrefix *string `json:"groupsPrefix,omitempty" jsonschema:"default=oidc:"`
	// Claims that a token has to have, with these values.
	RequiredClaims map[string]string `json:"requiredClaims,omitempty"`
	// A PEM file with the authority of the provider's certificate; relative paths start at the inventory. Default: those that the hosts trust.
	CAFile string `json:"caFile,omitempty"`
}

// DNS says how the cluster's DNS server resolves names that are not its own.
type DNS struct {
	// Addresses of the nameservers it asks, address or address:port, at most 15. Default: those of the first control plane that has any.
	Upstream []string `json:"upstream,omitempty"`
	// Domains that other nameservers know.
	Stubs []StubDomain `json:"stubs,omitempty"`
}

// StubDomain is a domain whose names other nameservers resolve.
type StubDomain struct {
	// The domain, such as corp.example.org. Names below it belong to it.
	Domain string `json:"domain"`
	// Addresses of its nameservers, address or address:port, at most 15.
	Servers []string `json:"servers"`
}

// Etcd says where etcd members run.
type Etcd struct {
	// stacked: a member on every control plane. external: members on the hosts with role etcd. Default: stacked.
	Topology string `json:"topology,omitempty" jsonschema:"enum=stacked,enum=external,default=stacked"`
}

// Settings are what defaults, groups and hosts can say alike. A host's own word
// counts most, then its groups' (the last one first), then the defaults'.
// Labels and taints add up.
type Settings struct {
	// What the host does. On a cluster that has a worker, a control plane that is not a worker too keeps ordinary pods away.
	Roles []string `json:"roles,omitempty" jsonschema:"enum=control-plane,enum=worker,enum=etcd"`
	// How the host is reached.
	SSH SSH `json:"ssh,omitempty"`
	// Labels of the node.
	Labels map[string]string `json:"labels,omitempty"`
	// Taints of the node, set when it registers.
	Taints []Taint `json:"taints,omitempty"`
	// What the host keeps from its pods, and when pods have to go.
	Node Node `json:"node,omitempty"`
	// What runs containers: containerd, which is brought along, or crio, the host's own CRI-O. A node keeps the one that it began with. Default: containerd.
	Runtime string `json:"runtime,omitempty" jsonschema:"default=containerd,enum=containerd,enum=crio"`
}

// Node says what a host keeps from its pods, and when pods have to go. Of each
// setting the nearest word counts as a whole.
type Node struct {
	// How many processes one pod may have. Default: as many as the host has room for.
	PodPIDs int `json:"podPIDs,omitempty" jsonschema:"minimum=0"`
	// What pods cannot have, as quantities of cpu, memory, ephemeral-storage and pid. Default: nothing is kept.
	Reserved map[string]string `json:"reserved,omitempty"`
	// When pods are evicted because the host runs short.
	Eviction Eviction `json:"eviction,omitempty"`
	// When images that nobody uses are removed.
	Images Images `json:"images,omitempty"`
	// How long pods get when the host goes down, by priority. Default: 20 seconds, then 10 for pods that the cluster cannot do without.
	Shutdown []ShutdownGrace `json:"shutdown,omitempty"`
}

// Eviction says how little of something may be left, by signal
// (memory.available, nodefs.available, nodefs.inodesFree, imagefs.available,
// imagefs.inodesFree, pid.available), as quantities or percentages.
type Eviction struct {
	// Below these, pods go at once. Signals that are not named are not looked at. Default: memory.available 100Mi, nodefs.available 10%, nodefs.inodesFree 5%, imagefs.available 15%, imagefs.inodesFree 5%.
	Hard map[string]string `json:"hard,omitempty"`
	// Below these, pods go when softGraceSeconds are over.
	Soft map[string]string `json:"soft,omitempty"`
	// How long each soft threshold may be undershot.
	SoftGraceSeconds map[string]int `json:"softGraceSeconds,omitempty"`
	// What has to be free beyond a threshold before it counts as kept again.
	MinimumReclaim map[string]string `json:"minimumReclaim,omitempty"`
	// How long a pod gets to end at most when a soft threshold ends it. Default: 0.
	MaxPodGraceSeconds int `json:"maxPodGraceSeconds,omitempty" jsonschema:"minimum=0"`
	// How long the node reports pressure after it has gone. Default: 300.
	TransitionSeconds int `json:"transitionSeconds,omitempty" jsonschema:"default=300,minimum=0"`
}

// Images says when images that nobody uses are removed, the longest unused first.
// Those that clusterctl brings along or loads stay.
type Images struct {
	// How full their disk may be, in percent, before images go. Default: 85.
	CollectAbovePercent int `json:"collectAbovePercent,omitempty" jsonschema:"default=85,minimum=1,maximum=100"`
	// How full the disk may be afterwards. Default: 80.
	CollectBelowPercent int `json:"collectBelowPercent,omitempty" jsonschema:"default=80,minimum=1,maximum=100"`
	// How long an image that has only just come is spared. Default: 120.
	MinAgeSeconds int `json:"minAgeSeconds,omitempty" jsonschema:"default=120,minimum=1"`
	// How long an image may be unused before it goes though the disk has room; counted from the node agent's start at the earliest. Default: as long as there is room.
	MaxUnusedSeconds int `json:"maxUnusedSeconds,omitempty" jsonschema:"minimum=1"`
}

// ShutdownGrace is for pods of a priority and above.
type ShutdownGrace struct {
	// The least priority that it is for; lower ones get the lowest grace there is.
	Priority int `json:"priority" jsonschema:"minimum=-2147483648,maximum=2147483647"`
	// How long they get, after those before them have ended.
	Seconds int `json:"seconds" jsonschema:"minimum=0"`
}

// SSH says how a host is reached. What is left out comes from ssh_config, then
// from OpenSSH's defaults.
type SSH struct {
	// What would be typed after ssh: a name, an address, or an alias of ssh_config. Hosts only. Default: the host's address.
	Host string `json:"host,omitempty"`
	// The user to log in as.
	User string `json:"user,omitempty"`
	// The port of sshd.
	Port int `json:"port,omitempty" jsonschema:"minimum=1,maximum=65535"`
	// Private keys, tried first; ~ and paths relative to the inventory are understood.
	KeyFiles []string `json:"keyFiles,omitempty"`
	// Files of known host keys; accept-new writes to the first.
	KnownHosts []string `json:"knownHosts,omitempty"`
	// strict: known hosts only. accept-new: the first key seen is remembered. pinned: hostKeys only.
	HostKeyPolicy string `json:"hostKeyPolicy,omitempty" jsonschema:"enum=strict,enum=accept-new,enum=pinned"`
	// Fingerprints of the host's keys (SHA256:…), as ssh-keygen -l prints them. Hosts only; implies the policy pinned.
	HostKeys []string `json:"hostKeys,omitempty"`
	// Hosts to go through, nearest first: [user@]host[:port].
	Jump []string `json:"jump,omitempty"`
	// Allow logging in with a password, asked for on the terminal. Default: false.
	Password *bool `json:"password,omitempty"`
	// auto: become root through sudo when the user is not root (a password is asked for on the terminal). never: do not. Default: auto.
	Sudo string `json:"sudo,omitempty" jsonschema:"enum=auto,enum=never,default=auto"`
}

// Taint keeps pods away that do not tolerate it.
type Taint struct {
	// The taint's key.
	Key string `json:"key"`
	// The taint's value.
	Value string `json:"value,omitempty"`
	// What happens to pods that do not tolerate it.
	Effect string `json:"effect" jsonschema:"enum=NoSchedule,enum=PreferNoSchedule,enum=NoExecute"`
}

// HostEntry is one host, or several when name and address have a range.
type HostEntry struct {
	// The node's name; web[01:10] stands for ten of them.
	Name string `json:"name"`
	// The address that the cluster's hosts reach it at, IPv4 or, for all hosts alike, IPv6; 10.0.0.[11:20] goes with a range of names.
	Address string `json:"address"`
	// Groups whose settings apply, in this order.
	Groups []string `json:"groups,omitempty"`
	// absent: the host is to leave the cluster. Default: present.
	State string `json:"state,omitempty" jsonschema:"enum=present,enum=absent,default=present"`
	// The host's own settings.
	Settings
}
