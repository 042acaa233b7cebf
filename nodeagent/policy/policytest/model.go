package policytest

import (
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Connection is what policies judge. From is nil for what is no pod.
type Connection struct {
	Source, Target netip.Addr
	From, To       *corev1.Pod
	Protocol       corev1.Protocol
	Port           uint16
}

// Ports are those that the pods' servers listen on: TCP on each, UDP on the
// first.
var Ports = []uint16{8080, 8081, 8082}

// Connections are all that there can be, of each address family, between pods
// and from nodes, by name, to pods of other nodes: what a node does with its own
// pods is no policy's matter.
func Connections(pods []*corev1.Pod, nodes map[string][]netip.Addr) []Connection {
	var all []Connection
	// add adds connections from the address that fits c's target.
	add := func(c Connection, from *corev1.Pod, addresses []netip.Addr) {
		for _, a := range addresses {
			if a.Is4() == c.Target.Is4() {
				c.From, c.Source = from, a
				all = append(all, c)
			}
		}
	}
	for _, to := range pods {
		for _, target := range Addresses(to) {
			for _, port := range append(Ports, 0) {
				c := Connection{To: to, Target: target, Protocol: corev1.ProtocolTCP, Port: port}
				if port == 0 {
					c.Protocol, c.Port = corev1.ProtocolUDP, Ports[0]
				}
				for _, from := range pods {
					add(c, from, Addresses(from))
				}
				for node, addresses := range nodes {
					if node != to.Spec.NodeName {
						add(c, nil, addresses)
					}
				}
			}
		}
	}
	return all
}

// Addresses are a pod's.
func Addresses(pod *corev1.Pod) []netip.Addr {
	var list []netip.Addr
	for _, ip := range pod.Status.PodIPs {
		list = append(list, netip.MustParseAddr(ip.IP))
	}
	return list
}

func (c Connection) String() string {
	return fmt.Sprintf("%s to %s (%s) %s %d", c.Source, c.To.Name, c.Target, c.Protocol, c.Port)
}

// Allowed is the model: what the API says of a connection, read off the
// policies one by one.
func Allowed(policies []*networkingv1.NetworkPolicy, namespaces []*corev1.Namespace, c Connection) bool {
	if c.From == c.To {
		return true
	}
	m := model{namespaces, c}
	out, in := c.From == nil, false
	outIsolated, inIsolated := false, false
	for _, p := range policies {
		if c.From != nil && slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeEgress) && selects(p, c.From) {
			outIsolated = true
			for _, r := range p.Spec.Egress {
				out = out || m.peer(p.Namespace, r.To, c.To, c.Target) && m.port(r.Ports)
			}
		}
		if slices.Contains(p.Spec.PolicyTypes, networkingv1.PolicyTypeIngress) && selects(p, c.To) {
			inIsolated = true
			for _, r := range p.Spec.Ingress {
				in = in || m.peer(p.Namespace, r.From, c.From, c.Source) && m.port(r.Ports)
			}
		}
	}
	return (out || !outIsolated) && (in || !inIsolated)
}

func selects(p *networkingv1.NetworkPolicy, pod *corev1.Pod) bool {
	return p.Namespace == pod.Namespace && matches(&p.Spec.PodSelector, pod.Labels)
}

func matches(selector *metav1.LabelSelector, set map[string]string) bool {
	s, err := metav1.LabelSelectorAsSelector(selector)
	return err == nil && s.Matches(labels.Set(set))
}

// InBlock tells whether an address is in a block and in none of its exceptions.
func InBlock(block *networkingv1.IPBlock, addr netip.Addr) bool {
	in := netip.MustParsePrefix(block.CIDR).Contains(addr)
	for _, e := range block.Except {
		in = in && !netip.MustParsePrefix(e).Contains(addr)
	}
	return in
}

type model struct {
	namespaces []*corev1.Namespace
	Connection
}

func (m model) peer(home string, peers []networkingv1.NetworkPolicyPeer, pod *corev1.Pod, addr netip.Addr) bool {
	for _, p := range peers {
		if p.IPBlock != nil {
			if InBlock(p.IPBlock, addr) {
				return true
			}
			continue
		}
		if pod == nil || p.PodSelector != nil && !matches(p.PodSelector, pod.Labels) {
			continue
		}
		if p.NamespaceSelector == nil && pod.Namespace == home {
			return true
		}
		for _, n := range m.namespaces {
			if p.NamespaceSelector != nil && n.Name == pod.Namespace && matches(p.NamespaceSelector, n.Labels) {
				return true
			}
		}
	}
	return len(peers) == 0
}

func (m model) port(ports []networkingv1.NetworkPolicyPort) bool {
	for _, p := range ports {
		if p.Protocol == nil && m.Protocol != corev1.ProtocolTCP || p.Protocol != nil && *p.Protocol != m.Protocol {
			continue
		}
		if p.Port == nil {
			return true
		}
		low, high := p.Port.IntVal, p.Port.IntVal
		if p.EndPort != nil {
			high = *p.EndPort
		}
		if p.Port.Type == intstr.String {
			low, high = 1, 0
			for _, c := range m.To.Spec.Containers[0].Ports {
				if c.Name == p.Port.StrVal && c.Protocol == m.Protocol {
					low, high = c.ContainerPort, c.ContainerPort
				}
			}
		}
		if low <= int32(m.Connection.Port) && int32(m.Connection.Port) <= high {
			return true
		}
	}
	return len(ports) == 0
}
