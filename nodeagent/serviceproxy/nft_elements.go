package serviceproxy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"

	"github.com/google/nftables/binaryutil"
	corev1 "k8s.io/api/core/v1"

	"clusterctl/nodeagent/network"
)

// place is where an element stands.
type place struct {
	set string
	key string // as the kernel has it
}

// element is one element of a set or map.
type element struct {
	place
	value string // of maps: as the kernel has it, or the name of a chain or verdict
}

// chainRules are the rules of a chain that elements lead to.
type chainRules struct {
	entry  entry
	ranges []netip.Prefix // not nil: the chain stops other sources
}

// picture is what services add to the table.
type picture struct {
	layout   layout
	elements []element
	chains   map[string]chainRules // by name
}

func (v *picture) add(set, key, value string) {
	v.elements = append(v.elements, element{place{set, key}, value})
}

// lead adds an element that leads to an entry.
func (v *picture) lead(set, key string, e entry) {
	name := e.name()
	v.chains[name] = chainRules{entry: e}
	v.add(set, key, name)
}

// paint adds what the ports of a service need. It is the same, in the same
// order, whenever they are the same.
func (v *picture) paint(ports []servicePort) {
	for i := range ports {
		v.port(&ports[i])
	}
}

func (v *picture) port(p *servicePort) {
	cluster := addressKey(p.clusterIP) + nodeKey(p.protocol, p.port)
	v.add(setClusterIPs, addressKey(p.clusterIP), "")
	var fronts []string // at addresses of the outside
	for _, ip := range p.externalIPs {
		fronts = append(fronts, addressKey(ip)+nodeKey(p.protocol, p.port))
	}
	for _, ip := range p.balancerIPs {
		front := addressKey(ip) + nodeKey(p.protocol, p.port)
		fronts = append(fronts, front)
		if len(p.sourceRanges) > 0 {
			name := guardName(p.sourceRanges)
			v.chains[name] = chainRules{ranges: p.sourceRanges}
			v.add(setGuards, front, name)
		}
	}
	outside := len(fronts) > 0 || p.nodePort != 0
	v.cluster(p, cluster)
	v.outside(p, cluster, fronts)
	if !p.internalLocal || outside {
		v.endpoints(p, everywhere, cluster, p.endpoints)
	}
	if p.internalLocal || outside && p.externalLocal {
		v.endpoints(p, onNode, cluster, p.local)
	}
	for _, ip := range p.own {
		v.add(setHairpin, addressKey(ip)+addressKey(ip), "")
	}
}

// cluster says where packets to the cluster IP go. If they lead nowhere, they
// are rejected as those to any unknown port of it are.
func (v *picture) cluster(p *servicePort, cluster string) {
	e := entry{front: atCluster, all: len(p.endpoints), sticky: p.affinity}
	if p.internalLocal {
		if len(p.local) == 0 && len(p.endpoints) > 0 {
			v.add(setUnreachable, cluster, verdictDrop)
		}
		e.keep, e.all, e.local = true, 0, len(p.local)
	}
	if e.all+e.local > 0 {
		v.lead(setServices, cluster, e)
	}
}

// outside says where packets go that come in at addresses of the outside, or
// at a port of this node.
func (v *picture) outside(p *servicePort, cluster string, fronts []string) {
	e := entry{all: len(p.endpoints), sticky: p.affinity}
	verdict := ""
	if p.externalLocal {
		e.keep, e.local = true, len(p.local)
		if e.local == 0 {
			// There may be a node that the client had better ask.
			verdict = verdictDrop
		}
	}
	if e.all == 0 {
		verdict = nftReject
	}
	one := func(at front, services, outer, unreachable, key string) {
		e.front = at
		if e.all > 0 {
			v.lead(services, key, e)
			v.add(outer, key, zero+cluster)
		}
		if verdict != "" {
			v.add(unreachable, key, verdict)
		}
	}
	for _, front := range fronts {
		one(atOuter, setServices, setOuter, setUnreachable, front)
	}
	if p.nodePort != 0 {
		one(atNodePort, setNodePorts, setOuterNodePorts, setUnreachablePorts, nodeKey(p.protocol, p.nodePort))
	}
}

func (v *picture) endpoints(p *servicePort, of pool, cluster string, endpoints []netip.AddrPort) {
	for i, endpoint := range endpoints {
		key := cluster + string(binaryutil.NativeEndian.PutUint32(uint32(i)))
		to := addressKey(endpoint.Addr()) + portKey(endpoint.Port())
		if p.affinity == 0 {
			v.add(of.endpoints, key, to)
			continue
		}
		v.add(of.sticky, key, zero+to)
		v.add(of.kept, to+cluster, "")
	}
}

// Parts of keys and values, each as wide as one or four registers.

const zero = "\x00\x00\x00\x00"

func addressKey(ip netip.Addr) string { return string(ip.AsSlice()) }

func portKey(n uint16) string { return string([]byte{byte(n >> 8), byte(n), 0, 0}) }

func nodeKey(protocol corev1.Protocol, n uint16) string {
	return string([]byte{network.ProtocolNumber(protocol), 0, 0, 0}) + portKey(n)
}

// guardName names a chain after the ranges that it lets through.
func guardName(ranges []netip.Prefix) string {
	sum := sha256.Sum256(fmt.Append(nil, ranges))
	return "from-" + base32.StdEncoding.EncodeToString(sum[:])[:16]
}
