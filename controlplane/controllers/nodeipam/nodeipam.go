package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
	"clusterctl/hostconfig"
)

// One worker: the pool is then nobody else's, and two nodes cannot race.
const workers = 1

type controller struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	loop     *reconcile.Loop
	pools    []*pool                   // one of each family, the primary one first
	held     map[string][]netip.Prefix // by node
}

// New makes the controller: each node gets a share out of each of the cluster's
// pod networks.
func New(env *reconcile.Environment, cluster hostconfig.Cluster) (reconcile.Controller, error) {
	networks, err := hostconfig.ParseNetworks(cluster.PodCIDR)
	if err != nil {
		return nil, fmt.Errorf("parse pod network: %w", err)
	}
	var pools []*pool
	for i, size := range cluster.NodeMasks(networks) {
		pool, err := newPool(networks[i], size)
		if err != nil {
			return nil, err
		}
		pools = append(pools, pool)
	}
	nodes := env.Informers.Core().V1().Nodes()
	c := &controller{
		client:   env.Client,
		nodes:    nodes.Lister(),
		recorder: env.Recorder("cidrAllocator"),
		pools:    pools,
		held:     map[string][]netip.Prefix{},
	}
	c.loop = reconcile.NewLoop(env, "nodeipam", workers, c.reconcile)
	err = reconcile.Watch(env, nodes.Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(node *corev1.Node) { c.loop.Add(node.Name) },
		Update: func(old, node *corev1.Node) {
			if len(node.Spec.PodCIDRs) == 0 || !slices.Equal(node.Spec.PodCIDRs, old.Spec.PodCIDRs) {
				c.loop.Add(node.Name)
			}
		},
		Delete: func(node *corev1.Node) { c.loop.Add(node.Name) },
	})
	if err != nil {
		return nil, err
	}
	return c, nil
}

// Run takes note of every share that a node has before it hands out the first.
func (c *controller) Run(ctx context.Context) error {
	nodes, err := c.nodes.List(labels.Everything())
	if err != nil {
		return err
	}
	for _, node := range nodes {
		if err := c.note(node); err != nil {
			c.loop.Logger().Warn("node has podCIDRs that cannot be read", "node", node.Name, "error", err)
		}
	}
	return c.loop.Run(ctx)
}

// note marks the shares that node has as used.
func (c *controller) note(node *corev1.Node) error {
	if len(node.Spec.PodCIDRs) == 0 {
		return nil
	}
	var cidrs []netip.Prefix
	for _, text := range node.Spec.PodCIDRs {
		cidr, err := netip.ParsePrefix(text)
		if err != nil {
			return err
		}
		cidrs = append(cidrs, cidr.Masked())
	}
	if held, ok := c.held[node.Name]; ok {
		if slices.Equal(held, cidrs) {
			return nil
		}
		c.release(node.Name)
	}
	for _, cidr := range cidrs {
		if c.occupy(cidr) {
			c.loop.Logger().Error("two nodes have the same podCIDR", "node", node.Name, "podCIDR", cidr)
			c.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRConflict", "Node %s has the podCIDR %s, which another node has too", node.Name, cidr)
		}
	}
	c.held[node.Name] = cidrs
	return nil
}

// occupy marks a share as used, and reports whether some of it was already.
func (c *controller) occupy(cidr netip.Prefix) (clash bool) {
	for _, pool := range c.pools {
		clash = pool.occupy(cidr) || clash
	}
	return clash
}

// release frees what node held, but for what a conflicting node holds too.
func (c *controller) release(node string) {
	cidrs := c.held[node]
	delete(c.held, node)
	for _, pool := range c.pools {
		for _, cidr := range cidrs {
			pool.release(cidr)
		}
	}
	for _, others := range c.held {
		for _, other := range others {
			if slices.ContainsFunc(cidrs, other.Overlaps) {
				c.occupy(other)
			}
		}
	}
}

func (c *controller) reconcile(ctx context.Context, name string) error {
	node, err := c.nodes.Get(name)
	if apierrors.IsNotFound(err) {
		c.release(name)
		return nil
	}
	if err != nil {
		return err
	}
	if len(node.Spec.PodCIDRs) > 0 {
		return c.note(node)
	}
	// Shares that this node holds already are some whose write failed, or has
	// not reached the cache, or that an earlier node of this name had.
	cidrs, ok := c.held[name]
	if !ok {
		if cidrs, err = c.allocate(); err != nil {
			c.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
			return err
		}
		c.held[name] = cidrs
	}
	return c.write(ctx, node, cidrs)
}

// allocate takes a share of each family, or none.
func (c *controller) allocate() ([]netip.Prefix, error) {
	var cidrs []netip.Prefix
	for _, pool := range c.pools {
		cidr, ok := pool.allocate()
		if !ok {
			for i, taken := range cidrs {
				c.pools[i].release(taken)
			}
			return nil, fmt.Errorf("all %d shares of the pod network %s are taken", pool.inUse(), pool.network)
		}
		cidrs = append(cidrs, cidr)
	}
	return cidrs, nil
}

func (c *controller) write(ctx context.Context, node *corev1.Node, cidrs []netip.Prefix) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": cidrs[0], "podCIDRs": cidrs},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	// They can be set once. If they have been set to something else meanwhile,
	// those are the node's shares, and ours are free again.
	fresh, getErr := c.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if getErr == nil && len(fresh.Spec.PodCIDRs) > 0 {
		return c.note(fresh)
	}
	return fmt.Errorf("write podCIDRs %v: %w", cidrs, errors.Join(err, getErr))
}
