package node

import (
	"errors"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"testing"

	v1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes/fake"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/cache"
	criv1 "k8s.io/cri-api/pkg/apis/runtime/v1"
	critest "k8s.io/cri-api/pkg/apis/testing"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/runtime"
	"clusterctl/nodeagent/stats"
)

func TestJudge(t *testing.T) {
	state := func(runtime, network bool) *criv1.StatusResponse {
		return &criv1.StatusResponse{Status: &criv1.RuntimeStatus{Conditions: []*criv1.RuntimeCondition{
			{Type: criv1.RuntimeReady, Status: runtime},
			{Type: criv1.NetworkReady, Status: network, Reason: "NetworkPluginNotReady", Message: "cni plugin not initialized"},
		}}}
	}
	cases := []struct {
		state *criv1.StatusResponse
		err   error
		ready bool
		say   string
	}{
		{state(true, true), nil, true, ""},
		{state(true, false), nil, false, "NetworkReady=false reason:NetworkPluginNotReady message:cni plugin not initialized"},
		{state(false, true), nil, false, "RuntimeReady=false"},
		{nil, errors.New("no socket"), false, "container runtime is down: no socket"},
	}
	for _, c := range cases {
		ready, message := judge(c.state, c.err)
		if ready != c.ready || !strings.Contains(message, c.say) {
			t.Errorf("got %v %q, want %v %q", ready, message, c.ready, c.say)
		}
	}
}

func TestInitialNode(t *testing.T) {
	n := New(Config{Agent: hostconfig.NodeAgent{
		NodeName: "w1", Address: "192.0.2.7",
		Labels: map[string]string{"disk": "ssd", "node-role.kubernetes.io/worker": ""},
		Taints: []hostconfig.Taint{{Key: "k", Effect: "NoSchedule"}},
	}})
	node := n.initial()
	if node.Labels["disk"] != "ssd" || node.Labels[v1.LabelHostname] != "w1" || len(node.Spec.Taints) != 1 {
		t.Errorf("got %+v", node)
	}
	if !dropRestricted(node.Labels) {
		t.Error("a role label may be set by a node")
	}
	for _, kept := range []string{"disk", v1.LabelHostname, v1.LabelArchStable} {
		if _, ok := node.Labels[kept]; !ok {
			t.Errorf("label %s was dropped", kept)
		}
	}
	if got := n.addresses(); len(got) != 2 || got[0].Address != "192.0.2.7" || got[1].Type != v1.NodeHostName {
		t.Errorf("addresses: %v", got)
	}
	second := netip.MustParseAddr("2001:db8::7")
	n.SecondAddress = func() (netip.Addr, bool) { return second, second.IsValid() }
	if got := n.addresses(); len(got) != 3 || got[0].Address != "192.0.2.7" || got[1] != (v1.NodeAddress{Type: v1.NodeInternalIP, Address: "2001:db8::7"}) {
		t.Errorf("addresses of both families: %v", got)
	}
	second = netip.Addr{}
	if got := n.addresses(); len(got) != 2 {
		t.Errorf("addresses once the second has gone: %v", got)
	}
}

func TestConditionsKeepTheirTransition(t *testing.T) {
	var status v1.NodeStatus
	first, second := metav1.Unix(1, 0), metav1.Unix(2, 0)
	setCondition(&status, v1.NodeReady, false, "a", "", first)
	setCondition(&status, v1.NodeReady, false, "b", "", second)
	if c := status.Conditions[0]; !c.LastTransitionTime.Equal(&first) || !c.LastHeartbeatTime.Equal(&second) || c.Reason != "b" {
		t.Errorf("unchanged: %+v", c)
	}
	setCondition(&status, v1.NodeReady, true, "c", "", second)
	if c := status.Conditions[0]; !c.LastTransitionTime.Equal(&second) || c.Status != v1.ConditionTrue {
		t.Errorf("changed: %+v", c)
	}
}

func TestReserved(t *testing.T) {
	agent := func(name, quantity string) hostconfig.NodeAgent {
		return hostconfig.NodeAgent{Reserved: map[string]string{name: quantity}}
	}
	for _, c := range []struct{ name, quantity, say string }{
		{"memory", "1Mi", ""}, {"cpu", "1m", ""}, {"pid", "10", ""}, {"ephemeral-storage", "1Gi", ""},
		{"memory", "1Ei", "the host has"}, {"cpu", "100000", "the host has"},
		{"cpu", "much", "reserve cpu"}, {"memory", "-1", "negative"}, {"disk", "1", "want cpu"},
	} {
		_, err := PodsTogether(agent(c.name, c.quantity))
		if (err == nil) != (c.say == "") || err != nil && !strings.Contains(err.Error(), c.say) {
			t.Errorf("%s %s: got %v, want %q", c.name, c.quantity, err, c.say)
		}
	}
	var free, held v1.NodeStatus
	(&Node{}).capacity(&free, stats.Memory{Total: 1 << 30}, stats.Disk{Total: 100 << 30})
	n := Node{Config: Config{Agent: agent("memory", "100Mi")}}
	n.capacity(&held, stats.Memory{Total: 1 << 30}, stats.Disk{Total: 100 << 30})
	if got := free.Allocatable.Memory().Value() - held.Allocatable.Memory().Value(); got != 100<<20 {
		t.Errorf("reserving 100Mi takes %d bytes", got)
	}
	settings, err := eviction.Parse(hostconfig.Eviction{Hard: map[string]string{"memory.available": "200Mi", "nodefs.available": "20%"}, Soft: map[string]string{"memory.available": "1Gi"},
		SoftGraceSeconds: map[string]int{"memory.available": 1}})
	if err != nil {
		t.Fatal(err)
	}
	var kept v1.NodeStatus
	(&Node{Config: Config{Evictions: settings}}).capacity(&kept, stats.Memory{Total: 1 << 30}, stats.Disk{Total: 100 << 30})
	if memory, disk := free.Allocatable.Memory().Value()-kept.Allocatable.Memory().Value(), kept.Allocatable.StorageEphemeral().Value(); memory != 200<<20 || disk != 80<<30 {
		t.Errorf("thresholds of 200Mi and a fifth of the disk take %d bytes of memory and leave %d of the disk", memory, disk)
	}
	if free.Capacity.Memory().Value() != held.Capacity.Memory().Value() {
		t.Error("capacity changed")
	}
}

// A node that was cut off for a while is told to be silent; it has to notice.
func TestWhatOthersSayOfTheNodeIsCorrected(t *testing.T) {
	nodes := cache.NewIndexer(cache.MetaNamespaceKeyFunc, nil)
	client := fake.NewClientset()
	logger := slog.New(slog.DiscardHandler)
	n := New(Config{
		Agent: hostconfig.NodeAgent{NodeName: "w1", Address: "192.0.2.7"}, Client: client, Lister: corelisters.NewNodeLister(nodes),
		Runtime: runtime.New(critest.NewFakeRuntimeService(), critest.NewFakeImageService(), logger), Logger: logger,
	})
	if err := n.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	said := n.last.Load().DeepCopy()
	said.ResourceVersion = "7"
	n.last.Store(said)
	for _, c := range []struct {
		version string
		sends   bool
	}{{"6", false}, {"8", true}} {
		silent := said.DeepCopy()
		silent.ResourceVersion = c.version
		for i := range silent.Status.Conditions {
			silent.Status.Conditions[i].Status = v1.ConditionUnknown
		}
		if err := nodes.Update(silent); err != nil {
			t.Fatal(err)
		}
		client.ClearActions()
		sent, err := n.report(t.Context(), false)
		if err != nil {
			t.Fatal(err)
		}
		if sent != c.sends || len(client.Actions()) > 0 != c.sends {
			t.Errorf("told Unknown at version %s after 7: sent %t, want %t", c.version, sent, c.sends)
		}
	}
}

func TestDeclaredFeatures(t *testing.T) {
	want := []string{"ExtendWebSocketsToKubelet", "InPlacePodLevelResourcesVerticalScaling", "InPlacePodVerticalScalingInitContainers", "RestartAllContainersOnContainerExits"}
	if !slices.Equal(declaredFeatures, want) {
		t.Errorf("got %v, want %v", declaredFeatures, want)
	}
}
