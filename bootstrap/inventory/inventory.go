package inventory

import (
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"

	"clusterctl/hostconfig"
)

// APIVersion is what every inventory starts with.
const APIVersion = "clusterctl/v1"

// Role is what a host does in the cluster.
type Role string

// The roles.
const (
	ControlPlane Role = "control-plane"
	Worker       Role = "worker"
	EtcdMember   Role = "etcd"
)

// Topologies of etcd.
const (
	Stacked  = "stacked"
	External = "external"
)

// States of a host.
const (
	Present = "present"
	Absent  = "absent"
)

// Inventory is a checked file with every default filled in.
type Inventory struct {
	File    string // where it was read from
	Cluster Cluster
	Hosts   []Host // in the file's order, ranges expanded
	// Files that the cluster's settings name, by the name as written.
	Files map[string][]byte
}

// Host is one host with groups and defaults applied.
type Host struct {
	Name    string
	Address string // of the family of PodCIDR's first network
	Roles   []Role // as written; never empty
	Groups  []string
	SSH     SSH // Host is set; paths are absolute
	Labels  map[string]string
	Taints  []Taint
	Node    Node
	Runtime string // hostconfig.Runtime…
	State   string // Present or Absent
	Line    int    // of its entry
}

// Fault is one thing that is wrong with a file.
type Fault struct {
	Line    int
	Message string // what is wrong
	Hint    string // what to write instead
}

// Faults is everything that is wrong with a file, by line.
type Faults struct {
	File string
	List []Fault
}

// Error prints a line for each fault: file:line: message; hint.
func (f *Faults) Error() string {
	var b strings.Builder
	for i, fault := range f.List {
		if i > 0 {
			b.WriteByte('\n')
		}
		fmt.Fprintf(&b, "%s:%d: %s", f.File, fault.Line, fault.Message)
		if fault.Hint != "" {
			b.WriteString("; " + fault.Hint)
		}
	}
	return b.String()
}

// Load reads and parses the file at path.
func Load(path string) (*Inventory, error) {
	raw, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("read inventory: %w", err)
	}
	return Parse(path, raw)
}

// Parse reads an inventory. name is the file's, for messages and for the paths
// inside that are relative to it. A faulty file gives a *Faults.
func Parse(name string, raw []byte) (*Inventory, error) {
	d := decoder{lines: map[string]int{}}
	document := d.document(raw)
	if d.broken {
		return nil, d.faults(name)
	}
	c := checker{decoder: &d, document: document}
	inventory := c.expand(name)
	c.check(inventory)
	if len(d.list) > 0 {
		return nil, d.faults(name)
	}
	return inventory, nil
}

// Has says whether the host has a role.
func (h Host) Has(role Role) bool { return slices.Contains(h.Roles, role) }

// IsNode says whether a node agent runs on the host: everywhere but on hosts
// that are etcd members only.
func (h Host) IsNode() bool { return h.Has(ControlPlane) || h.Has(Worker) }

// Present are the hosts that are to be in the cluster.
func (inv *Inventory) Present() []Host {
	return inv.filter(func(h Host) bool { return h.State == Present })
}

// Leaving are the hosts that are not to be in the cluster.
func (inv *Inventory) Leaving() []Host {
	return inv.filter(func(h Host) bool { return h.State == Absent })
}

// ControlPlanes are the present hosts that run the API server.
func (inv *Inventory) ControlPlanes() []Host {
	return inv.filter(func(h Host) bool { return h.State == Present && h.Has(ControlPlane) })
}

// EtcdMembers are the present hosts that run an etcd member.
func (inv *Inventory) EtcdMembers() []Host {
	return inv.filter(func(h Host) bool { return h.State == Present && inv.RunsEtcd(h) })
}

// Nodes are the present hosts that run pods.
func (inv *Inventory) Nodes() []Host {
	return inv.filter(func(h Host) bool { return h.State == Present && h.IsNode() })
}

// Host finds a host by name.
func (inv *Inventory) Host(name string) (Host, bool) {
	i := slices.IndexFunc(inv.Hosts, func(h Host) bool { return h.Name == name })
	if i < 0 {
		return Host{}, false
	}
	return inv.Hosts[i], true
}

// RunsEtcd says whether a host runs an etcd member while it is present.
func (inv *Inventory) RunsEtcd(h Host) bool {
	if inv.Cluster.Etcd.Topology == External {
		return h.Has(EtcdMember)
	}
	return h.Has(ControlPlane)
}

func (inv *Inventory) filter(keep func(Host) bool) []Host {
	var kept []Host
	for _, h := range inv.Hosts {
		if keep(h) {
			kept = append(kept, h)
		}
	}
	return kept
}

// Endpoint is host:port of the API for clients outside the cluster.
func (inv *Inventory) Endpoint() string {
	if endpoint := inv.Cluster.Endpoint; endpoint != "" {
		return withPort(endpoint)
	}
	planes := inv.ControlPlanes()
	if len(planes) == 0 {
		return ""
	}
	return net.JoinHostPort(planes[0].Address, strconv.Itoa(hostconfig.PortAPI))
}

// ServiceAddress is the n-th address of the primary service network: 1 is the
// API's, 10 the DNS server's.
func (inv *Inventory) ServiceAddress(n int) string {
	networks, err := hostconfig.ParseNetworks(inv.Cluster.ServiceCIDR)
	if err != nil {
		return ""
	}
	address := networks[0].Addr()
	for range n {
		address = address.Next()
	}
	return address.String()
}

// HostConfig is the cluster as every host's configuration files have it.
func (inv *Inventory) HostConfig() hostconfig.Cluster {
	cluster := hostconfig.Cluster{
		Name:             inv.Cluster.Name,
		Domain:           inv.Cluster.Domain,
		PodCIDR:          inv.Cluster.PodCIDR,
		NodeMaskSize:     inv.Cluster.NodeMaskSize,
		NodeMaskSizeIPv6: inv.Cluster.NodeMaskSizeIPv6,
		ServiceCIDR:      inv.Cluster.ServiceCIDR,
		DNSAddress:       inv.ServiceAddress(10),
		NodePortRange:    inv.Cluster.NodePortRange,
		ExternalEndpoint: inv.Cluster.Endpoint,
	}
	if cluster.ExternalEndpoint != "" {
		cluster.ExternalEndpoint = withPort(cluster.ExternalEndpoint)
	}
	for _, h := range inv.ControlPlanes() {
		cluster.ControlPlanes = append(cluster.ControlPlanes,
			net.JoinHostPort(h.Address, strconv.Itoa(hostconfig.PortAPI)))
	}
	slices.Sort(cluster.ControlPlanes)
	return cluster
}

func withPort(endpoint string) string {
	if _, _, err := net.SplitHostPort(endpoint); err == nil {
		return endpoint
	}
	return net.JoinHostPort(endpoint, strconv.Itoa(hostconfig.PortAPI))
}
