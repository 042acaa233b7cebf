package node

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/netip"
	"strings"
	"sync/atomic"
	"time"

	coordinationv1 "k8s.io/api/coordination/v1"
	v1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/resourceversion"
	"k8s.io/apimachinery/pkg/util/strategicpatch"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/component-helpers/apimachinery/lease"
	"k8s.io/utils/clock"

	"clusterctl/hostconfig"
	"clusterctl/nodeagent/eviction"
	"clusterctl/nodeagent/runtime"
)

// How often the node is heard of.
const (
	LeaseSeconds   = 40 // for how long a lease says that the node is there
	leaseRenewal   = 10 * time.Second
	StatusPeriod   = 10 * time.Second // how often the status is looked at
	StatusReport   = 5 * time.Minute  // how often it is sent though unchanged
	notReadyPeriod = 500 * time.Millisecond
)

// Config describes this node.
type Config struct {
	Agent   hostconfig.NodeAgent
	Client  kubernetes.Interface
	Lister  corelisters.NodeLister // may be behind; Registered is used until it knows the node
	Runtime *runtime.Runtime
	// Extended is what plugins bring to the node, zero where they are gone;
	// Changed tells when it changes. Both may be nil.
	Extended func() (capacity, allocatable v1.ResourceList)
	Changed  <-chan struct{}
	Logger   *slog.Logger
	// Evictions are when pods are evicted: they are not promised what they would be
	// evicted for using.
	Evictions eviction.Settings
	// Pressures are what the host runs short of; nil: nothing.
	Pressures func() []v1.NodeConditionType
	// Leaving says that the host is going down; nil: never.
	Leaving func() bool
	// SecondAddress is the host's address of the other family beside Agent's; nil:
	// it has none.
	SecondAddress func() (address netip.Addr, ok bool)
	// VolumesInUse are the attached volumes that the host uses; nil: none.
	VolumesInUse func() ([]v1.UniqueVolumeName, error)
}

// Node is this host's Node object. Safe for concurrent use.
type Node struct {
	Config
	last         atomic.Pointer[v1.Node] // as the API last returned it
	networkReady atomic.Bool
	hurry        chan struct{}
}

// New makes a Node; nothing is sent before Register.
func New(config Config) *Node { return &Node{Config: config, hurry: make(chan struct{}, 1)} }

// Hurry makes Run look at the host at once.
func (n *Node) Hurry() {
	select {
	case n.hurry <- struct{}{}:
	default:
	}
}

// Current is the node as the API has it; nil before Register.
func (n *Node) Current() *v1.Node {
	if n.Lister != nil {
		if node, err := n.Lister.Get(n.Agent.NodeName); err == nil {
			return node
		}
	}
	return n.last.Load()
}

// NetworkReady says that the runtime can give pods addresses.
func (n *Node) NetworkReady() bool { return n.networkReady.Load() }

// Register creates the Node, or brings an existing one up to date. It tries
// until it succeeds or ctx ends.
func (n *Node) Register(ctx context.Context) error {
	for delay := 200 * time.Millisecond; ; delay = min(2*delay, 5*time.Second) {
		err := n.register(ctx)
		if err == nil {
			return nil
		}
		n.Logger.Warn("cannot register the node yet", "error", err)
		select {
		case <-ctx.Done():
			return fmt.Errorf("register node: %w", ctx.Err())
		case <-time.After(delay):
		}
	}
}

func (n *Node) register(ctx context.Context) error {
	nodes := n.Client.CoreV1().Nodes()
	wanted := n.initial()
	n.describe(ctx, &wanted.Status)
	created, err := nodes.Create(ctx, wanted, metav1.CreateOptions{})
	if apierrors.IsForbidden(err) && dropRestricted(wanted.Labels) {
		n.Logger.Info("the API forbids a node to label itself so; registering without", "error", err)
		created, err = nodes.Create(ctx, wanted, metav1.CreateOptions{})
	}
	if err == nil {
		n.last.Store(created)
		n.Logger.Info("registered", "node", created.Name)
		return nil
	}
	if !apierrors.IsAlreadyExists(err) {
		return fmt.Errorf("create node: %w", err)
	}
	node, err := nodes.Get(ctx, wanted.Name, metav1.GetOptions{})
	if err != nil {
		return fmt.Errorf("read node: %w", err)
	}
	n.last.Store(node)
	labels := map[string]string{}
	for k, v := range wanted.Labels {
		if node.Labels[k] != v && !restricted(k) {
			labels[k] = v
		}
	}
	if len(labels) == 0 {
		return nil
	}
	patch, err := json.Marshal(map[string]any{"metadata": map[string]any{"labels": labels}})
	if err != nil {
		return fmt.Errorf("encode labels: %w", err)
	}
	if node, err = nodes.Patch(ctx, wanted.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{}); err != nil {
		return fmt.Errorf("label node: %w", err)
	}
	n.last.Store(node)
	return nil
}

// restricted says that a node may not set the label on itself where
// NodeRestriction is on.
func restricted(label string) bool {
	domain, _, ok := strings.Cut(label, "/")
	if !ok || !strings.HasSuffix(domain, "kubernetes.io") && !strings.HasSuffix(domain, "k8s.io") {
		return false
	}
	if strings.HasSuffix(domain, "node.kubernetes.io") && !strings.Contains(domain, "restriction") {
		return false
	}
	return label != v1.LabelHostname && label != v1.LabelOSStable && label != v1.LabelArchStable &&
		label != "beta.kubernetes.io/os" && label != "beta.kubernetes.io/arch" &&
		domain != "topology.kubernetes.io" && domain != "kubelet.kubernetes.io"
}

func dropRestricted(labels map[string]string) (dropped bool) {
	for k := range labels {
		if restricted(k) {
			delete(labels, k)
			dropped = true
		}
	}
	return dropped
}

func (n *Node) initial() *v1.Node {
	node := &v1.Node{ObjectMeta: metav1.ObjectMeta{Name: n.Agent.NodeName, Labels: map[string]string{}}}
	for k, v := range n.Agent.Labels {
		node.Labels[k] = v
	}
	for k, v := range hostLabels(n.Agent.NodeName) {
		node.Labels[k] = v
	}
	for _, t := range n.Agent.Taints {
		node.Spec.Taints = append(node.Spec.Taints, v1.Taint{Key: t.Key, Value: t.Value, Effect: v1.TaintEffect(t.Effect)})
	}
	return node
}

// Run keeps the lease and the status until ctx ends.
func (n *Node) Run(ctx context.Context) error {
	holder := n.Agent.NodeName
	go lease.NewController(clock.RealClock{}, n.Client, holder, LeaseSeconds, nil, leaseRenewal, holder, v1.NamespaceNodeLease, n.own).Run(ctx)
	var sent time.Time
	wait := time.Duration(0)
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(wait):
		case <-n.hurry:
		case <-n.Changed:
		}
		wait = StatusPeriod
		did, err := n.report(ctx, time.Since(sent) > StatusReport)
		if err != nil {
			n.Logger.Warn("cannot report the node's status", "error", err)
			wait = 2 * time.Second
			continue
		}
		if did {
			sent = time.Now()
		}
		if !n.NetworkReady() {
			wait = notReadyPeriod // pods wait for this
		}
	}
}

// own makes the lease go with its node.
func (n *Node) own(l *coordinationv1.Lease) error {
	if node := n.Current(); node != nil && len(l.OwnerReferences) == 0 {
		l.OwnerReferences = []metav1.OwnerReference{{APIVersion: "v1", Kind: "Node", Name: node.Name, UID: node.UID}}
	}
	return nil
}

// newest is the node as the API returned it last, or as others changed it since:
// a controller that heard nothing of the node for a while says so in its status.
func (n *Node) newest() *v1.Node {
	told, seen := n.last.Load(), n.Current()
	if order, err := resourceversion.CompareResourceVersion(seen.ResourceVersion, told.ResourceVersion); err == nil && order > 0 {
		return seen
	}
	return told
}

// report sends the status if it changed, or if it must. It says whether it
// did. A node that was deleted is registered anew.
func (n *Node) report(ctx context.Context, must bool) (bool, error) {
	node := n.newest()
	status := node.Status.DeepCopy()
	n.describe(ctx, status)
	if !must && sameStatus(status, &node.Status) {
		return false, nil
	}
	before, err := json.Marshal(v1.Node{Status: node.Status})
	if err != nil {
		return false, fmt.Errorf("encode status: %w", err)
	}
	after, err := json.Marshal(v1.Node{Status: *status})
	if err != nil {
		return false, fmt.Errorf("encode status: %w", err)
	}
	patch, err := strategicpatch.CreateTwoWayMergePatch(before, after, v1.Node{})
	if err != nil {
		return false, fmt.Errorf("compare statuses: %w", err)
	}
	patch, err = replaceAddresses(patch, status.Addresses)
	if err != nil {
		return false, err
	}
	got, err := n.Client.CoreV1().Nodes().PatchStatus(ctx, node.Name, patch)
	if apierrors.IsNotFound(err) {
		return false, n.register(ctx)
	}
	if err != nil {
		return false, fmt.Errorf("patch status: %w", err)
	}
	n.last.Store(got)
	return true, nil
}

// replaceAddresses sends the addresses as a whole: merging them by type
// would mix up several of one type.
func replaceAddresses(patch []byte, addresses []v1.NodeAddress) ([]byte, error) {
	var fields map[string]any
	if err := json.Unmarshal(patch, &fields); err != nil {
		return nil, fmt.Errorf("read back patch: %w", err)
	}
	status, ok := fields["status"].(map[string]any)
	if !ok || status["addresses"] == nil {
		return patch, nil
	}
	list := []any{map[string]any{"$patch": "replace"}}
	for _, a := range addresses {
		list = append(list, map[string]any{"type": a.Type, "address": a.Address})
	}
	status["addresses"] = list
	delete(status, "$setElementOrder/addresses")
	return json.Marshal(fields)
}

// sameStatus compares without the times of heartbeats.
func sameStatus(a, b *v1.NodeStatus) bool {
	strip := func(s *v1.NodeStatus) *v1.NodeStatus {
		s = s.DeepCopy()
		for i := range s.Conditions {
			s.Conditions[i].LastHeartbeatTime = metav1.Time{}
		}
		return s
	}
	return equality.Semantic.DeepEqual(strip(a), strip(b))
}
