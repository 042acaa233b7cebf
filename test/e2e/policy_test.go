package e2e

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	v1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
	"k8s.io/client-go/kubernetes"

	"clusterctl/nodeagent/netnstest"
	"clusterctl/nodeagent/policy/policytest"
)

// testPolicies tries every connection between six pods of two namespaces on
// two nodes, and from nodes, under policies that people write and under made-up
// ones, and compares with what the API says of each.
func (c *cluster) testPolicies(t *testing.T) {
	m := &matrix{client: c.client(t, ""), namespaces: []*v1.Namespace{
		c.namespace(t, "x", map[string]string{"team": "red"}),
		c.namespace(t, "y", map[string]string{"team": "blue"}),
	}}
	m.pods = c.startPods(t,
		policytest.Pod("x", "one-0", "cp1", "", 8080, map[string]string{"app": "web", "tier": "front"}),
		policytest.Pod("x", "one-1", "cp1", "", 8081, map[string]string{"app": "db"}),
		policytest.Pod("y", "one-2", "cp1", "", 8080, map[string]string{"app": "web"}),
		policytest.Pod("x", "two-0", "worker1", "", 8082, map[string]string{"app": "web"}),
		policytest.Pod("y", "two-1", "worker1", "", 8081, map[string]string{"app": "db", "tier": "front"}),
		policytest.Pod("y", "two-2", "worker1", "", 8082, map[string]string{"app": "web"}),
	)
	m.networks = c.networks(t, "cp1", "worker1")
	for _, pod := range m.pods {
		ns, ok := m.networks[pod.Status.PodIP]
		if !ok {
			t.Fatalf("the network namespace of %s (%s) is not found", pod.Name, pod.Status.PodIP)
		}
		if err := netnstest.Within(ns, func() error { return policytest.Serve(t) }); err != nil {
			t.Fatalf("serve in %s: %v", pod.Name, err)
		}
	}
	nodes := map[string][]netip.Addr{}
	var blocks []networkingv1.IPBlock
	for i := range m.pods[0].Status.PodIPs {
		one, two := m.pods[0].Status.PodIPs[i].IP, m.pods[3].Status.PodIPs[i].IP
		first, second := m.source(t, "cp1", two), m.source(t, "worker1", one)
		nodes["cp1"], nodes["worker1"] = append(nodes["cp1"], first), append(nodes["worker1"], second)
		share, all := 24, "0.0.0.0/0"
		if first.Is6() {
			share, all = 64, "::/0"
		}
		blocks = append(blocks,
			networkingv1.IPBlock{CIDR: all},
			networkingv1.IPBlock{CIDR: all, Except: []string{subnet(one, first.BitLen()), subnet(two, share)}},
			networkingv1.IPBlock{CIDR: subnet(one, share), Except: []string{subnet(one, first.BitLen()-1)}},
			networkingv1.IPBlock{CIDR: subnet(two, first.BitLen()-1)},
			networkingv1.IPBlock{CIDR: subnet(first.String(), first.BitLen())},
			networkingv1.IPBlock{CIDR: subnet(second.String(), 8), Except: []string{subnet(second.String(), first.BitLen())}})
	}
	m.connections = policytest.Connections(m.pods, nodes)

	m.judge(t, "no policy", nil)
	for _, round := range m.known() {
		m.judge(t, round.name, round.policies)
	}
	random := policytest.Policies(append(blocks, networkingv1.IPBlock{CIDR: "fd00::/8"})).Filter(func(list []*networkingv1.NetworkPolicy) bool { return len(list) > 1 })
	for seed := range 6 {
		m.judge(t, fmt.Sprintf("made-up round %d", seed), random.Example(seed))
	}
	m.judge(t, "no policy again", nil)
	if m.allowed == 0 || m.denied == 0 {
		t.Errorf("%d connections were allowed and %d denied: the rounds say nothing", m.allowed, m.denied)
	}
	t.Logf("%d connections were allowed, %d denied", m.allowed, m.denied)
}

func subnet(addr string, bits int) string {
	return netip.PrefixFrom(netip.MustParseAddr(addr), bits).Masked().String()
}

// matrix is all connections that there can be.
type matrix struct {
	client          *kubernetes.Clientset
	namespaces      []*v1.Namespace
	pods            []*v1.Pod
	networks        networks
	connections     []policytest.Connection
	applied         []*networkingv1.NetworkPolicy
	allowed, denied int
}

type round struct {
	name     string
	policies []*networkingv1.NetworkPolicy
}

// known are the policies that people write.
func (m *matrix) known() []round {
	in, out := networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress
	policy := func(namespace, app string, types ...networkingv1.PolicyType) *networkingv1.NetworkPolicy {
		p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "known"}}
		if app != "" {
			p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
		}
		p.Spec.PolicyTypes = types
		return p
	}
	from := func(p *networkingv1.NetworkPolicy, peer networkingv1.NetworkPolicyPeer, ports ...networkingv1.NetworkPolicyPort) []*networkingv1.NetworkPolicy {
		p.Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{peer}, Ports: ports}}
		return []*networkingv1.NetworkPolicy{p}
	}
	labelled := func(key, value string) *metav1.LabelSelector {
		return &metav1.LabelSelector{MatchLabels: map[string]string{key: value}}
	}
	egress := policy("y", "", out)
	egress.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{
		To:    []networkingv1.NetworkPolicyPeer{{NamespaceSelector: labelled("team", "red"), PodSelector: labelled("app", "db")}},
		Ports: []networkingv1.NetworkPolicyPort{{Port: new(intstr.FromString("http"))}},
	}}
	exempt := netip.MustParseAddr(m.pods[4].Status.PodIP)
	return []round{
		{"deny all", []*networkingv1.NetworkPolicy{policy("x", "", in, out), policy("y", "", in, out)}},
		{"allow a label", from(policy("x", "db", in), networkingv1.NetworkPolicyPeer{PodSelector: labelled("app", "web")})},
		{"allow a namespace", from(policy("x", "", in), networkingv1.NetworkPolicyPeer{NamespaceSelector: labelled("team", "blue")})},
		{"allow a port", from(policy("y", "", in), networkingv1.NetworkPolicyPeer{NamespaceSelector: &metav1.LabelSelector{}},
			networkingv1.NetworkPolicyPort{Port: new(intstr.FromInt32(8081)), EndPort: new(int32(8082))})},
		{"a block with an exception", from(policy("x", "web", in), networkingv1.NetworkPolicyPeer{
			IPBlock: &networkingv1.IPBlock{CIDR: subnet(exempt.String(), 0), Except: []string{subnet(exempt.String(), exempt.BitLen())}}})},
		{"egress", []*networkingv1.NetworkPolicy{egress}},
	}
}

// source is the address that a node's own connections to a pod come from.
func (m *matrix) source(t *testing.T, node, pod string) netip.Addr {
	t.Helper()
	conn, err := policytest.Dial(m.networks[node], "udp", net.JoinHostPort(pod, "9"), time.Second)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	return conn.LocalAddr().(*net.UDPAddr).AddrPort().Addr()
}

// apply replaces the policies that there are.
func (m *matrix) apply(t *testing.T, policies []*networkingv1.NetworkPolicy) {
	t.Helper()
	for _, p := range m.applied {
		if err := m.client.NetworkingV1().NetworkPolicies(p.Namespace).Delete(t.Context(), p.Name, metav1.DeleteOptions{}); err != nil {
			t.Fatal(err)
		}
	}
	m.applied = policies
	for _, p := range policies {
		if _, err := m.client.NetworkingV1().NetworkPolicies(p.Namespace).Create(t.Context(), p, metav1.CreateOptions{}); err != nil {
			t.Fatal(err)
		}
	}
}

// judge applies policies and tries connections until a whole pass over them
// agrees with the model: nodes learn of policies a moment later.
func (m *matrix) judge(t *testing.T, name string, policies []*networkingv1.NetworkPolicy) {
	t.Helper()
	m.apply(t, policies)
	patience := 500 * time.Millisecond
	took := eventually(t, time.Minute, name, func(context.Context) error {
		patience = min(2*patience, 16*time.Second)
		if wrong := m.disagreements(patience); len(wrong) > 0 {
			return fmt.Errorf("connections are not as the policies want them:\n%s", strings.Join(wrong, "\n"))
		}
		return nil
	})
	for _, c := range m.connections {
		if policytest.Allowed(policies, m.namespaces, c) {
			m.allowed++
		} else {
			m.denied++
		}
	}
	t.Logf("%s: %d policies, seen after %s", name, len(policies), took.Round(10*time.Millisecond))
}

// disagreements tries every connection and tells of those that do not go as the
// policies want, up to the moment when there is one. Allowed ones have patience,
// denied ones are watched for a moment.
func (m *matrix) disagreements(patience time.Duration) []string {
	var group sync.WaitGroup
	var mu sync.Mutex
	var wrong []string
	disagree := func(c policytest.Connection, want bool, err error) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, fmt.Sprintf("%v: allowed %v, got %v", c, want, err))
	}
	done := func() bool {
		mu.Lock()
		defer mu.Unlock()
		return len(wrong) > 0
	}
	places := make(chan struct{}, 60)
	for _, c := range m.connections {
		want, patience := policytest.Allowed(m.applied, m.namespaces, c), patience
		if !want {
			patience = 250 * time.Millisecond
		}
		from := m.networks[c.Source.String()]
		if c.From == nil {
			from = m.networks[m.otherNode(c.To.Spec.NodeName)]
		}
		places <- struct{}{}
		if done() {
			break
		}
		group.Go(func() {
			defer func() { <-places }()
			if err := policytest.Try(from, c, patience); (err == nil) != want {
				disagree(c, want, err)
			}
		})
	}
	group.Wait()
	return wrong
}

func (m *matrix) otherNode(node string) string {
	if node == "cp1" {
		return "worker1"
	}
	return "cp1"
}
