// Package nodeipam gives every node its share of the pod network, as
// spec.podCIDR. A share belongs to one node at a time and is free again when
// that node is deleted. The network itself (bridges, routes) is the node
// agents' business.
package nodeipam

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	corelisters "k8s.io/client-go/listers/core/v1"
	"k8s.io/client-go/tools/record"

	"clusterctl/controlplane/controllers/reconcile"
)

// One worker: the pool is then nobody else's, and two nodes cannot race.
const workers = 1

type controller struct {
	client   kubernetes.Interface
	nodes    corelisters.NodeLister
	recorder record.EventRecorder
	loop     *reconcile.Loop
	pool     *pool
	held     map[string]netip.Prefix // by node
}

// New makes the controller: each node gets a /nodeMaskSize out of podCIDR.
func New(env *reconcile.Environment, podCIDR string, nodeMaskSize int) (reconcile.Controller, error) {
	pool, err := newPool(podCIDR, nodeMaskSize)
	if err != nil {
		return nil, err
	}
	nodes := env.Informers.Core().V1().Nodes()
	c := &controller{
		client:   env.Client,
		nodes:    nodes.Lister(),
		recorder: env.Recorder("cidrAllocator"),
		pool:     pool,
		held:     map[string]netip.Prefix{},
	}
	c.loop = reconcile.NewLoop(env, "nodeipam", workers, c.reconcile)
	err = reconcile.Watch(env, nodes.Informer(), reconcile.Handlers[*corev1.Node]{
		Add: func(node *corev1.Node) { c.loop.Add(node.Name) },
		Update: func(old, node *corev1.Node) {
			if node.Spec.PodCIDR == "" || node.Spec.PodCIDR != old.Spec.PodCIDR {
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
			c.loop.Logger().Warn("node has a podCIDR that cannot be read", "node", node.Name, "error", err)
		}
	}
	return c.loop.Run(ctx)
}

// note marks the share that node has as used.
func (c *controller) note(node *corev1.Node) error {
	if node.Spec.PodCIDR == "" {
		return nil
	}
	cidr, err := netip.ParsePrefix(node.Spec.PodCIDR)
	if err != nil {
		return err
	}
	cidr = cidr.Masked()
	if held, ok := c.held[node.Name]; ok {
		if held == cidr {
			return nil
		}
		c.release(node.Name)
	}
	if c.pool.occupy(cidr) {
		c.loop.Logger().Error("two nodes have the same podCIDR", "node", node.Name, "podCIDR", cidr)
		c.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRConflict", "Node %s has the podCIDR %s, which another node has too", node.Name, cidr)
	}
	c.held[node.Name] = cidr
	return nil
}

// release frees what node held, but for what a conflicting node holds too.
func (c *controller) release(node string) {
	cidr, ok := c.held[node]
	if !ok {
		return
	}
	delete(c.held, node)
	c.pool.release(cidr)
	for _, other := range c.held {
		if other.Overlaps(cidr) {
			c.pool.occupy(other)
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
	if node.Spec.PodCIDR != "" {
		return c.note(node)
	}
	// A share that this node holds already is one whose write failed, or has
	// not reached the cache, or that an earlier node of this name had.
	cidr, ok := c.held[name]
	if !ok {
		if cidr, ok = c.pool.allocate(); !ok {
			c.recorder.Eventf(node, corev1.EventTypeWarning, "CIDRNotAvailable", "Node %s status is now: CIDRNotAvailable", name)
			return fmt.Errorf("all %d shares of the pod network are taken", c.pool.inUse())
		}
		c.held[name] = cidr
	}
	return c.write(ctx, node, cidr)
}

func (c *controller) write(ctx context.Context, node *corev1.Node, cidr netip.Prefix) error {
	patch, err := json.Marshal(map[string]any{
		"metadata": map[string]any{"uid": node.UID},
		"spec":     map[string]any{"podCIDR": cidr.String(), "podCIDRs": []string{cidr.String()}},
	})
	if err != nil {
		return err
	}
	_, err = c.client.CoreV1().Nodes().Patch(ctx, node.Name, types.StrategicMergePatchType, patch, metav1.PatchOptions{})
	if err == nil {
		return nil
	}
	// podCIDR can be set once. If it has been set to something else meanwhile,
	// that is the node's share, and ours is free again.
	fresh, getErr := c.client.CoreV1().Nodes().Get(ctx, node.Name, metav1.GetOptions{})
	if getErr == nil && fresh.Spec.PodCIDR != "" {
		return c.note(fresh)
	}
	return fmt.Errorf("write podCIDR %s: %w", cidr, errors.Join(err, getErr))
}
