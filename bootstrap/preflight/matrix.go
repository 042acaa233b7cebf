package preflight

import (
	"fmt"

	"clusterctl/bootstrap/inventory"
	"clusterctl/hostconfig"
)

// Networks of a port.
const (
	TCP = "tcp"
	UDP = "udp"
)

// Port is a port that the cluster uses on a host.
type Port struct {
	Network string // TCP or UDP
	Number  int
	Unit    string // the service of ours that takes it
	Local   bool   // on 127.0.0.1 only
	Use     string // what it is for
}

func (p Port) String() string { return fmt.Sprintf("%s %d", p.Network, p.Number) }

var (
	apiPort    = Port{TCP, hostconfig.PortAPI, hostconfig.UnitControlPlane, false, "the API"}
	lbPort     = Port{TCP, hostconfig.PortAPILB, hostconfig.UnitNodeAgent, true, "the node's API load balancer"}
	agentPort  = Port{TCP, hostconfig.PortNodeAgent, hostconfig.UnitNodeAgent, false, "logs and exec"}
	healthPort = Port{TCP, hostconfig.PortProxyHealth, hostconfig.UnitNodeAgent, false, "load balancers' health checks"}
	statusPort = Port{TCP, hostconfig.PortProxyStatus, hostconfig.UnitNodeAgent, true, "the service proxy's mode"}
	vxlanPort  = Port{UDP, hostconfig.PortVXLAN, hostconfig.UnitNodeAgent, false, "the pod network"}
	httpPort   = Port{TCP, hostconfig.PortHTTP, hostconfig.UnitNodeAgent, false, "ingresses"}
	httpsPort  = Port{TCP, hostconfig.PortHTTPS, hostconfig.UnitNodeAgent, false, "ingresses"}
	clientPort = Port{TCP, hostconfig.PortEtcdClient, hostconfig.UnitEtcd, false, "etcd's clients"}
	peerPort   = Port{TCP, hostconfig.PortEtcdPeer, hostconfig.UnitEtcd, false, "etcd's peers"}
)

// Ports are those that a host needs for itself, by its roles.
func Ports(inv *inventory.Inventory, h inventory.Host) []Port {
	var ports []Port
	if h.Has(inventory.ControlPlane) {
		ports = append(ports, apiPort)
	}
	for _, m := range inv.EtcdMembers() {
		if m.Name == h.Name {
			ports = append(ports, clientPort, peerPort)
		}
	}
	if h.IsNode() {
		ports = append(ports, lbPort, agentPort, healthPort, statusPort, vxlanPort)
	}
	for _, n := range inv.IngressNodes() {
		if n.Name == h.Name {
			ports = append(ports, httpPort, httpsPort)
		}
	}
	return ports
}

// Flow is a port of one host that another has to reach.
type Flow struct {
	From    string // host name
	To      string // host name
	Address string // of To
	Port    Port
}

// Matrix lists what has to reach what: nodes the API servers, API servers the
// nodes and etcd, etcd members one another, nodes one another.
func Matrix(inv *inventory.Inventory) []Flow {
	var flows []Flow
	between := func(from, to []inventory.Host, ports ...Port) {
		for _, f := range from {
			for _, t := range to {
				for _, port := range ports {
					if f.Name != t.Name {
						flows = append(flows, Flow{From: f.Name, To: t.Name, Address: t.Address, Port: port})
					}
				}
			}
		}
	}
	planes, members, nodes := inv.ControlPlanes(), inv.EtcdMembers(), inv.Nodes()
	between(nodes, planes, apiPort)
	between(planes, nodes, agentPort)
	between(members, members, clientPort, peerPort)
	if inv.Cluster.Etcd.Topology == inventory.External {
		between(planes, members, clientPort)
	}
	between(nodes, nodes, vxlanPort)
	return flows
}

// Unreachable is a flow that was tried and did not get through.
type Unreachable struct {
	Flow
	Error string
}
