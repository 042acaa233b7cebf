package policy

import (
	"fmt"
	"testing"

	"clusterctl/nodeagent/policy/policytest"

	"github.com/google/nftables"
	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// denyAll isolates pods both ways.
func denyAll(namespace string, selector metav1.LabelSelector) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: "deny"}}
	p.Spec.PodSelector = selector
	p.Spec.PolicyTypes = []networkingv1.PolicyType{networkingv1.PolicyTypeIngress, networkingv1.PolicyTypeEgress}
	return p
}

// Each round turns the rules of the one before into its own, so that what is
// tried is what a node that lives long has.
func TestEveryConnectionAgreesWithTheModel(t *testing.T) {
	w := newWorld(t)
	w.judge("no policy", nil)
	passed, denied := 0, 0
	for seed := range 12 {
		policies := policytest.Policies(testBlocks).Example(seed)
		if seed%4 == 3 { // some go, some stay
			policies = policytest.Policies(testBlocks).Example(seed - 1)
			policies = policies[min(1, len(policies)):]
		}
		w.apply(policies...)
		p, d := w.judge(fmt.Sprintf("round %d, %d policies", seed, len(policies)), policies)
		passed, denied = passed+p, denied+d
		if t.Failed() {
			return
		}
	}
	if passed == 0 || denied == 0 {
		t.Errorf("%d connections were allowed and %d denied: the rounds say nothing", passed, denied)
	}
	t.Logf("%d connections were allowed, %d denied", passed, denied)
	w.apply()
	for node, kernels := range w.kernels {
		for _, k := range kernels {
			if exists, err := k.exists(); err != nil || exists {
				t.Errorf("node %s, no policy left: the table is there: %v, %v", node, exists, err)
			}
		}
	}
}

func TestNodesReachTheirOwnPods(t *testing.T) {
	w := newWorld(t)
	w.apply(denyAll("x", metav1.LabelSelector{}), denyAll("y", metav1.LabelSelector{}))
	for _, pod := range testPods {
		for i, target := range policytest.Addresses(pod) {
			c := policytest.Connection{Source: nodeAddrs[pod.Spec.NodeName][i], To: pod, Target: target, Protocol: corev1.ProtocolTCP, Port: 8080}
			if err := w.try(c, plenty); err != nil {
				t.Errorf("probe of %s: %v", c, err)
			}
		}
	}
}

func TestConnectionsOutlivePolicies(t *testing.T) {
	w := newWorld(t)
	to := podAddr(0).String() + ":8080"
	conn, err := policytest.Dial(w.pods["one-1"], "tcp4", to, plenty)
	w.must(err)
	defer conn.Close()
	w.must(policytest.Echo(conn, plenty))
	w.apply(denyAll("x", metav1.LabelSelector{}))
	if err := policytest.Echo(conn, plenty); err != nil {
		t.Errorf("a connection that was there before the policy: %v", err)
	}
	if late, err := policytest.Dial(w.pods["one-1"], "tcp4", to, moment); err == nil {
		late.Close()
		t.Error("a new connection went through")
	}
	// A new process writes the table again, and leaves nothing of the old.
	for i, k := range w.kernels["one"] {
		w.kernels["one"][i] = &kernel{family: k.family, netns: k.netns}
	}
	w.apply(denyAll("y", metav1.LabelSelector{}))
	if err := policytest.Echo(conn, plenty); err != nil {
		t.Errorf("after a restart: %v", err)
	}
	again, err := policytest.Dial(w.pods["one-1"], "tcp4", to, plenty)
	if err != nil {
		t.Fatalf("after the policy has gone: %v", err)
	}
	again.Close()
}

func TestPoliciesSeeEndpointsNotServices(t *testing.T) {
	w := newWorld(t)
	p := denyAll("x", metav1.LabelSelector{MatchLabels: map[string]string{"app": "db"}})
	p.Spec.Egress = []networkingv1.NetworkPolicyEgressRule{{To: []networkingv1.NetworkPolicyPeer{
		{PodSelector: &metav1.LabelSelector{MatchLabels: map[string]string{"app": "web"}}}}}}
	w.apply(p)
	conn, err := policytest.Dial(w.pods["one-1"], "tcp4", "10.96.0.1:80", plenty)
	if err != nil {
		t.Fatalf("through a service to a pod that is allowed: %v", err)
	}
	conn.Close()
	p.Spec.Egress[0].To = []networkingv1.NetworkPolicyPeer{{IPBlock: &networkingv1.IPBlock{CIDR: "10.96.0.0/16"}}}
	w.apply(p)
	if conn, err := policytest.Dial(w.pods["one-1"], "tcp4", "10.96.0.1:80", moment); err == nil {
		conn.Close()
		t.Error("allowed by the service's address")
	}
}

func TestOnlyWhatDiffersIsChanged(t *testing.T) {
	w := newWorld(t)
	k := w.kernels["one"][0]
	policies := []*networkingv1.NetworkPolicy{denyAll("x", metav1.LabelSelector{})}
	policies[0].Spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{From: []networkingv1.NetworkPolicyPeer{{PodSelector: &metav1.LabelSelector{}}}}}
	for i, want := range []bool{true, false} {
		if changed, err := k.apply(paint(on("one", policies), k.family)); err != nil || changed != want {
			t.Errorf("attempt %d: changed %v, %v", i, changed, err)
		}
	}
	before := handles(t, k)
	c := on("one", policies)
	c.pods = append(c.pods, policytest.Pod("x", "three-0", "three", "10.244.2.2", 8080, nil))
	if changed, err := k.apply(paint(c, k.family)); err != nil || !changed {
		t.Errorf("a new peer: changed %v, %v", changed, err)
	}
	if after := handles(t, k); after != before {
		t.Errorf("rules were written again for a new peer: %s, before %s", after, before)
	}
	// Somebody removes the table behind our back.
	conn, err := k.open()
	w.must(err)
	conn.DelTable(k.table())
	w.must(conn.Flush())
	if _, err := k.apply(paint(on("one", policies), k.family)); err == nil {
		t.Error("a change of a table that is not there went through")
	}
	if changed, err := k.apply(paint(on("one", policies), k.family)); err != nil || !changed {
		t.Errorf("after that: changed %v, %v, want it whole again", changed, err)
	}
	if after := handles(t, k); after == "" {
		t.Error("no rules")
	}
}

// handles names every rule of the table.
func handles(t *testing.T, k *kernel) string {
	t.Helper()
	conn, err := k.open()
	if err != nil {
		t.Fatal(err)
	}
	chains, err := conn.ListChainsOfTableFamily(nftables.TableFamilyIPv4)
	if err != nil {
		t.Fatal(err)
	}
	text := ""
	for _, c := range chains {
		if c.Table.Name != tableName {
			continue
		}
		rules, err := conn.GetRules(c.Table, c)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range rules {
			text += fmt.Sprintf("%s:%d ", c.Name, r.Handle)
		}
	}
	return text
}
