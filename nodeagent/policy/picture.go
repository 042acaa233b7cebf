package policy

import (
	"crypto/sha256"
	"encoding/base32"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// cluster is what the rules of a node depend on.
type cluster struct {
	policies   []*networkingv1.NetworkPolicy
	own        []*corev1.Pod // of this node
	pods       []*corev1.Pod // of all nodes
	namespaces []*corev1.Namespace
}

// picture is what the table has to hold. The maps lead a pod's address to the
// chain that judges its packets; a pod that is in neither is not isolated.
type picture struct {
	sets   map[string]set
	chains map[string]chain
}

// Sets that every picture has.
const (
	setIngress = "ingress" // chains by destination
	setEgress  = "egress"  // chains by source
	setSelf    = "self"    // pods' own addresses: no policy keeps a pod from itself
)

// kind is what a set's members look like.
type kind int

const (
	addresses kind = iota // member.addr
	pairs                 // member.addr, twice
	sockets               // member.addr and port
	blocks                // member.addr to member.last; never changed
	verdicts              // member.addr leads to member.chain
)

type set struct {
	kind    kind
	members map[member]struct{}
}

type member struct {
	addr, last netip.Addr
	port       uint16
	chain      string
}

// chain judges packets from a pod (egress) or to one. What matches no rule is
// dropped.
type chain struct {
	egress bool
	rules  []rule
}

// rule lets packets pass for which everything holds that it says.
type rule struct {
	peers    string          // the other end's address is in this set; empty: any
	protocol corev1.Protocol // empty: any
	from, to uint16          // the destination's port is one of these; zero: any
	sockets  string          // the destination is in this set; empty: any
}

// isolated tells whether any policy selects any of the node's pods.
func isolated(policies []*networkingv1.NetworkPolicy, own []*corev1.Pod) bool {
	for _, policy := range policies {
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil {
			continue // which the API server does not let pass
		}
		for _, pod := range own {
			if pod.Namespace == policy.Namespace && networked(pod) && selector.Matches(labels.Set(pod.Labels)) {
				return true
			}
		}
	}
	return false
}

// networked tells whether a pod has, or will have, an address of its own.
func networked(pod *corev1.Pod) bool {
	return !pod.Spec.HostNetwork && pod.Status.Phase != corev1.PodSucceeded && pod.Status.Phase != corev1.PodFailed
}

// painter makes a picture.
type painter struct {
	cluster
	picture
	family      family
	byNamespace map[string][]*corev1.Pod
}

// paint returns a node's picture for packets of a family, or nil if no pod of it
// that has such an address is isolated.
func paint(c cluster, f family) *picture {
	p := painter{cluster: c, family: f, byNamespace: map[string][]*corev1.Pod{}}
	p.sets = map[string]set{
		setIngress: {verdicts, map[member]struct{}{}},
		setEgress:  {verdicts, map[member]struct{}{}},
		setSelf:    {pairs, map[member]struct{}{}},
	}
	p.chains = map[string]chain{}
	for _, pod := range c.pods {
		if _, ok := f.addressOf(pod); ok {
			p.byNamespace[pod.Namespace] = append(p.byNamespace[pod.Namespace], pod)
		}
	}
	policies := map[string][]*networkingv1.NetworkPolicy{}
	for _, policy := range c.policies {
		policies[policy.Namespace] = append(policies[policy.Namespace], policy)
	}
	for _, list := range policies {
		slices.SortFunc(list, func(a, b *networkingv1.NetworkPolicy) int { return strings.Compare(a.Name, b.Name) })
	}
	for _, pod := range c.own {
		if addr, ok := f.addressOf(pod); ok {
			p.isolate(pod, addr, policies[pod.Namespace])
		}
	}
	if len(p.sets[setSelf].members) == 0 {
		return nil
	}
	return &p.picture
}

// isolate sends the pod's packets through the chains of the policies that
// select it.
func (p *painter) isolate(pod *corev1.Pod, addr netip.Addr, policies []*networkingv1.NetworkPolicy) {
	var ingress, egress []*networkingv1.NetworkPolicy
	for _, policy := range policies {
		selector, err := metav1.LabelSelectorAsSelector(&policy.Spec.PodSelector)
		if err != nil || !selector.Matches(labels.Set(pod.Labels)) {
			continue
		}
		types := policy.Spec.PolicyTypes
		if slices.Contains(types, networkingv1.PolicyTypeIngress) || len(types) == 0 {
			ingress = append(ingress, policy)
		}
		if slices.Contains(types, networkingv1.PolicyTypeEgress) || len(types) == 0 && len(policy.Spec.Egress) > 0 {
			egress = append(egress, policy)
		}
	}
	if len(ingress) > 0 {
		p.sets[setIngress].members[member{addr: addr, chain: p.chain("i-", ingress)}] = struct{}{}
	}
	if len(egress) > 0 {
		p.sets[setEgress].members[member{addr: addr, chain: p.chain("e-", egress)}] = struct{}{}
	}
	if len(ingress)+len(egress) > 0 {
		p.sets[setSelf].members[member{addr: addr}] = struct{}{}
	}
}

// chain returns the name of the chain that lets pass what any of the policies
// allows. Pods that the same policies select share it.
func (p *painter) chain(prefix string, policies []*networkingv1.NetworkPolicy) string {
	var names []string
	for _, policy := range policies {
		names = append(names, policy.Namespace+"/"+policy.Name)
	}
	name := prefix + hash(names...)
	if _, made := p.chains[name]; made {
		return name
	}
	c := chain{egress: prefix == "e-"}
	for _, policy := range policies {
		if c.egress {
			for _, allow := range policy.Spec.Egress {
				c.rules = append(c.rules, p.rules(policy.Namespace, allow.To, allow.Ports)...)
			}
		} else {
			for _, allow := range policy.Spec.Ingress {
				c.rules = append(c.rules, p.rules(policy.Namespace, allow.From, allow.Ports)...)
			}
		}
	}
	p.chains[name] = c
	return name
}

// rules are the rules that let pass what one rule of a policy allows: any of
// the peers, at any of the ports.
func (p *painter) rules(namespace string, peers []networkingv1.NetworkPolicyPeer, ports []networkingv1.NetworkPolicyPort) []rule {
	ends := p.peers(namespace, peers)
	if len(peers) == 0 {
		ends = []string{""}
	}
	matches := []rule{{}}
	if len(ports) > 0 {
		matches = nil
		for _, port := range ports {
			matches = append(matches, p.port(port))
		}
	}
	var rules []rule
	for _, end := range ends {
		for _, match := range matches {
			match.peers = end
			rules = append(rules, match)
		}
	}
	return rules
}

// peers returns the sets that hold the peers' addresses.
func (p *painter) peers(namespace string, peers []networkingv1.NetworkPolicyPeer) []string {
	var names []string
	var ipBlocks []networkingv1.IPBlock
	for _, peer := range peers {
		if peer.IPBlock != nil {
			ipBlocks = append(ipBlocks, *peer.IPBlock)
			continue
		}
		if name, ok := p.selected(namespace, peer); ok && !slices.Contains(names, name) {
			names = append(names, name)
		}
	}
	if ranges := rangesOf(ipBlocks, p.family); len(ranges) > 0 {
		name := "b-" + hash(fmt.Sprint(ranges))
		members := map[member]struct{}{}
		for _, r := range ranges {
			members[member{addr: r.first, last: r.last}] = struct{}{}
		}
		p.sets[name] = set{blocks, members}
		names = append(names, name)
	}
	return names
}

// selected returns the set of the pods that a peer's selectors select. Peers
// that select alike share it.
func (p *painter) selected(namespace string, peer networkingv1.NetworkPolicyPeer) (name string, ok bool) {
	pods, err := selectorOf(peer.PodSelector)
	if err != nil {
		return "", false
	}
	where := namespace
	spaces := labels.Everything()
	if peer.NamespaceSelector != nil {
		where = ""
		if spaces, err = metav1.LabelSelectorAsSelector(peer.NamespaceSelector); err != nil {
			return "", false
		}
	}
	name = "p-" + hash(where, spaces.String(), pods.String())
	if _, made := p.sets[name]; made {
		return name, true
	}
	members := map[member]struct{}{}
	add := func(namespace string) {
		for _, pod := range p.byNamespace[namespace] {
			if pods.Matches(labels.Set(pod.Labels)) {
				addr, _ := p.family.addressOf(pod)
				members[member{addr: addr}] = struct{}{}
			}
		}
	}
	if where != "" {
		add(where)
	} else {
		for _, namespace := range p.namespaces {
			if spaces.Matches(labels.Set(namespace.Labels)) {
				add(namespace.Name)
			}
		}
	}
	p.sets[name] = set{addresses, members}
	return name, true
}

// selectorOf takes a selector that is not there for one that selects all.
func selectorOf(selector *metav1.LabelSelector) (labels.Selector, error) {
	if selector == nil {
		return labels.Everything(), nil
	}
	return metav1.LabelSelectorAsSelector(selector)
}

// port matches one port of a rule. A named port is whatever the destination
// calls so: a set of destinations.
func (p *painter) port(port networkingv1.NetworkPolicyPort) rule {
	match := rule{protocol: corev1.ProtocolTCP}
	if port.Protocol != nil {
		match.protocol = *port.Protocol
	}
	switch {
	case port.Port == nil:
	case port.Port.Type == intstr.String:
		match.sockets = p.named(match.protocol, port.Port.StrVal)
	default:
		match.from = uint16(port.Port.IntVal)
		match.to = match.from
		if port.EndPort != nil {
			match.to = uint16(*port.EndPort)
		}
	}
	return match
}

// named returns the set of all pods' ports of that name.
func (p *painter) named(protocol corev1.Protocol, port string) string {
	name := "s-" + hash(string(protocol), port)
	if _, made := p.sets[name]; made {
		return name
	}
	members := map[member]struct{}{}
	for _, pods := range p.byNamespace {
		for _, pod := range pods {
			addr, _ := p.family.addressOf(pod)
			for _, number := range portsNamed(pod, protocol, port) {
				members[member{addr: addr, port: number}] = struct{}{}
			}
		}
	}
	p.sets[name] = set{sockets, members}
	return name
}

// portsNamed returns the numbers of a pod's ports of that name.
func portsNamed(pod *corev1.Pod, protocol corev1.Protocol, name string) []uint16 {
	var numbers []uint16
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for _, container := range list {
			for _, port := range container.Ports {
				if port.Name == name && (port.Protocol == protocol || port.Protocol == "" && protocol == corev1.ProtocolTCP) {
					numbers = append(numbers, uint16(port.ContainerPort))
				}
			}
		}
	}
	return numbers
}

// hash is short enough for a name in the kernel and long enough to be unique.
func hash(parts ...string) string {
	sum := sha256.Sum256([]byte(strings.Join(parts, "\x00")))
	return strings.ToLower(base32.StdEncoding.EncodeToString(sum[:])[:16])
}
